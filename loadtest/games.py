"""The audit log as the checker needs it: the rows of these players, read with plain SQL.

`games` is a documented table, and the checker must not trust the code under test to read it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  # a class, in spite of its name

from loadtest.checker import Row

_PLAYERS_AT_ONCE = 5_000
_CONNECT_TIMEOUT_S = 10
_OF = "FROM games WHERE user_id = ANY(%s) AND board = %s AND period = %s"


class AuditError(Exception):
    """The audit log cannot be read."""


class Games:
    """The rows of one period of one board. Reads only."""

    def __init__(self, dsn: str, board: str, period: str) -> None:
        """AuditError if PostgreSQL does not answer."""
        self._of = (board, period)
        with _told():
            self._connection: Connection = psycopg2.connect(dsn, connect_timeout=_CONNECT_TIMEOUT_S)
            self._connection.set_session(readonly=True, autocommit=True)

    def count(self, players: Sequence[str]) -> int:
        """How many rows these players have by now."""
        return sum(number for (number,) in self._select("SELECT count(*)", players))

    def rows(self, players: Sequence[str]) -> list[Row]:
        """All rows of these players."""
        return [Row(*row) for row in self._select("SELECT user_id, match_id, value, kind", players)]

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def _select(self, what: str, players: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for at in range(0, len(players), _PLAYERS_AT_ONCE):
            with _told(), self._connection.cursor() as cursor:
                cursor.execute(f"{what} {_OF}", (list(players[at : at + _PLAYERS_AT_ONCE]), *self._of))
                yield from cursor.fetchall()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except psycopg2.Error as error:
        raise AuditError(f"The audit log cannot be read: {str(error).strip()}") from error
