"""Finishing moves that were found: they may be taken back, or long over, and still nobody is there twice."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from runtime.deadlines import Deadline
from sharding.directory import Entry
from sharding.functions import Asked, May, arrivals, departures
from sharding.handoff.mover import leaving
from sharding.handoff.states import Gone, Leaving, Live, Memory, State
from sharding.leaderboard import Leaderboard
from sharding.players import Member
from sharding.shard_map import ShardMap
from sharding.submissions import Note
from tests.stateful.raw_board import RawBoard, pack_payload, read_leaving

pytestmark = pytest.mark.servers

ANN = Member(b"ann")
#: Where more points rank first, shard 0 takes those above 20 and shard 2 those up to 10.
TOP, MIDDLE, BOTTOM = 0, 1, 2


@pytest.fixture
def board(leaderboard: Leaderboard, open_board: Callable[..., ShardMap]) -> RawBoard:
    return RawBoard(leaderboard, open_board([10, 20]))


def submit(board: RawBoard, shard: int, value: int, event: bytes) -> None:
    said = board.apply(shard, Asked(ANN, value, event, Note("m", None, ""), may=May.CREATE))
    assert said.refusal is None


def depart(board: RawBoard, source: int, epoch: int, target: int) -> bytes:
    (_, payload) = next(departures(board.step(source, "rb1_depart", ANN, epoch, target).reply))
    assert isinstance(read_leaving(payload), Leaving)
    return payload


def arrive(board: RawBoard, target: int, payload: bytes, epoch: int) -> None:
    assert next(arrivals(board.step(target, "rb1_arrive", ANN, payload).reply)).epoch == epoch
    board.point([ANN], ANN, target, epoch)


def states(board: RawBoard) -> dict[int, State]:
    windows = board.call(0, "rb1_find", 0).windows
    return {shard: state for (shard, _), state in board.players(windows).items()}


def test_a_departure_that_a_failover_took_back(leaderboard: Leaderboard, board: RawBoard) -> None:
    """The payload was read, then the source came back from a replica that had the row still: one row is left."""
    submit(board, BOTTOM, 15, b"event-01aa")
    (row,) = states(board).values()
    payload = depart(board, BOTTOM, 1, MIDDLE)
    keys = board.shard_map.keys(BOTTOM)
    assert isinstance(row, Live)
    board.bare(BOTTOM, "HDEL", keys.leaving, ANN)
    board.bare(BOTTOM, "ZADD", keys.rows, row.packed, ANN)
    moved = leaderboard.mover.complete(board.shard_map, {ANN: leaving(BOTTOM, payload)}, Deadline.after(10))
    assert moved[ANN].entry == Entry(MIDDLE, 2)
    after = states(board)
    assert after[BOTTOM] == Gone(2, MIDDLE)
    assert isinstance(after[MIDDLE], Live)


def test_a_move_that_lay_unfinished_for_days(leaderboard: Leaderboard, board: RawBoard) -> None:
    """The player arrived, went on, and the tombstone that would tell is gone: the old payload makes no second row."""
    submit(board, BOTTOM, 15, b"event-01aa")
    old = depart(board, BOTTOM, 1, MIDDLE)
    arrive(board, MIDDLE, old, 2)
    submit(board, MIDDLE, 15, b"event-02aa")
    arrive(board, TOP, depart(board, MIDDLE, 2, TOP), 3)
    board.step(MIDDLE, "rb1_finish", ANN, 3)
    windows = board.call(0, "rb1_find", 0).windows
    board.bare(MIDDLE, "UNLINK", board.shard_map.keys(MIDDLE).for_function(windows)[5])
    assert MIDDLE not in states(board)
    left = read_leaving(old)
    days_ago = replace(left, memory=Memory(left.memory.window - 48, left.memory.recent))
    old = pack_payload(days_ago)
    board.bare(BOTTOM, "HSET", board.shard_map.keys(BOTTOM).leaving, ANN, old)
    leaderboard.mover.complete(board.shard_map, {ANN: leaving(BOTTOM, old)}, Deadline.after(10))
    after = states(board)
    assert {shard for shard, state in after.items() if isinstance(state, Live)} == {TOP}
    assert after[BOTTOM] == Gone(2, MIDDLE)
    assert board.entries([ANN]) == {ANN: Entry(TOP, 3)}


def test_a_move_that_somebody_else_finished(leaderboard: Leaderboard, board: RawBoard) -> None:
    """The helper is told where the player went."""
    submit(board, BOTTOM, 15, b"event-01aa")
    payload = depart(board, BOTTOM, 1, MIDDLE)
    arrive(board, MIDDLE, payload, 2)
    board.step(BOTTOM, "rb1_finish", ANN, 2)
    moved = leaderboard.mover.complete(board.shard_map, {ANN: leaving(BOTTOM, payload)}, Deadline.after(10))
    assert moved[ANN].entry == Entry(MIDDLE, 2)


@pytest.mark.parametrize("steps", range(4))
def test_a_move_is_finished_from_wherever_it_stands(leaderboard: Leaderboard, board: RawBoard, steps: int) -> None:
    """After depart, arrive, point or finish: the helper leaves the same state, and it may help again."""
    submit(board, BOTTOM, 15, b"event-01aa")
    payload = depart(board, BOTTOM, 1, MIDDLE)
    begun = [
        lambda: board.step(MIDDLE, "rb1_arrive", ANN, payload),
        lambda: board.point([ANN], ANN, MIDDLE, 2),
        lambda: board.step(BOTTOM, "rb1_finish", ANN, 2),
    ]
    for step in begun[:steps]:
        step()
    for _ in range(2):
        leaderboard.mover.complete(board.shard_map, {ANN: leaving(BOTTOM, payload)}, Deadline.after(10))
        after = states(board)
        assert after[BOTTOM] == Gone(2, MIDDLE)
        assert isinstance(after[MIDDLE], Live)
        assert len(after) == 2
        assert board.entries([ANN]) == {ANN: Entry(MIDDLE, 2)}
