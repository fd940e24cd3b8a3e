"""Comparing a board with its audit: every player's points in Redis against the fold of `games`.

In flat memory, whatever the size of the board: the fold is streamed, its players are looked up in batches, and a count
of all rows tells of players who are in Redis alone. Submissions that are not drained yet would look like differences,
so the outboxes are to be empty; what is submitted meanwhile may show as a difference that a second look does not find.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import Engine

from records.audit import Folded, fold
from runtime.deadlines import Deadline
from sharding.leaderboard import Leaderboard
from sharding.players import PlayerId
from sharding.scores import points_of
from sharding.shard_map import ShardMap

_BATCH = 2_000
_MOST_LISTED = 1_000
_STEP_S = 30.0


@dataclass(frozen=True, slots=True)
class Difference:
    """A player whose points differ; None: no row."""

    player: PlayerId
    in_redis: int | None
    in_audit: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison found; `differences` lists the first thousand."""

    players_in_audit: int
    rows_in_redis: int
    different: int
    differences: list[Difference]

    @property
    def agrees(self) -> bool:
        """Whether board and audit tell the same."""
        return self.different == 0 and self.players_in_audit == self.rows_in_redis


def verify(leaderboard: Leaderboard, engine: Engine, shard_map: ShardMap, progress: Callable[[int], None]) -> Verdict:
    """Compare all players of a board period; `progress` hears how many of each batch."""
    name, order = shard_map.name, shard_map.board.order
    players, different = 0, 0
    listed: list[Difference] = []
    for batch in _batches(fold(engine, name.board, name.period)):
        wanted = [PlayerId(item.user_id) for item in batch]
        found = leaderboard.reader.find_many(shard_map, wanted, Deadline.after(_STEP_S))
        for item, player in zip(batch, wanted, strict=True):
            row = found.get(player)
            points = None if row is None else points_of(row.packed, order)
            if points != item.points:
                different += 1
                if len(listed) < _MOST_LISTED:
                    listed.append(Difference(player, points, item.points))
        players += len(batch)
        progress(len(batch))
    rows = sum(shape.rows for shape in leaderboard.reader.shapes(shard_map, Deadline.after(_STEP_S)))
    return Verdict(players, rows, different, listed)


def _batches(folded: Iterator[Folded]) -> Iterator[list[Folded]]:
    while batch := list(islice(folded, _BATCH)):
        yield batch
