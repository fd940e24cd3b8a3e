"""Submissions on a real cluster: applied once, ranked at once, written down, moved when they leave their range."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from cli.servers import ServerSet
from runtime.deadlines import Deadline
from sharding.boards import Operator
from sharding.cluster.client import Call
from sharding.errors import Outcome, TooManySubmissions
from sharding.handoff import queue
from sharding.handoff.states import MOST_RECENT
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.players import PlayerId, member_of
from sharding.scores import POINTS_LIMIT
from sharding.shard_map import ShardMap
from sharding.submissions import Status

pytestmark = pytest.mark.servers


def submit(leaderboard: Leaderboard, shard_map: ShardMap, player: str, value: int, match: str):
    submission = Submission(PlayerId(player), value, match)
    return leaderboard.submit(shard_map.name, [submission], Deadline.after(10), rank=RankMode.EXACT)[0]


def test_a_submission_is_applied_and_ranked(leaderboard: Leaderboard, open_board: Callable[..., ShardMap]) -> None:
    shard_map = open_board()
    first = submit(leaderboard, shard_map, "ann", 5, "m1")
    assert (first.status, first.points, first.rank, first.durable) == (Status.APPLIED, 5, 1, True)
    second = submit(leaderboard, shard_map, "bob", 7, "m1")
    assert (second.points, second.rank) == (7, 1)
    assert leaderboard.standing(shard_map.name, PlayerId("ann"), Deadline.after(10)).row.rank == 2


def test_a_retry_counts_once(leaderboard: Leaderboard, open_board: Callable[..., ShardMap]) -> None:
    shard_map = open_board()
    submit(leaderboard, shard_map, "ann", 5, "m1")
    again = submit(leaderboard, shard_map, "ann", 5, "m1")
    assert (again.status, again.points) == (Status.DUPLICATE, 5)
    other = submit(leaderboard, shard_map, "ann", 6, "m1")
    assert other.status is Status.REFUSED


def test_at_once_from_fifty_it_counts_once(leaderboard: Leaderboard, open_board: Callable[..., ShardMap]) -> None:
    shard_map = open_board()
    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(lambda _: submit(leaderboard, shard_map, "ann", 15, "m1"), range(50)))
    assert sorted(result.status for result in results) == [Status.APPLIED] + [Status.DUPLICATE] * 49
    assert {result.points for result in results} == {15}


def test_points_that_leave_the_range_take_the_row_along(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap]
) -> None:
    shard_map = open_board([10, 20])
    for match in range(5):
        result = submit(leaderboard, shard_map, "ann", 6, f"m{match}")
        assert (result.points, result.rank) == (6 * (match + 1), 1)
    again = submit(leaderboard, shard_map, "ann", 6, "m0")
    assert (again.status, again.points) == (Status.DUPLICATE, 30)
    leaderboard.strays.bring_home(Deadline.after(10))
    again = submit(leaderboard, shard_map, "ann", 6, "m1")
    assert (again.status, again.points) == (Status.DUPLICATE, 30), "the memory of events travels with the row"
    views = leaderboard.shards(shard_map.name, Deadline.after(10))
    assert [view.rows for view in views] == [1, 0, 0]
    assert all(view.strays == view.leaving == 0 for view in views)
    assert sum(view.outbox for view in views) == 5
    assert leaderboard.stats(shard_map.name, Deadline.after(10)).points_sum == 30


@pytest.mark.parametrize("splits", [1, 3])
def test_a_stray_is_told_the_rank_of_where_it_belongs(
    servers: ServerSet, open_board: Callable[..., ShardMap], monkeypatch: pytest.MonkeyPatch, splits: int
) -> None:
    """Upwards and downwards, while nobody moves it, over ranges of one shard and of several."""
    monkeypatch.setattr(queue, "_GATHERED_FOR_S", 60.0)
    name = open_board([10, 20, 30], operator=Operator.SET, splits=splits).name
    others = [Submission(PlayerId(f"p{points}"), points, "m1") for points in (2, 4, 12, 14, 16, 22, 24, 33, 35)]
    with closing(Leaderboard.connect(servers.settings, known_players=lambda _, players: players)) as process:
        process.submit(name, others, Deadline.after(10), rank=RankMode.NONE)
        for match, (points, rank) in enumerate([(3, 9), (15, 6), (34, 2), (1, 10), (23, 4)]):
            submission = Submission(PlayerId("ann"), points, f"m{match}")
            (result,) = process.submit(name, [submission], Deadline.after(10), rank=RankMode.RECENT)
            assert (result.points, result.rank, result.rank_is) == (points, rank, RankMode.RECENT)


def test_a_row_whose_packed_score_is_zero_is_a_row(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap]
) -> None:
    """No points, in the first moment of a period: nothing else packs to 0."""
    shard_map = open_board()
    submit(leaderboard, shard_map, "ann", 0, "m1")
    keys = shard_map.keys(0)
    leaderboard.client.execute_one(
        Call(keys.slot, ("ZADD", keys.rows, 0, member_of(PlayerId("ann")))), Deadline.after(5)
    )
    result = submit(leaderboard, shard_map, "ann", 0, "m2")
    assert (result.status, result.points, result.rank) == (Status.APPLIED, 0, 1)


def test_a_move_of_somebody_who_stays_changes_nothing(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap]
) -> None:
    shard_map = open_board([10, 20])
    submit(leaderboard, shard_map, "ann", 5, "m1")
    member = member_of(PlayerId("ann"))
    entry = leaderboard.directory.locate(shard_map, [member], Deadline.after(10)).entries[member]
    packed = leaderboard.reader.find(shard_map, PlayerId("ann"), Deadline.after(10)).packed
    assert leaderboard.mover.move(shard_map, {member: (entry, packed)}, Deadline.after(10)) == {}
    assert leaderboard.reader.find(shard_map, PlayerId("ann"), Deadline.after(10)).packed == packed


def test_batches_at_once_count_each_submission_once_and_keep_everybodys_order(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap]
) -> None:
    """They leave in company, in parts, over several shards, and players are on the move meanwhile."""
    shard_map = open_board([10, 20, 40])
    batches, size = 12, 300
    players = [PlayerId(f"p{number}") for number in range(90)]

    def play(batch: int) -> list[int | None]:
        """Each batch has its own players, in turns: their points go up by one each time."""
        mine = players[batch % 6 :: 6]
        wins = [Submission(mine[index % len(mine)], 1, f"b{batch}-{index}") for index in range(size)]
        results = leaderboard.submit(shard_map.name, wins, Deadline.after(20), rank=RankMode.NONE)
        assert {result.status for result in results} == {Status.APPLIED}
        seen: dict[PlayerId, int] = {}
        for win, result in zip(wins, results, strict=True):
            assert result.points is not None
            assert result.points > seen.get(win.player, 0), "a player's submissions are applied in the order sent"
            seen[win.player] = result.points
        return [result.points for result in results]

    with ThreadPoolExecutor(batches) as pool:
        told = list(pool.map(play, range(batches)))
    each = batches * size // len(players)
    assert sorted(points for batch in told for points in batch if points is not None) == sorted(
        list(range(1, each + 1)) * len(players)
    ), "every submission has been told the points it led to, and no two the same"
    leaderboard.strays.bring_home(Deadline.after(10))
    assert leaderboard.stats(shard_map.name, Deadline.after(10)).points_sum == batches * size


def test_more_submissions_than_a_window_holds_are_refused_until_it_is_over(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap]
) -> None:
    """Definitely, and for as long as they may not be taken; a retry of one that counted is still recognised."""
    shard_map = open_board([10_000], retry_window_ms=86_400_000)
    wins = [Submission(PlayerId("ann"), 1, f"m{number}") for number in range(MOST_RECENT + 3)]
    results = leaderboard.submit(shard_map.name, wins, Deadline.after(20), rank=RankMode.NONE)
    assert {one.status for one in results[:MOST_RECENT]} == {Status.APPLIED}
    for one in results[MOST_RECENT:]:
        assert isinstance(one.error, TooManySubmissions)
        assert (one.status, one.error.outcome) == (Status.REFUSED, Outcome.NOT_APPLIED)
        assert 0 < one.error.retry_after_s <= 86_400
    assert submit(leaderboard, shard_map, "ann", 1, "m0").status is Status.DUPLICATE
    assert submit(leaderboard, shard_map, "bob", 1, "m0").status is Status.APPLIED


@pytest.mark.parametrize("value", [POINTS_LIMIT, -POINTS_LIMIT])
def test_the_limit_of_points_is_told_as_it_is(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap], value: int
) -> None:
    """The numbers in the refusal are points that a player can have."""
    shard_map = open_board([10])
    refused = submit(leaderboard, shard_map, "ann", value, "m1").error
    assert refused is not None
    assert refused.detail == "the player's points would leave -1,073,741,823 to 1,073,741,823"
    most = value - (1 if value > 0 else -1)
    assert submit(leaderboard, shard_map, "ann", most, "m2").points == most
