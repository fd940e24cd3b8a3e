"""A new map applied to a board in use: ranks stay exact throughout, and in the end every row is where the map says."""

from collections.abc import Callable

import pytest

from runtime.deadlines import Deadline
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.players import PlayerId
from sharding.rebalancing import Progress
from sharding.shard_map import ShardMap, cut_after
from sharding.submissions import Status

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
