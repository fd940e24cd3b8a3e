"""Which month's partition holds the records of a period: the month in which the period starts.

The month follows from the period's name alone, never from a clock, so the same event always looks for its earlier self
in the same partition. A board that never starts anew has a partition of its own, dated 1970: were its rows filed under
the month they arrived in, a match reported again in another month would count twice, and dropping an old month would
take away what the board is rebuilt from.
"""

import re
from datetime import date, timedelta

from records.errors import InvalidRecord

#: The month of boards that never start anew.
FOREVER = date(1970, 1, 1)

_PERIOD = re.compile(r"(?P<year>2\d{3})-(?:W(?P<week>\d{2})|(?P<month>\d{2})(?:-(?P<day>\d{2}))?)", re.ASCII)


def month_of(period: str) -> date:
    """First day of the month in which a period (`2026-11`, `2026-W48`, `2026-11-23`, `all`) starts, else InvalidRecord.

    A week belongs to the month of its Monday. Years are those of this millennium.
    """
    if period == "all":
        return FOREVER
    named = _PERIOD.fullmatch(period)
    if named is None:
        raise InvalidRecord(f"{period[:40]!r} names no period", field="period")
    year = int(named["year"])
    try:
        if named["week"]:
            start = date.fromisocalendar(year, int(named["week"]), 1)
        else:
            start = date(year, int(named["month"]), int(named["day"] or 1))
    except ValueError as error:
        raise InvalidRecord(f"{period!r} names no period: {error}", field="period") from error
    return start.replace(day=1)


def months_around(day: date, *, before: int = 1, after: int = 1) -> list[date]:
    """The month of `day`, with so many months before and after it."""
    months = [day.replace(day=1)]
    for _ in range(before):
        months.insert(0, (months[0] - timedelta(days=1)).replace(day=1))
    for _ in range(after):
        months.append(month_after(months[-1]))
    return months


def month_after(month: date) -> date:
    """The first day of the month after the one that starts on this day."""
    return (month + timedelta(days=31)).replace(day=1)
