"""Leases: at most one holder of a name at a time, and none once the holder is gone.

An advisory lock of a PostgreSQL session. It needs no clock and no renewal: the server frees it the moment the
connection ends, so also when its process is killed (a lock row with an expiry would have to guess how long a stalled
holder may still be working). The holder gets the connection that the lease lives on: what it writes through it fails
if the lease is lost. It needs connections of its own to the server, or a pooler in session mode.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text

from records.engine import driver_errors
from records.errors import RecordsError

_TAKE = text("SELECT pg_try_advisory_lock(hashtextextended('rangeboard:lease:' || :name, 0))")
_AGAIN_S = 0.05
_RELEASE = text("SELECT pg_advisory_unlock(hashtextextended('rangeboard:lease:' || :name, 0))")


@contextmanager
def lease(engine: Engine, name: str, *, wait_s: float = 0) -> Iterator[Connection | None]:
    """The connection that holds the lease, outside of any transaction; None if somebody else has it.

    That is told at once, or after `wait_s`. Leave the block when a statement fails: SQLAlchemy would connect anew for
    the next one, without the lease.
    """
    with driver_errors(), engine.connect() as connection:
        until = time.monotonic() + wait_s
        while not (taken := _take(connection, name)) and time.monotonic() < until:
            time.sleep(_AGAIN_S)
        try:
            yield connection if taken else None
        finally:
            if taken:
                _release(connection, name)


def _take(connection: Connection, name: str) -> bool:
    taken: bool = connection.execute(_TAKE, {"name": name}).scalar_one()
    connection.commit()
    return taken


def _release(connection: Connection, name: str) -> None:
    """Free the lease for the next; where that fails, by ending the connection."""
    try:
        with driver_errors():
            connection.rollback()
            connection.execute(_RELEASE, {"name": name})
            connection.commit()
    except RecordsError:
        connection.invalidate()
