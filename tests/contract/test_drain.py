"""The drain stores every submission once, is blocked by nothing, and takes back what was applied twice."""

import time
from datetime import UTC, datetime
from itertools import pairwise

import msgpack
import msgspec
import pytest
from played_boards import OpenBoard, Played, rows_of, soon
from sqlalchemy import Engine, event, text
from waiting import wait_until
from werkzeug.test import TestResponse

import workers.drain
from api.app import create_app
from cli.servers import ServerSet
from records import api_keys, partitions, players
from records.errors import RecordsUnavailable
from records.leases import lease
from records.players import NewPlayer
from runtime import failpoints
from runtime.deadlines import Deadline
from runtime.failpoints import FailpointReached
from sharding.boards import BoardPeriod
from sharding.errors import AuditBacklog, Outcome, PeriodClosed
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.periods import PeriodKind, parse_period, period_at
from sharding.players import PlayerId
from sharding.submissions import Status
from workers import metrics
from workers.compensation import OWN_MARK
from workers.drain import Drained, drain_shards
from workers.periods import open_current
from workers.rebuild import Rebuild

pytestmark = pytest.mark.servers


def drain(board: Played, shard: int = 0, *, most: int = 2_000) -> Drained:
    return drain_shards(board.leaderboard, board.engine, board.now(), [shard], most, soon())


def games(board: Played) -> list[tuple[str, str, int]]:
    """Match, kind and value of what the audit log has, in the order it was received."""
    wanted = "SELECT match_id, kind, value FROM games WHERE board = :board ORDER BY received_at, entry_id, entry_item"
    return rows_of(board.engine, wanted, board=board.name.board)


def quarantine(board: Played) -> list[tuple[str, str]]:
    wanted = "SELECT entry_id, reason FROM audit_quarantine WHERE board = :board ORDER BY id"
    return rows_of(board.engine, wanted, board=board.name.board)


def count_of(counter, board: Played) -> float:  # type: ignore[no-untyped-def]
    return counter.labels(board.name.board)._value.get()


# -- each entry once


def test_what_was_stored_is_trimmed_and_stored_once(open_one: OpenBoard) -> None:
    """Batches smaller than the outbox, run after run: every submission is in the log, and the outbox is empty."""
    board = open_one(cuts=[])
    for number in range(25):
        board.win(f"player-{number}", 1 + number, "m1")
    assert drain(board, most=10) == Drained(entries=25, stored=25)
    assert board.on_shard(0, "XLEN", "@outbox") == 0
    assert drain(board) == Drained()
    assert len(games(board)) == 25


def test_a_drain_that_dies_before_it_trims_stores_nothing_twice(open_one: OpenBoard) -> None:
    board = open_one(cuts=[])
    board.play(20, 60)
    entries = board.on_shard(0, "XLEN", "@outbox")
    failpoints.arm("drain.stored=raise")
    with pytest.raises(FailpointReached):
        drain(board)
    failpoints.arm("")
    assert board.on_shard(0, "XLEN", "@outbox") == entries
    assert drain(board) == Drained(entries=entries, repeated=60)
    assert len(games(board)) == 60


@pytest.mark.parametrize("known", [False, True], ids=["all new", "some known"])
def test_a_drain_whose_connection_dies_leaves_the_outbox_as_it_is(open_one: OpenBoard, known: bool) -> None:
    """PostgreSQL goes away when everything is copied and nothing committed: nothing is trimmed, the next has it all."""
    board = open_one(cuts=[])
    board.win("known", 1, "m1")
    if known:
        failpoints.arm("drain.stored=raise")
        with pytest.raises(FailpointReached):
            drain(board)
        failpoints.arm("")
    board.play(10, 30)
    asked = []

    def cut_off(connection):  # type: ignore[no-untyped-def]
        driver = connection.connection.driver_connection
        with driver.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM games WHERE board = %s", [board.name.board])
            if cursor.fetchone() == (31,):
                asked.append(driver.info.backend_pid)
                rows_of(board.engine, "SELECT pg_terminate_backend(:pid, 5000)", pid=asked[-1])

    event.listen(board.engine, "commit", cut_off)
    try:
        with pytest.raises(RecordsUnavailable):
            drain(board)
    finally:
        event.remove(board.engine, "commit", cut_off)
    assert asked
    assert len(games(board)) == known
    assert board.on_shard(0, "XLEN", "@outbox") > 0
    drained = drain(board)
    assert (drained.stored, drained.repeated) == (31 - known, known)


def test_two_drains_of_one_shard_are_one(open_one: OpenBoard) -> None:
    """The second sees the lease and does nothing; once the holder is gone, whatever became of it, the next drains."""
    board = open_one(cuts=[])
    board.play(5, 5)
    with lease(board.engine, f"drain:{board.now().keys(0).outbox}") as held:
        assert held is not None
        assert drain(board) == Drained()
        pid = held.execute(text("SELECT pg_backend_pid()")).scalar_one()
        held.commit()
        rows_of(board.engine, "SELECT pg_terminate_backend(:pid, 5000)", pid=pid)
        assert drain(board).stored == 5


# -- shards together


def test_shards_are_drained_in_one_transaction(open_one: OpenBoard) -> None:
    """All but the one that somebody else drains; what cannot be read is put aside under its own shard."""
    board = open_one(cuts=[10, 20, 30])
    board.play(200, 300)
    poisoned = board.on_shard(2, "XADD", "@outbox", "*", "e", "x").decode()
    with lease(board.engine, f"drain:{board.now().keys(1).outbox}"):
        drained = drain_shards(board.leaderboard, board.engine, board.now(), range(4), 2_000, soon())
    counts = "SELECT count(*), count(DISTINCT shard), count(DISTINCT xmin::text) FROM games WHERE board = :board"
    assert rows_of(board.engine, counts, board=board.name.board) == [(drained.stored, 3, 1)]
    where = "SELECT shard, entry_id FROM audit_quarantine WHERE board = :board"
    assert rows_of(board.engine, where, board=board.name.board) == [(2, poisoned)]
    assert [board.on_shard(shard, "XLEN", "@outbox") > 0 for shard in range(4)] == [False, True, False, False]
    assert drained.stored + drain(board, 1).stored == 300
    assert board.agrees()


def test_a_long_outbox_beside_short_ones_is_emptied_as_well(open_one: OpenBoard) -> None:
    board = open_one(cuts=[10, 20])
    board.play(30, 30, most=9)
    for number in range(45):
        board.submit([Submission(PlayerId("far"), 30 if number == 0 else 0, f"m{number}")])
    drained = drain_shards(board.leaderboard, board.engine, board.now(), range(3), 10, soon())
    assert drained.stored == 75
    assert [board.on_shard(shard, "XLEN", "@outbox") for shard in range(3)] == [0, 0, 0]


# -- nothing blocks it


NOBODY, NO_NOTES = msgpack.packb([]), msgpack.packb([])
POISON = {
    "no msgpack": (b"s", b"\xc1 poison", b"n", NO_NOTES, b"r", msgpack.packb([2, 0, b"add"])),
    "another format": (b"s", NOBODY, b"n", NO_NOTES, b"r", msgpack.packb([99, 0, b"add"])),
    "empty values": (b"s", b"", b"n", b"", b"r", b""),
    "a number": (b"s", NOBODY, b"n", NO_NOTES, b"r", b"\x07"),
    "other names": (b"e", b"x"),
    "a result too many": (b"s", NOBODY, b"n", NO_NOTES, b"r", msgpack.packb([2, 0, b"add", 7])),
    "half a submission": (b"s", msgpack.packb([b"ann", 1]), b"n", NO_NOTES, b"r", msgpack.packb([2, 0, b"add"])),
}


@pytest.mark.parametrize("fields", POISON.values(), ids=POISON.keys())
def test_an_entry_that_cannot_be_read_is_put_aside(open_one: OpenBoard, fields: tuple[bytes, ...]) -> None:
    """What stands before and behind it is stored; the entry is kept as it came."""
    board = open_one(cuts=[])
    board.win("before", 1, "m1")
    poisoned = board.on_shard(0, "XADD", "@outbox", "*", *fields).decode()
    board.win("behind", 2, "m2")
    assert drain(board) == Drained(entries=3, stored=2, quarantined=1)
    assert [entry for entry, _ in quarantine(board)] == [poisoned]
    kept = rows_of(board.engine, "SELECT payload FROM audit_quarantine WHERE entry_id = :id", id=poisoned)
    assert msgpack.unpackb(bytes(kept[0][0])) == list(fields)
    assert board.on_shard(0, "XLEN", "@outbox") == 0
    assert count_of(metrics.quarantined_entries, board) == 1


def test_a_row_that_postgres_cannot_hold_is_put_aside_alone(open_one: OpenBoard) -> None:
    """The others of its entry are stored, and the reason names the item and the field."""
    board = open_one(cuts=[])
    together = [Submission(PlayerId(f"player-{n}"), n, "a\0b" if n in {3, 5} else f"m{n}") for n in range(1, 8)]
    board.submit(together)
    board.win("behind", 2, "m2")
    assert drain(board) == Drained(entries=2, stored=6, quarantined=1)
    [(_, reason)] = quarantine(board)
    assert "match_id" in reason
    assert "item 2" in reason
    assert {match for match, _, _ in games(board)} == {"m1", "m2", "m4", "m6", "m7"}
    assert board.on_shard(0, "XLEN", "@outbox") == 0


def test_a_month_without_a_partition_is_made_on_the_way(open_one: OpenBoard) -> None:
    board = open_one(cuts=[], period=parse_period(PeriodKind.MONTH, "2061-05"))
    partitions.drop_audit(board.engine, parse_period(PeriodKind.MONTH, "2061-05").start.date())
    board.win("early", 1, "m1")
    assert drain(board).stored == 1


# -- back-pressure


def test_a_full_outbox_refuses_and_changes_nothing(open_one: OpenBoard, servers: ServerSet) -> None:
    """Past the limit a write is refused as a whole, until the drain has made room. An entry is never dropped."""
    board = open_one(cuts=[])
    small = Leaderboard.connect(
        msgspec.structs.replace(servers.settings, outbox_limit=3), known_players=lambda _, players: players
    )
    try:
        for number in range(3):
            small.submit(board.name, [Submission(PlayerId("p"), 1, f"m{number}")], soon(), rank=RankMode.NONE)
        before = board.ranking()
        many = [Submission(PlayerId(f"p{number}"), 1, "m") for number in range(50)]
        results = small.submit(board.name, many, soon(), rank=RankMode.NONE)
        assert {type(result.error) for result in results} == {AuditBacklog}
        assert {result.error.outcome for result in results if result.error} == {Outcome.NOT_APPLIED}
        assert board.ranking() == before
        assert board.on_shard(0, "XLEN", "@outbox") == 3
        assert drain(board).stored == 3
        results = small.submit(board.name, many, soon(), rank=RankMode.NONE)
        assert {result.status for result in results} == {Status.APPLIED}, "the refused ones were not remembered"
    finally:
        small.close()


def test_over_http_a_full_outbox_is_503_with_retry_after(
    leaderboard: Leaderboard, database: Engine, servers: ServerSet
) -> None:
    """Players are told to come back, and that nothing happened; after the drain the same request is applied."""
    [(name,)] = rows_of(database, "SELECT current_database()")
    settings = msgspec.structs.replace(servers.settings, postgres_dsn=servers.postgres.dsn(name), outbox_limit=1)
    _, secret = api_keys.create(database, "test", ["scores:write", "scores:read"])
    players.create(database, NewPlayer(username="ann", id="ann"))
    open_current(settings)
    month = BoardPeriod("global", period_at(PeriodKind.MONTH, datetime.now(UTC)).name)
    board = Played(leaderboard, database, leaderboard.maps.published(month, soon()))
    client = create_app(settings).test_client()

    def win(match: str) -> TestResponse:
        body = {"user_id": "ann", "score": 7, "match_id": match}
        return client.post("/api/v1/scores", json=body, headers={"Authorization": f"Bearer {secret}"})

    assert win("m1").status_code == 200
    refused = win("m2")
    assert (refused.status_code, refused.get_json()["outcome"]) == (503, "not_applied")
    assert int(refused.headers["Retry-After"]) >= 1
    assert board.points("ann") == 7
    board.drain()
    assert win("m2").get_json()["score"] == 14


# -- what was applied twice


def again_until_applied(board: Played, submission: Submission) -> None:
    """Report a match again and again, until its retry window is over and it counts once more."""
    deadline = Deadline.after(20)
    while board.submit([submission]) != [Status.APPLIED]:
        assert not deadline.passed, "the retry window never ended"
        time.sleep(0.02)


def test_a_match_that_is_reported_again_too_late_counts_once_in_the_end(open_one: OpenBoard) -> None:
    """Applied a second time after the retry window, noticed by the audit log, taken back, and counted in a metric."""
    board = open_one(cuts=[10], retry_window_ms=300)
    late = Submission(PlayerId("ann"), 9, "m1")
    board.submit([late])
    board.win("ann", 2, "m2")
    board.drain()
    again_until_applied(board, late)
    assert board.points("ann") == 20
    board.drain()
    assert board.points("ann") == 11
    board.drain()
    kinds = [kind for _, kind, _ in games(board)]
    assert sorted(kinds) == ["compensation", "submission", "submission"]
    assert sum(value for _, kind, value in games(board) if kind == "submission") == 11
    assert count_of(metrics.compensated_events, board) == 1
    assert board.agrees()


def test_taking_back_is_itself_done_once(open_one: OpenBoard) -> None:
    """A drain that dies after it took back finds it done; one that comes too late even for that is taken back too."""
    board = open_one(cuts=[], retry_window_ms=2_000)
    late = Submission(PlayerId("ann"), 9, "m1")
    board.submit([late])
    board.drain()
    again_until_applied(board, late)
    failpoints.arm("drain.compensated=raise")
    with pytest.raises(FailpointReached):
        drain(board)
    assert board.points("ann") == 9
    with pytest.raises(FailpointReached):
        drain(board)
    assert board.points("ann") == 9, "the shard recognises it"
    failpoints.arm("")
    board.drain()
    board.drain()
    [(match_id, _, value)] = [game for game in games(board) if game[1] == "compensation"]
    again = Submission(PlayerId("ann"), value, match_id, kind="compensation")
    deadline = Deadline.after(20)
    while board.leaderboard.settle(board.now(), [again], soon())[0].status != Status.APPLIED:
        assert not deadline.passed
        time.sleep(0.02)
    assert board.points("ann") == 0
    board.drain()
    assert board.points("ann") == 9


def test_what_was_applied_twice_is_taken_back_while_the_shard_is_frozen_and_full(
    open_one: OpenBoard, servers: ServerSet
) -> None:
    """Neither a closing month nor a full outbox may keep the drain from going on."""
    board = open_one(cuts=[], retry_window_ms=300)
    late = Submission(PlayerId("ann"), 9, "m1")
    board.submit([late])
    board.drain()
    again_until_applied(board, late)
    board.leaderboard.lifecycle.set_state(board.now(), "frozen", soon())
    (refused,) = board.leaderboard.submit(
        board.name, [Submission(PlayerId("ann"), 1, "m9")], soon(), rank=RankMode.NONE
    )
    assert isinstance(refused.error, PeriodClosed)
    full = Leaderboard.connect(
        msgspec.structs.replace(servers.settings, outbox_limit=1), known_players=lambda _, players: players
    )
    try:
        drain_shards(full, board.engine, board.now(), [0], 100, soon())
    finally:
        full.close()
    assert board.points("ann") == 9


@pytest.mark.parametrize("operator", ["best", "set"])
def test_where_the_best_or_the_last_counts_nothing_is_taken_back(open_one: OpenBoard, operator: str) -> None:
    board = open_one(cuts=[], retry_window_ms=300, operator=operator)
    late = Submission(PlayerId("ann"), 9, "m1")
    board.submit([late])
    board.drain()
    again_until_applied(board, late)
    assert drain(board).surplus == 1
    assert board.points("ann") == 9
    assert board.on_shard(0, "XLEN", "@outbox") == 0


def again_on_a_board_that_sets(open_one: OpenBoard, **given: object) -> Played:
    """Ann said 5, then 9; then the match with the 5 is reported again, after its window."""
    board = open_one(retry_window_ms=300, operator="set", **given)
    late = Submission(PlayerId("ann"), 5, "m1")
    board.submit([late])
    board.win("ann", 9, "m2")
    board.drain()
    again_until_applied(board, late)
    assert board.points("ann") == 5
    return board


@pytest.mark.parametrize("cuts", [[], [4, 7]], ids=["one shard", "another shard each time"])
def test_where_the_last_counts_a_match_reported_again_does_not_count_again(
    open_one: OpenBoard, cuts: list[int]
) -> None:
    """The points are set back to what was said last; drained again, and rebuilt, it stays like that."""
    board = again_on_a_board_that_sets(open_one, cuts=cuts)
    board.drain()
    assert board.points("ann") == 9
    assert count_of(metrics.compensated_events, board) == 1
    board.drain()
    assert board.agrees()
    by_clients = [(match, value) for match, _, value in games(board) if not match.startswith(OWN_MARK)]
    assert sorted(by_clients) == [("m1", 5), ("m2", 9)]
    board.destroy()
    Rebuild(board.leaderboard, board.engine, board.name).whole(lambda _done, _of: None)
    assert board.points("ann") == 9


def test_what_was_said_since_is_not_set_back(open_one: OpenBoard) -> None:
    """The newer report is in no audit log yet when the drain meets the repetition."""
    board = again_on_a_board_that_sets(open_one, cuts=[])
    second = int(time.time())
    while int(time.time()) <= second:  # a month's board tells reports apart by the second
        time.sleep(0.05)
    board.win("ann", 7, "m3")
    board.drain()
    board.drain()
    assert board.points("ann") == 7
    assert count_of(metrics.compensated_events, board) == 0
    assert board.agrees()


def test_setting_back_is_itself_done_once(open_one: OpenBoard) -> None:
    """A drain that dies after it, before it trims, finds it done, also when the shard has forgotten that."""
    board = again_on_a_board_that_sets(open_one, cuts=[])
    failpoints.arm("drain.compensated=raise")
    for _ in range(3):
        with pytest.raises(FailpointReached):
            drain(board)
        assert board.points("ann") == 9
        wait_until(lambda: board.on_shard(0, "KEYS", "@recent*") == [])  # the shard has forgotten it
    failpoints.arm("")
    board.drain()
    board.drain()
    assert board.points("ann") == 9
    assert board.agrees()


def test_taking_back_follows_a_player_who_has_moved(open_one: OpenBoard) -> None:
    """The surplus was applied in one shard, and the player is in another by now."""
    board = open_one(cuts=[10, 20, 40], retry_window_ms=300)
    late = Submission(PlayerId("ann"), 9, "m1")
    board.submit([late])
    board.drain()
    again_until_applied(board, late)
    board.win("ann", 30, "m2")
    assert board.points("ann") == 48
    board.drain()
    assert board.points("ann") == 39
    board.drain()
    assert board.agrees()


# -- how much at once


def test_a_transaction_is_bounded_whatever_entries_hold(open_one: OpenBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import comes right behind single submissions, of which the drain reads many at a time: they have few rows."""
    monkeypatch.setattr(workers.drain, "_BYTES_AT_ONCE", 250_000)
    board = open_one(cuts=[])
    for match in range(30):
        board.win("ann", 1, f"single-{match}")
    for match in range(12):
        board.submit([Submission(PlayerId(f"player-{n}"), 1, f"m{match}") for n in range(1_000)])
    stored = [0]

    def measure(connection):  # type: ignore[no-untyped-def]
        with connection.connection.driver_connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM games WHERE board = %s", [board.name.board])
            stored.append(cursor.fetchone()[0])

    event.listen(board.engine, "commit", measure)
    try:
        assert drain(board, most=100_000) == Drained(entries=42, stored=12_030)
    finally:
        event.remove(board.engine, "commit", measure)
    sizes = [after - before for before, after in pairwise(stored) if after > before]
    assert max(sizes) < 10_000
    assert max(sizes[1:]) >= 2_000, "several entries together"
    assert len(games(board)) == 12_030
