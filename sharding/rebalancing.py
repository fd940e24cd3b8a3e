"""Changing a board's map while it is in use: reads stay exact, writes stay open.

The order makes it safe. First the shards' ranges widen to what they were and what they will be, so that nobody who
writes by the old map or by the new one makes a stray. Then the map is published. Then the ranges narrow, which makes
strays of all rows that have to move, and the strays move in bulk through the handoff. Reads count rows wherever they
are, and the sweeper moves whatever this leaves behind.

Every step may be repeated, by anybody, at any time later: what is left to do follows from the published map and the
heads. So a run that dies is resumed by starting it again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from runtime.deadlines import Deadline
from sharding.directory import Entry
from sharding.errors import LeaderboardError
from sharding.functions import Functions, ShardCall, strays
from sharding.handoff.mover import Mover, leaving
from sharding.maps import Maps
from sharding.reader import Reader
from sharding.scores import PackedScore
from sharding.shard_map import NOTHING, ShardMap

#: Players in one call, and in one step of the handoff.
BATCH = 500
_STEP_S = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the strays are: how many have moved, and how many were seen that still have to."""

    moved: int
    left: int


class Rebalancer:
    """Applies a new version of a map."""

    def __init__(self, functions: Functions, maps: Maps, mover: Mover, reader: Reader) -> None:
        self._functions = functions
        self._maps = maps
        self._mover = mover
        self._reader = reader

    def switch(self, wanted: ShardMap) -> ShardMap:
        """Make `wanted` the published map, with every shard ready for it; the map that is published then."""
        before = self._maps.published(wanted.name, Deadline.after(_STEP_S))
        if before.version < wanted.version:
            widened = {
                shard: wanted.bounds(shard).hull(old)
                if (old := before.bounds(shard)) != NOTHING
                else wanted.bounds(shard)
                for shard in wanted.shards()
            }
            self._maps.open_shards(wanted, widened, 0, Deadline.after(_STEP_S))
            before = self._maps.replace(wanted, Deadline.after(_STEP_S))
        bounds = {shard: before.bounds(shard) for shard in before.shards()}
        self._maps.open_shards(before, bounds, 1, Deadline.after(_STEP_S))
        return before

    def move_strays(
        self, shard_map: ShardMap, deadline: Deadline, *, players_per_s: float, report: Callable[[Progress], None]
    ) -> Progress:
        """Bring all strays home, at no more than this rate; `report` hears of every batch.

        Returns when none is left, or at the deadline. A shard that cannot be asked is passed over until it can.
        """
        start, moved = time.monotonic(), 0
        while True:
            before = moved
            for shard in shard_map.shards():
                while batch := self.move_some(shard_map, shard, deadline):
                    moved += batch
                    report(Progress(moved, self._left(shard_map)))
                    ahead_s = moved / players_per_s - (time.monotonic() - start)
                    if ahead_s > 0:
                        time.sleep(min(ahead_s, deadline.remaining()))
                    if deadline.passed:
                        return Progress(moved, self._left(shard_map))
            left = self._left(shard_map)
            if left == 0 or deadline.passed or moved == before:
                return Progress(moved, left)

    def move_some(self, shard_map: ShardMap, shard: int, deadline: Deadline) -> int:
        """Finish moves out of this shard that somebody began, and move some of its strays; how many that were."""
        call = ShardCall(shard_map.keys(shard), "rb1_strays", (BATCH,))
        answer = self._functions.on_shards([call], shard_map.retry_window_ms, deadline)[0]
        if answer.error is not None:
            raise answer.error
        found = list(strays(answer.reply))
        begun = {stray.member: leaving(shard, stray.payload) for stray in found if stray.payload}
        rows = {
            stray.member: (Entry(shard, stray.epoch), PackedScore(stray.packed)) for stray in found if not stray.payload
        }
        finished = self._mover.complete(shard_map, begun, deadline)
        return len(finished) + len(self._mover.move(shard_map, rows, deadline))

    def _left(self, shard_map: ShardMap) -> int:
        try:
            shapes = self._reader.shapes(shard_map, Deadline.after(_STEP_S))
        except LeaderboardError:
            return -1
        return sum(shape.better + shape.worse for shape in shapes)
