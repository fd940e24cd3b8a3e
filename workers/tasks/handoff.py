"""Bringing strays home.

`sweep_all`: late: players whose writer died stay frozen longer (whoever needs one of them moves it). Twice and beside
itself: every step of a move is idempotent, and whoever finds the lease of a board taken passes it over.
"""

from datetime import UTC, datetime

from records.leases import lease
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.errors import UnknownBoard
from workers import resources
from workers.periods import open_boards
from workers.recutting import lease_of_moves
from workers.tasks.base import job, log

_SWEEP_S = 20.0


@job("handoff.sweep_all")
def sweep_all() -> None:
    """One pass over all shards of all open boards."""
    leaderboard, engine = resources.leaderboard(), resources.engine()
    deadline = Deadline.after(_SWEEP_S)
    for board, period in open_boards(engine, datetime.now(UTC)):
        try:
            shard_map = leaderboard.maps.current(BoardPeriod(board, period), deadline)
        except UnknownBoard:
            continue
        with lease(engine, lease_of_moves(shard_map.name)) as held:
            if held is None:
                continue
            if moved := leaderboard.rebalancer.sweep(shard_map, deadline):
                log.info("swept", board=board, period=period, players=moved)
