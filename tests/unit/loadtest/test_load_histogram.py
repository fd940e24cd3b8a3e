"""Histograms: never flattering, nearly exact, and mergeable without loss."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.histogram import Histogram, merged

latencies = st.lists(st.floats(1e-7, 1000.0), min_size=1, max_size=200)
percents = st.floats(0, 100)


def recorded(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(latencies, percents)
def test_a_percentile_is_at_most_two_percent_above_the_true_one_and_never_below(
    values: list[float], percent: float
) -> None:
    true = next(value for rank, value in enumerate(sorted(values), 1) if rank >= len(values) * percent / 100)
    read = recorded(values).percentile(percent)
    assert read is not None
    assert true * (1 - 1e-9) <= read <= max(true * 1.02, 1e-6) * (1 + 1e-9)


@given(st.lists(latencies, max_size=5), percents)
def test_merging_is_the_same_as_having_counted_together(parts: list[list[float]], percent: float) -> None:
    together = recorded([value for part in parts for value in part])
    apart = merged(recorded(part) for part in parts)
    assert apart == together
    assert apart.percentile(percent) == together.percentile(percent)


def test_the_tail_is_not_rounded_away() -> None:
    """One slow request in a thousand is the p99.95, whatever the others did."""
    rng = random.Random(1)
    histogram = recorded([rng.uniform(0.001, 0.002) for _ in range(999)] + [3.0])
    assert histogram.percentile(99.95) == pytest.approx(3.0, rel=0.02)
    assert (histogram.percentile(99.8) or 0) < 0.0021
    assert histogram.percentile(100) == histogram.longest == 3.0


def test_nothing_recorded_has_no_percentile() -> None:
    assert Histogram().percentile(99) is None


@pytest.mark.parametrize("percent", [-1, 100.1])
def test_a_percentage_is_one(percent: float) -> None:
    with pytest.raises(ValueError, match="percentage"):
        recorded([1.0]).percentile(percent)


@given(latencies)
def test_it_travels_between_processes_as_json(values: list[float]) -> None:
    histogram = recorded(values)
    assert msgspec.json.decode(msgspec.json.encode(histogram), type=Histogram) == histogram
