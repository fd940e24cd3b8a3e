"""The sweeper: brings home what a dead writer left behind.

It looks at one shard at a time, finishes every move that somebody began, and moves the rows that lie outside of the
range, in bounded batches. A move that a living writer is in the middle of is finished under its hands; both find
the same end.
"""

from dataclasses import dataclass

from runtime.deadlines import Deadline
from sharding.directory import Entry
from sharding.functions import Functions, ShardCall, strays
from sharding.handoff.mover import Mover, leaving
from sharding.scores import PackedScore
from sharding.shard_map import ShardMap


@dataclass(frozen=True, slots=True)
class Swept:
    """What one pass over a shard did."""

    finished: int
    moved: int


class Sweeper:
    """Sweeps shards."""

    def __init__(self, functions: Functions, mover: Mover) -> None:
        self._functions = functions
        self._mover = mover

    def sweep(self, shard_map: ShardMap, shard: int, most: int, deadline: Deadline) -> Swept:
        """Finish at most `most` moves out of this shard, and begin at most twice as many (both ends of the range)."""
        call = ShardCall(shard_map.keys(shard), "rb1_strays", (most,))
        answer = self._functions.on_shards([call], shard_map.retry_window_ms, deadline)[0]
        if answer.error is not None:
            raise answer.error
        found = list(strays(answer.reply))
        begun = {stray.member: leaving(shard, stray.payload) for stray in found if stray.payload}
        finished = self._mover.complete(shard_map, begun, deadline)
        rows = {
            stray.member: (Entry(shard, stray.epoch), PackedScore(stray.packed)) for stray in found if not stray.payload
        }
        moved = self._mover.move(shard_map, rows, deadline) if rows else {}
        return Swept(len(finished), len(moved))
