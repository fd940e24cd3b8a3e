"""Cutting a board's ranges anew while it is in use: the new map is recorded, switched to, and the players move.

Run again, it goes on with the map that is recorded already. While players move, the sweep leaves the board alone: it
would do the same moves once more, and at no rate. Nothing rests on that but the rate, so where the lease is not to be
had in time, both go on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from records import shard_maps
from records.errors import Conflict
from records.leases import lease
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.leaderboard import Leaderboard
from sharding.scores import PackedScore
from sharding.shard_map import ShardMap

_STEP_S = 10.0
_MOVE_S = 3600.0
#: A sweep over a board that is well takes less.
_SWEEP_ENDS_S = 5.0

#: Told how many players have moved, and of how many.
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Recut:
    """The version that is current now, how many players moved, and how many are left to the sweep."""

    version: int
    moved: int
    left: int


def lease_of_moves(name: BoardPeriod) -> str:
    """The lease of whoever brings a board's strays home."""
    return f"moves:{name}"


def recut(
    leaderboard: Leaderboard,
    engine: Engine,
    name: BoardPeriod,
    cuts: Sequence[PackedScore],
    report: Report,
    *,
    players_per_s: float,
) -> Recut:
    """Cut the ranges at these ascending packed scores, and move whoever lies elsewhere now, at no more than this rate.

    Conflict if somebody else has recorded another map meanwhile.
    """
    current = leaderboard.maps.published(name, Deadline.after(_STEP_S))
    wanted = current.recut(cuts)
    if wanted.ranges == current.ranges:
        wanted = current
    else:
        try:
            shard_maps.append(engine, name.board, name.period, current.version, wanted.document())
        except Conflict:
            stored = shard_maps.latest(engine, name.board, name.period)
            if stored is None or ShardMap.from_document(stored.document).ranges != wanted.ranges:
                raise
    with lease(engine, lease_of_moves(name), wait_s=_SWEEP_ENDS_S):
        switched = leaderboard.rebalancer.switch(wanted)
        done = leaderboard.rebalancer.move_strays(
            switched,
            Deadline.after(_MOVE_S),
            players_per_s=players_per_s,
            report=lambda now: report(now.moved, now.moved + max(now.left, 0)),
        )
    return Recut(switched.version, done.moved, done.left)
