"""The audit log forgets a month only when it is old, and when nothing needs it any more."""

from collections.abc import Iterator
from datetime import date

import pytest
from records_databases import migrated_database, scalar
from sqlalchemy import Engine

from records import archives, partitions, shard_maps
from records.errors import InvalidRecord
from records.periods import FOREVER
from workers.retention import drop_old_months

pytestmark = pytest.mark.servers

TODAY = date(2040, 6, 20)
MONTHS = [date(2040, month, 1) for month in range(1, 7)]


@pytest.fixture
def database(postgres_dsn: str) -> Iterator[Engine]:
    with migrated_database(postgres_dsn) as made:
        partitions.ensure(made, MONTHS)
        yield made


def ours(database: Engine) -> list[date]:
    return [month for month in partitions.months_of_audit(database) if month.year == 2040]


def play(database: Engine, period: str) -> None:
    shard_maps.insert_first(database, "global", period, {"version": 1, "generation": 1})


def archived(database: Engine, period: str) -> None:
    archives.record(database, "global", period, archives.WHOLE, "archived", players=0, points=0)


def test_old_months_that_are_archived_are_dropped(database: Engine) -> None:
    """The last three are kept, and so is what has not been archived, whose boards are rebuilt from it."""
    for period in ("2040-01", "2040-02", "2040-03", "2040-03-17", "2040-06"):
        play(database, period)
    archived(database, "2040-01")
    archives.record(database, "global", "2040-02", archives.WHOLE, "closing")
    archived(database, "2040-03")
    before = partitions.months_of_audit(database)
    dropped = drop_old_months(database, 3, TODAY)
    assert [month for month in dropped if month.year == 2040] == [date(2040, 1, 1)]
    assert ours(database) == MONTHS[1:], "a day of March is not archived either"
    archived(database, "2040-02")
    archived(database, "2040-03-17")
    assert drop_old_months(database, 3, TODAY) == [date(2040, 2, 1), date(2040, 3, 1)]
    assert drop_old_months(database, 3, TODAY) == [], "a second time there is nothing to do"
    assert FOREVER in before
    assert FOREVER in partitions.months_of_audit(database)
    assert ours(database) == MONTHS[3:]


def test_final_rankings_stay(database: Engine) -> None:
    drop_old_months(database, 1, TODAY)
    name = partitions.partition_name("leaderboard_snapshots", MONTHS[0])
    assert scalar(database, "SELECT to_regclass(:name) IS NOT NULL", name=name)


def test_without_a_limit_nothing_is_dropped(database: Engine) -> None:
    assert drop_old_months(database, 0, TODAY) == []
    assert ours(database) == MONTHS


def test_the_month_of_boards_without_an_end_is_never_dropped(database: Engine) -> None:
    with pytest.raises(InvalidRecord):
        partitions.drop_audit(database, FOREVER)
