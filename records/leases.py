"""Leases: at most one holder of a name at a time, and none once the holder is gone.

An advisory lock of a PostgreSQL session. It needs no clock and no renewal: the server frees it the moment the
connection ends, so also when its process is killed (a lock row with an expiry would have to guess how long a stalled
holder may still be working). The holder gets the connection that the lease lives on: what it writes through it fails
if the lease is lost. It needs connections of its own to the server, or a pooler in session mode.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text

from records.engine import driver_errors
from records.errors import RecordsError

_AGAIN_S = 0.05
_TAKE = text(
    "SELECT name, pg_try_advisory_lock(hashtextextended('rangeboard:lease:' || name, 0)) "
    "FROM unnest(CAST(:names AS text[])) AS name"
)
_RELEASE = text(
    "SELECT pg_advisory_unlock(hashtextextended('rangeboard:lease:' || name, 0)) "
    "FROM unnest(CAST(:names AS text[])) AS name"
)


@contextmanager
def lease(engine: Engine, name: str, *, wait_s: float = 0) -> Iterator[Connection | None]:
    """The connection that holds the lease, outside of any transaction; None if somebody else has it.

    That is told at once, or after `wait_s`. Leave the block when a statement fails: SQLAlchemy would connect anew for
    the next one, without the lease.
    """
    with leases(engine, [name], wait_s=wait_s) as (connection, held):
        yield connection if held else None


@contextmanager
def leases(engine: Engine, names: Sequence[str], *, wait_s: float = 0) -> Iterator[tuple[Connection, Sequence[str]]]:
    """The same of several leases on one connection, and which of them it holds: those that nobody else has."""
    with driver_errors(), engine.connect() as connection:
        until = time.monotonic() + wait_s
        held = _take(connection, names)
        while len(held) < len(names) and time.monotonic() < until:
            time.sleep(_AGAIN_S)
            held += _take(connection, [name for name in names if name not in held])
        try:
            yield connection, held
        finally:
            if held:
                _release(connection, held)


def _take(connection: Connection, names: Sequence[str]) -> list[str]:
    try:
        answers = connection.execute(_TAKE, {"names": list(names)}).all()
        connection.commit()
    except BaseException:
        connection.invalidate()  # it may hold some of them, also once the transaction is rolled back
        raise
    return [name for name, taken in answers if taken]


def _release(connection: Connection, names: Sequence[str]) -> None:
    """Free leases for the next; where that fails, by ending the connection."""
    try:
        with driver_errors():
            connection.rollback()
            connection.execute(_RELEASE, {"names": list(names)})
            connection.commit()
    except RecordsError:
        connection.invalidate()
