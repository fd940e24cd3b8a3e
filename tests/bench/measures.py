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
from sharding.slots import key_slot
from sharding.submissions import Submission

CONNECTIONS = 64
#: Submissions in a batch, and connections that send batches.
BATCH, BATCH_CONNECTIONS = 500, 4
#: Submissions in a call, and commands in a pipeline.
_TOGETHER = 100
_CALLS, _TURNS = 200, 5


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
    """`ZINCRBY` a second on one node, 100 in a pipeline, packed beforehand: what a bare sorted set takes."""
    node = _Node(bench)
    with node.scratch_key() as key:
        members = _members(bench)
        pipelines = [
            node.packed([("ZINCRBY", key, 1, member) for member in random.choices(members, k=_TOGETHER)])
            for _ in range(200)
        ]
        done, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < bench.seconds:
            node.send(pipelines[done // _TOGETHER % len(pipelines)], _TOGETHER)
            done += _TOGETHER
    return done / passed


def write_function(bench: Bench) -> Pair:
    """`rb1_apply` in batches of 100, in submissions a second of the node's CPU, beside pipelined ZINCRBY's."""
    node = _Node(bench)
    members = _members(bench)
    members = members[: len(members) // _TOGETHER * _TOGETHER]
    now_ms = int(time.time() * 1000)
    keys = next(
        keys for shard in range(1000) if node.owns((keys := shard_keys(BoardPeriod("bench", "2026-11"), 1, shard)).slot)
    )
    bounds = {"shard": 0, "low": -(2**52), "high": 2**52, "parts": 1, "part": 0, "version": 1, "state": "open"}
    rules = {"start_ms": now_ms - 10**6, "unit_ms": 1000, "sign": -1, "operator": "add", "recent_ms": 3_600_000}
    node.client.hset(keys.head, mapping={**bounds, **rules})
    with node.scratch_key() as key:
        ours_us, floor_us = [], []
        for number in range(_TURNS + 1):
            if number == 0:  # the rows, before any measurement
                wins = [members[at : at + _TOGETHER] for at in range(0, len(members), _TOGETHER)]
            else:
                wins = [random.choices(members, k=_TOGETHER) for _ in range(_CALLS)]
            calls = [node.packed([_apply_call(keys, together)]) for together in wins]
            pipelines = [node.packed([("ZINCRBY", key, 1, member) for member in together]) for together in wins]
            ours_us.append(node.cpu_us(calls, 1) / _TOGETHER)
            floor_us.append(node.cpu_us(pipelines, _TOGETHER) / _TOGETHER)
            node.client.delete(keys.outbox)
        node.client.delete(*keys.for_function(windows_at(now_ms, 3_600_000)))
    ours, floor = statistics.median(ours_us[1:]), statistics.median(floor_us[1:])
    return Pair(1e6 / ours, 1e6 / floor, {"redis": ours})


def _apply_call(keys: ShardKeys, members: list[Member]) -> tuple[Any, ...]:
    windows = windows_at(int(time.time() * 1000), 3_600_000)
    named = keys.for_function(windows)
    note = Submission(PlayerId("x"), 1, random.randbytes(8).hex()).note()
    asked = [Asked(member, 1, random.randbytes(10), note, may=May.CREATE) for member in members]
    call = apply_call(keys, asked, outbox_limit=10**9, mode=ApplyMode.PLAIN)
    return ("FCALL", call.function, len(named), *named, windows.recent, windows.gone, *call.args)


def _members(bench: Bench) -> list[Member]:
    return [member_of(PlayerId(player)) for player in bench.players]


class _Node:
    """One primary of the stack, spoken to in commands that were packed beforehand."""

    def __init__(self, bench: Bench) -> None:
        name, port = next(iter(bench.stack.state.redis_ports.items()))
        self._process = psutil.Process(bench.stack.status()["pids"][name])
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

    def send(self, packed: list[bytes], replies: int) -> None:
        self._connection.send_packed_command(packed)
        for _ in range(replies):
            self._connection.read_response()

    def cpu_us(self, messages: list[list[bytes]], replies: int) -> float:
        """The node's CPU a message, in microseconds."""
        before = sum(self._process.cpu_times()[:2])
        for message in messages:
            self.send(message, replies)
        return (sum(self._process.cpu_times()[:2]) - before) / len(messages) * 1e6


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
