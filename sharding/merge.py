"""Merging the rankings of shards into one: values in, values out.

Four tools. `first_rows` merges rankings that were fetched. `spans` says which places of which ranges hold a page, where
rows lie in their ranges, and `joined` puts those few among them that do not. `Search` finds a page where rows may lie
anywhere, without fetching what is before it: it only ever asks how many rows of each shard rank before some row, and
halves what is left.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from typing import NamedTuple

from sharding.players import Member
from sharding.scores import LOWEST, PackedScore


class Placed(NamedTuple):
    """A row as shards keep it. Tuples compare in rank order: by packed score, then by member."""

    packed: PackedScore
    member: Member


#: Before every row.
START = Placed(LOWEST, Member(b""))


def after(placed: Placed) -> Placed:
    """The place right behind a row: no other row fits between the two."""
    return Placed(placed.packed, Member(placed.member + b"\0"))


def first_rows(rankings: Iterable[Sequence[Placed]], count: int, skip: int = 0) -> list[Placed]:
    """`count` rows of the merged ranking after the first `skip`; each of `rankings` is in rank order."""
    return list(islice(merge(*rankings), skip, skip + count))


class Span(NamedTuple):
    """Consecutive places of one range: some are skipped, and those behind them taken."""

    range_at: int
    skipped: int
    taken: int


def spans(sizes: Sequence[int], offset: int, limit: int) -> list[Span]:
    """Which places of which ranges hold the ranks offset .. offset+limit-1, given how many rows each range has."""
    found = []
    for index, size in enumerate(sizes):
        if limit <= 0:
            break
        if offset < size:
            count = min(limit, size - offset)
            found.append(Span(index, offset, count))
            limit -= count
            offset = 0
        else:
            offset -= size
    return found


def joined(
    rows: Sequence[Placed], first: int, size: int, apart: Sequence[Placed], offset: int, limit: int
) -> list[Placed] | None:
    """The ranks offset .. offset+limit-1 of two rankings together, of which one is known in part.

    `rows` are consecutive ones of that ranking, from its place `first` on, and it has `size` of them. `apart` is the
    other one. None if `rows` do not reach as far as is wanted, on either side.
    """
    if limit <= 0 or offset >= size + len(apart):
        return []
    if first + len(rows) < min(offset + limit, size) or (first and not rows):
        return None
    ahead = bisect_left(apart, rows[0]) if first else 0
    begins = first + ahead
    if offset < begins:
        return None
    return first_rows([rows, apart[ahead:]], limit, offset - begins)


class Halves(NamedTuple):
    """What one shard says of a pivot: how many of its rows rank before it, and the middle rows on both sides."""

    ahead: int
    left: Placed | None
    right: Placed | None


@dataclass(slots=True)
class Search:
    """The search for a row near a rank, over shards that can only be asked for counts and middle rows.

    Each step asks all shards about one `pivot` and takes in their answers; the next pivot is the weighted median of the
    middle rows of what is left in each shard, so a step discards a quarter of it at least and half of it mostly. At
    the end `found` is a place with at most `nearly` rows between it and the rank. Rows of equal packed score make no
    difference: members are compared too.
    """

    offset: int
    sizes: Sequence[int]
    pivot: Placed = START
    found: Placed = START
    done: bool = False
    lows: list[int] = field(init=False)
    highs: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.lows = [0] * len(self.sizes)
        self.highs = list(self.sizes)

    @property
    def nearly(self) -> int:
        """How near is near enough. Below twice the number of shards a step may discard nothing."""
        return 2 * len(self.sizes) + 16

    def take(self, answers: Sequence[Halves]) -> None:
        """Take in what the shards say of the pivot, and choose the next one."""
        counts = [answer.ahead for answer in answers]
        if sum(counts) <= self.offset:
            self.lows, self.found = counts, self.pivot
            middles = [answer.right for answer in answers]
        else:
            self.highs = counts
            middles = [answer.left for answer in answers]
        weighted = sorted(
            (middle, high - low)
            for middle, low, high in zip(middles, self.lows, self.highs, strict=True)
            if middle is not None
        )
        if self.offset - sum(self.lows) <= self.nearly or not weighted:
            self.done = True
        else:
            self.pivot = _weighted_median(weighted)


def _weighted_median(weighted: Sequence[tuple[Placed, int]]) -> Placed:
    """The first of these ascending rows that, with those before it, has half of the weight."""
    half, reached = sum(weight for _, weight in weighted) / 2, 0
    for placed, weight in weighted:
        reached += weight
        if reached >= half:
            return placed
    return weighted[-1][0]
