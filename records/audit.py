"""The audit log: every submission that counted, once, and the fold that gives a board's points back.

Problem: the outbox is read again after a crash, and a match may be reported again after its shard has forgotten it.
Guarantee: `store` is one transaction in which an event enters `games` once; sending the same batch again changes
nothing, and an event that was *applied* twice (it is there already, out of another outbox entry) is told from one that
was merely *read* twice, so that the surplus can be taken back.

Rejected: `ON CONFLICT DO UPDATE`, which fails on an event that is in a batch twice; a temporary table made for each
batch (`ON COMMIT DROP`), which at a batch a second and shard leaves the system catalogs millions of dead rows a day.
The table here is the session's, made by the first batch and emptied by every commit.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any, Literal, NamedTuple

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Connection, Engine, Select, cast, func, select, text
from sqlalchemy.dialects.postgresql import distinct_on, insert

from records import boards, copytext
from records.boards import Board, Operator
from records.engine import transaction
from records.errors import InvalidRecord
from records.periods import month_of
from records.tables import audit_quarantine, games

Kind = Literal["submission", "compensation", "removal"]


class AuditRow(NamedTuple):
    """One submission that was applied. A named tuple, because the drain builds a hundred thousand a second.

    `entry_id` is the outbox entry (`<ms>-<sequence>`), `entry_item` the place of the submission in it: together with
    the shard they name an application of the event. Times are milliseconds since 1970.
    """

    event_id: int
    user_id: str
    board: str
    period: str
    operator: Operator
    value: int
    points_after: int
    match_id: str
    played_ms: int | None
    received_ms: int
    shard: int
    entry_id: str
    entry_item: int = 0
    request_id: str | None = None
    kind: Kind = "submission"


@dataclass(frozen=True, slots=True)
class QuarantinedEntry:
    """An outbox entry that could not be read, as it came."""

    board: str
    period: str
    shard: int
    entry_id: str
    payload: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a batch: rows that were new, rows read again, and rows whose event had been applied before.

    Surplus rows stay surplus when the batch is sent again: whoever takes them back must do it once for each of them.
    """

    inserted: int
    repeated: int
    surplus: tuple[AuditRow, ...]


class Folded(NamedTuple):
    """A player's points, as the audit log has them."""

    user_id: str
    points: int


_FIELDS = AuditRow._fields
_NULLABLE = ("played_ms", "request_id")
_ENTRY_ID = re.compile(r"\d{1,18}-\d{1,18}", re.ASCII)
_BOUNDS = {
    **dict.fromkeys(("event_id", "value", "points_after"), 2**63),
    **dict.fromkeys(("played_ms", "received_ms"), 2**47),  # about the year 6400; PostgreSQL's own end is far beyond
    "shard": 2**31,
    "entry_item": 2**15,
}
_LONGEST_TEXT = 600  # so that the key's texts together fit an index page, whatever they hold

_INCOMING = text(
    """
    CREATE TEMPORARY TABLE IF NOT EXISTS incoming_games (
        event_id     bigint,
        user_id      text COLLATE "C",
        board        text COLLATE "C",
        period       text COLLATE "C",
        operator     text COLLATE "C",
        value        bigint,
        points_after bigint,
        match_id     text COLLATE "C",
        played_ms    bigint,
        received_ms  bigint,
        shard        integer,
        entry_id     text COLLATE "C",
        entry_item   smallint,
        request_id   text COLLATE "C",
        kind         text COLLATE "C"
    ) ON COMMIT DELETE ROWS
    """
)
_COPY = f"COPY pg_temp.incoming_games ({', '.join(_FIELDS)}) FROM STDIN (NULL '{copytext.NULL}')"
# In the order of the key: neighbours in the index come together (a fifth faster), and two drains that meet the same
# event never wait for each other in a circle. `ctid` is the order of the batch: of two applications the earlier stays.
_INSERT = text(
    """
    INSERT INTO games (month, event_id, user_id, board, period, operator, value, points_after, match_id,
                       played_at, received_at, shard, entry_id, entry_item, request_id, kind)
    SELECT CAST(:month AS date), event_id, user_id, board, period, operator, value, points_after, match_id,
           to_timestamp(played_ms / 1000.0::float8), to_timestamp(received_ms / 1000.0::float8), shard, entry_id,
           entry_item, request_id, kind
    FROM pg_temp.incoming_games
    WHERE period = :period
    ORDER BY user_id, board, event_id, ctid
    ON CONFLICT DO NOTHING
    """
)
_SURPLUS = text(
    """
    SELECT DISTINCT user_id, board, period, event_id, again.shard, again.entry_id, again.entry_item
    FROM pg_temp.incoming_games AS again JOIN games AS first USING (user_id, board, period, event_id)
    WHERE month = :month AND period = :period
      AND (again.shard, again.entry_id, again.entry_item) <> (first.shard, first.entry_id, first.entry_item)
    """
)

_UNHURRIED = text("SET LOCAL statement_timeout = 0")
_ROWS_A_FETCH = 10_000


def store(bind: Engine | Connection, rows: Sequence[AuditRow], quarantined: Sequence[QuarantinedEntry] = ()) -> Stored:
    """Store rows, and entries that could not be read, in one transaction; what is there already stays as it is.

    A connection (that of a lease) must not be in a transaction. MissingPartition names the month to make first;
    InvalidRecord names the first row (`index`) that cannot be stored. Either way nothing was.
    """
    try:
        _check_entry_ids(rows)
        months = _months(rows)
        lines = copytext.encode(rows, _FIELDS, _NULLABLE)
        with transaction(bind) as connection:
            if quarantined:
                entries = [asdict(entry) for entry in quarantined]
                connection.execute(insert(audit_quarantine).on_conflict_do_nothing(), entries)
            if not rows:
                return Stored(0, 0, ())
            connection.execute(_INCOMING)
            _copy(connection, lines)
            inserted = sum(connection.execute(_INSERT, period).rowcount for period in months)
            surplus = _surplus(connection, rows, months) if inserted < len(rows) else ()
        return Stored(inserted, len(rows) - inserted - len(surplus), surplus)
    except InvalidRecord as error:
        if error.index is None and (unfit := _first_unfit(rows)):
            raise unfit from error
        raise


def _check_entry_ids(rows: Sequence[AuditRow]) -> None:
    """A fold orders by them, so one that is none must not get in: it would stop every fold of its board."""
    for entry_id in {row.entry_id for row in rows}:
        if not _ENTRY_ID.fullmatch(entry_id):
            raise InvalidRecord(f"{entry_id[:40]!r} is no entry id", field="entry_id")


def _months(rows: Sequence[AuditRow]) -> list[dict[str, Any]]:
    """The periods of a batch (of one shard: one), each with its month; InvalidRecord if one has none."""
    return [{"period": period, "month": month_of(period)} for period in {row.period for row in rows}]


def _copy(connection: Connection, lines: bytes) -> None:
    driver = connection.connection.driver_connection
    assert driver is not None
    with driver.cursor() as cursor:
        cursor.copy_expert(_COPY, BytesIO(lines), 1 << 20)


def _surplus(
    connection: Connection, rows: Sequence[AuditRow], months: Sequence[Mapping[str, Any]]
) -> tuple[AuditRow, ...]:
    """The rows whose event is in the log out of another application, in the order given, each application once."""
    found = {tuple(row) for month in months for row in connection.execute(_SURPLUS, month)}
    applications = {_application(row): row for row in rows} if found else {}
    return tuple(row for application, row in applications.items() if application in found)


def _application(row: AuditRow) -> tuple[str, str, str, int, int, str, int]:
    return row.user_id, row.board, row.period, row.event_id, row.shard, row.entry_id, row.entry_item


def _first_unfit(rows: Sequence[AuditRow]) -> InvalidRecord | None:
    for index, row in enumerate(rows):
        try:
            _check_entry_ids([row])
            _months([row])
        except InvalidRecord as error:
            return InvalidRecord(error.detail, field=error.field, index=index)
        for field, value in zip(_FIELDS, row, strict=True):
            if not _fits(field, value):
                return InvalidRecord(f"{str(value)[:40]!r} does not fit", field=field, index=index)
    return None


def _fits(field: str, value: object) -> bool:
    if value is None:
        return field in _NULLABLE
    bound = _BOUNDS.get(field)
    if bound is None:
        return isinstance(value, str) and len(value) <= _LONGEST_TEXT
    return isinstance(value, int) and -bound <= value < bound


def fold(engine: Engine, board: str, period: str) -> Iterator[Folded]:
    """Every player's points on a board period, folded from the audit log by the board's operator; in no order.

    Streams: the memory it takes does not grow with the board. It is one statement, so it sees the log of one moment;
    it holds a connection until it is exhausted or closed. InvalidRecord if there is no such board or period.
    """
    rules = boards.get(engine, board)
    if rules is None:
        raise InvalidRecord(f"{board[:40]!r} is no board", field="board")
    statement = _points(rules, period)
    with transaction(engine) as connection:
        connection.execute(_UNHURRIED)
        rows = connection.execution_options(yield_per=_ROWS_A_FETCH).execute(statement)
        for user_id, points in rows:
            yield Folded(user_id, points)


def count_games(engine: Engine, board: str, period: str) -> int:
    """How many rows of a board period the audit log has. Reads all of them."""
    with transaction(engine) as connection:
        connection.execute(_UNHURRIED)
        return connection.execute(select(func.count()).where(*_of(board, period))).scalar_one()


def _points(board: Board, period: str) -> Select[str, int]:
    rows = games.c
    ours = _of(board.name, period)
    if board.operator == "set":
        # Entry ids are pairs of numbers: as texts, 1-10 would come before 1-9.
        entry = cast(func.string_to_array(rows.entry_id, "-"), ARRAY(BigInteger))
        last = (rows.user_id, rows.received_at.desc(), entry.desc(), rows.entry_item.desc())
        return select(rows.user_id, rows.value).where(*ours).order_by(*last).ext(distinct_on(rows.user_id))
    best = func.max if board.order == "desc" else func.min
    points = best(rows.value) if board.operator == "best" else func.sum(rows.value)
    return select(rows.user_id, cast(points, BigInteger)).where(*ours).group_by(rows.user_id)


def _of(board: str, period: str) -> tuple[ColumnElement[bool], ...]:
    return games.c.month == month_of(period), games.c.board == board, games.c.period == period
