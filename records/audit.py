"""The audit log: every submission that counted, once, and the fold that gives a board's points back.

Problem: the outbox is read again after a crash, and a match may be reported again after its shard has forgotten it.
Guarantee: `store` is one transaction in which an event enters `games` once; sending the same batch again changes
nothing, and an event that was *applied* twice (it is there already, out of another outbox entry) is told from one that
was merely *read* twice, so that the surplus can be taken back.

Nearly every batch holds nothing but events that are new, so a batch is copied straight into `games`, and PostgreSQL
itself tells by the key where that was wrong. Then nothing of it is stored, and it is sent again by way of a temporary
table, which tells the new from the known at about twice the cost.

Rejected: `ON CONFLICT DO UPDATE`, which fails on an event that is in a batch twice; a temporary table made for each
batch (`ON COMMIT DROP`), which at a batch a second and shard leaves the system catalogs millions of dead rows a day.
The table here is the session's, made by the first batch that needs it and emptied by every commit.
"""

import re
import typing
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Select,
    Text,
    any_,
    cast,
    func,
    literal,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import distinct_on, insert

from records import boards, copytext
from records.boards import Board, Operator
from records.engine import transaction
from records.errors import Conflict, InvalidRecord
from records.periods import month_of
from records.tables import audit_quarantine, games

#: What a row records: a submission that counted; the taking back of one that was applied twice; a row that was set to
#: what the audit says; that a player was taken off the board. Only submissions make points, and only those since the
#: player's last removal; compensations and repairs say what was done so that it stays so. Before and since go by the
#: clocks of the shards, as "last" does on a board that sets.
Kind = Literal["submission", "compensation", "repair", "removal"]


#: One submission of an outbox entry: player, event id, its place in the entry, value, points after, match id, when it
#: was played, request id, kind. A plain tuple, because the drain makes a hundred thousand a second.
AuditItem = tuple[str, int, int, int, int, str, int | None, str | None, str]


class AuditEntry(NamedTuple):
    """What one outbox entry says: all that one call applied on a shard, and what is the same for all of it.

    `entry_id` is that of the stream (`<ms>-<sequence>`); times are milliseconds since 1970.
    """

    board: str
    period: str
    operator: Operator
    shard: int
    entry_id: str
    received_ms: int
    items: Sequence[AuditItem]

    def rows(self) -> "list[AuditRow]":
        """Each submission by itself."""
        board, period, operator, shard, entry_id, received_ms, items = self
        return [
            AuditRow(
                event_id, player, board, period, operator, value, points_after, match_id, played_ms, received_ms,
                shard, entry_id, item, request_id, typing.cast(Kind, kind),
            )
            for player, event_id, item, value, points_after, match_id, played_ms, request_id, kind in items
        ]  # fmt: skip


class AuditRow(NamedTuple):
    """One submission that was applied, with everything that is known of it.

    The outbox entry and `entry_item`, the place of the submission in it, name, together with the shard, an application
    of the event.
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

    def alone(self) -> AuditEntry:
        """As an entry that holds nothing else."""
        item = (
            self.user_id, self.event_id, self.entry_item, self.value, self.points_after, self.match_id, self.played_ms,
            self.request_id, self.kind,
        )  # fmt: skip
        return AuditEntry(self.board, self.period, self.operator, self.shard, self.entry_id, self.received_ms, [item])


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


class Replayed(NamedTuple):
    """What the audit log has of a player: what a row is rebuilt from.

    `points`: None for a player who was removed and has submitted nothing since. `reached_ms`: when the player came to
    these points (ms since 1970, by the shard's clock). `games`: all submissions that counted. `recent`: event id, value
    and time (ms) of the events received lately, None if there are none.
    """

    user_id: str
    points: int | None
    reached_ms: int | None
    games: int
    recent: list[list[int]] | None


@dataclass(frozen=True, slots=True)
class Totals:
    """A board period as a whole: players, the sum of their points, and submissions that counted."""

    players: int
    points: int
    games: int


#: The columns of a line to copy: those of an item, then those that an entry's items share. The key comes first: in its
#: order neighbours in the index come together, and two drains that meet the same events never wait for each other in a
#: circle.
_OF_ITEM = (
    "user_id", "event_id", "entry_item", "value", "points_after", "match_id", "played_at", "request_id", "kind",
)  # fmt: skip
_OF_ENTRY = ("board", "period", "month", "operator", "shard", "entry_id", "received_at")
_COLUMNS = (*_OF_ITEM, *_OF_ENTRY)
_NULLABLE = ("played_at", "request_id")
_PLAYED: Final = 6  # the place of `played_at`
_ENTRY_ID = re.compile(r"\d{1,18}-\d{1,18}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_BIGINT = range(-(2**63), 2**63)
_TIMES = range((datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MS, (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MS)
_BOUNDS = {
    **dict.fromkeys(("event_id", "value", "points_after"), _BIGINT),
    **dict.fromkeys(("played_ms", "received_ms"), _TIMES),
    "shard": range(-(2**31), 2**31),
    "entry_item": range(-(2**15), 2**15),
}
_LONGEST_TEXT = 600  # so that the key's texts together fit an index page, whatever they hold

_COPY = f"COPY {{}} ({', '.join(_COLUMNS)}) FROM STDIN (NULL '{copytext.NULL}')"
_COPY_NEW = _COPY.format("games")
_COPY_INCOMING = _COPY.format("pg_temp.incoming_games")
_INCOMING = text("CREATE TEMPORARY TABLE IF NOT EXISTS incoming_games (LIKE games) ON COMMIT DELETE ROWS")
# In the order in which new ones are copied. `ctid` is the order of the batch: of two applications the earlier stays.
_INSERT = text(
    """
    INSERT INTO games (user_id, event_id, entry_item, value, points_after, match_id, played_at, request_id, kind,
                       board, period, month, operator, shard, entry_id, received_at)
    SELECT user_id, event_id, entry_item, value, points_after, match_id, played_at, request_id, kind,
           board, period, month, operator, shard, entry_id, received_at
    FROM pg_temp.incoming_games
    ORDER BY user_id, CAST(event_id AS text) COLLATE "C", ctid
    ON CONFLICT DO NOTHING
    """
)
_SURPLUS = text(
    """
    SELECT DISTINCT user_id, board, period, event_id, again.shard, again.entry_id, again.entry_item
    FROM pg_temp.incoming_games AS again JOIN games AS first USING (user_id, board, period, event_id)
    WHERE first.month = :month AND period = :period
      AND (again.shard, again.entry_id, again.entry_item) <> (first.shard, first.entry_id, first.entry_item)
    """
)

_COUNTS = "submission"
_REMOVAL = "removal"

# When did a player come to these points? On a board that adds: with the last event that was not nothing, a taking back
# among them, or with the very first. On one that keeps the best: with the first of the best ones. On one that sets:
# with the first of the last ones that are equal.
_RECENT = """
       array_agg(ARRAY[event_id, value, round(extract(epoch FROM received_at) * 1000)::bigint])
           FILTER (WHERE received_at >= :since)"""
_OURS = "games.month = :month AND games.board = :board AND games.period = :period"
# `stands`: nothing before the player's last removal does.
_EVENTS = "SELECT *, true AS stands FROM games WHERE {ours} AND kind <> 'repair'"
_EVENTS_SINCE_REMOVALS = """
SELECT games.*, last.user_id IS NULL
       OR (games.received_at, string_to_array(games.entry_id, '-')::bigint[], games.entry_item)
          > (last.received_at, last.entry, last.entry_item) AS stands
FROM games LEFT JOIN (
    SELECT DISTINCT ON (user_id) user_id, received_at, string_to_array(entry_id, '-')::bigint[] AS entry, entry_item
    FROM games WHERE {ours} AND kind = 'removal'
    ORDER BY user_id, received_at DESC, entry DESC, entry_item DESC
) AS last ON last.user_id = games.user_id
WHERE {ours} AND kind <> 'repair'"""
_REPLAY = {
    "add": """
SELECT user_id, (sum(value) FILTER (WHERE kind = 'submission' AND stands))::bigint,
       round(extract(epoch FROM coalesce(max(received_at) FILTER (WHERE value <> 0 AND stands),
                                         min(received_at) FILTER (WHERE stands))) * 1000)::bigint,
       count(*) FILTER (WHERE kind = 'submission'), {recent}
FROM ({events}) AS events
GROUP BY user_id HAVING count(*) FILTER (WHERE kind = 'submission') > 0""",
    "best": """
SELECT user_id, {best}(value) FILTER (WHERE stands),
       round(extract(epoch FROM min(received_at) FILTER (WHERE stands AND value = best)) * 1000)::bigint,
       count(*) FILTER (WHERE kind = 'submission'), {recent}
FROM (SELECT *, {best}(value) FILTER (WHERE stands) OVER (PARTITION BY user_id) AS best
      FROM ({events}) AS events WHERE kind <> 'compensation') AS mine
GROUP BY user_id""",
    "set": """
SELECT user_id, (array_agg(value ORDER BY place DESC) FILTER (WHERE stands))[1],
       round(extract(epoch FROM max(received_at) FILTER (WHERE stands AND differs)) * 1000)::bigint,
       count(*) FILTER (WHERE kind = 'submission'), {recent}
FROM (SELECT *, row_number() OVER run AS place, value IS DISTINCT FROM lag(value) OVER run AS differs
      FROM ({events}) AS events WHERE kind <> 'compensation'
      WINDOW run AS (PARTITION BY user_id, stands
                     ORDER BY received_at, string_to_array(entry_id, '-')::bigint[], entry_item)) AS mine
GROUP BY user_id""",
}

_UNHURRIED = text("SET LOCAL statement_timeout = 0")
# Nobody counts removals, so the planner takes them for one or two, and would go through all of them for every game.
_NO_LOOPS = text("SET LOCAL enable_nestloop = off")
_ROWS_A_FETCH = 10_000


def store(
    bind: Engine | Connection, entries: Sequence[AuditEntry], quarantined: Sequence[QuarantinedEntry] = ()
) -> Stored:
    """Store what entries hold, and entries that could not be read, in one transaction; what is there stays as it is.

    A connection (that of a lease) must not be in a transaction. MissingPartition names the month to make first;
    InvalidRecord names the first row (`index`, of all in turn) that cannot be stored. Either way nothing was.
    """
    try:
        try:
            return _store_new(bind, entries, quarantined)
        except Conflict:
            return _store_some(bind, entries, quarantined)
    except InvalidRecord as error:
        if error.index is None and (found := next(unfit(rows_of(entries)), None)):
            raise found from error
        raise


def rows_of(entries: Iterable[AuditEntry]) -> list[AuditRow]:
    """What entries hold, row after row."""
    return [row for entry in entries for row in entry.rows()]


def _store_new(
    bind: Engine | Connection, entries: Sequence[AuditEntry], quarantined: Sequence[QuarantinedEntry]
) -> Stored:
    """Store entries whose events are all new; Conflict, and nothing stored, if one of them is not."""
    lines = _encoded(entries, ordered=True)
    with transaction(bind) as connection:
        _put_aside(connection, quarantined)
        if lines:
            _copy(connection, _COPY_NEW, lines)
    return Stored(sum(len(entry.items) for entry in entries), 0, ())


def _store_some(
    bind: Engine | Connection, entries: Sequence[AuditEntry], quarantined: Sequence[QuarantinedEntry]
) -> Stored:
    """Store those events of the entries that are new, and tell what became of the others."""
    lines = _encoded(entries)
    rows = rows_of(entries)
    with transaction(bind) as connection:
        _put_aside(connection, quarantined)
        connection.execute(_INCOMING)
        _copy(connection, _COPY_INCOMING, lines)
        inserted = connection.execute(_INSERT).rowcount
        surplus = _surplus(connection, rows)
    return Stored(inserted, len(rows) - inserted - len(surplus), surplus)


def _encoded(entries: Sequence[AuditEntry], *, ordered: bool = False) -> bytes:
    return copytext.encode([_part(entry) for entry in entries], _COLUMNS, _NULLABLE, ordered=ordered)


def _part(entry: AuditEntry) -> copytext.Part:
    board, period, operator, shard, entry_id, received_ms, items = entry
    _check_entry_id(entry_id)
    month = month_of(period).isoformat()
    rows: Sequence[tuple[copytext.Value, ...]] = items
    if any(item[_PLAYED] is not None for item in items):
        rows = [(*item[:_PLAYED], _time(item[_PLAYED]), *item[_PLAYED + 1 :]) for item in items]
    return copytext.Part(rows, (board, period, month, operator, shard, entry_id, _time(received_ms)))


def _time(ms: int | None) -> str | None:
    """A time as PostgreSQL reads it."""
    if ms is None:
        return None
    try:
        return (_EPOCH + ms * _MS).isoformat()
    except (OverflowError, TypeError) as error:
        raise InvalidRecord(f"{str(ms)[:40]!r} is no time") from error


def _check_entry_id(entry_id: str) -> None:
    """A fold orders by them, so one that is none must not get in: it would stop every fold of its board."""
    if not _ENTRY_ID.fullmatch(entry_id):
        raise InvalidRecord(f"{entry_id[:40]!r} is no entry id", field="entry_id")


def _put_aside(connection: Connection, quarantined: Sequence[QuarantinedEntry]) -> None:
    if quarantined:
        entries = [asdict(entry) for entry in quarantined]
        connection.execute(insert(audit_quarantine).on_conflict_do_nothing(), entries)


def _copy(connection: Connection, statement: str, lines: bytes) -> None:
    driver = connection.connection.driver_connection
    assert driver is not None
    with driver.cursor() as cursor:
        cursor.copy_expert(statement, BytesIO(lines), 1 << 20)


def _surplus(connection: Connection, rows: Sequence[AuditRow]) -> tuple[AuditRow, ...]:
    """The rows whose event is in the log out of another application, in the order given, each application once."""
    found = {
        tuple(row)
        for period in {row.period for row in rows}
        for row in connection.execute(_SURPLUS, {"period": period, "month": month_of(period)})
    }
    applications = {_application(row): row for row in rows} if found else {}
    return tuple(row for application, row in applications.items() if application in found)


def _application(row: AuditRow) -> tuple[str, str, str, int, int, str, int]:
    return row.user_id, row.board, row.period, row.event_id, row.shard, row.entry_id, row.entry_item


def unfit(rows: Iterable[AuditRow]) -> Iterator[InvalidRecord]:
    """The rows that `store` cannot store, each named by `index` and its first `field` that does not fit."""
    for index, row in enumerate(rows):
        try:
            _check_entry_id(row.entry_id)
            month_of(row.period)
        except InvalidRecord as error:
            yield InvalidRecord(error.detail, field=error.field, index=index)
            continue
        for field, value in zip(row._fields, row, strict=True):
            if not _fits(field, value):
                yield InvalidRecord(f"{str(value)[:40]!r} does not fit", field=field, index=index)
                break


def _fits(field: str, value: object) -> bool:
    if value is None:
        return field in {"played_ms", "request_id"}
    bounds = _BOUNDS.get(field)
    if bounds is None:
        return isinstance(value, str) and len(value) <= _LONGEST_TEXT and copytext.is_fit(value)
    return isinstance(value, int) and value in bounds


# -- reading it back

_LAST_BEFORE = text(
    """
    SELECT CASE WHEN kind = 'submission' THEN value END FROM games
    WHERE month = :month AND board = :board AND period = :period AND user_id = :user_id AND kind <> 'repair'
      AND NOT starts_with(match_id, :but_not)
      AND (received_at, string_to_array(entry_id, '-')::bigint[], entry_item)
          < (to_timestamp(CAST(:received_ms AS bigint) / 1000.0::float8),
             string_to_array(:entry_id, '-')::bigint[], :entry_item)
    ORDER BY received_at DESC, string_to_array(entry_id, '-')::bigint[] DESC, entry_item DESC
    LIMIT 1
    """
)


def last_before(bind: Engine | Connection, row: AuditRow, *, but_not: str) -> int | None:
    """The value of the player's last submission that counted before this row; not of matches named like `but_not`…

    None if there is none, or if something else has happened to the player since.
    """
    given = {"month": month_of(row.period), "but_not": but_not, **row._asdict()}
    with transaction(bind) as connection:
        return connection.execute(_LAST_BEFORE, given).scalar_one_or_none()


def fold(engine: Engine, board: str, period: str) -> Iterator[Folded]:
    """Every player's points on a board period, folded from the audit log by the board's operator; in no order.

    Streams: the memory it takes does not grow with the board. It is one statement, so it sees the log of one moment;
    it holds a connection until it is exhausted or closed. InvalidRecord if there is no such board or period.
    """
    rules = _rules(engine, board)
    with transaction(engine) as connection:
        connection.execute(_UNHURRIED)
        statement = _points(rules, period, _standing(connection, board, period))
        rows = connection.execution_options(yield_per=_ROWS_A_FETCH).execute(statement)
        for user_id, points in rows:
            yield Folded(user_id, points)


def replay(
    engine: Engine, board: str, period: str, *, since: datetime, players: Collection[str] | None = None
) -> Iterator[Replayed]:
    """What rows are rebuilt from, for these players (default: all who have a submission); in no order.

    `since`: how far back `recent` reaches. Streams as `fold` does, and raises what it raises.
    """
    rules = _rules(engine, board)
    best = "max" if rules.order == "desc" else "min"
    among = _OURS if players is None else _OURS + " AND games.user_id = ANY(:players)"
    given = {"month": month_of(period), "board": board, "period": period, "since": since}
    if players is not None:
        given["players"] = list(players)
    with transaction(engine) as connection:
        connection.execute(_UNHURRIED)
        events = _EVENTS_SINCE_REMOVALS if _has_removals(connection, board, period) else _EVENTS
        statement = _REPLAY[rules.operator].format(best=best, recent=_RECENT, events=events.format(ours=among))
        rows = connection.execution_options(yield_per=_ROWS_A_FETCH).execute(text(statement), given)
        yield from map(Replayed._make, rows)


def totals(engine: Engine, board: str, period: str) -> Totals:
    """A board period as a whole. Reads all of its rows. `games` counts all submissions, whoever was removed since."""
    rules = _rules(engine, board)
    with transaction(engine) as connection:
        connection.execute(_UNHURRIED)
        folded = _points(rules, period, _standing(connection, board, period)).subquery()
        sums = select(func.count(), cast(func.coalesce(func.sum(folded.c.points), 0), BigInteger)).select_from(folded)
        players, points = connection.execute(sums).one()
        games_count = connection.execute(
            select(func.count()).where(*_of(board, period), games.c.kind == _COUNTS)
        ).scalar_one()
    return Totals(players, points, games_count)


def count_games(engine: Engine, board: str, period: str) -> int:
    """How many rows of a board period the audit log has. Reads all of them."""
    with transaction(engine) as connection:
        connection.execute(_UNHURRIED)
        return connection.execute(select(func.count()).where(*_of(board, period))).scalar_one()


def has_games(engine: Engine, board: str, period: str) -> bool:
    """Whether the audit log has a row of a board period."""
    with transaction(engine) as connection:
        connection.execute(_UNHURRIED)
        return connection.execute(select(select(games.c.month).where(*_of(board, period)).exists())).scalar_one()


def with_games(engine: Engine, board: str, period: str, players: Collection[str]) -> set[str]:
    """Those of these players who have a submission that counted, and were not removed since."""
    theirs = games.c.user_id == any_(cast(literal(list(players), ARRAY(Text)), ARRAY(Text)))
    with transaction(engine) as connection:
        counted = (games.c.kind == _COUNTS, *_standing(connection, board, period))
        found = select(games.c.user_id).distinct().where(*_of(board, period), theirs, *counted)
        return set(connection.scalars(found))


def _rules(engine: Engine, board: str) -> Board:
    rules = boards.get(engine, board)
    if rules is None:
        raise InvalidRecord(f"{board[:40]!r} is no board", field="board")
    return rules


def _has_removals(connection: Connection, board: str, period: str) -> bool:
    """Whether anybody was removed; if so, the rest of the transaction is planned for many of them."""
    removals = select(games.c.month).where(*_of(board, period), games.c.kind == _REMOVAL)
    found: bool = connection.execute(select(removals.exists())).scalar_one()
    if found:
        connection.execute(_NO_LOOPS)
    return found


def _standing(connection: Connection, board: str, period: str) -> tuple[ColumnElement[bool], ...]:
    """Which submissions stand: those since the player's last removal. Where nobody was removed, no condition at all."""
    if not _has_removals(connection, board, period):
        return ()
    removal = games.alias("removal")
    its = removal.c
    of_player = (its.month == month_of(period), its.board == board, its.period == period, its.kind == _REMOVAL)
    later = tuple_(*_moment(its)) > tuple_(*_moment(games.c))
    removed = select(its.month).where(*of_player, its.user_id == games.c.user_id, later).correlate(games).exists()
    return (~removed,)


def _moment(rows: Any) -> tuple[ColumnElement[Any], ...]:
    """What orders the events of a player. Entry ids are pairs of numbers: as texts, 1-10 would come before 1-9."""
    return rows.received_at, cast(func.string_to_array(rows.entry_id, "-"), ARRAY(BigInteger)), rows.entry_item


def _points(board: Board, period: str, standing: Sequence[ColumnElement[bool]]) -> Select[str, int]:
    rows = games.c
    ours = (*_of(board.name, period), rows.kind == _COUNTS, *standing)
    if board.operator == "set":
        last = (rows.user_id, *(part.desc() for part in _moment(rows)))
        value = rows.value.label("points")
        return select(rows.user_id, value).where(*ours).order_by(*last).ext(distinct_on(rows.user_id))
    best = func.max if board.order == "desc" else func.min
    points = best(rows.value) if board.operator == "best" else func.sum(rows.value)
    return select(rows.user_id, cast(points, BigInteger).label("points")).where(*ours).group_by(rows.user_id)


def _of(board: str, period: str) -> tuple[ColumnElement[bool], ...]:
    return games.c.month == month_of(period), games.c.board == board, games.c.period == period
