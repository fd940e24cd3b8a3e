"""A new map applied to a board in use: ranks stay exact throughout, and in the end every row is where the map says."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from runtime.deadlines import Deadline
from sharding.functions import Asked, May
from sharding.handoff.states import Leaving, Memory
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.players import Member, PlayerId
from sharding.rebalancing import Progress
from sharding.scores import PackedScore
from sharding.shard_map import ShardMap, cut_after
from sharding.submissions import Status
from tests.stateful.raw_board import RawBoard, pack_payload

pytestmark = pytest.mark.servers

PLAYERS = [PlayerId(f"player-{number}") for number in range(400)]


def ranking(leaderboard: Leaderboard, shard_map: ShardMap) -> list[PlayerId]:
    pages = [leaderboard.top(shard_map.name, offset, 100, Deadline.after(10)).rows for offset in range(0, 400, 100)]
    return [row.player for page in pages for row in page]


@pytest.mark.parametrize(
    "cuts", [[50, 150, 300], [10], [5, 10, 20, 30, 40, 80, 120], []], ids=["moved", "fewer", "more", "one"]
)
def test_a_new_map_moves_rows_and_keeps_ranks(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap], cuts: list[int]
) -> None:
    before = open_board([100, 200, 300])
    submissions = [Submission(player, points, "m1") for points, player in enumerate(PLAYERS)]
    leaderboard.submit(before.name, submissions, Deadline.after(10), rank=RankMode.NONE)
    expected = list(reversed(PLAYERS))
    wanted = before.recut(sorted(cut_after(points, before.board.order) for points in cuts))

    published = leaderboard.rebalancer.switch(wanted)
    assert published == wanted
    assert ranking(leaderboard, wanted) == expected, "exact while every row may be a stray"
    results = leaderboard.submit(before.name, submissions, Deadline.after(10), rank=RankMode.NONE)
    assert {result.status for result in results} == {Status.DUPLICATE}, "whoever still writes by the old map is heard"

    seen: list[Progress] = []
    done = leaderboard.rebalancer.move_strays(wanted, Deadline.after(30), players_per_s=100_000, report=seen.append)
    assert done.left == 0
    views = leaderboard.shards(before.name, Deadline.after(10))
    assert sum(view.strays + view.leaving for view in views) == 0
    assert sum(view.rows for view in views) == len(PLAYERS)
    assert all(view.rows == 0 for view in views if view.retiring)
    assert ranking(leaderboard, wanted) == expected
    assert leaderboard.rebalancer.switch(wanted) == wanted, "again: nothing is left to do"


@pytest.mark.parametrize("before", [1, 2], ids=["split", "split further"])
def test_a_range_that_is_split_by_player_hash_sends_rows_to_their_parts(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap], before: int
) -> None:
    """Packed scores do not give these strays away. They are more than one call looks at, and many have equal points;
    and as many of them are hidden."""
    shard_map = open_board([100], splits=before)
    players = [PlayerId(f"player-{number}") for number in range(2400)]
    submissions = [Submission(player, 101 + number // 600, "m1") for number, player in enumerate(players)]
    leaderboard.submit(shard_map.name, submissions, Deadline.after(10), rank=RankMode.NONE)
    leaderboard.hide(shard_map.name, dict.fromkeys(players[::2], True), Deadline.after(10))
    best, worst = shard_map.ranges
    split = replace(best, shards=(*best.shards, 8, 9))
    wanted = leaderboard.rebalancer.switch(replace(shard_map, version=2, ranges=(split, worst)))
    expected = [row.player for row in leaderboard.top(wanted.name, 0, 100, Deadline.after(10)).rows]

    done = leaderboard.rebalancer.move_strays(wanted, Deadline.after(30), players_per_s=100_000, report=lambda _: None)
    assert done.moved > 300
    assert misplaced(leaderboard, wanted) == set()
    assert {row.player for row in leaderboard.top(wanted.name, 0, 100, Deadline.after(10)).rows} == set(expected)
    again = leaderboard.rebalancer.move_strays(wanted, Deadline.after(30), players_per_s=100_000, report=lambda _: None)
    assert again == Progress(0, 0), "nobody combs for ever"


def test_a_row_that_arrives_by_an_old_map_is_found(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap]
) -> None:
    """Whoever brought it died before he was told that it is in the wrong part: the sweeper combs the shard for it."""
    board = RawBoard(leaderboard, open_board([100], splits=2))
    best = board.shard_map.ranges[0]
    ann = Member(b"ann")
    home = best.shard_of(ann)
    (other,) = set(best.shards) - {home}
    packed = PackedScore(best.high - 1)
    assert board.step(other, "rb1_arrive", ann, pack_payload(Leaving(2, packed, Memory(), other))).refusal is None
    assert misplaced(leaderboard, board.shard_map) == {ann}
    leaderboard.rebalancer.sweep(board.shard_map, Deadline.after(10))
    assert misplaced(leaderboard, board.shard_map) == set()


def test_a_row_that_begins_by_an_old_map_is_found(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap]
) -> None:
    """The writer that made it in the wrong part died before it could move it home."""
    board = RawBoard(leaderboard, open_board([100], splits=2))
    best = board.shard_map.ranges[0]
    ann = Member(b"ann")
    (other,) = set(best.shards) - {best.shard_of(ann)}
    first = Submission(PlayerId("ann"), 500, "m1")
    assert board.apply(other, Asked(ann, 500, first.event(), first.note(), May.CREATE)).refusal is None
    assert misplaced(leaderboard, board.shard_map) == {ann}
    leaderboard.rebalancer.sweep(board.shard_map, Deadline.after(10))
    assert misplaced(leaderboard, board.shard_map) == set()


def misplaced(leaderboard: Leaderboard, shard_map: ShardMap) -> set[Member]:
    return {
        row.member
        for shard, rows in leaderboard.lifecycle.members(shard_map)
        for row in rows
        if shard_map.shard_for(row.packed, row.member) != shard
    }
