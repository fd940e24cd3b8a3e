"""The checker catches what is planted, names it rightly, and says nothing about a service that did its work."""

import random
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.checker import Anomaly, Row, Verdict, check
from loadtest.ledger import Answer, Entry

ACKNOWLEDGED, DUPLICATE, REFUSED, UNKNOWN = Answer


def sent(
    player: str, match: str, value: int = 5, answer: Answer = ACKNOWLEDGED, *, durable: bool | None = None
) -> Entry:
    return Entry(player, match, value, answer, durable, 1.0, None if answer is UNKNOWN else 2.0)


def points_of(rows: list[Row], *players: str) -> dict[str, int | None]:
    """What an honest API says: the sum of the rows, nothing for who has none."""
    points: dict[str, int | None] = dict.fromkeys(players)
    for row in rows:
        points[row.player] = (points.get(row.player) or 0) + row.value
    return points


def found(verdict: Verdict) -> dict[Anomaly, int]:
    return {anomaly: count for anomaly, count in verdict.anomalies.items() if count}


ENTRIES = [sent("ada", "m1"), sent("ada", "m2", 7), sent("bob", "m1", 3), sent("eve", "x", 2**40, REFUSED)]
ROWS = [Row("ada", "m1", 5), Row("ada", "m2", 7), Row("bob", "m1", 3)]
PLAYERS = ("ada", "bob", "eve")


def test_what_was_acknowledged_and_counts_once_is_clean() -> None:
    verdict = check(ENTRIES, points_of(ROWS, *PLAYERS), ROWS)
    assert verdict.clean
    assert (verdict.sent, verdict.matches, verdict.players, verdict.rows) == (4, 4, 3, 3)
    assert verdict.answers == {ACKNOWLEDGED: 3, DUPLICATE: 0, REFUSED: 1, UNKNOWN: 0}


def test_nothing_sent_proves_nothing() -> None:
    assert not check([], {}, []).clean


@pytest.mark.parametrize("answer", [ACKNOWLEDGED, DUPLICATE])
def test_a_loss_is_caught(answer: Answer) -> None:
    """Also of one that was only ever answered "counted before"."""
    entries = [*ENTRIES, sent("bob", "gone", answer=answer)]
    verdict = check(entries, points_of(ROWS, *PLAYERS), ROWS)
    assert found(verdict) == {Anomaly.LOST: 1}
    assert [(one.player, one.match_id) for one in verdict.examples] == [("bob", "gone")]


def test_a_row_that_redis_has_forgotten_is_caught() -> None:
    """The audit has it, the player's points have not: an acknowledged submission that a failover lost."""
    points = points_of(ROWS, *PLAYERS) | {"ada": 5}
    assert found(check(ENTRIES, points, ROWS)) == {Anomaly.WRONG_POINTS: 1}


def test_a_player_who_fell_off_the_board_is_caught() -> None:
    assert found(check(ENTRIES, points_of(ROWS, *PLAYERS) | {"bob": None}, ROWS)) == {Anomaly.WRONG_POINTS: 1}


@pytest.mark.parametrize("kind", ["submission", "removal"])
def test_a_phantom_is_caught(kind: str) -> None:
    rows = [*ROWS, Row("bob", "never-sent", 1, kind)]
    assert found(check(ENTRIES, points_of(rows, *PLAYERS), rows)) == {Anomaly.PHANTOM: 1}


def test_a_match_booked_to_another_player_is_lost_here_and_a_phantom_there() -> None:
    rows = [Row("bob", "m2", 7) if row == Row("ada", "m2", 7) else row for row in ROWS]
    assert found(check(ENTRIES, points_of(rows, *PLAYERS), rows)) == {Anomaly.LOST: 1, Anomaly.PHANTOM: 1}


def test_a_duplicate_row_is_caught() -> None:
    rows = [*ROWS, ROWS[0]]
    assert found(check(ENTRIES, points_of(rows, *PLAYERS), rows)) == {Anomaly.DUPLICATED: 1}


def test_a_submission_applied_twice_in_redis_is_caught() -> None:
    """The audit's key hides the second application; the points do not."""
    points = points_of(ROWS, *PLAYERS) | {"ada": 5 + 5 + 7}
    assert found(check(ENTRIES, points, ROWS)) == {Anomaly.WRONG_POINTS: 1}


def test_a_refused_submission_that_counts_is_caught() -> None:
    rows = [*ROWS, Row("eve", "x", 2**40)]
    assert found(check(ENTRIES, points_of(rows, *PLAYERS), rows)) == {Anomaly.REFUSED_BUT_COUNTED: 1}


def test_an_altered_value_is_caught() -> None:
    rows = [Row("ada", "m1", 6), *ROWS[1:]]
    assert found(check(ENTRIES, points_of(rows, *PLAYERS), rows)) == {Anomaly.ALTERED: 1}


def test_a_conflicting_value_that_was_refused_must_not_replace_the_first() -> None:
    entries = [*ENTRIES, sent("ada", "m1", 9, REFUSED)]
    assert check(entries, points_of(ROWS, *PLAYERS), ROWS).clean
    rows = [Row("ada", "m1", 9), *ROWS[1:]]
    assert found(check(entries, points_of(rows, *PLAYERS), rows)) == {Anomaly.ALTERED: 1}


def test_two_sendings_that_were_both_the_first_are_caught() -> None:
    entries = [*ENTRIES, sent("ada", "m1")]
    assert found(check(entries, points_of(ROWS, *PLAYERS), ROWS)) == {Anomaly.APPLIED_TWICE: 1}


def test_a_retry_counts_once() -> None:
    entries = [*ENTRIES, sent("ada", "m1", answer=DUPLICATE), sent("bob", "m1", 3, UNKNOWN)]
    assert check(entries, points_of(ROWS, *PLAYERS), ROWS).clean


def test_an_unknown_one_may_count_once_or_not_at_all() -> None:
    entries = [*ENTRIES, sent("bob", "perhaps", 4, UNKNOWN)]
    without = check(entries, points_of(ROWS, *PLAYERS), ROWS)
    rows = [*ROWS, Row("bob", "perhaps", 4)]
    once = check(entries, points_of(rows, *PLAYERS), rows)
    twice = check(entries, points_of([*rows, rows[-1]], *PLAYERS), [*rows, rows[-1]])
    assert without.clean
    assert without.unknown_counted == 0
    assert once.clean
    assert once.unknown_counted == 1
    assert found(twice) == {Anomaly.DUPLICATED: 1}


def test_an_unknown_one_that_was_refused_on_retry_may_still_count() -> None:
    entries = [sent("ada", "m", 4, UNKNOWN), sent("ada", "m", 4, REFUSED)]
    rows = [Row("ada", "m", 4)]
    assert check(entries, points_of(rows, "ada"), rows).clean
    assert check(entries, {"ada": None}, []).clean


def test_a_surplus_that_was_taken_back_is_told_and_summed() -> None:
    rows = [*ROWS, Row("ada", "m1", -5, "compensation")]
    verdict = check(ENTRIES, points_of(rows, *PLAYERS), rows)
    assert verdict.clean
    assert verdict.taken_back == 1
    assert found(check(ENTRIES, points_of(ROWS, *PLAYERS), rows)) == {Anomaly.WRONG_POINTS: 1}


def test_acknowledged_but_not_durable_is_told() -> None:
    entries = [sent("ada", "m", durable=False), sent("ada", "n", durable=True), sent("ada", "untold")]
    rows = [Row("ada", "m", 5), Row("ada", "n", 5), Row("ada", "untold", 5)]
    verdict = check(entries, {"ada": 15}, rows)
    assert verdict.clean
    assert verdict.not_durable == 1


def test_a_player_who_was_not_looked_at_is_no_proof() -> None:
    with pytest.raises(ValueError, match="bob"):
        check(ENTRIES, {"ada": 12, "eve": None}, ROWS)


def test_examples_are_few_and_counts_are_whole() -> None:
    entries = [sent("ada", f"m{number}") for number in range(1000)]
    verdict = check(entries, {"ada": None}, [])
    assert found(verdict) == {Anomaly.LOST: 1000}
    assert len(verdict.examples) < 10


class TestWithoutTheAuditLog:
    """Points alone: weaker, and never wrong about a service that did its work."""

    def test_points_that_the_answers_explain_are_clean(self) -> None:
        verdict = check(ENTRIES, points_of(ROWS, *PLAYERS))
        assert verdict.clean
        assert verdict.rows is None
        assert verdict.unknown_counted is None

    @pytest.mark.parametrize("wrong", [{"ada": 7}, {"ada": 17}, {"bob": None}, {"eve": 2**40}, {"eve": 0}])
    def test_losses_duplicates_and_refused_ones_show_in_the_points(self, wrong: dict[str, int | None]) -> None:
        verdict = check(ENTRIES, points_of(ROWS, *PLAYERS) | wrong)
        assert found(verdict) == {Anomaly.WRONG_POINTS: 1}

    @pytest.mark.parametrize(
        ("points", "clean"), [(5, True), (9, True), (8, True), (12, True), (7, False), (13, False)]
    )
    def test_unknown_ones_may_count_in_any_combination(self, points: int, clean: bool) -> None:
        entries = [sent("ada", "m"), sent("ada", "u", 4, UNKNOWN), sent("ada", "v", 3, UNKNOWN)]
        assert check(entries, {"ada": points}).clean is clean

    def test_more_combinations_than_can_be_counted_leave_the_interval(self) -> None:
        """Each unknown power of two doubles the sums; what lies outside of all of them is still caught."""
        entries = [sent("ada", f"u{power}", 2**power, UNKNOWN) for power in range(40)]
        assert check(entries, {"ada": 12345}).clean
        assert not check(entries, {"ada": 2**40}).clean

    def test_a_loss_and_a_phantom_of_one_value_cancel_out_as_the_docstring_says(self) -> None:
        rows = [Row("ada", "never-sent", 5), *ROWS[1:]]
        assert check(ENTRIES, points_of(rows, *PLAYERS)).clean
        assert found(check(ENTRIES, points_of(rows, *PLAYERS), rows)) == {Anomaly.LOST: 1, Anomaly.PHANTOM: 1}


class History:
    """What a service that does its work makes of random traffic: its answers, and what counts at the end."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.entries: list[Entry] = []
        self.rows: list[Row] = []
        self.players = [f"player-{number}" for number in range(rng.randint(1, 4))]
        for number in range(rng.randint(1, 30)):
            self._match(rng.choice(self.players), f"m{number}", rng.randint(-3, 9), rng)
        rng.shuffle(self.entries)

    def _match(self, player: str, match_id: str, value: int, rng: random.Random) -> None:
        counted = False
        for _ in range(rng.randint(1, 4)):
            refused = not counted and rng.random() < 0.2
            answer = REFUSED if refused else DUPLICATE if counted else ACKNOWLEDGED
            counted = counted or not refused
            heard = rng.random() < 0.7
            self.entries.append(sent(player, match_id, value, answer if heard else UNKNOWN))
        if counted:
            self.rows.append(Row(player, match_id, value))

    def verdict(self, rows: list[Row], points: dict[str, int | None] | None = None) -> Verdict:
        return check(self.entries, points or points_of(rows, *self.players), rows)


seeds = st.integers(0, 2**32)


@given(seeds)
def test_a_service_that_did_its_work_is_never_accused(seed: int) -> None:
    history = History(seed)
    assert history.verdict(history.rows).clean
    assert check(history.entries, points_of(history.rows, *history.players)).clean


@given(seeds, seeds)
def test_any_single_fault_is_caught(seed: int, choice: int) -> None:
    """Whatever the traffic: one row gone, doubled, altered or invented, and one player's points off."""
    history, rng = History(seed), random.Random(choice)
    certain = defaultdict(bool)
    for entry in history.entries:
        certain[entry.player, entry.match_id] |= entry.answer in {ACKNOWLEDGED, DUPLICATE}
    for row in history.rows:
        rest = [other for other in history.rows if other is not row]
        lost = history.verdict(rest)
        assert lost.anomalies[Anomaly.LOST] == certain[row.player, row.match_id]
        assert history.verdict([*history.rows, row]).anomalies[Anomaly.DUPLICATED] == 1
        altered = row._replace(value=row.value + 1)
        assert found(history.verdict([*rest, altered])) == {Anomaly.ALTERED: 1}
    somebody = rng.choice(history.players)
    invented = Row(somebody, "invented", 1)
    assert found(history.verdict([*history.rows, invented])) == {Anomaly.PHANTOM: 1}
    points = points_of(history.rows, *history.players)
    wrong = points | {somebody: (points[somebody] or 0) + 1}
    assert found(history.verdict(history.rows, wrong)) == {Anomaly.WRONG_POINTS: 1}


@given(seeds)
def test_refusing_everything_and_counting_it_is_caught(seed: int) -> None:
    history = History(seed)
    history.entries = [replace(entry, answer=REFUSED) for entry in history.entries]
    counted = {(row.player, row.match_id) for row in history.rows}
    assert found(history.verdict(history.rows)) == ({Anomaly.REFUSED_BUT_COUNTED: len(counted)} if counted else {})
