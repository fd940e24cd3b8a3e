"""Bringing strays home.

`sweep_all`: late: players whose writer died stay frozen longer (whoever needs one of them moves it). Twice and beside
itself: every step of a move is idempotent.
"""

from datetime import UTC, datetime

from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.errors import LeaderboardError, UnknownBoard
from workers import resources
from workers.periods import open_boards
from workers.tasks.base import job, log

_SWEEP_S = 20.0


@job("handoff.sweep_all")
def sweep_all() -> None:
    """One pass over all shards of all open boards."""
    leaderboard = resources.leaderboard()
    deadline = Deadline.after(_SWEEP_S)
    for board, period in open_boards(resources.engine(), datetime.now(UTC)):
        try:
            shard_map = leaderboard.maps.current(BoardPeriod(board, period), deadline)
        except UnknownBoard:
            continue
        for shard in shard_map.shards():
            try:
                moved = leaderboard.rebalancer.move_some(shard_map, shard, deadline)
            except LeaderboardError as error:
                log.warning("sweep_put_off", board=board, period=period, shard=shard, reason=error.detail)
                continue
            if moved:
                log.info("swept", board=board, period=period, shard=shard, players=moved)
