"""Persisting the audit log, and keeping it.

`drain_all`: late, twice, beside itself: it only looks at the lengths of outboxes and wakes `drain_shards`.
`drain_shards`: late: the outboxes are longer. Twice: finds nothing. Beside itself: the second sees the leases and ends.
`drop_old_months`: late: disks are fuller. Twice: finds nothing to drop. Beside itself: the second waits for the first's
lock, and finds nothing.
"""

from datetime import UTC, datetime

from records.errors import InvalidRecord
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.errors import LeaderboardError, UnknownBoard
from workers import metrics, resources
from workers.drain import drain_shards as drain
from workers.periods import open_boards
from workers.retention import drop_old_months as drop
from workers.tasks.base import job, log

_LOOK_S = 5.0
_DRAIN_S = 30.0
#: Shards in one task, and in one transaction of it: for each by itself, the steps would cost more than the rows do.
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
    """Store the outboxes of shards, all together; where that fails, each by itself, so that none stops the others."""
    leaderboard, engine = resources.leaderboard(), resources.engine()
    deadline = Deadline.after(_DRAIN_S)
    shard_map = leaderboard.maps.current(BoardPeriod(board, period), deadline)
    try:
        drained = drain(leaderboard, engine, shard_map, shards, resources.settings().drain_batch, deadline)
    except (LeaderboardError, InvalidRecord) as error:
        if len(shards) == 1:
            raise
        log.warning("drained_apart", board=board, period=period, shards=shards, reason=error.detail)
        for shard in shards:
            drain_shards.apply_async((board, period, [shard]), expires=10)
        return
    if drained.entries:
        log.debug("drained", board=board, period=period, shards=shards, stored=drained.stored)


@job("audit.drop_old_months")
def drop_old_months() -> None:
    """Drop months of the audit log that are older than the settings keep."""
    drop(resources.engine(), resources.settings().audit_months, datetime.now(UTC).date())
