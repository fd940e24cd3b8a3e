"""Partitions by month, made ahead.

A month without a partition is an error (MissingPartition), which the drain answers by making it. A default partition
is the trap to avoid: rows would collect there unseen, every new partition would have to scan it under a lock that stops
all writes, and could not be made at all once it holds a row of that month.

A partition is built beside its table and then attached, which, unlike CREATE TABLE … PARTITION OF, does not wait for
the writers of the other months, nor they for it.
"""

from collections.abc import Iterable
from datetime import date

from sqlalchemy import Connection, Engine, text

from records.engine import transaction
from records.errors import InvalidRecord
from records.periods import FOREVER, month_after
from records.tables import games, leaderboard_snapshots

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('rangeboard:partitions', 0))")
_PARTITIONS = text("SELECT relid::regclass::text FROM pg_partition_tree(:table) WHERE isleaf")
# By the snapshot of the statement. `to_regclass` asks what the session remembers, and a session that has waited for the
# lock has not heard yet of what the one before it made.
_EXISTS = text("SELECT EXISTS (SELECT FROM pg_class WHERE relname = :name AND pg_table_is_visible(oid))")


def ensure(engine: Engine, months: Iterable[date]) -> list[str]:
    """Make the partitions of these months (any day of a month names it); the names of those that were not there.

    Several processes may do so at once. A month that is there already costs a look.
    """
    with transaction(engine) as connection:
        return attach(connection, months)


def attach(connection: Connection, months: Iterable[date]) -> list[str]:
    """`ensure`, within a transaction."""
    connection.execute(_LOCK)
    made = []
    for month in sorted({day.replace(day=1) for day in months}):
        for table in (games.name, leaderboard_snapshots.name):
            name = partition_name(table, month)
            if connection.execute(_EXISTS, {"name": name}).scalar_one():
                continue
            connection.execute(text(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS)"))
            connection.execute(
                text(
                    f"ALTER TABLE {table} ATTACH PARTITION {name}"
                    f" FOR VALUES FROM ('{month}') TO ('{month_after(month)}')"
                )
            )
            made.append(name)
    return made


def partition_name(table: str, month: date) -> str:
    """The partition of a table that holds a month: `games_2026_11`, `games_forever`."""
    return f"{table}_{'forever' if month == FOREVER else month.isoformat()[:7].replace('-', '_')}"


def months_of_audit(engine: Engine) -> list[date]:
    """The months that the audit log has partitions for, oldest first; FOREVER is the month of boards without an end."""
    with transaction(engine) as connection:
        names = connection.scalars(_PARTITIONS, {"table": games.name}).all()
    return sorted(_month_of_partition(name) for name in names)


def drop_audit(engine: Engine, month: date) -> None:
    """Drop a month of the audit log, if it is there. Never FOREVER."""
    if month == FOREVER:
        raise InvalidRecord("boards without an end need their whole audit log", field="month")
    with transaction(engine) as connection:
        connection.execute(_LOCK)
        connection.execute(text(f"DROP TABLE IF EXISTS {partition_name(games.name, month)}"))


def _month_of_partition(name: str) -> date:
    last = name.removeprefix(f"{games.name}_")
    return FOREVER if last == "forever" else date.fromisoformat(last.replace("_", "-") + "-01")
