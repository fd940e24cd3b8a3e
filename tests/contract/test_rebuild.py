"""A board comes back from the audit log as it was: points, ties, order, and what a retry is recognised by."""

from dataclasses import replace

import pytest
from played_boards import OpenBoard, Played, soon
from sqlalchemy import Engine

from records import shard_maps
from records.leases import lease
from runtime import failpoints
from runtime.failpoints import FailpointReached
from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.cluster.client import Call
from sharding.errors import LeaderboardError, Outcome, RebuildRefused
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.lifecycle import LoadedRow
from sharding.players import PlayerId, member_of
from sharding.scores import PackedScore
from sharding.submissions import Status
from workers.periods import open_period
from workers.rebuild import Rebuild

pytestmark = pytest.mark.servers


def quiet(_done: int, _total: int) -> None:
    pass


def rebuild(board: Played) -> Rebuild:
    return Rebuild(board.leaderboard, board.engine, board.name)


@pytest.mark.parametrize("splits", [1, 2], ids=["plain", "split by hash"])
@pytest.mark.parametrize("rules", [{}, {"operator": "best"}, {"operator": "set", "order": "asc"}], ids=str)
def test_a_lost_board_comes_back_with_the_same_ranking(open_one: OpenBoard, rules: dict[str, str], splits: int) -> None:
    """All of its data in Redis destroyed: every packed score is the same, so points, ties and order are."""
    board = open_one(splits=splits, period_kind="day", **rules)
    board.play(600, 4_000)
    board.drain()
    before, stats = board.ranking(), board.leaderboard.stats(board.name, soon())
    board.destroy()
    told: list[tuple[int, int]] = []
    done = rebuild(board).whole(lambda *progress: told.append(progress))
    assert (done.players, done.games, done.generation, told[-1]) == (600, 4_000, 2, (600, 600))
    assert board.ranking() == before
    after = board.leaderboard.stats(board.name, soon())
    assert (after.total, after.submissions, after.points_sum) == (stats.total, stats.submissions, stats.points_sum)
    assert board.points("player-000000") == dict(_points(board, before))["player-000000"]
    assert board.agrees()


def _points(board: Played, ranking: list[tuple[str, int]]) -> list[tuple[str, int]]:
    sign = board.shard_map.board.order.sign
    return [(player, sign * (packed >> 22)) for player, packed in ranking]


def test_a_retry_is_recognised_after_a_rebuild(open_one: OpenBoard) -> None:
    """The events of the retry window come back: what counted before the data were lost does not count again."""
    board = open_one()
    board.play(100, 500)
    board.drain()
    before = board.ranking()
    board.destroy()
    rebuild(board).whole(quiet)
    board.play(100, 500)  # the same games once more
    assert board.ranking() == before
    assert board.win("player-000001", 7, "another") == Status.APPLIED


def test_a_board_in_use_is_rebuilt_only_by_force(open_one: OpenBoard) -> None:
    board = open_one()
    board.play(200, 1_000)
    before = board.ranking()
    with pytest.raises(RebuildRefused, match="--force"):
        rebuild(board).whole(quiet)
    assert board.win("player-000000", 0, "still open") == Status.APPLIED
    done = rebuild(board).whole(quiet, force=True)
    assert done.generation == board.now().generation == 2
    assert board.ranking() == before, "what was not drained yet was drained first"
    old = board.shard_map.keys(0)
    ends = board.leaderboard.functions.on_keys([Call(old.slot, ("PTTL", old.rows))], soon())[0].reply
    assert 0 < ends <= 600_000, "the old generation's keys expire"
    assert board.win("player-000000", 3, "after") == Status.APPLIED


@pytest.mark.parametrize("point", ["rebuild.prepared", "rebuild.loaded", "rebuild.recorded", "rebuild.published"])
def test_a_rebuild_that_fails_anywhere_can_be_run_again(open_one: OpenBoard, point: str) -> None:
    """Before the map is recorded the board plays on as if nothing had been; afterwards the new one is opened."""
    board = open_one()
    board.play(200, 1_000)
    before = board.ranking()
    failpoints.arm(f"{point}=raise")
    with pytest.raises(FailpointReached):
        rebuild(board).whole(quiet, force=True)
    failpoints.arm("")
    recorded = shard_maps.latest(board.engine, board.name.board, board.name.period)
    assert recorded is not None
    if recorded.generation == 1:
        assert board.win("player-000000", 0, "goes on") == Status.APPLIED
    else:
        open_period(board.leaderboard, board.engine, board.shard_map.board, board.shard_map.period, Settings())
        assert board.now().generation == 2
        board.leaderboard.maps.forget(board.name)
        assert board.win("player-000000", 0, "goes on") == Status.APPLIED
    assert board.ranking() == before
    again = rebuild(board).whole(quiet, force=True)
    assert board.ranking() == before
    assert again.generation == recorded.generation + 1


def test_what_a_dead_rebuild_left_is_cleared_away(open_one: OpenBoard) -> None:
    """Killed in the middle: shards stay closed, and the next run needs no force and doubles nobody who moved on."""
    board = open_one()
    board.play(200, 600)
    board.drain()
    lifecycle = board.leaderboard.lifecycle
    lifecycle.set_state(board.now(), "rebuilding", soon())
    (refused,) = board.leaderboard.submit(
        board.name, [Submission(PlayerId("player-000000"), 1, "refused")], soon(), rank=RankMode.NONE
    )
    assert refused.error is not None
    assert (refused.error.outcome, refused.error.retryable) == (Outcome.NOT_APPLIED, True)
    before = board.ranking()
    fresh = replace(board.now(), generation=2, version=2)
    lifecycle.prepare(fresh, soon())
    ghost = LoadedRow(member_of(PlayerId("player-000003")), PackedScore(board.shard_map.ranges[0].high - 1))
    lifecycle.load(fresh, {0: [ghost], 1: [ghost]}, 0, soon())
    assert rebuild(board).whole(quiet).players == 200
    assert board.ranking() == before
    assert board.win("player-000003", 5, "moves on") == Status.APPLIED


def test_a_dry_run_changes_nothing(open_one: OpenBoard) -> None:
    board = open_one()
    board.play(50, 80)
    board.drain()
    planned = rebuild(board).plan()
    assert (planned.players, planned.games, planned.generation) == (50, 80, 2)
    assert board.now().generation == 1
    assert len(shard_maps.history(board.engine, board.name.board, board.name.period)) == 1


def test_two_rebuilds_at_once_are_one(open_one: OpenBoard) -> None:
    board = open_one()
    with lease(board.engine, f"lifecycle:{board.name}") as held:
        assert held is not None
        with pytest.raises(RebuildRefused, match="already"):
            rebuild(board).whole(quiet, force=True)


def test_a_board_that_was_never_opened_has_nothing_to_rebuild(leaderboard: Leaderboard, database: Engine) -> None:
    with pytest.raises(RebuildRefused, match="never opened"):
        Rebuild(leaderboard, database, BoardPeriod("global", "2031-01")).whole(quiet)


@pytest.mark.parametrize("directory_lost", [False, True])
def test_one_lost_shard_comes_back_while_the_others_serve(open_one: OpenBoard, directory_lost: bool) -> None:
    """Its rows under their epochs; players of the others play on, and nobody is on the board twice."""
    board = open_one()
    board.play(400, 2_000)
    board.drain()
    before = board.ranking()
    shard = next(shard for shard in board.now().shards() if 0 < board.on_shard(shard, "ZCARD", "@rows") < 400)
    mine = set(board.on_shard(shard, "ZRANGE", "@rows", 0, -1))
    board.destroy_shard(shard)
    if directory_lost:
        board.destroy_partition(shard)
    other = next(player for player, _ in before if player.encode() not in mine)
    assert board.win(other, 0, "the others serve") == Status.APPLIED
    planned = rebuild(board).plan_shard(shard)
    assert (planned.players, planned.shard) == (len(mine), shard)
    done = rebuild(board).shard(shard, quiet)
    assert done.players == len(mine)
    assert board.ranking() == before
    assert board.win(min(mine).decode(), 0, "and so does this one") == Status.APPLIED
    assert board.agrees()
    board.play(400, 2_000)
    assert board.ranking() == before, "retries are recognised in every shard"
    with pytest.raises(RebuildRefused, match="is there"):
        rebuild(board).shard(shard, quiet)
    for attempt in (lambda: rebuild(board).shard(99, quiet), lambda: rebuild(board).plan_shard(99)):
        with pytest.raises(RebuildRefused, match="no shard 99"):
            attempt()
    with pytest.raises(RebuildRefused, match="is there"):
        rebuild(board).plan_shard(shard)


def test_rows_cannot_be_loaded_into_a_shard_that_plays(open_one: OpenBoard) -> None:
    board = open_one()
    board.play(10, 10)
    before = board.ranking()
    row = LoadedRow(member_of(PlayerId("ghost")), PackedScore(before[0][1]))
    with pytest.raises(LeaderboardError, match="open"):
        board.leaderboard.lifecycle.load(board.now(), {0: [row]}, 0, soon())
    assert board.ranking() == before
