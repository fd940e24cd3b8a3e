"""A submission counts in the period its match was played in, while that is open; a read gets the period it names."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from msgspec import UNSET

from api.periods import CLOCK_SKEW, current_period, on_board, period_to_read, period_to_write
from sharding.boards import Board
from sharding.errors import InvalidValue, OutOfBounds, PeriodClosed
from sharding.periods import PeriodKind, period_at

MONTHLY = Board("global")
DAILY = Board("today", kind=PeriodKind.DAY)
FOREVER = Board("ever", kind=PeriodKind.FOREVER)
LATE = timedelta(minutes=10)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
NEW_MONTH = datetime(2026, 12, 1, 0, 5, tzinfo=UTC)


def test_without_a_time_the_current_period_is_meant() -> None:
    assert period_to_write(MONTHLY, None, NOON, LATE).name == "2026-11"


@pytest.mark.parametrize(
    ("board", "played_at", "now", "period"),
    [
        (MONTHLY, NOON - timedelta(days=20), NOON, "2026-11"),
        (MONTHLY, datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC), NEW_MONTH, "2026-11"),
        (MONTHLY, NEW_MONTH - timedelta(minutes=1), NEW_MONTH, "2026-12"),
        (DAILY, NOON, NOON, "2026-11-23"),
        (DAILY, datetime(2026, 11, 22, 23, 59, tzinfo=UTC), datetime(2026, 11, 23, 0, 9, 59, tzinfo=UTC), "2026-11-22"),
        (FOREVER, datetime(1970, 1, 1, tzinfo=UTC), NOON, "all"),
        # the last evening in New York is the next month in UTC
        (MONTHLY, datetime(2026, 11, 30, 19, 4, tzinfo=timezone(timedelta(hours=-5))), NEW_MONTH, "2026-12"),
        # a game server's clock that is a little ahead
        (MONTHLY, NOON + CLOCK_SKEW, NOON, "2026-11"),
    ],
)
def test_an_open_period_takes_the_submission(board: Board, played_at: datetime, now: datetime, period: str) -> None:
    assert period_to_write(board, played_at, now, LATE).name == period


@pytest.mark.parametrize(
    ("board", "played_at", "now"),
    [
        (MONTHLY, datetime(2026, 10, 31, tzinfo=UTC), NOON),
        (MONTHLY, datetime(2026, 11, 30, 23, 59, tzinfo=UTC), datetime(2026, 12, 1, 0, 10, tzinfo=UTC)),
        (MONTHLY, datetime(2026, 10, 31, 23, 59, tzinfo=UTC), NEW_MONTH),
        (DAILY, datetime(2026, 11, 21, 12, tzinfo=UTC), NOON),
        # by the game server's clock the new month has begun, by ours it has not
        (MONTHLY, datetime(2026, 12, 1, tzinfo=UTC), datetime(2026, 11, 30, 23, 59, 30, tzinfo=UTC)),
    ],
)
def test_a_period_that_is_not_open_refuses_and_names_the_open_one(
    board: Board, played_at: datetime, now: datetime
) -> None:
    with pytest.raises(PeriodClosed) as refused:
        period_to_write(board, played_at, now, LATE)
    assert refused.value.field == "played_at"
    assert current_period(board.kind, now).name in refused.value.detail


@pytest.mark.parametrize(
    "played_at",
    [
        NOON + CLOCK_SKEW + timedelta(milliseconds=1),
        datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-14))),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    ],
)
def test_a_time_that_cannot_be_is_refused(played_at: datetime) -> None:
    with pytest.raises(OutOfBounds) as refused:
        period_to_write(MONTHLY, played_at, NOON, LATE)
    assert refused.value.field == "played_at"


@pytest.mark.parametrize(
    ("board", "month", "period", "name"),
    [
        (MONTHLY, None, None, "2026-11"),
        (MONTHLY, "2026-10", None, "2026-10"),
        (MONTHLY, None, "2026-10", "2026-10"),
        (DAILY, None, "2026-11-02", "2026-11-02"),
        (FOREVER, None, None, "all"),
    ],
)
def test_a_read_names_its_period(board: Board, month: str | None, period: str | None, name: str) -> None:
    assert period_to_read(board, month, period, NOON).name == name


@pytest.mark.parametrize(
    ("board", "month", "period", "field"),
    [
        (MONTHLY, "2026-13", None, "month"),
        (MONTHLY, "2026-00", None, "month"),
        (MONTHLY, "0000-01", None, "month"),
        (MONTHLY, "9999-12", None, "month"),
        (MONTHLY, "November", None, "month"),
        (MONTHLY, "2026-1", None, "month"),
        (MONTHLY, "", None, "month"),
        (MONTHLY, None, "2026-W48", "period"),
        (MONTHLY, "2026-11", "2026-11", "period"),
        (DAILY, "2026-11", None, "month"),
        (DAILY, None, "2026-02-30", "period"),
    ],
)
def test_a_period_that_does_not_exist_is_refused(
    board: Board, month: str | None, period: str | None, field: str
) -> None:
    with pytest.raises(InvalidValue) as refused:
        period_to_read(board, month, period, NOON)
    assert refused.value.field == field


@pytest.mark.parametrize("kind", PeriodKind)
def test_the_current_period_is_that_of_the_ranking(kind: PeriodKind) -> None:
    for hours in range(0, 24 * 40, 5):
        now = NOON + timedelta(hours=hours)
        assert current_period(kind, now) == period_at(kind, now)


def test_answers_say_month_where_there_are_months() -> None:
    assert on_board(MONTHLY, period_at(PeriodKind.MONTH, NOON)) == {
        "board": "global",
        "month": "2026-11",
        "period": UNSET,
    }
    assert on_board(DAILY, period_at(PeriodKind.DAY, NOON)) == {
        "board": "today",
        "month": UNSET,
        "period": "2026-11-23",
    }
