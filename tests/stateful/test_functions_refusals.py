"""A move that is refused changes nothing, is counted by why, and is logged with the player and the shard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from runtime.deadlines import Deadline
from sharding.directory import Entry
from sharding.errors import ShardUnavailable
from sharding.functions import Payload
from sharding.handoff.mover import Leaving as Found
from sharding.handoff.refusals import Why, refused_moves
from sharding.handoff.states import Leaving, Memory
from sharding.leaderboard import Leaderboard, RankMode
from sharding.players import Member, PlayerId
from sharding.scores import Order, pack
from sharding.shard_map import Range, ShardMap
from sharding.submissions import Status, Submission
from tests.stateful.raw_board import RawBoard, pack_payload

pytestmark = pytest.mark.servers

ANN = Member(b"ann")
#: Of two ranges the lower one, whose row is a stray here; the upper one; and no shard of the board.
SOURCE, TARGET, NO_SHARD = 1, 0, 7
STRAY = pack(15, 0, Order.DESC)


@pytest.fixture
def board(leaderboard: Leaderboard, open_board: Callable[..., ShardMap]) -> RawBoard:
    """Ann has 5 points in the lower shard, and its row says 15."""
    board = RawBoard(leaderboard, open_board([10]))
    leaderboard.submit(
        board.shard_map.name, [Submission(PlayerId("ann"), 5, "m0")], Deadline.after(5), rank=RankMode.NONE
    )
    board.bare(SOURCE, "ZADD", board.shard_map.keys(SOURCE).rows, STRAY, ANN)
    return board


@contextmanager
def refused(board: RawBoard, why: Why, shard: int) -> Iterator[None]:
    """The block changes nothing, and one refusal is told of."""

    def told() -> object:
        keys = {key: kept for key, kept in board.keyspace().items() if not key.endswith(b":head")}  # those are touched
        return keys, board.counters(SOURCE), board.counters(TARGET)

    before, counted = told(), refused_moves.labels(why)._value.get()
    with capture_logs() as logs:
        yield
    assert told() == before
    assert refused_moves.labels(why)._value.get() == counted + 1
    events = [entry for entry in logs if entry["event"] == "handoff_refused"]
    assert [(one["why"], one["player"], one["shard"]) for one in events] == [(why, "ann", shard)]


def left(board: RawBoard, payload: bytes) -> None:
    """Let Ann be on the way out with this payload."""
    keys = board.shard_map.keys(SOURCE)
    board.bare(SOURCE, "ZREM", keys.rows, ANN)
    board.bare(SOURCE, "HSET", keys.leaving, ANN, payload)


def test_a_departure_for_an_unknown_shard(leaderboard: Leaderboard, board: RawBoard) -> None:
    """By a map that nobody published."""
    lower = board.shard_map.ranges[1]
    upper = Range(board.shard_map.ranges[0].low, lower.low, (NO_SHARD,))
    forged = replace(board.shard_map, ranges=(upper, lower))
    with refused(board, Why.UNKNOWN_SHARD, SOURCE):
        assert leaderboard.mover.move(forged, {ANN: (Entry(SOURCE, 1), STRAY)}, Deadline.after(5)) == {}


@pytest.mark.parametrize(("target", "why"), [(NO_SHARD, Why.UNKNOWN_SHARD), (TARGET, Why.NO_HEAD)])
def test_an_arrival_where_there_is_no_shard(leaderboard: Leaderboard, board: RawBoard, target: int, why: Why) -> None:
    left(board, pack_payload(Leaving(2, STRAY, Memory(), target)))
    board.bare(TARGET, "UNLINK", board.shard_map.keys(TARGET).head)
    with refused(board, why, target):
        leaderboard.rebalancer.sweep(board.shard_map, Deadline.after(5))


def test_a_departure_under_an_epoch_from_the_future(leaderboard: Leaderboard, board: RawBoard) -> None:
    with refused(board, Why.EPOCH, SOURCE):
        assert leaderboard.mover.move(board.shard_map, {ANN: (Entry(SOURCE, 9), STRAY)}, Deadline.after(5)) == {}


@pytest.mark.parametrize(
    "payload",
    [pack_payload(Leaving(2, STRAY, Memory(), TARGET), version=2), b"\xc1", b""],
    ids=["another version", "no form", "nothing"],
)
@pytest.mark.parametrize("meet", ["mover", "reader", "writer"])
def test_a_payload_that_cannot_be_read(leaderboard: Leaderboard, board: RawBoard, payload: bytes, meet: str) -> None:
    """Whoever meets it tells of it, and leaves the player to a process that knows better."""
    left(board, payload)
    name = board.shard_map.name
    with refused(board, Why.PAYLOAD, SOURCE):
        if meet == "mover":
            found = Found(SOURCE, payload, Payload(STRAY, 2, TARGET))
            assert leaderboard.mover.complete(board.shard_map, {ANN: found}, Deadline.after(5)) == {}
        elif meet == "reader":
            with pytest.raises(ShardUnavailable):
                leaderboard.reader.find(board.shard_map, PlayerId("ann"), Deadline.after(5))
        else:
            submission = Submission(PlayerId("ann"), 1, "m1")
            (result,) = leaderboard.submit(name, [submission], Deadline.after(5), rank=RankMode.NONE)
            assert result.status is Status.REFUSED


def test_a_payload_that_its_target_cannot_read(leaderboard: Leaderboard, board: RawBoard) -> None:
    """Epochs end at 2^31."""
    payload = pack_payload(Leaving(2**31, STRAY, Memory(), TARGET))
    left(board, payload)
    with refused(board, Why.PAYLOAD, TARGET):
        found = Found(SOURCE, payload, Payload(STRAY, 2**31, TARGET))
        leaderboard.mover.complete(board.shard_map, {ANN: found}, Deadline.after(5))
