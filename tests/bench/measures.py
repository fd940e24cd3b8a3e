"""What is measured, each beside its floor in the same run. A figure is a pair: ours, and the floor's."""

import itertools
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgpack
import msgspec
import psutil
import redis
from redis.connection import Connection

from bench import load
from cli.ports import free_ports
from cli.stack import Stack
from sharding.boards import BoardPeriod
from sharding.functions import ApplyMode, Asked, May, apply_call
from sharding.keys import ShardKeys, shard_keys, windows_at
from sharding.players import Member, PlayerId, member_of
from sharding.scores import ELAPSED_SPAN
from sharding.slots import key_slot
from sharding.submissions import Submission, pack_notes

CONNECTIONS = 64
#: Submissions in a batch, and connections that send batches.
BATCH, BATCH_CONNECTIONS = 500, 4
#: Submissions in a call, and commands in a pipeline.
_TOGETHER = 100
_CALLS, _TURNS = 200, 5
#: Of the write function's shard: players, their points at most, and how long an event is remembered.
_SHARD_PLAYERS = 50_000
_MOST_POINTS = 5_000
_RECENT_MS = 3_600_000


@dataclass(frozen=True)
class Pair:
    """Ours and the floor's, in units a second; CPU in microseconds a unit, by process, of ours.

    `floor_p99_ms`: where the latency, too, is to be held against the floor's.
    """

    ours: float
    floor: float
    cpu_us: dict[str, float]
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    floor_p99_ms: float = 0.0

    @property
    def ratio(self) -> float:
        return self.ours / self.floor


@dataclass(frozen=True)
class Bench:
    """A running stack with players on its board, and the floor beside it."""

    stack: Stack
    players: list[str]
    floor_url: str
    seconds: float

    @property
    def url(self) -> str:
        return self.stack.state.api_url


@contextmanager
def floor_server(workers: int) -> Iterator[str]:
    """The bare Flask routes, under the same server with as many workers."""
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", str(workers), "-b", f"127.0.0.1:{port}"]
    server = subprocess.Popen(
        [*command, "--worker-connections", "1000", "--keep-alive", "75", "bench.floor:app"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_it_answers(url)
        yield url
    finally:
        server.terminate()
        server.wait(10)


def _wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            load.run(url, itertools.repeat(load.get("/api/v1/scores")), connections=1, seconds=0.05)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def warm_up(bench: Bench) -> None:
    """Let the API learn where the players are and what they are called, as it would have in a day's play."""
    key, size = bench.stack.state.api_key, 500
    chunks = [bench.players[at : at + size] for at in range(0, len(bench.players), size)]
    requests = [load.post("/api/v1/scores/lookup", key, msgspec.json.encode({"user_ids": chunk})) for chunk in chunks]
    load.run(bench.url, itertools.cycle(requests), connections=4, seconds=bench.seconds)


def single_requests(bench: Bench) -> Iterator[bytes]:
    """`POST /scores`, one point for anybody, without end."""
    key, run = bench.stack.state.api_key, random.getrandbits(40)
    for number in itertools.count():
        body = {"user_id": random.choice(bench.players), "score": 1, "match_id": f"bench-{run}-{number}"}
        yield load.post("/api/v1/scores", key, msgspec.json.encode(body))


def batch_requests(bench: Bench) -> Iterator[bytes]:
    """`POST /scores:batch`, likewise."""
    key, run = bench.stack.state.api_key, random.getrandbits(40)
    for number in itertools.count():
        body = [
            {"user_id": player, "score": 1, "match_id": f"batch-{run}-{number}-{index}"}
            for index, player in enumerate(random.choices(bench.players, k=BATCH))
        ]
        yield load.post("/api/v1/scores:batch?results=summary", key, msgspec.json.encode(body))


def submissions(bench: Bench) -> Pair:
    """`POST /scores`, one at a time."""
    return _beside_floor(bench, lambda: single_requests(bench))


def standings(bench: Bench) -> Pair:
    """An exact rank."""
    return _beside_floor(
        bench, lambda: (load.get(f"/api/v1/scores/{random.choice(bench.players)}") for _ in itertools.count())
    )


def tops(bench: Bench) -> Pair:
    """The top ten."""
    return _beside_floor(bench, lambda: itertools.repeat(load.get("/api/v1/scores?limit=10")))


def _beside_floor(bench: Bench, requests: Callable[[], Iterator[bytes]]) -> Pair:
    floor = load.run(bench.floor_url, requests(), connections=CONNECTIONS, seconds=bench.seconds)
    with cpu_spent(bench.stack) as spent:
        ours = load.run(bench.url, requests(), connections=CONNECTIONS, seconds=bench.seconds)
    assert floor.failed == 0, f"{floor.failed} requests to the floor failed"
    assert ours.failed == 0, f"{ours.failed} requests failed"
    return Pair(
        ours.per_s,
        floor.per_s,
        {name: seconds / len(ours.latencies) * 1e6 for name, seconds in spent.items()},
        ours.quantile(0.5) * 1000,
        ours.quantile(0.99) * 1000,
    )


def batches(bench: Bench) -> Pair:
    """`POST /scores:batch`, in submissions a second, beside one node's pipelined ZINCRBY."""
    prepared = list(itertools.islice(batch_requests(bench), 400))
    floor = pipelined_zincrby(bench)
    with cpu_spent(bench.stack) as spent:
        ours = load.run(bench.url, itertools.cycle(prepared), connections=BATCH_CONNECTIONS, seconds=bench.seconds)
    assert ours.failed == 0
    done = len(ours.latencies) * BATCH
    cpu_us = {name: seconds / done * 1e6 for name, seconds in spent.items()}
    return Pair(done / ours.seconds, floor, cpu_us, ours.quantile(0.5) * 1000, ours.quantile(0.99) * 1000)


def pipelined_zincrby(bench: Bench) -> float:
    """`ZINCRBY` a second on one node, 100 in a pipeline, packed beforehand: what a bare sorted set takes.

    One pipeline is always on its way while the replies of another are read, so that the node never waits.
    """
    node = _Node(bench)
    with node.scratch_key() as key:
        members = _members(bench)
        pipelines = [
            node.packed([("ZINCRBY", key, 1, member) for member in random.choices(members, k=_TOGETHER)])
            for _ in range(200)
        ]
        turns = itertools.cycle(pipelines)
        node.send(next(turns))
        done, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < bench.seconds:
            node.send(next(turns))
            node.read(_TOGETHER)
            done += _TOGETHER
        node.read(_TOGETHER)
    return done / passed


def write_function(bench: Bench) -> Pair:
    """`rb1_apply` in batches of 100, in submissions a second of the node's CPU, beside pipelined ZINCRBY's.

    Both on one node, with as many players as a shard has of a million, whose points are spread as in mid-month; all
    played in the hour before, and again two or three times while this goes on. The third figure is of the commands that
    the function cannot do without, in a function that does nothing else.
    """
    node = _Node(bench)
    members = [Member(random.randbytes(16)) for _ in range(_SHARD_PLAYERS)]
    points = {member: random.randrange(_MOST_POINTS) for member in members}
    now_ms = int(time.time() * 1000)
    windows = windows_at(now_ms, _RECENT_MS)
    mine = (
        keys for shard in range(1000) if node.owns((keys := shard_keys(BoardPeriod("bench", "2026-11"), 1, shard)).slot)
    )
    ours, bare = next(mine), next(mine)
    bounds = {"shard": 0, "low": -(2**52), "high": 2**52, "parts": 1, "part": 0, "version": 1, "state": "open"}
    rules = {"start_ms": now_ms - 10**6, "unit_ms": 1000, "sign": -1, "operator": "add", "recent_ms": _RECENT_MS}
    for keys in (ours, bare):
        node.client.hset(keys.head, mapping={**bounds, **rules})
        for part in _together(members, 1000):
            _, _, _, before, *_ = keys.for_function(windows)
            node.client.hset(before, mapping={member: random.randbytes(20) for member in part})
    node.client.function_load(_COMMANDS_ALONE, replace=True)
    ours_us, bare_us, floor_us = [], [], []
    with node.scratch_key() as key:
        for turn in range(_TURNS + 1):
            first = turn == 0  # makes the rows, before any measurement
            wins = list(_together(members if first else random.choices(members, k=_CALLS * _TOGETHER), _TOGETHER))
            worth = [[points[member] if first else 1 for member in together] for together in wins]
            may = May.CREATE if first else May.NOTHING
            calls = [node.packed([_apply_call(ours, *each, may)]) for each in zip(wins, worth, strict=True)]
            pipelines = [
                node.packed(
                    [("ZINCRBY", key, -value * ELAPSED_SPAN, member) for member, value in zip(*each, strict=True)]
                )
                for each in zip(wins, worth, strict=True)
            ]
            ours_us.append(node.cpu_us(calls, 1) / _TOGETHER)
            floor_us.append(node.cpu_us(pipelines, _TOGETHER) / _TOGETHER)
            alone = [node.packed([_commands_alone(bare, together, points, first)]) for together in wins]
            bare_us.append(node.cpu_us(alone, 1) / _TOGETHER)
            node.client.delete(ours.outbox)
            node.client.delete(bare.outbox)
    node.client.function_delete(_COMMANDS_ALONE_NAME)
    for keys in (ours, bare):
        node.client.delete(*keys.for_function(windows))
    us, alone_us, floor = (statistics.median(figures[1:]) for figures in (ours_us, bare_us, floor_us))
    return Pair(1e6 / us, 1e6 / floor, {"redis": us, "its commands alone": alone_us, "`ZINCRBY`": floor})


def _together(members: list[Member], count: int) -> Iterator[list[Member]]:
    return (members[at : at + count] for at in range(0, len(members), count))


def _apply_call(keys: ShardKeys, members: list[Member], values: list[int], may: May) -> tuple[Any, ...]:
    note = Submission(PlayerId("x"), 1, random.randbytes(8).hex()).note()
    each = zip(members, values, strict=True)
    asked = [Asked(member, value, random.randbytes(10), note, may=may) for member, value in each]
    call = apply_call(keys, asked, outbox_limit=10**9, mode=ApplyMode.PLAIN)
    return _function_call(keys, call.function, *call.args)


#: Reads and writes what rb1_apply does, with arguments that were made beforehand.
_COMMANDS_ALONE_NAME = "bench"
_COMMANDS_ALONE = f"""#!lua name={_COMMANDS_ALONE_NAME}
redis.register_function('bench_commands_alone', function(keys, args)
  local members = cmsgpack.unpack(args[3])
  redis.call('ZMSCORE', keys[1], unpack(members))
  redis.call('HMGET', keys[3], unpack(members))
  redis.call('HMGET', keys[4], unpack(members))
  redis.call('ZADD', keys[1], unpack(cmsgpack.unpack(args[4])))
  redis.call('HSET', keys[3], unpack(cmsgpack.unpack(args[5])))
  redis.call('XADD', keys[8], '*', 's', args[5], 'n', args[6], 'r', args[3])
  return 1
end)
"""


def _commands_alone(keys: ShardKeys, members: list[Member], points: dict[Member, int], first: bool) -> tuple[Any, ...]:
    """The same on another shard; `points` are of before, and count the wins."""
    rows: list[int | bytes] = []
    for member in members:
        points[member] += not first
        rows += (-points[member] * ELAPSED_SPAN, member)
    events = [part for member in members for part in (member, random.randbytes(10 if first else 20))]
    notes = pack_notes([Submission(PlayerId("x"), 1, random.randbytes(8).hex()).note()] * len(members))
    lists = (msgpack.packb(each, use_bin_type=False) for each in (members, rows, events))
    return _function_call(keys, "bench_commands_alone", *lists, notes)


def _function_call(keys: ShardKeys, function: str, *args: Any) -> tuple[Any, ...]:
    windows = windows_at(int(time.time() * 1000), _RECENT_MS)
    named = keys.for_function(windows)
    return ("FCALL", function, len(named), *named, windows.recent, windows.gone, *args)


def _members(bench: Bench) -> list[Member]:
    return [member_of(PlayerId(player)) for player in bench.players]


class _Node:
    """One primary of the stack, spoken to in commands that were packed beforehand."""

    def __init__(self, bench: Bench) -> None:
        port = next(iter(bench.stack.state.redis_ports.values()))
        self.client = redis.Redis(port=port)
        self._connection = Connection(port=port, protocol=2)
        self._connection.connect()
        self._slots = {
            slot
            for first, last, holder, *_ in self.client.execute_command("CLUSTER SLOTS")
            if holder[1] == port
            for slot in range(first, last + 1)
        }

    def owns(self, slot: int) -> bool:
        return slot in self._slots

    @contextmanager
    def scratch_key(self) -> Iterator[str]:
        """A key that this node owns, removed at the end."""
        key = next(name for number in range(100_000) if self.owns(key_slot((name := f"bench:{number}").encode())))
        try:
            yield key
        finally:
            self.client.delete(key)

    def packed(self, commands: list[tuple[Any, ...]]) -> list[bytes]:
        return self._connection.pack_commands(commands)  # type: ignore[no-any-return,no-untyped-call]

    def send(self, packed: list[bytes]) -> None:
        self._connection.send_packed_command(packed)

    def read(self, replies: int) -> None:
        for _ in range(replies):
            self._connection.read_response()

    def cpu_us(self, messages: list[list[bytes]], replies: int) -> float:
        """The node's CPU a message, in microseconds."""
        before = self._cpu_s()
        for message in messages:
            self.send(message)
            self.read(replies)
        return (self._cpu_s() - before) / len(messages) * 1e6

    def _cpu_s(self) -> float:
        """Told by the node itself: what the system tells of a process is whole hundredths of a second."""
        spent = self.client.info("cpu")
        return float(spent["used_cpu_user"] + spent["used_cpu_sys"])


@contextmanager
def cpu_spent(stack: Stack) -> Iterator[dict[str, float]]:
    """CPU seconds that the stack's processes spend inside the block, by kind of process."""
    spent: dict[str, float] = {}
    before = _cpu_now(stack)
    yield spent
    for name, seconds in _cpu_now(stack).items():
        kind = name.partition("-")[0]
        spent[kind] = spent.get(kind, 0.0) + seconds - before.get(name, 0.0)


def _cpu_now(stack: Stack) -> dict[str, float]:
    seconds = {}
    for name, pid in stack.status()["pids"].items():
        if name == "supervisord":
            continue
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        seconds[name] = sum(sum(process.cpu_times()[:2]) for process in family)
    return seconds
