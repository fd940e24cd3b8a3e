"""Merging the rankings of shards into one: values in, values out."""

from collections.abc import Iterable, Sequence
from heapq import merge
from itertools import islice
from typing import NamedTuple

from sharding.players import Member
from sharding.scores import PackedScore


class Placed(NamedTuple):
    """A row as shards keep it. Tuples compare in rank order: by packed score, then by member."""

    packed: PackedScore
    member: Member


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
