"""Periods: the stretches of time after which a board starts anew, all at UTC midnight.

A period has a name that sorts by time (`2026-11`, `2026-W48`, `2026-11-23`, `all`), a start, an end, and the unit in
which the time since its start is counted for tie-breaks: coarse enough that a whole period fits 22 bits.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from sharding.errors import InvalidValue


class PeriodKind(StrEnum):
    """How often a board starts anew."""

    MONTH = "month"
    WEEK = "week"
    DAY = "day"
    FOREVER = "forever"


#: The 22 bits hold 4,194,304 units: 48 days of seconds, 9.7 days of 200 ms, 29 hours of 25 ms, 79 years of 10 minutes.
TIE_UNIT_MS = {
    PeriodKind.MONTH: 1_000,
    PeriodKind.WEEK: 200,
    PeriodKind.DAY: 25,
    PeriodKind.FOREVER: 600_000,
}
FOREVER_START = datetime(2026, 1, 1, tzinfo=UTC)
_MONTHS_IN_YEAR = 12


@dataclass(frozen=True, slots=True)
class Period:
    """One stretch of time; `end` is exclusive and None for a board that never starts anew."""

    kind: PeriodKind
    name: str
    start: datetime
    end: datetime | None

    @property
    def start_ms(self) -> int:
        """Start, in milliseconds since 1970."""
        return int(self.start.timestamp() * 1000)

    @property
    def tie_unit_ms(self) -> int:
        """The unit, in milliseconds, in which time decides ties."""
        return TIE_UNIT_MS[self.kind]


def period_at(kind: PeriodKind, now: datetime) -> Period:
    """The period of this kind that `now` (timezone-aware) belongs to."""
    day = now.astimezone(UTC).date()
    if kind is PeriodKind.MONTH:
        return _month(day.year, day.month)
    if kind is PeriodKind.WEEK:
        return _week(day - timedelta(days=day.weekday()))
    if kind is PeriodKind.DAY:
        return Period(kind, day.isoformat(), _midnight(day), _midnight(day + timedelta(days=1)))
    return Period(kind, "all", FOREVER_START, None)


def following(period: Period) -> Period | None:
    """The period after this one; None after the one that never ends."""
    return None if period.end is None else period_at(period.kind, period.end)


def preceding(period: Period) -> Period | None:
    """The period before this one; None before the one that never ends."""
    return None if period.end is None else period_at(period.kind, period.start - timedelta(days=1))


def names_around(kind: PeriodKind, now: datetime, within: timedelta) -> list[str]:
    """The periods of this kind that are current now, or were or will be within some time."""
    return sorted({period_at(kind, moment).name for moment in (now - within, now, now + within)})


def parse_period(kind: PeriodKind, name: str) -> Period:
    """The period of this kind with this name; InvalidValue if there is none."""
    try:
        if kind is PeriodKind.MONTH and re.fullmatch(r"[0-9]{4}-[0-9]{2}", name):
            return _month(int(name[:4]), int(name[5:]))
        if kind is PeriodKind.WEEK and re.fullmatch(r"[0-9]{4}-W[0-9]{2}", name):
            return _week(date.fromisocalendar(int(name[:4]), int(name[6:]), 1))
        if kind is PeriodKind.DAY and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", name):
            return period_at(kind, _midnight(date.fromisoformat(name)))
        if kind is PeriodKind.FOREVER and name == "all":
            return period_at(kind, FOREVER_START)
    except (ValueError, OverflowError):  # a thirteenth month, a fifty-fourth week
        pass
    form = {"month": "YYYY-MM", "week": "YYYY-Www", "day": "YYYY-MM-DD", "forever": "all"}[kind]
    raise InvalidValue(
        f"{name[:40]!r} is no {kind} ({form})", field="month" if kind is PeriodKind.MONTH else "period"
    ) from None


def _month(year: int, month: int) -> Period:
    start = date(year, month, 1)
    after = date(year + 1, 1, 1) if month == _MONTHS_IN_YEAR else date(year, month + 1, 1)
    return Period(PeriodKind.MONTH, f"{year:04d}-{month:02d}", _midnight(start), _midnight(after))


def _week(monday: date) -> Period:
    year, week, _ = monday.isocalendar()
    return Period(PeriodKind.WEEK, f"{year:04d}-W{week:02d}", _midnight(monday), _midnight(monday + timedelta(days=7)))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
