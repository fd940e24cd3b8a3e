"""Final rankings: a row for each player of a board period that is over, by rank.

Written once, shard after shard in rank order, each shard in a transaction of its own; read as the ranking was read
while it was played: pages, a player's standing, those around, the history of a player.

A shard is copied through `COPY`, straight into the table, from rows that come in chunks: whatever the size of the
board, a worker holds a few thousand of them.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from typing import Any, NamedTuple

import psycopg2
from sqlalchemy import ARRAY, BigInteger, Engine, Text, any_, cast, delete, func, literal, select, text

from records import archives, copytext
from records.engine import reading, transaction
from records.periods import month_of
from records.tables import archives as archive_table
from records.tables import leaderboard_snapshots as snapshots
from records.tables import users

_FIELDS = ("rank", "user_id", "points", "month", "board", "period")
_COPY = f"COPY leaderboard_snapshots ({', '.join(_FIELDS)}) FROM STDIN (NULL '{copytext.NULL}')"
_BUFFER_BYTES = 1 << 18
_AHEAD = """
    WITH RECURSIVE halved(low, high) AS (
        SELECT CAST(0 AS bigint), CAST(:players AS bigint)
        UNION ALL
        SELECT CASE WHEN better THEN middle + 1 ELSE low END, CASE WHEN better THEN high ELSE middle END
        FROM (SELECT low, high, (low + high) / 2 AS middle,
                     (SELECT points {better} :points FROM leaderboard_snapshots
                      WHERE month = :month AND board = :board AND period = :period AND rank = (low + high) / 2 + 1)
                     AS better
              FROM halved WHERE low < high) AS step
    )
    SELECT low FROM halved WHERE low = high
"""
_AHEAD_DESC = text(_AHEAD.format(better=">"))
_AHEAD_ASC = text(_AHEAD.format(better="<"))
_UNHURRIED = text("SET LOCAL statement_timeout = 0")


class FinalRow(NamedTuple):
    """A player's final rank and points."""

    rank: int
    user_id: str
    points: int


class PastRow(NamedTuple):
    """A player's end in a period that is over, among so many players."""

    period: str
    rank: int
    points: int
    players: int


@dataclass(frozen=True, slots=True)
class Check:
    """A stored ranking, as SQL counts it. `disordered`: rows whose points are better than those of the rank before."""

    players: int
    points: int
    first: int
    last: int
    ranks: int
    disordered: int

    def is_sound(self) -> bool:
        """Whether ranks run from 1 without gap, and never from worse to better points."""
        complete = self.players == 0 or (self.first == 1 and self.last == self.ranks == self.players)
        return complete and self.disordered == 0


# -- writing


def copy_shard(
    engine: Engine, board: str, period: str, shard: int, first_rank: int, chunks: Iterable[Sequence[tuple[str, int]]]
) -> tuple[int, int]:
    """Store the rows (player, points) of a shard, in rank order from `first_rank` on, and that it is copied.

    In one transaction; how many rows there were, and the sum of their points. MissingPartition if the month has none,
    Conflict if a player has a rank in this period already.
    """
    source = _Lines(chunks, first_rank, f"{month_of(period)}", board, period)
    with transaction(engine) as connection:
        connection.execute(_UNHURRIED)
        driver = connection.connection.driver_connection
        assert driver is not None
        with driver.cursor() as cursor:
            try:
                cursor.copy_expert(_COPY, BufferedReader(source, _BUFFER_BYTES), _BUFFER_BYTES)
            except psycopg2.Error as error:
                if source.failed is not None:  # the driver tells it as an error of PostgreSQL's
                    raise source.failed from error
                raise
        archives.record(connection, board, period, shard, "copied", players=source.players, points=source.points)
    return source.players, source.points


def discard(engine: Engine, board: str, period: str) -> None:
    """Take back whatever is stored of a period, and its shards' states: it will be copied anew."""
    with transaction(engine) as connection:
        connection.execute(_UNHURRIED)
        connection.execute(delete(snapshots).where(*_of(board, period)))
        copied = select(archive_table.c.shard).where(
            archive_table.c.board == board, archive_table.c.period == period, archive_table.c.shard != archives.WHOLE
        )
        archives.forget(connection, board, period, list(connection.scalars(copied)))


def check(engine: Engine, board: str, period: str, *, descending: bool) -> Check:
    """Count a stored ranking; `descending`: more points rank first."""
    rows = snapshots.c
    before = func.lag(rows.points).over(order_by=rows.rank)
    better = rows.points > before if descending else rows.points < before
    ranked = select(rows.rank, rows.points, better.label("disordered")).where(*_of(board, period)).subquery()
    told = ranked.c
    counts = select(
        func.count(),
        cast(func.coalesce(func.sum(told.points), 0), BigInteger),
        func.coalesce(func.min(told.rank), 0),
        func.coalesce(func.max(told.rank), 0),
        func.count(told.rank.distinct()),
        func.count().filter(told.disordered),
    )
    with transaction(engine) as connection:
        connection.execute(_UNHURRIED)
        return Check(*connection.execute(counts).one())


# -- reading


def page(engine: Engine, board: str, period: str, offset: int, limit: int) -> list[FinalRow]:
    """The rows of ranks offset+1 … offset+limit."""
    return _rows(engine, board, period, offset + 1, offset + limit)


def standing(engine: Engine, board: str, period: str, user_id: str) -> FinalRow | None:
    """A player's final rank; None for one who was not on the board."""
    rows = snapshots.c
    theirs = select(rows.rank, rows.user_id, rows.points).where(*_of(board, period), rows.user_id == user_id)
    with reading(engine) as connection:
        found = connection.execute(theirs).one_or_none()
    return None if found is None else FinalRow(*found)


def find_many(engine: Engine, board: str, period: str, user_ids: Collection[str]) -> dict[str, FinalRow]:
    """The final ranks of those of these players who were on the board."""
    rows = snapshots.c
    among = rows.user_id == any_(cast(literal(list(user_ids), ARRAY(Text)), ARRAY(Text)))
    wanted = select(rows.rank, rows.user_id, rows.points).where(*_of(board, period), among)
    with reading(engine) as connection:
        return {row.user_id: FinalRow(*row) for row in connection.execute(wanted)}


def hidden(engine: Engine, board: str, period: str) -> list[FinalRow]:
    """The rows of players who are hidden by now: whoever shows the ranking leaves them out."""
    rows = snapshots.c
    theirs = select(rows.rank, rows.user_id, rows.points).join(users, users.c.id == rows.user_id)
    with reading(engine) as connection:
        return [FinalRow(*row) for row in connection.execute(theirs.where(*_of(board, period), users.c.hidden))]


def ahead_of(engine: Engine, board: str, period: str, points: int, players: int, descending: bool) -> int:
    """How many of so many `players` ended with better points than these.

    Points follow the rank, so it halves the ranks: one statement, and thirty look-ups in an index, however many players
    there are.
    """
    given = {"month": month_of(period), "board": board, "period": period, "points": points, "players": players}
    with reading(engine) as connection:
        return int(connection.execute(_AHEAD_DESC if descending else _AHEAD_ASC, given).scalar_one())


def history(engine: Engine, board: str, user_id: str, *, limit: int, before: str | None = None) -> list[PastRow]:
    """A player's final ranks on a board, the latest period first; `before`: only periods earlier than this one.

    As `hidden` says: without players who are hidden by now, and nothing of one who is.
    """
    rows, states = snapshots.c, archive_table.c
    others = snapshots.alias("others")
    same = (others.c.month == rows.month) & (others.c.board == rows.board) & (others.c.period == rows.period)
    left_out = select(func.count()).select_from(others).join(users, users.c.id == others.c.user_id)
    left_out = left_out.where(same, users.c.hidden).correlate(snapshots)
    ahead = left_out.where(others.c.rank < rows.rank).scalar_subquery()
    hidden_too = select(users.c.id).where(users.c.id == rows.user_id, users.c.hidden).exists()
    theirs = (
        select(rows.period, rows.rank - ahead, rows.points, states.players - left_out.scalar_subquery())
        .where(~hidden_too)
        .join(archive_table, (states.board == rows.board) & (states.period == rows.period))
        .where(rows.board == board, rows.user_id == user_id)
        .where(states.shard == archives.WHOLE, states.state == "archived")
        .order_by(rows.period.desc())
        .limit(limit)
    )
    if before is not None:
        theirs = theirs.where(rows.period < before)
    with reading(engine) as connection:
        return [PastRow(*row) for row in connection.execute(theirs)]


def _rows(engine: Engine, board: str, period: str, first: int, last: int) -> list[FinalRow]:
    rows = snapshots.c
    wanted = select(rows.rank, rows.user_id, rows.points).where(*_of(board, period), rows.rank.between(first, last))
    with reading(engine) as connection:
        return [FinalRow(*row) for row in connection.execute(wanted.order_by(rows.rank))]


def _of(board: str, period: str) -> tuple[Any, ...]:
    rows = snapshots.c
    return rows.month == month_of(period), rows.board == board, rows.period == period


class _Lines(RawIOBase):
    """The lines of a `COPY`, made while they are read, and counted."""

    def __init__(
        self, chunks: Iterable[Sequence[tuple[str, int]]], first_rank: int, month: str, board: str, period: str
    ) -> None:
        self.players = 0
        self.points = 0
        #: what kept the rows from coming
        self.failed: BaseException | None = None
        self._lines = self._encoded(chunks, first_rank, (month, board, period))
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end."""
        if not self._rest:
            try:
                self._rest = memoryview(next(self._lines, b""))
            except BaseException as error:
                self.failed = error
                raise
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def _encoded(
        self, chunks: Iterable[Sequence[tuple[str, int]]], first_rank: int, shared: tuple[str, str, str]
    ) -> Iterator[bytes]:
        for chunk in chunks:
            start = first_rank + self.players
            rows = [(rank, user_id, points) for rank, (user_id, points) in enumerate(chunk, start=start)]
            self.players += len(rows)
            self.points += sum(points for _, points in chunk)
            if rows:
                yield copytext.encode([copytext.Part(rows, shared)], _FIELDS)
