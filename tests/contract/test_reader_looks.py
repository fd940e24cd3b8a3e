"""Reads of a board that changes between any two of their round trips: what one answer tells is of one look.

A change right before every round trip is what a busy board does now and then. So each of these reads is disturbed at
every step that it takes, and still tells no row beside its rank, bound or neighbour.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest

from cli.servers import ServerSet
from runtime.deadlines import Deadline
from sharding.boards import Operator
from sharding.cluster.client import Call
from sharding.leaderboard import Leaderboard, Page, RankMode, RankStyle, Standing, Submission
from sharding.players import PlayerId
from sharding.shard_map import ShardMap

pytestmark = pytest.mark.servers

OpenBoard = Callable[..., ShardMap]


def soon() -> Deadline:
    return Deadline.after(10)


class Busy:
    """A board, and another process that changes it before each round trip of the reader."""

    def __init__(self, leaderboard: Leaderboard, other: Leaderboard, shard_map: ShardMap) -> None:
        self.leaderboard = leaderboard
        self.shard_map = shard_map
        self.changes = 0
        self._other = other

    def submit(self, points: dict[str, int]) -> None:
        self.changes += 1
        wins = [Submission(PlayerId(name), value, f"m{self.changes}") for name, value in points.items()]
        results = self._other.submit(self.shard_map.name, wins, soon(), rank=RankMode.NONE)
        assert {result.status for result in results} == {"applied"}

    def before_each_round_trip(self, monkeypatch: pytest.MonkeyPatch, points: Callable[[int], dict[str, int]]) -> None:
        ask = self.leaderboard.functions.on_keys

        def on_keys(*given: Any, **options: Any) -> Any:
            self.submit(points(self.changes))
            return ask(*given, **options)

        monkeypatch.setattr(self.leaderboard.functions, "on_keys", on_keys)


@pytest.fixture(params=[1, 2], ids=["whole ranges", "split ranges"])
def busy(
    request: pytest.FixtureRequest, leaderboard: Leaderboard, servers: ServerSet, open_board: OpenBoard
) -> Iterator[Busy]:
    """Thirty players of a hundred points, ten of two hundred and of fifty, on three ranges."""
    other = Leaderboard.connect(servers.settings, known_players=lambda _, players: players)
    board = Busy(leaderboard, other, open_board([60, 150], operator=Operator.SET, splits=request.param))
    groups = {"high": (200, 10), "even": (100, 30), "low": (50, 10)}
    board.submit({f"{name}-{number}": points for name, (points, most) in groups.items() for number in range(most)})
    yield board
    other.close()


def newcomers_above(change: int) -> dict[str, int]:
    """Somebody better than all, again and again."""
    return {f"new-{change}": 300 + change}


def check_ranks(page: Page) -> None:
    """In order, numbered by it."""
    assert [row.rank for row in page.rows] == list(range(page.rows[0].rank, page.rows[0].rank + len(page.rows)))
    assert all(one.points >= two.points for one, two in pairwise(page.rows))


def test_no_row_lies_outside_of_the_bounds(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    busy.before_each_round_trip(monkeypatch, newcomers_above)
    for offset, limit in ((0, 100), (7, 10), (25, 100)):
        page = busy.leaderboard.between(busy.shard_map.name, 100, 100, offset, limit, soon())
        assert page.settled
        assert [row.points for row in page.rows] == [100] * min(limit, 30 - offset)
        assert page.matching == 30
        check_ranks(page)
        assert page.total - page.rows[0].rank == 39 - offset, "as many are behind as ever"


@pytest.mark.parametrize("style", [RankStyle.COMPETITION, RankStyle.DENSE])
def test_shared_ranks_are_of_the_look_that_brought_the_rows(
    busy: Busy, monkeypatch: pytest.MonkeyPatch, style: RankStyle
) -> None:
    busy.before_each_round_trip(monkeypatch, newcomers_above)
    name, reads = busy.shard_map.name, busy.leaderboard
    pages = [
        reads.top(name, 0, 100, soon(), style=style),
        reads.top(name, 45, 20, soon(), style=style),
        reads.around_score(name, 100, 9, soon(), style=style),
        reads.surrounding(name, PlayerId("even-3"), 4, soon(), style=style),
        reads.between(name, 100, 200, 12, 9, soon(), style=style),
    ]
    for page in pages:
        assert page.settled
        better = {200: page.total - 50, 100: page.total - 40, 50: page.total - 10}
        distinct = {200: page.total - 50, 100: page.total - 49, 50: page.total - 48}
        ahead = better if style is RankStyle.COMPETITION else distinct
        told = {row.points: rank for row, rank in zip(page.rows, page.styled, strict=True) if row.points in ahead}
        assert told
        assert told == {points: 1 + ahead[points] for points in told}


@pytest.mark.parametrize("style", list(RankStyle))
def test_the_only_player_is_the_first_however_the_points_change(
    leaderboard: Leaderboard,
    servers: ServerSet,
    open_board: OpenBoard,
    monkeypatch: pytest.MonkeyPatch,
    style: RankStyle,
) -> None:
    """The player's own earlier or later row is never ahead."""
    other = Leaderboard.connect(servers.settings, known_players=lambda _, players: players)
    try:
        board = Busy(leaderboard, other, open_board([1_000], operator=Operator.SET))
        board.submit({"solo": 1})
        board.before_each_round_trip(monkeypatch, lambda change: {"solo": 1 + change})
        for _ in range(3):
            standing = leaderboard.standing(board.shard_map.name, PlayerId("solo"), soon(), style=style)
            assert (standing.rank, standing.row.rank, standing.total) == (1, 1, 1)
    finally:
        other.close()


def rotate(change: int) -> dict[str, int]:
    """Players of the lookup rise and fall, within the ranges and over their borders."""
    return {f"even-{(change + step) % 30}": 40 + (change * 37 + step * 53) % 200 for step in range(5)}


def test_the_ranks_of_players_looked_up_together_are_one_ranking(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    busy.before_each_round_trip(monkeypatch, rotate)
    players = [PlayerId(f"{name}-{number}") for name, most in (("even", 30), ("low", 10)) for number in range(most)]
    for _ in range(5):
        looked_up = busy.leaderboard.standings(busy.shard_map.name, players, soon())
        found = sorted(
            (one for one in looked_up.told if isinstance(one, Standing)), key=lambda standing: standing.row.rank
        )
        assert {standing.row.player for standing in found} == set(players)
        assert all(one.row.rank < two.row.rank for one, two in pairwise(found)), "nobody shares a rank"
        assert all(one.row.points >= two.row.points for one, two in pairwise(found)), "better points, better rank"
        told = {(standing.total, standing.as_of_ms, standing.settled) for standing in found}
        assert told == {(looked_up.total, looked_up.as_of_ms, looked_up.settled)}
        assert not looked_up.settled or looked_up.total == 50


def test_a_look_is_one_call_to_each_shard(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a shard's shape, its counts and its rows are of one moment, whatever is written beside the read."""
    ask, looks = busy.leaderboard.functions.on_keys, list[list[str]]()

    def on_keys(calls: Sequence[Call], *given: Any, **options: Any) -> Any:
        looks.append([call.args[3] for call in calls if call.args[0] == "FCALL_RO"])
        return ask(calls, *given, **options)

    monkeypatch.setattr(busy.leaderboard.functions, "on_keys", on_keys)
    name, reads = busy.shard_map.name, busy.leaderboard
    reads.standings(name, [PlayerId(f"even-{number}") for number in range(30)], soon())
    reads.top(name, 15, 20, soon(), style=RankStyle.COMPETITION)
    reads.surrounding(name, PlayerId("low-3"), 4, soon())
    reads.between(name, 50, 100, 3, 20, soon())
    assert len(looks) > 4
    assert all(len(set(rows)) == len(rows) for rows in looks)


def test_who_is_asked_for_twice_is_told_twice(busy: Busy) -> None:
    """Questions of many requests are gathered into one, and some are about the same player."""
    low, high, nobody = PlayerId("low-3"), PlayerId("high-3"), PlayerId("nobody")
    told = busy.leaderboard.standings(busy.shard_map.name, [low, high, nobody, low, nobody], soon()).told
    assert [one.row.player if isinstance(one, Standing) else None for one in told] == [low, high, None, low, None]


def test_a_lookup_of_nobody_tells_how_many_there_are(busy: Busy) -> None:
    looked_up = busy.leaderboard.standings(busy.shard_map.name, [PlayerId("nobody")], soon())
    assert (looked_up.total, looked_up.settled) == (50, True)


def test_whoever_stands_still_has_a_place_in_a_page(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stands still between two ranks that a page has is in it, and in no other place."""
    busy.before_each_round_trip(monkeypatch, rotate)
    still = {f"{name}-{number}": points for name, points in (("high", 200), ("low", 50)) for number in range(10)}
    for _ in range(3):
        page = busy.leaderboard.top(busy.shard_map.name, 0, 100, soon())
        check_ranks(page)
        if page.settled:
            assert len(page.rows) == page.total == 50
            told = {row.player: row.points for row in page.rows if row.player in still}
            assert told == still
