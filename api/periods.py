"""Which period a request means. Pure: the moment is an argument.

A read names its period, or means the current one. A submission never names one: it belongs to the period in which the
match was played, if that is still open. A period stays open for a few minutes after its end, so that a match that
ended just before midnight still counts where it belongs.
"""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import TypedDict

from msgspec import UNSET, UnsetType

from sharding.boards import Board
from sharding.errors import InvalidValue, OutOfBounds, PeriodClosed
from sharding.periods import Period, PeriodKind, parse_period, period_at

#: How far the clock of a game server may be ahead of ours.
CLOCK_SKEW = timedelta(seconds=60)


class OnBoard(TypedDict):
    """The members of an answer that name the board and its period."""

    board: str
    month: str | UnsetType
    period: str | UnsetType


def on_board(board: Board, period: Period) -> OnBoard:
    """How answers name a period: `month` where the board starts anew each month, else `period`."""
    if board.kind is PeriodKind.MONTH:
        return {"board": board.name, "month": period.name, "period": UNSET}
    return {"board": board.name, "month": UNSET, "period": period.name}


def current_period(kind: PeriodKind, now: datetime) -> Period:
    """The period of this kind that `now` (UTC) belongs to."""
    return _period_on(kind, now.date())


@lru_cache(maxsize=64)
def _period_on(kind: PeriodKind, day: date) -> Period:
    return period_at(kind, datetime(day.year, day.month, day.day, tzinfo=UTC))


def period_to_read(board: Board, month: str | None, period: str | None, now: datetime) -> Period:
    """The period that a read asks for: by `month`, where the board has months, by `period`, or the current one."""
    if month is not None and period is not None:
        raise InvalidValue("give month or period, not both", field="period")
    if month is not None and board.kind is not PeriodKind.MONTH:
        raise InvalidValue(f"board {board.name!r} has no months; use period", field="month")
    name = month if month is not None else period
    if name is None:
        return current_period(board.kind, now)
    try:
        return parse_period(board.kind, name)
    except InvalidValue as error:
        raise InvalidValue(error.detail, field="period" if month is None else "month") from None


def period_to_write(board: Board, played_at: datetime | None, now: datetime, late: timedelta) -> Period:
    """The period that a submission counts in; PeriodClosed or OutOfBounds (field `played_at`) if it counts in none."""
    current = current_period(board.kind, now)
    if played_at is None:
        return current
    if played_at > now + CLOCK_SKEW:
        raise OutOfBounds("the match lies in the future", field="played_at")
    try:
        period = current_period(board.kind, played_at.astimezone(UTC))
    except OverflowError:
        raise OutOfBounds("before the first year", field="played_at") from None
    if period == current or (period.end is not None and period.end <= now < period.end + late):
        return period
    state = "is not open yet" if period.start > now else "is closed"
    raise PeriodClosed(f"{period.kind} {period.name} {state}; the open one is {current.name}", field="played_at")
