"""Migrations and partitions: repeatable, safe together, and what `records.tables` says they are."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from records_databases import empty_database, scalar
from sqlalchemy import Engine, inspect, text
from waiting import wait_until

from records import boards, engine, migrations, partitions
from records.errors import WrongSchema
from records.periods import FOREVER, months_around
from records.tables import metadata

pytestmark = pytest.mark.servers

CATALOG = """
    SELECT string_agg(concat_ws(' ', relname, relkind, oid, relfilenode), ', ' ORDER BY relname)
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
"""


def partitions_of(database: Engine, table: str) -> set[str]:
    with database.begin() as connection:
        parts = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = CAST(:parent AS regclass)"
        return set(connection.execute(text(parts), {"parent": table}).scalars())


def test_a_database_comes_to_the_newest_version_and_stays_there(postgres_dsn):
    """The second run finds nothing to do, down to the files of the tables."""
    with empty_database(postgres_dsn) as dsn:
        assert migrations.current(dsn) is None
        migrations.upgrade(dsn)
        assert migrations.current(dsn) == migrations.newest()
        database = engine.connect(dsn)
        before = scalar(database, CATALOG)
        migrations.upgrade(dsn)
        assert scalar(database, CATALOG) == before
        database.dispose()


def test_many_processes_may_upgrade_at_once(postgres_dsn):
    """Every pod does so when it starts: all succeed, and the work is done once."""
    upgrade = "import sys; from records import migrations; migrations.upgrade(sys.argv[1])"
    with empty_database(postgres_dsn) as dsn:
        pods = [subprocess.Popen([sys.executable, "-c", upgrade, dsn]) for _ in range(4)]
        assert [pod.wait(60) for pod in pods] == [0, 0, 0, 0]
        assert migrations.current(dsn) == migrations.newest()
        database = engine.connect(dsn)
        assert scalar(database, "SELECT count(*) FROM boards") == 1
        database.dispose()


def test_the_tables_are_those_that_queries_are_built_from(database):
    """Columns, types, nullability, keys, indexes and collations; a migration that forgets `tables.py` fails here."""
    parts = {part for table in ("games", "leaderboard_snapshots") for part in partitions_of(database, table)}
    with database.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, kind, _: not (kind == "table" and name in {*parts, "alembic_version"})},
        )
        found = compare_metadata(context, metadata)
        differences = [step for steps in found for step in (steps if isinstance(steps, list) else [steps])]
        assert [step for step in differences if "comment" not in step[0]] == []  # the schema alone has comments
        inspector = inspect(connection)
        for table in metadata.tables.values():
            key = inspector.get_pk_constraint(table.name)["constrained_columns"]
            assert key == [column.name for column in table.primary_key], table.name
            there = {column["name"]: column for column in inspector.get_columns(table.name)}
            assert list(there) == [column.name for column in table.columns], table.name
            for column in table.columns:
                expected = getattr(column.type, "collation", None)
                assert getattr(there[column.name]["type"], "collation", None) == expected, column


def test_a_database_of_a_later_version_is_left_alone(postgres_dsn):
    """Code that is older than the data says so instead of guessing."""
    with empty_database(postgres_dsn) as dsn:
        migrations.upgrade(dsn)
        database = engine.connect(dsn)
        with database.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(WrongSchema, match="another version"):
            migrations.upgrade(dsn)
        assert migrations.current(dsn) == "9999"
        database.dispose()


def test_a_database_that_was_never_migrated_says_what_to_do(postgres_dsn):
    with empty_database(postgres_dsn) as dsn:
        database = engine.connect(dsn)
        with pytest.raises(WrongSchema, match="rangeboard migrate"):
            boards.list_all(database)
        database.dispose()


def test_the_default_board_is_there(database):
    """Monthly, added up, most points first, for registered players, a million points at most in one submission."""
    board = boards.get(database, "global")
    rules = (board.period_kind, board.operator, board.order, board.min_value, board.max_value, board.registration)
    assert rules == ("month", "add", "desc", -1_000_000, 1_000_000, "registered")
    assert not board.players_may_report


def test_the_months_around_today_have_partitions(database):
    """And so has the month of boards that never start anew; no table has a default partition."""
    for table in ("games", "leaderboard_snapshots"):
        months = [FOREVER, *months_around(datetime.now(UTC).date())]
        assert partitions_of(database, table) >= {partitions.partition_name(table, month) for month in months}
    assert scalar(database, "SELECT count(*) FROM pg_partitioned_table WHERE partdefid <> 0") == 0


def test_partitions_are_made_once_and_named(database):
    months = [date(2040, 1, 17), date(2040, 2, 1)]
    made = ["games_2040_01", "leaderboard_snapshots_2040_01", "games_2040_02", "leaderboard_snapshots_2040_02"]
    assert partitions.ensure(database, months) == made
    assert partitions.ensure(database, months) == []
    assert set(made) <= partitions_of(database, "games") | partitions_of(database, "leaderboard_snapshots")


def test_partitions_made_by_many_at_once_are_made_once(database):
    months = months_around(date(2041, 6, 1), before=2, after=2)
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: partitions.ensure(database, months), range(6)))
    assert sorted(name for names in made for name in names) == sorted(
        partitions.partition_name(table, month) for month in months for table in ("games", "leaderboard_snapshots")
    )


def test_who_waited_for_another_sees_what_the_other_has_made(database):
    """Also in a session that has looked for the partition before, and remembers that there was none."""
    month = date(2043, 1, 1)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
    with database.connect() as second, ThreadPoolExecutor(1) as pool:
        with second.begin():
            assert second.execute(text("SELECT to_regclass('games_2043_01') IS NOT NULL")).scalar_one() is False
        with database.begin() as first:
            first.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('rangeboard:partitions', 0))"))
            waiting = pool.submit(partitions.attach, second, [month])
            wait_until(lambda: scalar(database, waits) == 1)
            assert len(partitions.attach(first, [month])) == 2
        assert waiting.result(10) == []


def test_making_a_partition_does_not_wait_for_those_who_write(database):
    """Nor do they wait for it: a drain may be in the middle of a batch."""
    with database.begin() as writer:
        writer.execute(text("LOCK TABLE games IN ROW EXCLUSIVE MODE"))  # what an INSERT holds until its commit
        with database.begin() as maker:
            maker.execute(text("SET LOCAL lock_timeout = '2s'"))
            assert "games_2042_01" in partitions.attach(maker, [date(2042, 1, 1)])
            with database.begin() as other_writer:
                other_writer.execute(text("SET LOCAL lock_timeout = '2s'"))
                other_writer.execute(text("LOCK TABLE games IN ROW EXCLUSIVE MODE"))
