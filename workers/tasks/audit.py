"""Persisting the audit log, and keeping it.

`drain_all`: late, twice, beside itself: it only looks at the lengths of outboxes and wakes `drain_shards`.
`drain_shards`: late: the outboxes are longer. Twice: finds nothing. Beside itself: the second sees the leases and ends.
`drop_old_months`: late: disks are fuller. Twice: finds nothing to drop. Beside itself: the second waits for the first's
lock, and finds nothing.
"""

from datetime import UTC, datetime

from records.errors import RecordsError
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.errors import LeaderboardError, UnknownBoard
from workers import metrics, resources
from workers.drain import drain_shard
from workers.periods import open_boards
from workers.retention import drop_old_months as drop
from workers.tasks.base import job, log

_LOOK_S = 5.0
_DRAIN_S = 30.0
#: Shards in one task: waking a task for each would cost more than draining a second's entries does.
_TOGETHER = 8
#: Entries from which on a shard has a task of its own, so that nobody waits behind it.
_LONG = 1_000


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
        short: list[int] = []
        for shard, backlog in leaderboard.outbox.backlogs(shard_map, deadline).items():
            if isinstance(backlog, LeaderboardError):  # its node is down: the others are drained all the same
                unreachable = backlog
            elif backlog.entries:
                if backlog.entries >= _LONG:
                    drain_shards.apply_async((board, period, [shard]), expires=10)
                else:
                    short.append(shard)
                entries[board] += backlog.entries
                oldest[board] = min(oldest.get(board, backlog.oldest_ms), backlog.oldest_ms)
        for first in range(0, len(short), _TOGETHER):
            drain_shards.apply_async((board, period, short[first : first + _TOGETHER]), expires=10)
    now_ms = datetime.now(UTC).timestamp() * 1000
    for board, count in entries.items():
        metrics.outbox_entries.labels(board).set(count)
        metrics.audit_lag_seconds.labels(board).set(max(0.0, now_ms - oldest.get(board, now_ms)) / 1000)
    for board, generation in generations.items():
        metrics.board_generation.labels(board).set(generation)
    if unreachable is not None:
        raise unreachable


@job("audit.drain_shards")
def drain_shards(board: str, period: str, shards: list[int]) -> None:
    """Store the outboxes of shards, one after the other. One that cannot be stored now does not stop the others."""
    leaderboard = resources.leaderboard()
    deadline = Deadline.after(_DRAIN_S)
    shard_map = leaderboard.maps.current(BoardPeriod(board, period), deadline)
    batch = resources.settings().drain_batch
    failed: LeaderboardError | RecordsError | None = None
    for shard in shards:
        try:
            drained = drain_shard(leaderboard, resources.engine(), shard_map, shard, batch, deadline)
        except (LeaderboardError, RecordsError) as error:
            failed = error
            continue
        if drained.entries:
            log.debug("drained", board=board, period=period, shard=shard, stored=drained.stored)
    if failed is not None:
        raise failed


@job("audit.drop_old_months")
def drop_old_months() -> None:
    """Drop months of the audit log that are older than the settings keep."""
    drop(resources.engine(), resources.settings().audit_months, datetime.now(UTC).date())
