"""The audit log takes every event once, tells what was applied twice, and folds to the points."""

import itertools
import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records_databases import scalar
from sqlalchemy import event, text
from waiting import wait_until

from records import audit, boards, partitions
from records.audit import AuditRow, QuarantinedEntry, Stored
from records.boards import NewBoard, Operator, Order
from records.errors import InvalidRecord, MissingPartition, RecordsUnavailable
from records.leases import lease

pytestmark = pytest.mark.servers

PERIOD = f"{datetime.now(UTC):%Y-%m}"
_names = itertools.count(1)


@pytest.fixture
def board(database):
    """A board of the test's own."""
    return boards.create(database, NewBoard(f"board-{next(_names)}")).name


def row_of(board, number=1, **other):
    row = AuditRow(
        event_id=number, user_id=f"player-{number % 7}", board=board, period=PERIOD, operator="add", value=1,
        points_after=number, match_id=f"match-{number}", played_ms=None, received_ms=1_795_400_000_000 + number,
        shard=3, entry_id="1795400000000-0", entry_item=number % 1000,
    )  # fmt: skip
    return row._replace(**other)


def store(bind, rows, aside=()):
    """Each row as an outbox entry of its own."""
    return audit.store(bind, [row.alone() for row in rows], aside)


def stored_rows(database, board):
    with database.begin() as connection:
        found = connection.execute(text("SELECT * FROM games WHERE board = :board ORDER BY event_id"), {"board": board})
        return found.mappings().all()


def test_a_row_is_stored_as_it_is(database, board):
    """Every field, and both times to the millisecond."""
    row = row_of(board, -(2**63), played_ms=1_795_399_999_001, received_ms=1_795_400_000_123, value=-(2**40),
                 points_after=2**62, request_id="request-1", entry_item=999)  # fmt: skip
    assert store(database, [row]) == Stored(1, 0, ())
    [found] = stored_rows(database, board)
    expected = row._asdict()
    for name in ("played", "received"):
        expected[f"{name}_at"] = datetime.fromtimestamp(expected.pop(f"{name}_ms") / 1000, UTC)
    assert dict(found) == {**expected, "month": date.fromisoformat(PERIOD + "-01")}


def test_a_batch_that_is_sent_again_changes_nothing(database, board):
    """A worker that dies between commit and acknowledgement leaves its entries to the next one."""
    rows = [row_of(board, number) for number in range(500)]
    assert store(database, rows) == Stored(500, 0, ())
    before = stored_rows(database, board)
    assert store(database, rows) == Stored(0, 500, ())
    assert store(database, [*rows[400:], row_of(board, 500)]) == Stored(1, 100, ())
    assert stored_rows(database, board)[:500] == before


def test_an_entry_that_is_in_one_batch_twice_is_stored_once(database, board):
    """Pending entries and new ones may overlap."""
    assert store(database, [row_of(board), row_of(board)]) == Stored(1, 1, ())


@pytest.mark.parametrize("other", [{"entry_id": "1795403700000-0"}, {"shard": 4}, {"entry_item": 2}])
@pytest.mark.parametrize("together", [True, False])
def test_an_event_that_was_applied_twice_is_surplus(database, board, other, together):
    """The retry came after the recent-events window: another entry, or another shard's. The first one stays."""
    first, again, unrelated = row_of(board), row_of(board, **other), row_of(board, 2)
    if together:
        assert store(database, [first, again, again, unrelated]) == Stored(2, 1, (again,))
    else:
        store(database, [first])
        assert store(database, [again, unrelated, first]) == Stored(1, 1, (again,))
    assert [row["points_after"] for row in stored_rows(database, board)] == [first.points_after, 2]
    # It is still surplus when it is sent once more: taking it back is not ours.
    assert store(database, [again]) == Stored(0, 0, (again,))


def test_the_same_events_from_two_sides_at_once_are_stored_once(database, board):
    """Neither waits for the other in a circle, and what the one has is surplus for the other."""
    rows = [row_of(board, number, user_id=f"player-{number % 50}") for number in range(-1_000, 1_000)]
    others = [row._replace(shard=4) for row in rows]
    random.Random(2).shuffle(others)
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda batch: store(database, batch), [rows, others])
    assert first.inserted + second.inserted == len(rows)
    assert len(first.surplus) + len(second.surplus) == len(rows)
    assert len(stored_rows(database, board)) == len(rows)


def test_surplus_comes_in_the_order_given(database, board):
    rows = [row_of(board, number) for number in range(50)]
    store(database, rows)
    again = [row._replace(entry_id="1795403700000-7") for row in reversed(rows)]
    assert store(database, again).surplus == tuple(again)


def test_a_match_counts_on_each_of_its_boards(database, board):
    """Event ids are made of player and match, so one id appears on the monthly board and on the weekly one."""
    weekly = boards.create(database, NewBoard(f"{board}-weekly", "week")).name
    monday = f"{datetime.now(UTC):%G-W%V}"
    rows = [row_of(board), row_of(weekly, period=monday)]
    assert store(database, rows) == Stored(2, 0, ())
    assert store(database, rows) == Stored(0, 2, ())


def test_on_a_board_that_never_starts_anew_an_event_counts_once_for_ever(database):
    """Months later it is still recognised."""
    forever = boards.create(database, NewBoard(f"forever-{next(_names)}", "forever")).name
    first = row_of(forever, period="all")
    later = first._replace(received_ms=first.received_ms + 100 * 86_400_000, entry_id="1804040000000-0")
    assert store(database, [first]) == Stored(1, 0, ())
    assert store(database, [later]) == Stored(0, 0, (later,))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
            st.none() | st.sampled_from(["", "None", r"\N", "\t", "\n", "\\", r"\."]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_text_comes_back(database, board, strings):
    """What `test_copytext` says of the rules, said by PostgreSQL itself."""
    with database.begin() as connection:
        connection.execute(text("DELETE FROM games WHERE board = :board"), {"board": board})
    rows = [
        row_of(board, number, match_id=match_id, request_id=request_id)
        for number, (match_id, request_id) in enumerate(strings)
    ]
    assert store(database, rows).inserted == len(rows)
    assert [(row["match_id"], row["request_id"]) for row in stored_rows(database, board)] == strings


UNFIT = {
    "a value beyond 64 bits": ("value", 2**63),
    "an event id beyond 64 bits": ("event_id", -(2**63) - 1),
    "an item beyond 16 bits": ("entry_item", 2**15),
    "no value": ("points_after", None),
    "a fraction": ("value", 1.5),
    "a NUL": ("match_id", "a\0b"),
    "half a character": ("request_id", "\ud800"),
    "no match": ("match_id", None),
    "a key that fits no index page": ("user_id", "".join(random.Random(1).choices("0123456789abcdef", k=20_000))),
    "no period": ("period", "soon"),
    "no entry id": ("entry_id", "first"),
    "a time beyond time": ("received_ms", 2**62),
    "a time before time": ("played_ms", -(2**47)),
}


@pytest.mark.parametrize(("field", "value"), UNFIT.values(), ids=UNFIT.keys())
def test_a_row_that_cannot_be_stored_is_named_and_nothing_is_stored(database, board, field, value):
    """So the drain can put that one entry aside and go on with the rest."""
    rows = [row_of(board, number) for number in range(5)]
    rows[3] = rows[3]._replace(**{field: value})
    aside = QuarantinedEntry(board, PERIOD, 3, "1-1", b"?", "unreadable")
    with pytest.raises(InvalidRecord) as refused:
        store(database, rows, [aside])
    assert (refused.value.index, refused.value.field) == (3, field)
    assert stored_rows(database, board) == []
    assert scalar(database, "SELECT count(*) FROM audit_quarantine WHERE board = :board", board=board) == 0


def test_a_month_without_a_partition_is_named_and_can_be_made(database, board):
    """Nothing of the batch is stored, so the drain makes the partition and sends it again."""
    rows = [row_of(board), row_of(board, 2, period="2050-02")]
    with pytest.raises(MissingPartition) as refused:
        store(database, rows)
    assert refused.value.months == (date(2050, 2, 1),)
    assert stored_rows(database, board) == []
    partitions.ensure(database, refused.value.months)
    assert store(database, rows) == Stored(2, 0, ())


def test_an_unreadable_entry_is_put_aside_once(database, board):
    """With the bytes it had, also when there is nothing else in the batch, also when it is read again."""
    entry = QuarantinedEntry(board, PERIOD, 3, "1-1", b"\x00\xffpoison", "no msgpack")
    assert store(database, [], [entry]) == Stored(0, 0, ())
    assert store(database, [row_of(board)], [entry]) == Stored(1, 0, ())
    with database.begin() as connection:
        found = connection.execute(text("SELECT * FROM audit_quarantine WHERE board = :b"), {"b": board}).mappings()
        [kept] = found.all()
    assert (bytes(kept["payload"]), kept["reason"], kept["entry_id"]) == (entry.payload, entry.reason, entry.entry_id)


@pytest.mark.parametrize(
    ("known", "after"),
    [
        (False, "INSERT INTO audit_quarantine"),
        (True, "INSERT INTO audit_quarantine"),
        (True, "CREATE TEMPORARY TABLE"),
        (True, "INSERT INTO games"),
    ],
)
def test_a_connection_that_dies_in_the_middle_stores_nothing(database, board, known, after):
    """Killed before the copy, before the table, before the commit: the same batch then goes in whole."""
    rows = [row_of(board, number) for number in range(100)]
    aside = QuarantinedEntry(board, PERIOD, 3, "1-1", b"?", "unreadable")
    if known:
        store(database, rows[-1:])

    def kill(connection, _cursor, statement, *_):
        if after in statement:
            pid = connection.connection.driver_connection.info.backend_pid
            assert scalar(database, "SELECT pg_terminate_backend(:pid, 5000)", pid=pid)

    with lease(database, board) as held:
        event.listen(held, "after_cursor_execute", kill)
        with pytest.raises(RecordsUnavailable) as refused:
            store(held, rows, [aside])
    assert refused.value.retryable
    assert len(stored_rows(database, board)) == known
    assert scalar(database, "SELECT count(*) FROM audit_quarantine WHERE board = :board", board=board) == 0
    assert store(database, rows, [aside]) == Stored(100 - known, known, ())


def test_the_session_table_leaves_nothing_behind(database, board):
    """Batches one after the other on one connection do not see each other, nor make new tables."""
    with lease(database, board) as held:
        for number in range(5):
            known = [row_of(board, number - 1)] if number else []
            assert store(held, [*known, row_of(board, number)]) == Stored(1, len(known), ())
        with held.begin():
            assert held.execute(text("SELECT count(*) FROM pg_temp.incoming_games")).scalar_one() == 0


def points_by_hand(rows, operator, order):
    """The fold as it is defined, in Python."""
    mine = defaultdict(list)
    for row in rows:
        mine[row.user_id].append(row)
    best = max if order == "desc" else min
    result = {}
    for player, games in mine.items():
        if operator == "set":
            last = max(games, key=lambda row: (row.received_ms, [*map(int, row.entry_id.split("-"))], row.entry_item))
            result[player] = last.value
        else:
            result[player] = (sum if operator == "add" else best)(row.value for row in games)
    return result


@pytest.mark.parametrize("operator", get_args(Operator))
@pytest.mark.parametrize("order", get_args(Order))
def test_the_log_folds_to_the_points(database, operator, order):
    """By the board's operator and order; `set` takes the last one, though sequence 10 comes before 9 as a text."""
    rng = random.Random(f"{operator}{order}")
    board = boards.create(database, NewBoard(f"fold-{operator}-{order}", "day", operator, order)).name
    day = f"{PERIOD}-05"
    rows = [
        row_of(board, number, period=day, operator=operator, value=rng.randint(-50, 50),
               received_ms=1_795_400_000_000 + rng.randint(0, 20), entry_id=f"1795400000000-{rng.randint(1, 20)}",
               entry_item=number)
        for number in range(3_000)
    ]  # fmt: skip
    rng.shuffle(rows)
    other_day = [row._replace(period=f"{PERIOD}-06") for row in rows[:100]]
    store(database, rows + other_day)
    assert dict(audit.fold(database, board, day)) == points_by_hand(rows, operator, order)
    assert audit.count_games(database, board, day) == 3_000
    assert audit.count_games(database, board, f"{PERIOD}-07") == 0
    assert dict(audit.fold(database, board, f"{PERIOD}-07")) == {}


def test_a_fold_streams(database, board):
    """The rows come in fetches, so a worker's memory does not grow with the board; closing it frees the connection."""
    store(database, [row_of(board, number, user_id=f"player-{number}") for number in range(25_000)])
    folded = audit.fold(database, board, PERIOD)
    first = next(folded)
    fetching = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND query LIKE 'FETCH %'"
    assert scalar(database, fetching) == 1
    folded.close()
    wait_until(lambda: scalar(database, fetching) == 0)
    assert {first, *audit.fold(database, board, PERIOD)} == {(f"player-{number}", 1) for number in range(25_000)}


@pytest.mark.parametrize(("name", "period", "field"), [("nowhere", PERIOD, "board"), ("global", "soon", "period")])
def test_what_is_no_board_or_period_is_refused(database, name, period, field):
    with pytest.raises(InvalidRecord) as refused:
        next(audit.fold(database, name, period))
    assert refused.value.field == field
