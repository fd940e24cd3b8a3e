"""The shard map: every packed score has one shard, and what is stored of a map gives the same map back."""

import json
from datetime import UTC, datetime
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.errors import StackError
from cli.operate import _packed_cuts
from sharding.boards import Board, Operator
from sharding.errors import InvalidValue, OutOfBounds
from sharding.keys import shard_keys
from sharding.periods import PeriodKind, period_at
from sharding.players import Member, member_hash, member_of, parse_player_id
from sharding.scores import HIGHEST, LOWEST, POINTS_LIMIT, Order, PackedScore, pack
from sharding.shard_map import Bounds, Range, ShardMap, check_cuts, cut_after, expected_cuts, ranges_cut_at

NOW = datetime(2026, 11, 23, tzinfo=UTC)

packed_scores = st.integers(LOWEST, HIGHEST - 1)
members = st.binary(min_size=1, max_size=64).map(Member)
orders = st.sampled_from(list(Order))


def a_map(ranges: tuple[Range, ...], **changes: object) -> ShardMap:
    fields: dict[str, object] = {
        "board": Board("global"),
        "period": period_at(PeriodKind.MONTH, NOW),
        "generation": 1,
        "version": 1,
        "retry_window_ms": 3_600_000,
        "partitions": 8,
        "buckets": 64,
    }
    return ShardMap(ranges=ranges, **(fields | changes))  # type: ignore[arg-type]


@st.composite
def range_lists(draw: st.DrawFn) -> tuple[Range, ...]:
    """Any cuts, near each other or far apart, and shards in any order, one or several a range."""
    cuts = draw(st.lists(st.one_of(packed_scores, st.integers(-5, 5)), unique=True, max_size=12))
    ascending = sorted(cut for cut in cuts if cut > LOWEST)
    sizes = draw(st.lists(st.integers(1, 4), min_size=len(ascending) + 1, max_size=len(ascending) + 1))
    shards = iter(draw(st.permutations(range(sum(sizes)))))
    return ranges_cut_at([PackedScore(cut) for cut in ascending], [[next(shards) for _ in range(n)] for n in sizes])


@st.composite
def maps(draw: st.DrawFn) -> ShardMap:
    kind = draw(st.sampled_from(list(PeriodKind)))
    bound = st.none() | st.integers(1 - POINTS_LIMIT, POINTS_LIMIT - 1)
    board = Board(
        draw(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,31}", fullmatch=True)),
        kind,
        draw(st.sampled_from(list(Operator))),
        draw(orders),
        draw(bound),
        draw(bound),
        draw(st.booleans()),
    )
    ranges = draw(range_lists())
    serving = {shard for part in ranges for shard in part.shards}
    retiring = draw(st.lists(st.integers(0, 99).filter(lambda shard: shard not in serving), unique=True, max_size=3))
    return a_map(
        ranges,
        retiring=tuple(retiring),
        board=board,
        period=period_at(kind, NOW),
        generation=draw(st.integers(1, 99)),
        version=draw(st.integers(1, 10**6)),
        retry_window_ms=draw(st.integers(1, 10**8)),
        partitions=draw(st.integers(1, 20)),
        buckets=draw(st.integers(1, 10**5)),
    )


# -- where a player belongs


@given(range_lists(), st.data(), members)
@settings(deadline=None)
def test_the_shard_of_a_score_is_the_one_whose_range_holds_it(
    ranges: tuple[Range, ...], data: st.DataObject, member: Member
) -> None:
    """Held to a search through all ranges, on their bounds above all."""
    bounds = [bound for part in ranges for bound in (part.low, part.high - 1)]
    packed = PackedScore(data.draw(st.one_of(st.sampled_from(bounds), packed_scores)))
    shard_map = a_map(ranges)
    (expected,) = [part for part in ranges if part.low <= packed < part.high]
    assert shard_map.ranges[shard_map.range_at(packed)] is expected
    shard = shard_map.shard_for(packed, member)
    assert shard in expected.shards
    assert shard_map.range_of(shard) == ranges.index(expected)


@given(range_lists(), packed_scores, packed_scores, members)
@settings(deadline=None)
def test_a_better_score_is_in_no_worse_range(
    ranges: tuple[Range, ...], one: PackedScore, other: PackedScore, member: Member
) -> None:
    shard_map = a_map(ranges)
    better, worse = sorted((one, other))
    assert shard_map.range_at(better) <= shard_map.range_at(worse)


@pytest.mark.parametrize("parts", [2, 3, 5, 16])
def test_a_split_range_deals_its_players_out_evenly(parts: int) -> None:
    part = Range(LOWEST, HIGHEST, tuple(range(parts)))
    players = 20_000
    counts = [0] * parts
    for number in range(players):
        counts[part.shard_of(member_of(parse_player_id(f"player-{number}")))] += 1
    assert max(counts) < 1.15 * players / parts
    assert min(counts) > 0.85 * players / parts


def test_a_hash_split_and_the_directory_do_not_cut_by_the_same_bits() -> None:
    """Else the players of one shard would fill only some of the directory's buckets."""
    shard_map = a_map((Range(LOWEST, HIGHEST, tuple(range(4))),), partitions=4, buckets=16)
    buckets = {
        shard_map.directory.bucket(member)
        for member in (member_of(parse_player_id(f"p{number}")) for number in range(2000))
        if shard_map.ranges[0].shard_of(member) == 0
    }
    assert len(buckets) == 16


def takes(bounds: Bounds, packed: int, member: Member) -> bool:
    """As lua/prelude.lua decides it: not a stray."""
    return bounds.low <= packed < bounds.high and (member_hash(member) >> 16) % bounds.parts == bounds.part


@given(maps(), packed_scores, members)
@settings(deadline=None)
def test_a_player_is_at_home_in_one_shard_only(shard_map: ShardMap, packed: PackedScore, member: Member) -> None:
    """What a shard is told of its bounds and what a router reads from the map are the same."""
    homes = [shard for shard in shard_map.shards() if takes(shard_map.bounds(shard), packed, member)]
    assert homes == [shard_map.shard_for(packed, member)]


@given(maps(), maps(), packed_scores, members)
@settings(deadline=None)
def test_a_hull_takes_what_either_takes(one: ShardMap, other: ShardMap, packed: PackedScore, member: Member) -> None:
    a, b = one.bounds(one.shard_for(packed, member)), other.bounds(next(other.shards()))
    for hull in (a.hull(b), b.hull(a)):
        assert takes(hull, packed, member)


# -- what is no map


@pytest.mark.parametrize(
    "ranges",
    [
        (),
        (Range(LOWEST, PackedScore(0), (0,)),),
        (Range(PackedScore(0), HIGHEST, (0,)),),
        (Range(LOWEST, PackedScore(0), (0,)), Range(PackedScore(1), HIGHEST, (1,))),
        (Range(LOWEST, PackedScore(1), (0,)), Range(PackedScore(0), HIGHEST, (1,))),
        (Range(PackedScore(0), HIGHEST, (0,)), Range(LOWEST, PackedScore(0), (1,))),
        (
            Range(LOWEST, PackedScore(0), (0,)),
            Range(PackedScore(0), PackedScore(0), (1,)),
            Range(PackedScore(0), HIGHEST, (2,)),
        ),
        (Range(LOWEST, PackedScore(0), (0,)), Range(PackedScore(0), HIGHEST, (0,))),
        (Range(LOWEST, HIGHEST, (0, 0)),),
        (Range(LOWEST, HIGHEST, ()),),
        (Range(LOWEST, PackedScore(0), (0,)), Range(PackedScore(0), HIGHEST, ())),
    ],
    ids=[
        "empty",
        "open below",
        "open above",
        "gap",
        "overlap",
        "out of order",
        "empty range",
        "shard of two ranges",
        "shard twice",
        "no shard",
        "range without shard",
    ],
)
def test_what_does_not_cover_everything_once_is_no_map(ranges: tuple[Range, ...]) -> None:
    with pytest.raises(ValueError, match="range"):
        a_map(ranges)


@pytest.mark.parametrize("retiring", [(0,), (5, 5)])
def test_a_shard_that_retires_serves_no_range_and_does_so_once(retiring: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="range"):
        a_map((Range(LOWEST, HIGHEST, (0, 1)),), retiring=retiring)


@pytest.mark.parametrize("cuts", [[5, 5], [6, 5], [LOWEST], [HIGHEST]])
def test_cuts_that_do_not_ascend_make_no_map(cuts: list[int]) -> None:
    with pytest.raises(ValueError, match="range"):
        a_map(ranges_cut_at([PackedScore(cut) for cut in cuts]))


def test_every_range_needs_an_owner() -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        ranges_cut_at([PackedScore(0)], [[0]])


# -- what is stored of a map


@given(maps())
@settings(deadline=None)
def test_a_map_comes_back_from_its_document(shard_map: ShardMap) -> None:
    """Through JSON, which is how PostgreSQL and Redis keep it."""
    again = ShardMap.from_document(json.loads(json.dumps(shard_map.document())))
    assert again == shard_map
    assert [again.keys(shard) for shard in again.shards()] == [shard_map.keys(shard) for shard in shard_map.shards()]
    assert again.directory == shard_map.directory


@given(maps())
@settings(deadline=None)
def test_shards_are_listed_once_best_range_first_and_retiring_ones_last(shard_map: ShardMap) -> None:
    shards = list(shard_map.shards())
    assert len(set(shards)) == len(shards)
    places = [len(shard_map.ranges) if (at := shard_map.range_of(shard)) is None else at for shard in shards]
    assert places == sorted(places)
    assert {shard for shard, at in zip(shards, places, strict=True) if at == len(shard_map.ranges)} == set(
        shard_map.retiring
    )


def test_a_shard_of_another_version_has_keys_and_no_range() -> None:
    shard_map = a_map(ranges_cut_at([PackedScore(0)]), generation=3)
    assert shard_map.range_of(7) is None
    assert shard_map.keys(7) == shard_keys(shard_map.name, 3, 7)
    assert shard_map.keys(1) == shard_keys(shard_map.name, 3, 1)


# -- the next version


@given(maps(), st.lists(st.integers(LOWEST + 1, HIGHEST - 1), unique=True, max_size=12))
@settings(deadline=None)
def test_the_next_version_forgets_no_shard_that_may_hold_rows(shard_map: ShardMap, cuts: list[int]) -> None:
    after = shard_map.recut([PackedScore(cut) for cut in sorted(cuts)])
    assert after.version == shard_map.version + 1
    assert set(after.shards()) >= set(shard_map.shards())
    assert [part.low for part in after.ranges[1:]] == sorted(cuts)
    assert (after.board, after.period, after.generation) == (shard_map.board, shard_map.period, shard_map.generation)
    assert after.directory == shard_map.directory, "players are looked for where they were entered"


@given(maps(), st.lists(st.integers(LOWEST + 1, HIGHEST - 1), unique=True, max_size=12))
@settings(deadline=None)
def test_shards_keep_their_order_in_the_ranking(shard_map: ShardMap, cuts: list[int]) -> None:
    after = shard_map.recut([PackedScore(cut) for cut in sorted(cuts)])
    kept = [shard for part in after.ranges for shard in part.shards if shard_map.range_of(shard) is not None]
    assert kept == [part.shards[0] for part in shard_map.ranges][: len(kept)]
    assert all(shard not in shard_map.retiring for part in after.ranges for shard in part.shards), "it may hold rows"


# -- cuts


@given(st.integers(1 - POINTS_LIMIT, POINTS_LIMIT - 2), orders, st.integers(0, 2**22 - 1))
@settings(deadline=None)
def test_a_cut_leaves_everybody_with_these_points_above_it(points: int, order: Order, elapsed: int) -> None:
    cut = cut_after(points, order)
    worse = points + order.sign
    assert pack(points, elapsed, order) < cut
    if abs(worse) < POINTS_LIMIT:
        assert cut <= pack(worse, elapsed, order)


@given(
    st.integers(1, 300),
    st.integers(1, 10**13),
    st.floats(0, exclude_min=True, allow_infinity=False),
    orders,
)
@settings(deadline=None)
def test_expected_cuts_make_a_map_whatever_is_expected(shards: int, median: int, sigma: float, order: Order) -> None:
    """No setting of median or spread keeps a period from opening."""
    cuts = expected_cuts(shards, median, sigma, order)
    assert all(lower < upper for lower, upper in pairwise(cuts))
    assert len(a_map(ranges_cut_at(cuts)).ranges) == len(cuts) + 1 <= shards


@pytest.mark.parametrize("order", Order)
def test_expected_cuts_share_out_log_normal_players(order: Order) -> None:
    """Players drawn as expected: every shard gets its part of them, as near as whole points allow."""
    random = Random(1)
    shards, players = 16, 40_000
    shard_map = a_map(ranges_cut_at(expected_cuts(shards, 5_000, 1.1, order)), board=Board("global", order=order))
    counts = [0] * shards
    for _ in range(players):
        points = round(5_000 * random.lognormvariate(0, 1.1))
        counts[shard_map.shard_for(pack(points, 0, order), Member(b"x"))] += 1
    assert max(counts) < 1.15 * players / shards
    assert min(counts) > 0.85 * players / shards


def test_more_shards_than_points_leave_fewer_cuts() -> None:
    assert len(expected_cuts(1_000, 3, 0.5, Order.DESC)) < 30
    assert expected_cuts(1, 60, 1.1, Order.DESC) == []


@pytest.mark.parametrize("cuts", [[10, 5], [10, 10]], ids=str)
def test_cuts_that_do_not_increase_are_refused(cuts: list[int]) -> None:
    """By the command and over HTTP alike, in the same words."""
    with pytest.raises(InvalidValue, match=f"cuts increase, and {cuts[1]} stands behind 10"):
        check_cuts(cuts)
    with pytest.raises(StackError, match=f"--cuts: cuts increase, and {cuts[1]} stands behind 10"):
        _packed_cuts(",".join(map(str, cuts)), Order.DESC)


def test_cuts_past_all_points_are_refused() -> None:
    check_cuts([1 - POINTS_LIMIT, 0, POINTS_LIMIT - 1])
    for cuts in ([-POINTS_LIMIT], [POINTS_LIMIT]):
        with pytest.raises(OutOfBounds, match="-1,073,741,823 to 1,073,741,823"):
            check_cuts(cuts)
