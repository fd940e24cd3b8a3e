"""The schema's history, and how a database is brought to its end. Plain SQL in `versions/`, applied by Alembic.

`upgrade` may be run by every process that starts: an advisory lock lets one of them work while the others wait, all of
it is one transaction, and at the end there is nothing to do. There is no `alembic.ini`; nothing but the address of the
database is needed.
"""

from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text

from records import engine, partitions
from records.errors import WrongSchema
from records.periods import FOREVER, months_around

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('rangeboard:migrate', 0))")


def upgrade(dsn: str) -> None:
    """Bring the database to the newest version, with partitions for the last, this and the next month (UTC).

    WrongSchema if the database is of a version that this code does not know. One call at a time in one process.
    """
    database = engine.connect(dsn, pool_size=1, statement_timeout_ms=0, application_name="rangeboard migrate")
    try:
        with engine.transaction(database) as connection:
            connection.execute(_LOCK)
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            partitions.attach(connection, [FOREVER, *months_around(datetime.now(UTC).date())])
    except CommandError as error:
        raise WrongSchema(f"the database was migrated by another version of Rangeboard: {error}") from error
    finally:
        database.dispose()


def current(dsn: str) -> str | None:
    """The version that the database is of; None for one that was never migrated."""
    database = engine.connect(dsn, pool_size=1)
    try:
        with engine.reading(database) as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        database.dispose()


def newest() -> str:
    """The version that this code is written for."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None, "there is at least one version"
    return head


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
