"""A period closes by itself: late submissions are refused, the final ranking is what SQL says, and the keys expire."""

import random
import threading
from datetime import UTC, datetime, timedelta

import pytest
from played_boards import OpenBoard, Played, rows_of, soon
from records_databases import scalar

from records import archives, partitions, shard_maps, snapshots
from records.leases import lease
from records.periods import month_of
from runtime import failpoints
from runtime.failpoints import FailpointReached
from runtime.settings import Settings
from sharding.cluster.client import Call
from sharding.errors import ArchiveDiffers, PeriodClosed, PeriodNotOver, RebuildRefused, UnknownBoard
from sharding.leaderboard import RankMode, Submission
from sharding.periods import following
from sharding.players import PlayerId
from sharding.shard_map import cut_after
from workers import metrics
from workers.archive import Archive, Closed
from workers.rebuild import Rebuild

pytestmark = pytest.mark.servers


def archive(board: Played, **settings: int) -> Archive:
    return Archive(board.leaderboard, board.engine, Settings(**settings))


def when_over(board: Played) -> datetime:
    """A quarter of an hour after the end: the clock is the test's."""
    assert board.shard_map.period.end is not None
    return board.shard_map.period.end + timedelta(minutes=15)


def close(board: Played, **settings: int) -> Closed | None:
    return archive(board, **settings).close(board.name, when_over(board), lambda _done, _of: None)


def stored(board: Played) -> list[tuple[int, str, int]]:
    wanted = "SELECT rank, user_id, points FROM leaderboard_snapshots WHERE board = :board ORDER BY rank"
    return rows_of(board.engine, wanted, board=board.name.board)


def by_sql(board: Played) -> list[tuple[int, str, int]]:
    """The final ranking of an adding board, computed from the audit log by nobody but PostgreSQL."""
    return rows_of(
        board.engine,
        """
        SELECT row_number() OVER (ORDER BY points DESC, reached, user_id COLLATE "C"), user_id, points
        FROM (SELECT user_id, sum(value)::bigint AS points, date_trunc('second', max(received_at)) AS reached
              FROM games WHERE board = :board GROUP BY user_id) AS folded
        ORDER BY 1
        """,
        board=board.name.board,
    )


@pytest.mark.parametrize("splits", [1, 3], ids=["plain", "split by hash"])
def test_the_final_ranking_is_what_sql_computes(open_one: OpenBoard, splits: int) -> None:
    """Rank by rank, over shards, with ties, whatever had not been drained yet."""
    board = open_one(splits=splits)
    board.play(3_000, 9_000, most=12)
    told: list[tuple[int, int]] = []
    closed = archive(board).close(board.name, when_over(board), lambda *progress: told.append(progress))
    assert stored(board) == by_sql(board)
    assert closed == Closed(3_000, sum(points for _, _, points in stored(board)), already=False)
    assert told[-1] == (3_000, 3_000)
    assert metrics.archived_players.labels(board.name.board)._value.get() == 3_000
    assert archives.is_archived(board.engine, board.name.board, board.name.period)
    assert close(board) == Closed(closed.players, closed.points, already=True), "a second time nothing is done"


def test_late_submissions_are_refused_naming_the_period_that_is_open(open_one: OpenBoard) -> None:
    board = open_one()
    board.play(20, 40)
    close(board)
    before = board.ranking()
    late = Submission(PlayerId("player-000001"), 5, "late")
    (refused,) = board.leaderboard.submit(board.name, [late], soon(), rank=RankMode.NONE)
    after = following(board.shard_map.period)
    assert after is not None
    assert isinstance(refused.error, PeriodClosed)
    assert after.name in refused.error.detail
    assert board.ranking() == before


@pytest.mark.parametrize("point", ["frozen", "drained", "copying", "copied", "recorded"])
def test_an_archive_that_dies_is_taken_up_where_it_was(open_one: OpenBoard, point: str) -> None:
    """At every step; what was copied is not copied again."""
    board = open_one()
    board.play(400, 1_000)
    for _ in range(2):
        failpoints.arm(f"archive.{point}=raise")
        with pytest.raises(FailpointReached):
            close(board)
        failpoints.arm("")
        if point == "recorded":
            break
    known = archives.of_period(board.engine, board.name.board, board.name.period)
    assert len(known) == {"copied": 3, "recorded": 5}.get(point, 1)
    assert close(board) is not None
    assert stored(board) == by_sql(board)


def test_two_at_once_are_one(open_one: OpenBoard) -> None:
    """Whichever comes second finds the lease taken, or the period archived."""
    board = open_one()
    board.play(1_000, 2_000)
    results: list[Closed | None] = []
    threads = [threading.Thread(target=lambda: results.append(close(board))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([one for one in results if one is not None and not one.already]) == 1
    assert len(results) == 4
    assert stored(board) == by_sql(board)
    with lease(board.engine, f"lifecycle:{board.name}") as held:
        assert held is not None
        assert close(board) is None


def test_moves_are_finished_first(open_one: OpenBoard) -> None:
    """A board whose map has just been cut anew, with every row a stray, is archived in order all the same."""
    board = open_one(cuts=[20, 60])
    board.play(300, 900)
    wanted = board.now().recut([cut_after(points, board.shard_map.board.order) for points in (50, 30, 8)])
    shard_maps.append(board.engine, board.name.board, board.name.period, 1, wanted.document())
    board.leaderboard.rebalancer.switch(wanted)
    close(board)
    assert stored(board) == by_sql(board)


def test_a_period_that_is_not_over_is_not_archived(open_one: OpenBoard) -> None:
    """Nor in the minutes in which it takes late submissions, nor one that never ends."""
    board = open_one()
    board.play(5, 5)
    end = board.shard_map.period.end
    assert end is not None
    for now in (datetime.now(UTC), end, end + timedelta(minutes=9, seconds=59)):
        with pytest.raises(PeriodNotOver):
            archive(board).close(board.name, now, lambda _done, _of: None)
        assert board.name not in archive(board).due(now)
    assert board.win("player-000000", 1, "goes on") == "applied"
    forever = open_one(period_kind="forever")
    with pytest.raises(PeriodNotOver):
        archive(forever).close(forever.name, end, lambda _done, _of: None)
    with pytest.raises(UnknownBoard):
        archive(board).close(type(board.name)("nowhere", "2026-01"), end, lambda _done, _of: None)


def test_what_was_missed_is_caught_up(open_one: OpenBoard) -> None:
    """Whenever a job looks, it finds the periods that are over and not archived, the oldest first."""
    days = [open_one(period_kind="day") for _ in range(2)]
    later = when_over(days[0]) + timedelta(days=40)
    for board in days:
        board.play(5, 9)
        assert board.name in archive(board).due(later)
    assert close(days[0]) is not None
    due = archive(days[0]).due(later)
    assert days[0].name not in due
    assert days[1].name in due
    assert [name.period for name in due] == sorted(name.period for name in due)


def test_the_keys_expire_after_the_days_of_grace(open_one: OpenBoard) -> None:
    board = open_one()
    board.play(50, 80)
    close(board, archive_grace_days=30)
    ends = set()
    for shard in board.now().shards():
        for name in ("@rows", "@head"):
            if board.on_shard(shard, "EXISTS", name):
                ends.add(board.on_shard(shard, "PEXPIRETIME", name))
    expected = when_over(board) + timedelta(days=30)
    assert {round(end / 1000 - expected.timestamp()) for end in ends} == {60}
    slot, key = board.now().directory.bucket(b"player-000000")  # type: ignore[arg-type]
    answer = board.leaderboard.functions.on_keys([Call(slot, ("PEXPIRETIME", key))], soon())[0]
    assert answer.reply in ends


def test_reads_are_the_same_before_and_after_the_keys_are_gone(open_one: OpenBoard) -> None:
    """Pages, a player's standing and those around, out of Redis first and out of PostgreSQL then."""
    board = open_one()
    board.play(500, 1_500)
    close(board)
    name, engine = board.name, board.engine
    players = [player for player, _ in random.Random(4).sample(board.ranking(), 30)]
    pages = {offset: board.leaderboard.top(name, offset, 20, soon()) for offset in (0, 137, 490, 600)}
    standings = {player: board.leaderboard.standing(name, PlayerId(player), soon()) for player in players}
    around = {player: board.leaderboard.surrounding(name, PlayerId(player), 4, soon()) for player in players}
    board.destroy()
    with pytest.raises(UnknownBoard):
        board.leaderboard.top(name, 0, 10, soon())
    whole = archives.final(engine, name.board, name.period)
    assert whole is not None
    assert (whole.submissions, whole.players) == (1_500, 500)
    total = whole.players
    assert total == 500
    for offset, page in pages.items():
        assert page.total == total
        assert _plain(page.rows) == [tuple(row) for row in snapshots.page(engine, name.board, name.period, offset, 20)]
    for player in players:
        found = snapshots.standing(engine, name.board, name.period, player)
        assert found == (standings[player].row.rank, player, standings[player].row.points)
        window = snapshots.page(engine, name.board, name.period, around[player].rows[0].rank - 1, 9)
        assert [tuple(row) for row in window] == _plain(around[player].rows)
    found_many = snapshots.find_many(engine, name.board, name.period, [*players, "nobody"])
    assert {player: row.rank for player, row in found_many.items()} == {
        player: standing.row.rank for player, standing in standings.items()
    }
    final = [points for _, _, points in stored(board)]
    for points in (final[0] + 1, final[0], final[100], final[-1], final[-1] - 1):
        counted = snapshots.ahead_of(engine, name.board, name.period, points, total, True)
        assert counted == sum(other > points for other in final)
    assert snapshots.standing(engine, name.board, name.period, "nobody") is None
    assert archives.final(engine, name.board, "2031-01") is None
    [past] = snapshots.history(engine, name.board, players[0], limit=5)
    assert (past.period, past.rank, past.players) == (name.period, standings[players[0]].row.rank, 500)
    with pytest.raises(RebuildRefused, match="archived"):
        Rebuild(board.leaderboard, engine, name).whole(lambda _done, _of: None)


def _plain(rows: object) -> list[tuple[int, str, int]]:
    return [(row.rank, row.player, row.points) for row in rows]  # type: ignore[attr-defined]


SPOILT = {
    "points": "UPDATE leaderboard_snapshots SET points = points + 1 WHERE board = :board AND rank = 7",
    "a rank": "UPDATE leaderboard_snapshots SET rank = 9 WHERE board = :board AND rank = 7",
    "a lost row": "DELETE FROM leaderboard_snapshots WHERE board = :board AND rank = 7",
    "order": """UPDATE leaderboard_snapshots SET rank = CASE rank WHEN 1 THEN 50 ELSE 1 END
                WHERE board = :board AND rank IN (1, 50)""",
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_a_corrupt_snapshot_is_noticed_and_copied_anew(open_one: OpenBoard, spoil: str) -> None:
    """Nothing expires, what is stored is discarded, and the next run has it right."""
    board = open_one()
    board.play(60, 200)
    failpoints.arm("archive.recorded=raise")
    with pytest.raises(FailpointReached):
        close(board)
    failpoints.arm("")
    with board.engine.begin() as connection:
        connection.exec_driver_sql(spoil.replace(":board", f"'{board.name.board}'"))
    archives.record(board.engine, board.name.board, board.name.period, archives.WHOLE, "closing")
    with pytest.raises(ArchiveDiffers, match="copied anew"):
        close(board)
    assert stored(board) == []
    assert board.on_shard(0, "PTTL", "@head") == -1
    assert close(board) is not None
    assert stored(board) == by_sql(board)


def test_a_board_that_does_not_agree_with_its_audit_log_is_not_archived(open_one: OpenBoard) -> None:
    """Points that no submission made: nothing is kept as final, nothing expires, until somebody has looked."""
    board = open_one(cuts=[])
    board.play(20, 40)
    board.drain()
    board.on_shard(0, "ZADD", "@rows", -99 * 2**22, "intruder")
    with pytest.raises(ArchiveDiffers, match="rangeboard verify"):
        close(board)
    assert not archives.is_archived(board.engine, board.name.board, board.name.period)
    board.on_shard(0, "ZREM", "@rows", "intruder")
    assert close(board) is not None


def test_a_lost_shard_is_not_archived_as_an_empty_one(open_one: OpenBoard) -> None:
    board = open_one()
    board.play(100, 300)
    board.drain()
    board.destroy_shard(1)
    with pytest.raises(ArchiveDiffers, match="rangeboard rebuild"):
        close(board)
    Rebuild(board.leaderboard, board.engine, board.name).shard(1, lambda _done, _of: None)
    assert close(board) is not None
    assert stored(board) == by_sql(board)


def test_a_lost_board_is_rebuilt_closed_and_then_archived(open_one: OpenBoard) -> None:
    """Redis is destroyed while the month is closing: what comes back takes no submissions."""
    board = open_one()
    board.play(100, 300)
    failpoints.arm("archive.drained=raise")
    with pytest.raises(FailpointReached):
        close(board)
    failpoints.arm("")
    board.destroy()
    with pytest.raises(ArchiveDiffers, match="rangeboard rebuild"):
        close(board)
    Rebuild(board.leaderboard, board.engine, board.name).whole(lambda _done, _of: None)
    late = Submission(PlayerId("player-000001"), 5, "late")
    (refused,) = board.leaderboard.submit(board.name, [late], soon(), rank=RankMode.NONE)
    assert isinstance(refused.error, PeriodClosed)
    assert close(board) is not None
    assert stored(board) == by_sql(board)


def test_an_empty_period_and_one_without_a_partition_are_archived(open_one: OpenBoard) -> None:
    board = open_one()
    assert close(board) == Closed(0, 0, already=False)
    other = open_one()
    other.play(10, 20)
    other.drain()
    month = month_of(other.name.period)
    name = partitions.partition_name("leaderboard_snapshots", month)
    with other.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE leaderboard_snapshots DETACH PARTITION {name}")
        connection.exec_driver_sql(f"ALTER TABLE {name} RENAME TO put_aside")
    try:
        assert close(other) is not None
        assert stored(other) == by_sql(other)
    finally:
        with other.engine.begin() as connection:
            connection.exec_driver_sql(f"DROP TABLE {name}")
            connection.exec_driver_sql(f"ALTER TABLE put_aside RENAME TO {name}")
            connection.exec_driver_sql(
                f"ALTER TABLE leaderboard_snapshots ATTACH PARTITION {name}"
                f" FOR VALUES FROM ('{month}') TO ('{(month + timedelta(days=31)).replace(day=1)}')"
            )
    assert (
        scalar(other.engine, "SELECT count(*) FROM archives WHERE board = :b AND shard = -1", b=other.name.board) == 1
    )
