"""Which month a period's records are filed under follows from its name alone."""

from datetime import date
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from records.errors import InvalidRecord
from records.partitions import partition_name
from records.periods import FOREVER, month_after, month_of, months_around

days = st.dates(date(2000, 1, 1), date(2999, 11, 1))


@given(days)
def test_a_period_belongs_to_the_month_in_which_it_starts(day):
    """Months, days, and weeks, which start on a Monday, also where that lies in the year before."""
    year, week, weekday = day.isocalendar()
    assert month_of(f"{day:%Y-%m}") == day.replace(day=1)
    assert month_of(day.isoformat()) == day.replace(day=1)
    if year >= 2000:
        assert month_of(f"{year}-W{week:02d}") == date.fromordinal(day.toordinal() - weekday + 1).replace(day=1)


def test_the_first_week_of_a_year_may_start_in_december():
    assert month_of("2026-W01") == date(2025, 12, 1)


def test_a_board_that_never_starts_anew_has_a_month_of_its_own():
    """Filed by arrival, a match that is reported again a month later would count twice."""
    assert month_of("all") == FOREVER
    assert partition_name("games", FOREVER) == "games_forever"
    assert partition_name("games", date(2026, 11, 1)) == "games_2026_11"


@pytest.mark.parametrize(
    "name",
    [
        *("", "ALL", "2026", "2026-13", "2026-00", "2026-11-31", "2026-W54", "2025-W53", "2026-W00", "2026-1"),
        *("9999-12", "2026-11 ", "2026-11\n", "-2026-11", "2026-11-23T00", "202\u0666-11", "2026-11;DROP"),
    ],
)
def test_what_names_no_period_is_refused(name):
    with pytest.raises(InvalidRecord) as refused:
        month_of(name)
    assert refused.value.field == "period"


@given(days, st.integers(0, 14), st.integers(0, 14))
def test_the_months_around_a_day_are_consecutive_and_hold_it(day, before, after):
    months = months_around(day, before=before, after=after)
    assert len(months) == before + 1 + after
    assert months[before] == day.replace(day=1)
    assert all(month_after(month) == following for month, following in pairwise(months))
