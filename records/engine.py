"""The door to PostgreSQL: connections, transactions, and the one place that knows how the driver fails.

Everything in this package reads through `reading` and writes through `transaction`; both turn the driver's errors into
`records.errors`. A read of one statement runs in autocommit, which saves the round trips of BEGIN and COMMIT.

An engine is made after the fork, one for a process. Under gevent the driver must have been made cooperative
(psycogreen) by whoever starts the process; `COPY` does not work there, so only workers use `audit`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import psycopg2
from psycopg2 import errorcodes
from psycopg2.extensions import make_dsn, parse_dsn
from sqlalchemy import Connection, Engine, create_engine, exc

from records.errors import Conflict, InvalidRecord, MissingPartition, RecordsError, RecordsUnavailable, WrongSchema

#: The server notices within a minute that a client's host is gone, and frees its leases.
_KEEPALIVE = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
_MONTH_IN_DETAIL = re.compile(r"\((\d{4}-\d{2}-\d{2})\)")
_CONSTRAINT = re.compile(r"(?P<field>.+)_(?:key|check|fkey)")


def connect(
    dsn: str,
    *,
    pool_size: int = 5,
    pool_timeout_s: float = 3,
    connect_timeout_s: int = 3,
    statement_timeout_ms: int = 30_000,
    application_name: str = "rangeboard",
) -> Engine:
    """An engine for a libpq address (URL or `key=value`); what the address itself says of these settings wins.

    `pool_size` is a hard bound: who finds all connections busy waits `pool_timeout_s`, then gets RecordsUnavailable.
    Connects lazily. InvalidRecord (field `dsn`) if this is no address.
    """
    address = complete_address(dsn, connect_timeout_s, statement_timeout_ms, application_name)
    return create_engine(
        "postgresql+psycopg2://",
        creator=lambda: psycopg2.connect(address),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout_s,
        pool_pre_ping=True,
    )


def complete_address(dsn: str, connect_timeout_s: int, statement_timeout_ms: int, application_name: str) -> str:
    """A libpq address with these settings, unless it says otherwise itself; InvalidRecord if it is none."""
    try:
        given = parse_dsn(dsn)
    except psycopg2.ProgrammingError as error:
        raise InvalidRecord(f"not the address of a PostgreSQL: {error}".strip(), field="dsn") from error
    settings = {"statement_timeout": statement_timeout_ms, **_KEEPALIVE}
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    defaults = {"connect_timeout": str(connect_timeout_s), "application_name": application_name}
    address: str = make_dsn(**{**defaults, **given, "options": f"{options} {given.get('options', '')}".strip()})
    return address


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection for reads of one statement each, in autocommit.

    Set on the driver, where it costs nothing; SQLAlchemy's isolation level AUTOCOMMIT sends two statements of its own.
    """
    with driver_errors(), engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.autocommit = True
        try:
            yield connection
        finally:
            if not driver.closed:
                driver.autocommit = False


@contextmanager
def transaction(bind: Engine | Connection) -> Iterator[Connection]:
    """A transaction, committed at the end of the block. A connection that is given must not be in one already."""
    with driver_errors():
        if isinstance(bind, Engine):
            with bind.begin() as connection:
                yield connection
        else:
            with bind.begin():
                yield bind


@contextmanager
def driver_errors() -> Iterator[None]:
    """Turns what the driver raises inside the block into `records.errors`; a mistake in our own SQL stays as it is."""
    try:
        yield
    except exc.TimeoutError as error:
        raise RecordsUnavailable("all connections to PostgreSQL are busy") from error
    except (exc.DBAPIError, psycopg2.Error) as error:
        original = error.orig if isinstance(error, exc.DBAPIError) else error
        if not isinstance(original, psycopg2.Error) or (meant := meaning(original)) is None:
            raise
        raise meant from original
    except ValueError as error:
        # How the driver refuses a parameter before it sends anything: a NUL, or half of a surrogate pair.
        if isinstance(error, UnicodeEncodeError) or "NUL" in str(error):
            raise InvalidRecord("a character that PostgreSQL cannot hold") from error
        raise


def meaning(error: psycopg2.Error) -> RecordsError | None:
    """What a driver's error means here; None for one that should not happen."""
    told = str(error).strip().partition("\n")[0]
    field = _field(error)
    meant: RecordsError | None = None
    match error.pgcode:
        case errorcodes.CHECK_VIOLATION if error.diag.constraint_name is None:
            meant = MissingPartition(_months_in(error.diag.message_detail or ""))
        case errorcodes.UNIQUE_VIOLATION:
            meant = Conflict(f"this {field} is taken" if field else told, field=field)
        case errorcodes.UNDEFINED_TABLE | errorcodes.UNDEFINED_COLUMN:
            meant = WrongSchema(f"{told}; run `rangeboard migrate`")
        case errorcodes.PROGRAM_LIMIT_EXCEEDED:  # too long for an index
            meant = InvalidRecord(told)
        case errorcodes.READ_ONLY_SQL_TRANSACTION:  # a standby, after the primary has moved
            meant = RecordsUnavailable(told)
        case _ if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
            meant = RecordsUnavailable(told)
        case _ if isinstance(error, psycopg2.IntegrityError | psycopg2.DataError):
            meant = InvalidRecord(f"not an allowed {field}" if field else told, field=field)
    return meant


def _months_in(detail: str) -> list[date]:
    return [date.fromisoformat(month) for month in _MONTH_IN_DETAIL.findall(detail)]


def _field(error: psycopg2.Error) -> str | None:
    """The column that an error is about. Constraints are named `<table>_<column>_<kind>`."""
    if error.diag.column_name or not error.diag.constraint_name:
        return error.diag.column_name
    name = error.diag.constraint_name.removeprefix(f"{error.diag.table_name}_")
    named = _CONSTRAINT.fullmatch(name)
    return named["field"] if named else None
