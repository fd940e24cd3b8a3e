"""Periods: every moment belongs to exactly one of each kind, by UTC, and its name leads back to it."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.settings import Settings
from sharding.errors import InvalidValue
from sharding.periods import FOREVER_START, PeriodKind, following, parse_period, period_at, preceding
from sharding.scores import ELAPSED_SPAN

ENDING = [PeriodKind.MONTH, PeriodKind.WEEK, PeriodKind.DAY]

kinds = st.sampled_from(list(PeriodKind))
ending_kinds = st.sampled_from(ENDING)
moments = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(ending_kinds, moments)
@settings(deadline=None)
def test_every_moment_lies_in_its_period(kind: PeriodKind, now: datetime) -> None:
    period = period_at(kind, now)
    assert period.end is not None
    assert period.start <= now < period.end


@given(ending_kinds, moments)
@settings(deadline=None)
def test_periods_follow_each_other_without_gap_or_overlap(kind: PeriodKind, now: datetime) -> None:
    period = period_at(kind, now)
    after, before = following(period), preceding(period)
    assert after is not None
    assert before is not None
    assert after.start == period.end
    assert before.end == period.start
    assert preceding(after) == following(before) == period
    instant = timedelta(microseconds=1)
    assert period_at(kind, period.start) == period_at(kind, period.end - instant) == period
    assert period_at(kind, period.start - instant) == before
    assert period_at(kind, period.end) == after


@given(kinds, moments)
@settings(deadline=None)
def test_a_name_leads_back_to_its_period(kind: PeriodKind, now: datetime) -> None:
    period = period_at(kind, now)
    assert parse_period(kind, period.name) == period


@given(ending_kinds, moments, moments)
@settings(deadline=None)
def test_names_sort_by_time(kind: PeriodKind, one: datetime, other: datetime) -> None:
    a, b = period_at(kind, one), period_at(kind, other)
    assert (a.name < b.name) == (a.start < b.start)


@pytest.mark.parametrize(
    ("kind", "moment", "name"),
    [
        ("month", "2026-11-30T23:59:59.999999", "2026-11"),
        ("month", "2026-12-01T00:00:00", "2026-12"),
        ("month", "2026-12-31T23:59:59.999999", "2026-12"),
        ("month", "2027-01-01T00:00:00", "2027-01"),
        ("month", "2028-02-29T12:00:00", "2028-02"),
        ("week", "2026-12-27T23:59:59.999999", "2026-W52"),
        ("week", "2026-12-28T00:00:00", "2026-W53"),
        ("week", "2027-01-03T23:59:59.999999", "2026-W53"),  # a week belongs to the year of its Thursday
        ("week", "2027-01-04T00:00:00", "2027-W01"),
        ("week", "2024-12-30T00:00:00", "2025-W01"),
        ("day", "2028-02-28T23:59:59.999999", "2028-02-28"),
        ("day", "2028-02-29T00:00:00", "2028-02-29"),
        ("forever", "2026-11-23T10:00:00", "all"),
        ("forever", "1999-01-01T00:00:00", "all"),
    ],
)
def test_boundaries(kind: str, moment: str, name: str) -> None:
    assert period_at(PeriodKind(kind), at(moment)).name == name


def test_only_utc_decides() -> None:
    east = datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    west = datetime(2026, 11, 30, 23, 30, tzinfo=timezone(timedelta(hours=-1)))
    assert period_at(PeriodKind.MONTH, east).name == "2026-11"
    assert period_at(PeriodKind.MONTH, west).name == "2026-12"


def test_a_board_that_never_starts_anew_has_no_neighbours() -> None:
    period = period_at(PeriodKind.FOREVER, at("2030-01-01"))
    assert (period.start, period.end) == (FOREVER_START, None)
    assert following(period) is None
    assert preceding(period) is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("month", "2026-13"),
        ("month", "2026-00"),
        ("month", "0000-01"),
        ("month", "9999-12"),  # its end is no date
        ("month", "2026-1"),
        ("month", "2026-011"),
        ("month", "26-11"),
        ("month", "2026-11\n"),
        ("month", " 2026-11"),
        ("month", "2026-11-23"),
        ("month", "-026-11"),
        ("month", "\uff12\uff10\uff12\uff16-11"),  # digits, but not ours
        ("month", "all"),
        ("month", ""),
        ("week", "2026-W54"),
        ("week", "2026-W00"),
        ("week", "2025-W53"),
        ("week", "9999-W52"),
        ("week", "2026-w48"),
        ("week", "2026-W\u0664\u0668"),
        ("week", "2026-48"),
        ("day", "2026-02-29"),
        ("day", "2026-11-31"),
        ("day", "9999-12-31"),
        ("day", "20261123"),
        ("day", "2026-11-2"),
        ("day", "\uff12\uff10\uff12\uff16-11-23"),
        ("forever", "2026-11"),
        ("forever", "ALL"),
        ("forever", ""),
        ("month", "x" * 1000),
    ],
)
def test_what_names_no_period_is_refused_and_the_field_named(kind: str, name: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        parse_period(PeriodKind(kind), name)
    assert refused.value.field == ("month" if kind == "month" else "period")
    assert len(refused.value.detail) < 120, "a long name is not sent back in full"


@pytest.mark.parametrize("kind", ENDING)
def test_tie_break_units_of_a_whole_period_fit(kind: PeriodKind) -> None:
    """To the year 2150, with the minutes after the end in which a period takes late submissions."""
    late_ms = Settings().late_minutes * 60_000
    period = period_at(kind, at("2026-01-01"))
    while period.end is not None and period.end.year < 2150:
        last_ms = int(period.end.timestamp() * 1000) - 1 + late_ms
        assert (last_ms - period.start_ms) // period.tie_unit_ms < ELAPSED_SPAN
        period = following(period) or period


def test_tie_break_units_of_forever_last_for_a_lifetime() -> None:
    forever = period_at(PeriodKind.FOREVER, FOREVER_START)
    year_ms = 366 * 86_400_000
    assert 75 * year_ms // forever.tie_unit_ms < ELAPSED_SPAN


@given(ending_kinds, moments)
@settings(deadline=None)
def test_the_start_in_milliseconds_is_the_start(kind: PeriodKind, now: datetime) -> None:
    period = period_at(kind, now)
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=period.start_ms) == period.start
