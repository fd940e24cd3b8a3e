"""Merging shards into one ranking: the same rows as slicing a sorted list."""

import random
from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.merge import START, Halves, Placed, Search, after, first_rows, joined, spans
from sharding.players import Member
from sharding.scores import PackedScore

rows = st.builds(Placed, st.integers(-3, 3), st.binary(max_size=2))
rankings = st.lists(st.lists(rows, unique=True).map(sorted), max_size=6)
small = st.integers(0, 30)


@given(rankings, small, small)
@settings(deadline=None)
def test_the_merged_rows_are_those_of_one_sorted_list(shards: list[list[Placed]], count: int, skip: int) -> None:
    """Rows of equal packed score stand in the order of their members, whichever shards they come from."""
    everything = sorted(row for ranking in shards for row in ranking)
    assert first_rows(shards, count, skip) == everything[skip : skip + count]


@given(st.lists(st.integers(0, 6), max_size=8), small, small)
@settings(deadline=None)
def test_spans_are_a_slice_of_the_ranges_laid_end_to_end(sizes: list[int], offset: int, limit: int) -> None:
    places = [(index, place) for index, size in enumerate(sizes) for place in range(size)]
    found = spans(sizes, offset, limit)
    assert [
        (span.range_at, place) for span in found for place in range(span.skipped, span.skipped + span.taken)
    ] == places[offset : offset + limit]


@given(st.lists(st.integers(0, 6), max_size=8), small, small)
@settings(deadline=None)
def test_no_span_is_empty_and_only_the_first_skips(sizes: list[int], offset: int, limit: int) -> None:
    """What is not needed is not asked for: an empty range costs no call."""
    found = spans(sizes, offset, limit)
    assert all(span.taken > 0 for span in found)
    assert all(span.skipped == 0 for span in found[1:])


@given(st.lists(rows, unique=True, max_size=30), st.data(), small, small)
@settings(deadline=None)
def test_joined_rows_are_those_of_one_sorted_list_or_they_are_not_told(
    everything: list[Placed], data: st.DataObject, offset: int, limit: int
) -> None:
    """Whatever part of one ranking is known. All that is wanted is told if it reaches as far on both sides."""
    is_apart = data.draw(st.lists(st.booleans(), min_size=len(everything), max_size=len(everything)))
    apart = sorted(row for row, beside in zip(everything, is_apart, strict=True) if beside)
    ranking = sorted(row for row, beside in zip(everything, is_apart, strict=True) if not beside)
    first = data.draw(st.integers(0, len(ranking)))
    stop = data.draw(st.integers(first, len(ranking)))
    page = joined(ranking[first:stop], first, len(ranking), apart, offset, limit)
    assert page is None or page == sorted(everything)[offset : offset + limit]
    if first <= max(0, offset - len(apart)) and stop >= min(offset + limit, len(ranking)):
        assert page is not None


@given(st.lists(rows, unique=True).map(sorted))
@settings(deadline=None)
def test_behind_a_row_is_before_the_next_one(ranking: list[Placed]) -> None:
    for row, following in pairwise(ranking):
        assert row < after(row) <= following


def _told(shard: list[Placed], pivot: Placed, low: int, high: int) -> Halves:
    """What `rb1_halve` of lua/read.lua tells of a shard with these rows."""
    ahead = bisect_left(shard, pivot)

    def middle(start: int, stop: int) -> Placed | None:
        return shard[(start + stop) // 2] if start < stop else None

    return Halves(ahead, middle(low, ahead), middle(ahead, high))


def _search(shards: list[list[Placed]], offset: int) -> tuple[Search, int]:
    search, steps = Search(offset, [len(shard) for shard in shards]), 0
    while not search.done:
        steps += 1
        told = zip(shards, search.lows, search.highs, strict=True)
        search.take([_told(shard, search.pivot, low, high) for shard, low, high in told])
        assert steps < 100, "the search does not end"
    return search, steps


@given(st.lists(st.lists(rows, unique=True, max_size=40).map(sorted), min_size=1, max_size=6), st.integers(0, 240))
@settings(deadline=None)
def test_a_search_ends_near_the_rank_and_never_behind_it(shards: list[list[Placed]], offset: int) -> None:
    everything = sorted(row for shard in shards for row in shard)
    offset = min(offset, max(0, len(everything) - 1))
    search, _ = _search(shards, offset)
    assert 0 <= offset - bisect_left(everything, search.found) <= search.nearly


@pytest.mark.parametrize("ties", ["all tied", "none tied", "one shard has all", "as many as there are shards"])
def test_a_search_takes_few_steps_whatever_the_rows(ties: str) -> None:
    """A hundred thousand rows: about seventeen halvings. A search over packed scores alone could not part ties."""
    chance = random.Random(5)
    shards: list[list[Placed]] = [[] for _ in range(16)]
    for number in range(100_000):
        packed = 7 if ties == "all tied" else number % 16 if ties.startswith("as many") else chance.randrange(10**9)
        shard = (
            3 if ties == "one shard has all" else number % 16 if ties.startswith("as many") else chance.randrange(16)
        )
        shards[shard].append(Placed(PackedScore(packed), Member(chance.randbytes(8))))
    for shard_rows in shards:
        shard_rows.sort()
    everything = sorted(row for shard_rows in shards for row in shard_rows)
    for offset in (0, 1, 500, 50_000, 99_999):
        search, steps = _search(shards, offset)
        assert 0 <= offset - bisect_left(everything, search.found) <= search.nearly
        assert steps <= 30, (offset, steps)


def test_an_empty_board_is_searched_at_once() -> None:
    search, steps = _search([[], []], 0)
    assert (search.found, steps) == (START, 1)
