"""Packed scores: one number that ranks by points, then by who was first, and gives both back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.errors import OutOfBounds
from sharding.scores import (
    ELAPSED_SPAN,
    HIGHEST,
    LOWEST,
    POINTS_LIMIT,
    Order,
    best_of_points,
    elapsed_of,
    pack,
    points_of,
)

orders = st.sampled_from(list(Order))
points = st.one_of(st.integers(-3, 3), st.integers(1 - POINTS_LIMIT, POINTS_LIMIT - 1))
elapsed = st.one_of(st.integers(0, 3), st.integers(0, ELAPSED_SPAN - 1))
reached = st.tuples(points, elapsed)


@given(points, elapsed, orders)
@settings(deadline=None)
def test_points_and_time_come_out_as_they_went_in(score: int, units: int, order: Order) -> None:
    packed = pack(score, units, order)
    assert (points_of(packed, order), elapsed_of(packed)) == (score, units)


@given(points, elapsed, orders)
@settings(deadline=None)
def test_a_packed_score_is_exact_in_a_double_and_lies_on_the_board(score: int, units: int, order: Order) -> None:
    packed = pack(score, units, order)
    assert int(float(packed)) == packed
    assert LOWEST <= packed < HIGHEST


@given(st.lists(reached), orders)
@settings(deadline=None)
def test_the_smaller_packed_score_ranks_first(scores: list[tuple[int, int]], order: Order) -> None:
    """Better points first, and of equal points those that were reached first."""
    by_rule = sorted(scores, key=lambda score: (-score[0] if order is Order.DESC else score[0], score[1]))
    assert sorted(scores, key=lambda score: pack(*score, order)) == by_rule


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("score", [1 - POINTS_LIMIT, POINTS_LIMIT - 1])
@pytest.mark.parametrize("units", [0, ELAPSED_SPAN - 1])
def test_the_outermost_scores_round_trip(score: int, units: int, order: Order) -> None:
    packed = pack(score, units, order)
    assert (points_of(packed, order), elapsed_of(packed)) == (score, units)
    assert LOWEST <= packed < HIGHEST


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("score", [-POINTS_LIMIT, POINTS_LIMIT, 1 << 62, -(10**30)])
def test_points_beyond_are_refused_and_never_rounded(score: int, order: Order) -> None:
    with pytest.raises(OutOfBounds) as refused:
        pack(score, 0, order)
    assert refused.value.field == "score"


@given(points, st.integers(-(10**12), 10**12), orders)
@settings(deadline=None)
def test_time_outside_of_the_period_counts_as_its_first_or_last_unit(score: int, units: int, order: Order) -> None:
    packed = pack(score, units, order)
    assert points_of(packed, order) == score, "no time carries over into the points"
    assert elapsed_of(packed) == min(max(units, 0), ELAPSED_SPAN - 1)


@given(points, elapsed, orders)
@settings(deadline=None)
def test_points_begin_at_their_best_packed_score(score: int, units: int, order: Order) -> None:
    assert best_of_points(score, order) <= pack(score, units, order)
    assert points_of(best_of_points(score, order), order) == score
    assert points_of(best_of_points(score, order) - 1, order) == score - order.sign, "one less is the next better score"
