"""Every interleaving of the handoff, searched for anomalies.

`protocol.py` has the actors, programs that live by the table in `sharding/handoff/states.py`; `world.py` says what can
happen next, `judge.py` what must hold. From the start the explorer follows, breadth first, every order in which

- writers take their next step (one submission each, some of them the same one, sent twice; or one removal or hiding),
- the sweeper begins and goes on, with old and new versions of the map,
- replicas catch up, and primaries die: with what no replica had, or with no more than the answers on their way,
- shards learn of a new map, the scrub looks at places, a day passes (tombstones expire, requests in flight are dead).

**Crashes** need no step of their own: a crashed actor is one that never gets its turn again. Every state is judged as
if everybody had crashed in it: from there the sweeper alone must bring the board to rest. In the same way each writer,
wherever it stands, must get to its end alone, with everybody else dead (`progress`).

    python -m tests.unit.sharding.handoff.explorer 4,3,-2                 three writers, their points
    python -m tests.unit.sharding.handoff.explorer 4,-3 --failovers 1     two, and a primary dies; more: --help
    python -m tests.unit.sharding.handoff.explorer 4,3,remove             two, and the player is taken off the board
    python -m tests.unit.sharding.handoff.explorer large                  what takes minutes

It prints the shortest path to the first anomaly, or the number of states without one.
"""

import argparse
import time
from collections import deque
from dataclasses import dataclass, fields, replace
from typing import Any

from sharding.handoff.states import Leaving, Live, Removed
from sharding.scores import Order, points_of
from tests.unit.sharding.handoff.judge import AT_REST, Anomaly, Judge
from tests.unit.sharding.handoff.protocol import SHARDS, Actor, Aside, Bucket, Rule, Shard, Waiting, Wish
from tests.unit.sharding.handoff.world import N, Scenario, Snapshot, World

ANYTHING = frozenset(Anomaly)


@dataclass(frozen=True)
class Search:
    """A scenario, what is asked of it (see Judge), and the anomalies that are looked for."""

    scenario: Scenario
    progress: bool = False
    scrub_at_rest: bool = False
    seek: frozenset[Anomaly] = ANYTHING

    def without(self, rule: Rule, seek: Anomaly) -> "Search":
        """The search for what goes wrong without a rule."""
        return replace(self, scenario=replace(self.scenario, without=frozenset({rule})), seek=frozenset({seek}))

    def __str__(self) -> str:
        told = {key.name: getattr(self.scenario, key.name) for key in fields(self.scenario)}
        told |= {"progress": self.progress, "scrub_at_rest": self.scrub_at_rest}
        return ", ".join(f"{key} {value}" for key, value in told.items() if value)


#: What takes minutes: `large` in place of the wishes.
LARGE = (
    Search(Scenario((4, 3, -2)), progress=True),
    Search(Scenario((4, -3, 4), days=1)),
    Search(Scenario((4, -3), failovers=1, new_map=True)),
    Search(Scenario((4, -3), failovers=2, scrubs=2)),
    Search(Scenario((4, -3, Aside.REMOVE), failovers=1)),
    Search(Scenario((4, -3, Aside.HIDE), failovers=1)),
    Search(Scenario((4, 7), failovers=1, without=frozenset({Rule.FENCE})), scrub_at_rest=True, seek=AT_REST),
)


@dataclass(frozen=True)
class Outcome:
    """How many states there are, and the shortest path to an anomaly if there is one."""

    states: int
    anomaly: Anomaly | None = None
    path: tuple[str, ...] = ()


def explore(search: Search) -> Outcome:
    """Follow every order of events until an anomaly, or the end."""
    world = World(search.scenario)
    judge = Judge(world, progress=search.progress, scrub_at_rest=search.scrub_at_rest)
    start = world.start()
    came_from: dict[Snapshot, Snapshot | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for anomaly in judge.anomalies(state):
            if anomaly in search.seek:
                return Outcome(len(came_from), anomaly, _path(world, came_from, state))
        for following in world.following(state):
            if following not in came_from:
                came_from[following] = state
                queue.append(following)
    return Outcome(len(came_from))


# -- telling


def _path(world: World, came_from: dict[Snapshot, Snapshot | None], state: Snapshot | None) -> tuple[str, ...]:
    told = []
    while state is not None:
        before = came_from[state]
        told.append("start" if before is None else _difference(world, before, state))
        state = before
    return tuple(reversed(told))


def _difference(world: World, before: Snapshot, after: Snapshot) -> str:
    places = [f"shard {number}" for number in SHARDS] + ["directory"]
    names = places + [f"replica of {name}" for name in places]
    names += [f"writer {number}" for number in range(len(world.writers))] + ["sweeper", "scrub"]
    told = [
        f"{name}: {_words(world.values[new])}"
        for at, (name, old, new) in enumerate(zip(names, before, after, strict=False))
        if old != new and (world.scenario.failovers or not N <= at < 2 * N)
    ]
    counted = zip(("failovers", "days", "scrubs"), before[len(names) :], after[len(names) :], strict=True)
    return "\n    ".join(told + [f"{name}: {new}" for name, old, new in counted if old != new])


def _words(value: Any) -> str:
    match value:
        case Shard():
            return f"{_words(value.player)} (map {value.version})"
        case Bucket():
            return f"{tuple(value.entry) if value.entry else None}"
        case Live() | Leaving() | Removed():
            target = f" -> {value.target}" if isinstance(value, Leaving) else ""
            points = "" if isinstance(value, Removed) else f" {points_of(value.packed, Order.ASC)} points,"
            hidden = ", hidden" if not isinstance(value, Removed) and value.hidden else ""
            events = sorted(event.decode() for event in value.memory.recent | value.memory.before)
            return f"{type(value).__name__}({value.epoch},{points} {events}{hidden}){target}"
        case Waiting():
            return f"waits for the replica of {value.place}, then {_words(value.then)}"
        case Actor():
            at = tuple(value.entry) if value.entry else ""
            told = [
                name for name in ("acked", "refused", "unsure", "may_create", "may_begin_anew") if getattr(value, name)
            ]
            return f"{value.do.name.lower()} {at} {' '.join(told)}".rstrip()
    return str(value)


# -- the command


def main() -> None:
    """Explore what the command line says."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument(
        "wishes", help="what each writer does, as 4,-2,remove,hide (shards hold (-inf,3) [3,6) [6,inf)), or: large"
    )
    ask.add_argument("--matches", type=_numbers, default=(), help="the match of each writer; the same twice: a retry")
    ask.add_argument("--failovers", type=int, default=0)
    ask.add_argument("--days", type=int, default=0, help="how often a day passes")
    ask.add_argument("--scrubs", type=int, default=0, help="how often the scrub looks")
    ask.add_argument("--scrub-at-rest", action="store_true", help="the scrub helps to bring the board to rest")
    ask.add_argument("--new-map", action="store_true", help="the first cut moves from 3 to 5, one shard at a time")
    ask.add_argument("--progress", action="store_true", help="every writer must get to its end alone (not with --days)")
    ask.add_argument("--without", action="append", type=str.upper, choices=list(Rule.__members__), default=[])
    ask.add_argument("--seek", action="append", type=str.upper, choices=list(Anomaly.__members__), default=[])
    given = ask.parse_args()
    if given.wishes == "large":
        found = [_report(search) for search in LARGE]
        raise SystemExit(any(found))
    without = frozenset(Rule[name] for name in given.without)
    scenario = Scenario(
        _wishes(given.wishes), given.matches, given.failovers, given.days, given.scrubs, given.new_map, without
    )
    seek = frozenset(Anomaly[name] for name in given.seek) or ANYTHING
    raise SystemExit(_report(Search(scenario, given.progress, given.scrub_at_rest, seek)))


def _report(search: Search) -> bool:
    """Print what a search finds; whether that is an anomaly."""
    print(search)
    began = time.monotonic()
    outcome = explore(search)
    seconds = time.monotonic() - began
    for line in outcome.path:
        print(" ", line)
    print(f"{outcome.states:,} states in {seconds:.1f} s: {outcome.anomaly or 'every invariant holds'}\n")
    return outcome.anomaly is not None


def _wishes(text: str) -> tuple[Wish, ...]:
    return tuple(Aside(word) if word in set(Aside) else int(word) for word in text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    main()
