"""Persisting the audit log.

`drain_all`: late, twice, beside itself: it only looks at the lengths of outboxes and wakes `drain_shard`.
`drain_shard`: late: the outbox is longer. Twice: finds nothing. Beside itself: the second sees the lease and ends.
"""

from datetime import UTC, datetime

from celery import shared_task

from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.errors import LeaderboardError, UnknownBoard
from workers import resources
from workers.drain import drain_shard as drain
from workers.periods import open_boards
from workers.tasks.base import TASK, log

_LOOK_S = 5.0
_DRAIN_S = 30.0


@shared_task(name="audit.drain_all", **TASK)
def drain_all() -> None:
    """Wake a drain for every shard whose outbox holds something."""
    leaderboard = resources.leaderboard()
    deadline = Deadline.after(_LOOK_S)
    for board, period in open_boards(resources.engine(), datetime.now(UTC)):
        try:
            shard_map = leaderboard.maps.current(BoardPeriod(board, period), deadline)
        except UnknownBoard:
            continue
        shards = list(shard_map.shards())
        lengths = leaderboard.outbox.lengths([shard_map.keys(shard) for shard in shards], deadline)
        for shard, length in zip(shards, lengths, strict=True):
            if length:
                drain_shard.apply_async((board, period, shard), expires=10)


@shared_task(name="audit.drain_shard", **TASK)
def drain_shard(board: str, period: str, shard: int) -> None:
    """Store one shard's outbox."""
    leaderboard = resources.leaderboard()
    deadline = Deadline.after(_DRAIN_S)
    try:
        shard_map = leaderboard.maps.current(BoardPeriod(board, period), deadline)
        batch = resources.settings().drain_batch
        drained = drain(leaderboard, resources.engine(), shard_map, shard, batch, deadline)
    except LeaderboardError as error:
        log.warning("drain_put_off", board=board, period=period, shard=shard, reason=error.detail)
        return
    if drained.entries:
        log.debug("drained", board=board, period=period, shard=shard, entries=drained.entries, stored=drained.stored)
