"""What is measured, each beside its floor in the same run. A figure is a pair: ours, and the floor's."""

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice

import msgspec
import redis
from waiting import wait_until

from bench import cpu, load
from bench.node import Node
from bench.population import Population, in_chunks
from cli.ports import free_ports
from cli.stack import Stack
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, period_at
from sharding.players import Member, PlayerId, member_of
from sharding.shard_map import ShardMap

CONNECTIONS = 64
#: Submissions in a batch, and connections that send batches.
BATCH, BATCH_CONNECTIONS = 500, 4
#: Requests that lie ready, for each second that is measured: more than any server here answers.
REQUESTS_PER_S, BATCHES_PER_S = 10_000, 400
#: Submissions in a call, and commands in a pipeline.
TOGETHER = 100
#: Pipelines that lie ready; between them they name each player who plays.
_PIPELINES = 1_000
_LOADED_TOGETHER = 1_000
_LOOKED_UP_TOGETHER = 500
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class Pair:
    """Ours and the floor's, in units a second; CPU in microseconds a unit, by part, of ours.

    `floor_p99_ms`: where the latency, too, is to be held against the floor's. `driver`: how much of a core the load
    generator needed, for ours or for the floor, whichever was more.
    """

    ours: float
    floor: float
    cpu_us: dict[str, float]
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    floor_p99_ms: float = 0.0
    driver: float = 0.0

    @property
    def ratio(self) -> float:
        return self.ours / self.floor


@dataclass(frozen=True, eq=False)
class Bench:
    """A running stack with players on its board, and the floor beside it. `players`: those who play."""

    stack: Stack
    leaderboard: Leaderboard
    population: Population
    players: Sequence[PlayerId]
    floor_url: str
    seconds: float

    @property
    def url(self) -> str:
        return self.stack.state.api_url

    def shard_map(self) -> ShardMap:
        """The current one of the global board."""
        name = BoardPeriod("global", period_at(PeriodKind.MONTH, datetime.now(UTC)).name)
        return self.leaderboard.maps.published(name, Deadline.after(_PATIENCE_S))

    @cached_property
    def node(self) -> Node:
        """One primary: what is measured of a single node is measured there."""
        return Node(self.stack)

    @cached_property
    def floor_set(self) -> str:
        """The key of a bare sorted set on that node that has everybody on the board, with their points."""
        key = self.node.key("bench")
        for chunk in in_chunks(self.population.everybody(), _LOADED_TOGETHER):
            self.node.call(("ZADD", key, *(part for one in chunk for part in (one.points, member_of(one.player)))))
        self.wait_until_nodes_rest()
        return key

    def wait_until_nodes_rest(self) -> None:
        """Return once no node rewrites its append-only file, as it does after it has been loaded."""
        wait_until(lambda: nodes_rest(self.stack), _PATIENCE_S, "nodes have written down what was loaded")

    def close(self) -> None:
        """End the connection to the node."""
        if "node" in self.__dict__:
            self.node.close()


def nodes_rest(stack: Stack) -> bool:
    """Whether no node rewrites its append-only file, or writes a snapshot."""
    for node in stack.status()["redis"]:
        with redis.Redis(port=node["port"]) as client:
            told = client.info("persistence")
        if told["aof_rewrite_in_progress"] or told["aof_rewrite_scheduled"] or told["rdb_bgsave_in_progress"]:
            return False
    return True


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


def warm_up(bench: Bench, workers: int) -> None:
    """Let the API learn of the rebuilt board, where the players are and what they are called, as in a day's play.

    Of several worker processes each must be asked, and nobody can choose which one answers: hence more than once each.
    """
    wait_until(lambda: _is_taken(bench, 10 * workers), _PATIENCE_S, "the API has the map of the rebuilt board")
    key = bench.stack.state.api_key
    requests = [
        load.post("/api/v1/scores/lookup", key, msgspec.json.encode({"user_ids": chunk}))
        for chunk in in_chunks(bench.players, _LOOKED_UP_TOGETHER)
    ]
    passes = 1 if workers == 1 else 2 * workers
    done = load.run(bench.url, iter(requests * passes), connections=4 * workers, seconds=_PATIENCE_S)
    assert not done.failed, f"{done.failed} lookups failed"
    assert len(done.latencies) == len(requests) * passes, "the players are not known to the process"


def _is_taken(bench: Bench, submissions: int) -> bool:
    seen = load.run(bench.url, single_requests(bench), connections=submissions, seconds=_PATIENCE_S, most=submissions)
    return not seen.failed


def single_requests(bench: Bench) -> Iterator[bytes]:
    """`POST /scores`, one point for anybody, without end; no match id comes twice."""
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
    return _beside_floor(bench, lambda: single_requests(bench), submit=True)


def standings(bench: Bench) -> Pair:
    """An exact rank."""
    return _beside_floor(
        bench, lambda: (load.get(f"/api/v1/scores/{random.choice(bench.players)}") for _ in itertools.count())
    )


def tops(bench: Bench) -> Pair:
    """The top ten."""
    return _beside_floor(bench, lambda: itertools.repeat(load.get("/api/v1/scores?limit=10")))


def _beside_floor(bench: Bench, requests: Callable[[], Iterator[bytes]], *, submit: bool = False) -> Pair:
    ready, others = (list(islice(requests(), int(REQUESTS_PER_S * bench.seconds))) for _ in range(2))
    floor = load.run(bench.floor_url, iter(others), connections=CONNECTIONS, seconds=bench.seconds)
    with cpu.cpu_spent(bench.stack, bench.leaderboard if submit else None) as spent:
        ours = load.run(bench.url, iter(ready), connections=CONNECTIONS, seconds=bench.seconds)
    assert floor.failed == 0, f"{floor.failed} requests to the floor failed"
    require_applied(ours, 1 if submit else 0)
    return Pair(
        ours.per_s,
        floor.per_s,
        cpu.each(spent, len(ours.latencies)),
        ours.quantile(0.5) * 1000,
        ours.quantile(0.99) * 1000,
        driver=max(ours.busy, floor.busy),
    )


def batches(bench: Bench) -> Pair:
    """`POST /scores:batch`, in submissions a second, beside one node's pipelined ZINCRBY of the same players."""
    floor, driver = _pipelined_zincrby(bench)
    ready = list(islice(batch_requests(bench), int(BATCHES_PER_S * bench.seconds)))
    with cpu.cpu_spent(bench.stack, bench.leaderboard) as spent:
        ours = load.run(bench.url, iter(ready), connections=BATCH_CONNECTIONS, seconds=bench.seconds)
    require_applied(ours, BATCH)
    return Pair(
        ours.per_s * BATCH,
        floor,
        cpu.each(spent, ours.applied),
        ours.quantile(0.5) * 1000,
        ours.quantile(0.99) * 1000,
        driver=max(ours.busy, driver),
    )


def require_applied(seen: load.Measured, each: int) -> None:
    """AssertionError unless every request was answered, and its answer says that so many submissions were applied."""
    assert seen.failed == 0, f"{seen.failed} requests failed, the first with {seen.complaint!r}"
    assert seen.latencies, "nothing was answered"
    assert seen.applied == each * len(seen.latencies), f"{seen.applied:,} applied in {len(seen.latencies):,} requests"


def increments(bench: Bench, members: Sequence[Member]) -> bytes:
    """A pipeline that gives a point to each of these members of the bare sorted set."""
    return bench.node.packed([("ZINCRBY", bench.floor_set, 1, member) for member in members])


def _pipelined_zincrby(bench: Bench) -> tuple[float, float]:
    """`ZINCRBY` a second on one node, 100 in a pipeline: what a bare sorted set takes; and the driver's part of a core.

    One pipeline is always on its way while the replies of another are read, so that the node never waits.
    """
    node = bench.node
    members = [member_of(player) for player in bench.players]
    turns = itertools.cycle([increments(bench, random.choices(members, k=TOGETHER)) for _ in range(_PIPELINES)])
    node.send(next(turns))
    done, busy, start = 0, time.process_time(), time.perf_counter()
    while (passed := time.perf_counter() - start) < bench.seconds:
        node.send(next(turns))
        node.read(TOGETHER)
        done += TOGETHER
    busy = time.process_time() - busy
    node.read(TOGETHER)
    return done / passed, busy / passed
