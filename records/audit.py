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
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from io import BytesIO
from typing import Any, Literal, NamedTuple

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
from records.errors import InvalidRecord
from records.periods import month_of
from records.tables import audit_quarantine, games

#: What a row records: a submission that counted; the taking back of one that was applied twice; a row that was set to
#: what the audit says; that a player was taken off the board. Only submissions make points, and only those since the
#: player's last removal; compensations and repairs say what was done so that it stays so. Before and since go by the
#: clocks of the shards, as "last" does on a board that sets.
Kind = Literal["submission", "compensation", "repair", "removal"]


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
    return next(unfit(rows), None)


def unfit(rows: Sequence[AuditRow]) -> Iterator[InvalidRecord]:
    """The rows that `store` cannot store, each named by `index` and its first `field` that does not fit."""
    for index, row in enumerate(rows):
        try:
            _check_entry_ids([row])
            _months([row])
        except InvalidRecord as error:
            yield InvalidRecord(error.detail, field=error.field, index=index)
            continue
        for field, value in zip(_FIELDS, row, strict=True):
            if not _fits(field, value):
                yield InvalidRecord(f"{str(value)[:40]!r} does not fit", field=field, index=index)
                break


def _fits(field: str, value: object) -> bool:
    if value is None:
        return field in _NULLABLE
    bound = _BOUNDS.get(field)
    if bound is None:
        return isinstance(value, str) and len(value) <= _LONGEST_TEXT and copytext.is_fit(value)
    return isinstance(value, int) and -bound <= value < bound


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
