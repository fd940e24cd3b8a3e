"""The Lua functions at their limits: windows that pass, many events, many submissions, what fences rest on."""

import time
from collections.abc import Callable

import pytest

from runtime.deadlines import Deadline
from sharding.cluster.client import Call
from sharding.directory import Entry
from sharding.functions import ApplyMode, Arrive, Asked, Code, May, arrivals, departures, effects, pointed
from sharding.handoff.states import MOST_RECENT, Leaving, Memory, Removed
from sharding.keys import windows_at
from sharding.leaderboard import Leaderboard
from sharding.players import Member
from sharding.scores import PackedScore
from sharding.shard_map import ShardMap
from sharding.submissions import Note, pack_notes
from tests.stateful.raw_board import RawBoard, Said, pack_payload

pytestmark = pytest.mark.servers

ANN, BOB = Member(b"ann"), Member(b"bob")
EVENT, OTHER = b"event-01aa", b"event-02aa"
NOTE = Note("m", None, "")
OpenBoard = Callable[..., ShardMap]


def apply(board: RawBoard, shard: int, *submissions: tuple[Member, int, bytes]) -> Said:
    return board.apply(shard, *(Asked(*submission, NOTE, may=May.CREATE) for submission in submissions))


def codes(said: Said) -> list[int]:
    assert said.refusal is None
    return [effect.code for effect in effects(said.reply)]


def wait_for_window(board: RawBoard, window: int) -> None:
    """Until the shard's clock has come to a window."""
    deadline = time.monotonic() + 10
    while (now := board.call(0, "rb1_find", 0).windows.recent) < window:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert now == window, "this machine is too slow for the windows of the test"


def test_a_clock_that_is_behind_stands_still(leaderboard: Leaderboard, open_board: OpenBoard) -> None:
    """A failover from a server that was in the next window already: what was applied there is not looked past."""
    shard_map = open_board()
    board = RawBoard(leaderboard, shard_map)
    assert codes(apply(board, 2, (ANN, 5, OTHER))) == [Code.APPLIED]
    ahead_ms = shard_map.retry_window_ms
    now = board.call(2, "rb1_find", 0).windows
    then_ms = (now.recent + 1) * ahead_ms + 1
    keys = shard_map.keys(2)
    names = keys.for_function(windows_at(then_ms, ahead_ms))
    board.bare(2, "HSET", names[2], ANN, EVENT)
    board.bare(2, "HSET", keys.head, "touched_ms", then_ms)
    again = apply(board, 2, (ANN, 5, EVENT), (ANN, 5, OTHER), (ANN, 5, b"event-03aa"))
    assert codes(again) == [Code.DUPLICATE, Code.DUPLICATE, Code.APPLIED]
    assert again.windows.recent == now.recent + 1
    assert again.reply[0] == then_ms


def test_a_retry_is_recognised_for_a_whole_window_and_forgotten_after_two(
    leaderboard: Leaderboard, open_board: OpenBoard
) -> None:
    board = RawBoard(leaderboard, open_board(retry_window_ms=2_000))
    wait_for_window(board, board.call(0, "rb1_find", 0).windows.recent + 1)
    first = apply(board, 2, (ANN, 5, EVENT))
    assert codes(first) == [Code.APPLIED]
    wait_for_window(board, first.windows.recent + 1)
    assert codes(apply(board, 2, (ANN, 5, EVENT))) == [Code.DUPLICATE]
    wait_for_window(board, first.windows.recent + 2)
    assert codes(apply(board, 2, (ANN, 5, EVENT))) == [Code.APPLIED]
    kept = {key.rsplit(b":", 1)[1] for key in board.keyspace() if b":recent:" in key}
    assert kept == {b"%d" % (first.windows.recent + 2)}, "what nobody looks at any more has expired"


def test_events_travel_through_the_edge_of_a_window(leaderboard: Leaderboard, open_board: OpenBoard) -> None:
    """Two shards whose clocks do not agree on the hour: neither direction loses an event."""
    board = RawBoard(leaderboard, open_board())
    window = board.call(0, "rb1_find", 0).windows.recent
    for member, shift in ((ANN, 1), (BOB, -1)):
        memory = Memory(window + shift, frozenset({EVENT}), frozenset({OTHER}))
        payload = pack_payload(Leaving(2, PackedScore(0), memory, 2))
        said = board.step(2, "rb1_arrive", member, payload)
        assert next(arrivals(said.reply)).code == Arrive.ARRIVED
    ahead = apply(board, 2, (ANN, 1, EVENT), (ANN, 1, OTHER))
    assert codes(ahead) == [Code.DUPLICATE, Code.DUPLICATE]
    behind = apply(board, 2, (BOB, 1, EVENT), (BOB, 1, OTHER))
    assert codes(behind) == [Code.DUPLICATE, Code.APPLIED], "the other one is from two windows ago"


def test_a_player_has_so_many_events_in_a_window_and_no_more(leaderboard: Leaderboard, open_board: OpenBoard) -> None:
    """The limit holds within one call, too; what is behind it changes nothing, and what was before stays recognised."""
    board = RawBoard(leaderboard, open_board())
    wanted = [(ANN, 1, b"%08d--" % number) for number in range(MOST_RECENT + 10)]
    told = [code for at in range(0, len(wanted), 1000) for code in codes(apply(board, 2, *wanted[at : at + 1000]))]
    assert told == [Code.APPLIED] * MOST_RECENT + [Code.REFUSED] * 10
    assert codes(apply(board, 2, wanted[0], wanted[MOST_RECENT - 1])) == [Code.DUPLICATE] * 2
    assert board.counters(2) == (MOST_RECENT, MOST_RECENT)


def test_a_call_takes_two_thousand_submissions(leaderboard: Leaderboard, open_board: OpenBoard) -> None:
    """More of them would end in the middle of the call; they are refused before it begins."""
    board = RawBoard(leaderboard, open_board())
    many = [(Member(b"p%05d" % number), number - 1000, EVENT) for number in range(2001)]
    before = board.keyspace()
    assert apply(board, 2, *many).refusal == "RBFORM"
    assert board.keyspace() == before
    assert codes(apply(board, 2, *many[:2000])) == [Code.APPLIED] * 2000
    assert board.counters(2) == (2000, sum(value for _, value, _ in many[:2000]))


def test_event_ids_are_found_only_where_they_begin(leaderboard: Leaderboard, open_board: OpenBoard) -> None:
    """Two events whose bytes, side by side, hold the id of a third: it is a new one."""
    board = RawBoard(leaderboard, open_board())
    assert codes(apply(board, 2, (ANN, 1, b"AAAAAabcde"), (ANN, 1, b"fghZZZZZZZ"))) == [Code.APPLIED] * 2
    assert codes(apply(board, 2, (ANN, 1, b"abcdefgh--"))) == [Code.APPLIED]


def test_an_answer_that_rests_on_another_writers_work_is_written_anew(
    leaderboard: Leaderboard, open_board: OpenBoard
) -> None:
    """A WAIT covers what its own connection wrote: so every call that is fenced writes, also if nothing changes."""
    board = RawBoard(leaderboard, open_board())
    slot = board.shard_map.keys(0).slot

    def offset(slot: int) -> int:
        address = leaderboard.client.owner(slot)
        assert address is not None
        info = leaderboard.client.on_primaries(("INFO", "replication"), Deadline.after(10))[address]
        fields = dict(line.split(b":", 1) for line in info.split(b"\r\n") if b":" in line)
        return int(fields[b"master_repl_offset"])

    def writes(slot: int, call: Callable[[], Said]) -> bool:
        before = offset(slot)
        assert call().refusal is None
        return offset(slot) > before

    apply(board, 0, (ANN, 5, EVENT), (BOB, 5, EVENT))
    _, payload = next(departures(board.step(0, "rb1_depart", BOB, 1, 2).reply))
    board.step(2, "rb1_arrive", BOB, payload)
    assert writes(slot, lambda: apply(board, 0, (ANN, 5, EVENT))), "a duplicate"
    assert writes(slot, lambda: apply(board, 0, (BOB, 5, OTHER))), "a player who is leaving"
    assert writes(slot, lambda: board.step(0, "rb1_depart", BOB, 1, 2)), "one who is leaving already"
    assert writes(board.shard_map.keys(2).slot, lambda: board.step(2, "rb1_arrive", BOB, payload)), "who is there"
    bucket_slot, _ = board.shard_map.directory.bucket(ANN)
    board.point([ANN], ANN, 0, 1)
    assert writes(bucket_slot, lambda: board.point([ANN], ANN, 2, 1)), "somebody else's claim"


def test_a_row_that_a_repair_takes_away_leaves_no_memory(leaderboard: Leaderboard, open_board: OpenBoard) -> None:
    """Its place is marked, and the player begins anew: what was applied to it may be applied again."""
    board = RawBoard(leaderboard, open_board())
    packed = next(effects(apply(board, 2, (ANN, 5, EVENT)).reply)).detail
    assert board.call(2, "rb1_repair", pack_notes([NOTE]), ANN, packed, "", 1, OTHER).reply == [1]
    windows = board.call(2, "rb1_find", 0).windows
    assert board.players(windows) == {(2, ANN): Removed(1, Memory(windows.recent))}
    assert codes(board.apply(2, Asked(ANN, 7, EVENT, NOTE, May.BEGIN_ANEW))) == [Code.APPLIED]
    assert board.counters(2) == (2, 7)


def test_several_players_of_one_slot_are_pointed_to_at_once(leaderboard: Leaderboard, open_board: OpenBoard) -> None:
    board = RawBoard(leaderboard, open_board())
    members = [Member(b"p%d" % number) for number in range(40)]
    slot, _ = board.shard_map.directory.bucket(members[0])
    there = [member for member in members if board.shard_map.directory.bucket(member)[0] == slot]
    assert len(there) > 2
    args = [arg for number, member in enumerate(there) for arg in (member, number, number + 1)]
    said = board.point(there, *args)
    assert list(pointed(said.reply)) == [(number, number + 1) for number in range(len(there))]
    again = board.point([there[0], there[0]], there[0], 7, 5, there[0], 8, 4)
    assert list(pointed(again.reply)) == [(7, 5), (7, 5)], "in one call, too, the higher epoch stays"
    assert board.entries(there[:2]) == {there[0]: Entry(7, 5), there[1]: Entry(1, 2)}


def test_equal_points_rank_by_time_then_by_member(leaderboard: Leaderboard, open_board: OpenBoard) -> None:
    """Members are compared by their bytes, whatever the server's locale thinks of upper and lower case."""
    board = RawBoard(leaderboard, open_board())
    members = [Member(name) for name in (b"Zoe", b"ann", b"bob", b"Bob", b"\x00\xff" * 8)]
    wanted = [(member, 5, EVENT) for member in members]
    assert codes(apply(board, 2, *wanted)) == [Code.APPLIED] * len(members)
    placed = board.apply(2, *(Asked(*each, NOTE) for each in wanted), mode=ApplyMode.TELL_PLACES)
    places = {member: effect.place for (member, _, _), effect in zip(wanted, effects(placed.reply), strict=True)}
    assert sorted(members) == sorted(members, key=places.__getitem__)
    packed = next(effects(placed.reply)).detail
    keys = board.shard_map.keys(2)
    for member in members:
        call = Call(keys.slot, ("FCALL_RO", "rb1_ahead", 1, keys.rows, packed, member))
        assert leaderboard.client.execute_one(call, Deadline.after(10)).reply == [places[member]]
