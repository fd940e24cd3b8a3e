"""Persisting the audit log, and keeping it.

`drain_all`: late, twice, beside itself: it only looks at the lengths of outboxes and wakes `drain_shard`.
`drain_shard`: late: the outbox is longer. Twice: finds nothing. Beside itself: the second sees the lease and ends.
`drop_old_months`: late: disks are fuller. Twice: finds nothing to drop. Beside itself: the second waits for the first's
lock, and finds nothing.
"""

from datetime import UTC, datetime

from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.errors import LeaderboardError, UnknownBoard
from workers import metrics, resources
from workers.drain import drain_shard as drain
from workers.periods import open_boards
from workers.retention import drop_old_months as drop
from workers.tasks.base import job, log

_LOOK_S = 5.0
_DRAIN_S = 30.0


@job("audit.drain_all")
def drain_all() -> None:
    """Wake a drain for every shard whose outbox holds something, and measure how far behind the audit log is."""
    leaderboard = resources.leaderboard()
    entries: dict[str, int] = {}
    oldest: dict[str, int] = {}
    generations: dict[str, int] = {}
    unreachable: LeaderboardError | None = None
    for board, period in open_boards(resources.engine(), datetime.now(UTC)):
        deadline = Deadline.after(_LOOK_S)
        try:
            shard_map = leaderboard.maps.current(BoardPeriod(board, period), deadline)
        except UnknownBoard:
            continue
        entries.setdefault(board, 0)
        generations[board] = max(generations.get(board, 0), shard_map.generation)
        for shard, backlog in leaderboard.outbox.backlogs(shard_map, deadline).items():
            if isinstance(backlog, LeaderboardError):  # its node is down: the others are drained all the same
                unreachable = backlog
            elif backlog.entries:
                drain_shard.apply_async((board, period, shard), expires=10)
                entries[board] += backlog.entries
                oldest[board] = min(oldest.get(board, backlog.oldest_ms), backlog.oldest_ms)
    now_ms = datetime.now(UTC).timestamp() * 1000
    for board, count in entries.items():
        metrics.outbox_entries.labels(board).set(count)
        metrics.audit_lag_seconds.labels(board).set(max(0.0, now_ms - oldest.get(board, now_ms)) / 1000)
    for board, generation in generations.items():
        metrics.board_generation.labels(board).set(generation)
    if unreachable is not None:
        raise unreachable


@job("audit.drain_shard")
def drain_shard(board: str, period: str, shard: int) -> None:
    """Store one shard's outbox."""
    leaderboard = resources.leaderboard()
    deadline = Deadline.after(_DRAIN_S)
    shard_map = leaderboard.maps.current(BoardPeriod(board, period), deadline)
    batch = resources.settings().drain_batch
    drained = drain(leaderboard, resources.engine(), shard_map, shard, batch, deadline)
    if drained.entries:
        log.debug("drained", board=board, period=period, shard=shard, entries=drained.entries, stored=drained.stored)


@job("audit.drop_old_months")
def drop_old_months() -> None:
    """Drop months of the audit log that are older than the settings keep."""
    drop(resources.engine(), resources.settings().audit_months, datetime.now(UTC).date())
