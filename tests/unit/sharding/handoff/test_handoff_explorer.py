"""No interleaving of the handoff breaks a promise, and without any one of its rules some interleaving does.

The explorer is held to planted faults, so that its silence means something. Larger runs: `python -m
tests.unit.sharding.handoff.explorer large`.
"""

from dataclasses import replace

import pytest

from tests.unit.sharding.handoff.explorer import Outcome, Search, explore
from tests.unit.sharding.handoff.judge import AT_REST, Anomaly
from tests.unit.sharding.handoff.protocol import Aside, Rule
from tests.unit.sharding.handoff.world import Scenario

HOLDS = {
    "three writers, all of whom may crash anywhere": Search(Scenario((4, 3, -2))),
    "two writers and a failover": Search(Scenario((4, -3), failovers=1), progress=True),
    "two first scores of different shards and two failovers": Search(Scenario((1, 7), failovers=2)),
    "a submission sent twice at once, and another one": Search(Scenario((4, 4, -2), matches=(1, 1, 2))),
    "a submission sent twice and two failovers": Search(Scenario((4, 4), matches=(1, 1), failovers=2)),
    "a match reported with two scores": Search(Scenario((4, 5), matches=(1, 1), failovers=1)),
    "a new map, and writers with the old and the new": Search(Scenario((4, -3), new_map=True), progress=True),
    "a new map and two failovers": Search(Scenario((4,), new_map=True, failovers=2), progress=True),
    "a day passes over an unfinished move": Search(Scenario((4, -3), days=1, failovers=1)),
    "a removal among submissions that move": Search(Scenario((4, -3, Aside.REMOVE)), progress=True),
    "a removal, a submission sent twice and a failover": Search(
        Scenario((4, 4, Aside.REMOVE), matches=(1, 1, 2), failovers=1)
    ),
    "two removals and a failover": Search(Scenario((4, Aside.REMOVE, Aside.REMOVE), failovers=1), progress=True),
    "a removal sent twice": Search(Scenario((4, Aside.REMOVE, Aside.REMOVE), matches=(1, 2, 2), failovers=1)),
    "a player is hidden among submissions that move": Search(Scenario((4, -3, Aside.HIDE)), progress=True),
    "a player is hidden, and two failovers": Search(Scenario((4, Aside.HIDE), failovers=2), progress=True),
    "the scrub looks at everything and does no harm": Search(Scenario((4, 3), scrubs=2, failovers=1)),
}

TWO = Search(Scenario((4, -3), failovers=1))
FAULTS = [
    (Rule.FENCE, TWO, Anomaly.DUPLICATED),
    (Rule.FENCE, TWO, Anomaly.LOST),
    (Rule.ANSWERED, TWO, Anomaly.DUPLICATED),
    (Rule.ANSWERED, TWO, Anomaly.LOST),
    (Rule.TOUCH, TWO, Anomaly.DUPLICATED),
    (Rule.HELPER_TOUCH, TWO, Anomaly.DUPLICATED),
    (Rule.EPOCH, TWO, Anomaly.DUPLICATED),
    (Rule.EPOCH, TWO, Anomaly.LOST),
    (Rule.OWN_CLAIM, Search(Scenario((1, 4, 7), failovers=1)), Anomaly.DUPLICATED),
    (Rule.HELP, Search(Scenario((4, -3)), progress=True), Anomaly.BLOCKED),
    (Rule.TOMBSTONES, Search(Scenario((4, -3, 4))), Anomaly.DUPLICATED),
    (Rule.OLD_MOVES, Search(Scenario((4, -3, 4), days=1)), Anomaly.DUPLICATED),
    (Rule.UNSURE, TWO, Anomaly.PHANTOM),
    (Rule.MARK, Search(Scenario((4, -3, Aside.REMOVE))), Anomaly.LOST),
    (Rule.FENCE, Search(Scenario((4, Aside.REMOVE), failovers=1)), Anomaly.LOST),
    (Rule.FENCE, Search(Scenario((4, Aside.HIDE), failovers=1)), Anomaly.LOST),
]


def told(outcome: Outcome) -> str:
    return "\n".join([outcome.anomaly or "", *outcome.path])


@pytest.mark.parametrize("search", HOLDS.values(), ids=HOLDS)
def test_every_promise_holds(search: Search) -> None:
    outcome = explore(search)
    assert outcome.anomaly is None, told(outcome)
    assert outcome.states > 100


@pytest.mark.parametrize(("rule", "search", "anomaly"), FAULTS)
def test_without_a_rule_there_is_an_anomaly(rule: Rule, search: Search, anomaly: Anomaly) -> None:
    assert explore(search.without(rule, anomaly)).anomaly is anomaly


def test_every_rule_is_needed() -> None:
    assert {rule for rule, _, _ in FAULTS} == set(Rule)


@pytest.mark.parametrize("values", [(1, 7), (4, -3)])
def test_what_an_unfenced_failover_leaves_the_scrub_brings_to_rest(values: tuple[int, ...]) -> None:
    """Without fences one failover does what two failures at once do to the real thing: rows twice, entries lost."""
    search = Search(Scenario(values, failovers=1))
    assert explore(search.without(Rule.FENCE, Anomaly.SPLIT)).anomaly is Anomaly.SPLIT
    unfenced = search.without(Rule.FENCE, Anomaly.STALE)
    assert explore(unfenced).anomaly is Anomaly.STALE
    outcome = explore(replace(unfenced, scrub_at_rest=True, seek=AT_REST))
    assert outcome.anomaly is None, told(outcome)


def test_a_path_tells_step_by_step_what_happened() -> None:
    """The shortest way to lose an acknowledged submission without fences: the row dies with its primary."""
    outcome = explore(TWO.without(Rule.FENCE, Anomaly.LOST))
    assert outcome.path[0] == "start"
    assert len(outcome.path) == 5
    assert "acked" in outcome.path[-2]
    assert "Absent()" in outcome.path[-1]
    assert "failovers: 1" in outcome.path[-1]
