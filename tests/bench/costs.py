"""`make costs`: measures what the capacity plan rests on, and writes it to loadtest/costs.json.

    PYTHONPATH=tests python -m bench.costs --players 100000 1000000 --seconds 10

For each size of board a stack of its own. CPU time is that of the largest measured now. Bytes in Redis are those of the
largest that the file knows: a million players take their time to seed, and their bytes change with no speed. What a
read costs more for every shard that has to be asked comes from two more stacks, of few and of many shards.

Beat sleeps while the load runs, so that no task of the workers is counted as the load's. The outboxes fill meanwhile
and are then drained by this process, with the worker's own code: what that takes is the worker's cost of a row.
"""

import argparse
import itertools
import os
import platform
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
import psutil
from rich.console import Console
from sqlalchemy import Engine

from bench import load
from bench.sizes import Sizes
from cli.options import settings_of_command
from cli.seed import seed
from cli.stack import Stack
from cli.temporary import temporary_stack
from loadtest.costs import Costs, Measured, MemoryOfBoard, measured
from loadtest.processes import cpu_seconds, parts_of, spent
from loadtest.workload import Workload
from records import partitions, snapshots
from records.engine import connect
from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, period_at
from sharding.shard_map import ShardMap
from workers.draining import drain_now

FILE = Path(__file__).parents[2] / "loadtest" / "costs.json"
CONNECTIONS = 64
BATCH = 500
SHARDS, MANY_SHARDS = 16, 64
EVENT_BYTES = 10
STEPS_OF_A_MOVE = 3  # depart, arrive, finish: a head counts each
_ENOUGH_PLAYERS = 50_000
_QUIET_S = 1.5
_DEADLINE_S = 300.0

console = Console()


@dataclass(frozen=True)
class Cost:
    """CPU microseconds of one unit, by part of the stack, and how many bytes of outbox it left behind."""

    us: dict[str, float]
    moves: float
    outbox_bytes: float


class Measuring:
    """A seeded stack whose beat sleeps."""

    def __init__(self, stack: Stack, engine: Engine, leaderboard: Leaderboard, shard_map: ShardMap) -> None:
        self._stack = stack
        self.engine = engine
        self._leaderboard = leaderboard
        self._map = shard_map
        self._parts = parts_of(stack.status())
        self.sizes = Sizes([node["port"] for node in stack.status()["redis"] if node["role"] == "primary"])
        with engine.connect() as connection:
            sample = f"SELECT user_id FROM games GROUP BY user_id LIMIT {_ENOUGH_PLAYERS}"
            self.players = [row[0] for row in connection.exec_driver_sql(sample)]
        self._run = random.getrandbits(40)

    # -- loads

    def singles(self, seconds: float, highest: int = 1) -> Cost:
        """Submissions one by one, each of 1 to `highest` points."""

        def requests() -> Iterator[bytes]:
            for number in itertools.count():
                body = self._submission(f"{highest}-{number}", random.randint(1, highest))
                yield load.post("/api/v1/scores", self._key, msgspec.json.encode(body))

        return self._cost(requests(), 1, CONNECTIONS, seconds, drains=True)

    def batches(self, seconds: float) -> Cost:
        """Submissions in batches."""

        def requests() -> Iterator[bytes]:
            for number in itertools.count():
                body = [self._submission(f"batch-{number}-{index}", 1) for index in range(BATCH)]
                yield load.post("/api/v1/scores:batch?results=summary", self._key, msgspec.json.encode(body))

        return self._cost(requests(), BATCH, 4, seconds, drains=True)

    def reads(self, seconds: float) -> Cost:
        """Reads as the workload mixes them."""
        mix = Workload().reads
        kinds = random.choices(list(mix), weights=list(mix.values()), k=10_000)

        def requests() -> Iterator[bytes]:
            for kind in itertools.cycle(kinds):
                yield self._read(kind)

        return self._cost(requests(), 1, CONNECTIONS, seconds, drains=False)

    def _read(self, kind: str) -> bytes:
        player = random.choice(self.players)
        match kind:
            case "rank":
                return load.get(f"/api/v1/scores/{player}")
            case "neighbours":
                return load.get(f"/api/v1/scores/{player}/surrounding")
            case "top":
                return load.get("/api/v1/scores?limit=10")
            case "lookup":
                body = {"user_ids": list(dict.fromkeys(random.choices(self.players, k=20)))}
                return load.post("/api/v1/scores/lookup", self._key, msgspec.json.encode(body))
        raise ValueError(kind)

    def _submission(self, match: str, score: int) -> dict[str, object]:
        return {"user_id": random.choice(self.players), "score": score, "match_id": f"{self._run}-{match}"}

    @property
    def _key(self) -> str:
        return self._stack.state.api_key

    def _cost(self, requests: Iterator[bytes], size: int, connections: int, seconds: float, *, drains: bool) -> Cost:
        moves, before = self._moves(), cpu_seconds(self._parts)
        done = load.run(self._stack.state.api_url, requests, connections=connections, seconds=seconds)
        assert not done.failed, f"{done.failed} requests failed"
        units = size * len(done.latencies)
        outbox = self.sizes.by_kind()["outbox"] if drains else 0.0
        cpu = spent(before, cpu_seconds(self._parts))
        if drains:
            cpu = self._drained(cpu)
        us = {part: seconds / units * 1e6 for part, seconds in cpu.items()}
        return Cost(us, (self._moves() - moves) / units, outbox / units)

    def _drained(self, cpu: dict[str, float]) -> dict[str, float]:
        """The CPU seconds of a load, and of storing what it left in the outboxes: `worker` is this process."""
        before, own = cpu_seconds(self._parts), time.process_time()
        drain_now(self._leaderboard, self.engine, self._map, Deadline.after(_DEADLINE_S))
        own = time.process_time() - own
        drain = spent(before, cpu_seconds(self._parts))
        primaries = cpu["redis primaries"] + drain["redis primaries"]
        return {"api": cpu["api"], "redis primaries": primaries, "worker": own, "postgres": drain["postgres"]}

    # -- sizes

    def memory(self, seeded: int, told: float) -> MemoryOfBoard:
        """Bytes per player of the board, and of one entry of each kind of key."""
        sizes, counts, bare = self.sizes.by_kind(), self.sizes.counts(), self.sizes.bare()
        players = int(counts["rows"])
        events = counts["events"] * EVENT_BYTES
        each = {kind: sizes[kind] / counts[kind] for kind in ("rows", "directory", "epochs", "gone")}
        each["recent"] = (sizes["recent"] - events) / counts["recent"]
        return MemoryOfBoard(
            on=_today(),
            seeded=seeded,
            players=players,
            by_kind={kind: round(size / players, 2) for kind, size in sorted(sizes.items())},
            each={kind: round(size, 2) for kind, size in each.items()},
            bare=round(bare / players, 2),
            told=round(told / players, 2),
        )

    def _moves(self) -> float:
        return self.sizes.moves() / STEPS_OF_A_MOVE

    def disk(self) -> dict[str, float]:
        """Bytes of a row of each table, with its indexes."""
        partitions.ensure(self.engine, {date(2020, 1, 1)})
        ranking = [(player, len(self.players) - place) for place, player in enumerate(self.players)]
        snapshots.copy_shard(self.engine, "global", "2020-01", 0, 1, [ranking])
        return {table: self._per_row(table) for table in ("games", "users", "leaderboard_snapshots")}

    def _per_row(self, table: str) -> float:
        size = f"SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('{table}') WHERE isleaf"
        if table == "users":
            size = "SELECT pg_total_relation_size('users')"
        with self.engine.connect() as connection:
            total = connection.exec_driver_sql(size).scalar_one()
            rows = connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
        return float(total / rows)


@contextmanager
def seeded(settings: Settings, players: int) -> Iterator[tuple[Measuring, float]]:
    """A stack with so many players, and how much the memory of its primaries grew by them."""
    with temporary_stack(settings) as stack:
        engine = connect(stack.settings.postgres_dsn)
        leaderboard = Leaderboard.connect(stack.settings, known_players=lambda _, asked: asked)
        name = BoardPeriod("global", period_at(PeriodKind.MONTH, datetime.now(UTC)).name)
        shard_map = leaderboard.maps.current(name, Deadline.after(5))
        try:
            empty = Measuring(stack, engine, leaderboard, shard_map).sizes.used()
            console.print(f"Seeding {players:,} players …")
            seed(engine, leaderboard, players, 2 * players, lambda *_: None, rng=random.Random(1))
            measuring = Measuring(stack, engine, leaderboard, shard_map)
            with beat_asleep(stack):
                yield measuring, measuring.sizes.used() - empty
        finally:
            leaderboard.close()
            engine.dispose()


@contextmanager
def beat_asleep(stack: Stack) -> Iterator[None]:
    """Until the block ends no task is due, and none runs."""
    pids = stack.status()["pids"]
    beat = psutil.Process(pids["beat"])
    beat.suspend()
    try:
        deadline, before, quiet_since = time.monotonic() + _DEADLINE_S, -1.0, time.monotonic()
        while time.monotonic() - quiet_since < _QUIET_S:
            assert time.monotonic() < deadline, "the workers do not come to rest"
            now = cpu_seconds({"worker": [pids["worker"]]})["worker"]
            if now - before > 0.02:
                before, quiet_since = now, time.monotonic()
            time.sleep(0.1)
        yield
    finally:
        beat.resume()


def reads_over(settings: Settings, shards: int, players: int, seconds: float) -> Cost:
    """The cost of reads from a board of so many shards."""
    with seeded(msgspec.structs.replace(settings, shards=shards), players) as (here, _):
        return here.reads(seconds)


def measure(settings: Settings, players: int, seconds: float, slope: dict[str, float]) -> tuple[Costs, MemoryOfBoard]:
    """Everything, on a board of this size. `slope`: what a read costs more for a shard more."""
    with seeded(settings, players) as (here, told):
        singles = here.singles(seconds)
        moving = here.singles(seconds, highest=200)
        batches = here.batches(seconds)
        reads = here.reads(seconds)
        board = here.memory(players, told)
        disk = here.disk()

    def of_move(part: str) -> float:
        return (moving.us[part] - singles.us[part]) / (moving.moves - singles.moves)

    costs = {
        "api_us_per_submission": singles.us["api"] - singles.moves * of_move("api"),
        "api_us_per_batched": batches.us["api"] - batches.moves * of_move("api"),
        "api_us_per_move": of_move("api"),
        "api_us_per_read": reads.us["api"],
        "api_us_per_read_and_shard": slope["api"],
        "primary_us_per_submission": singles.us["redis primaries"] - singles.moves * of_move("redis primaries"),
        "primary_us_per_batched": batches.us["redis primaries"] - batches.moves * of_move("redis primaries"),
        "primary_us_per_move": of_move("redis primaries"),
        "primary_us_per_read": reads.us["redis primaries"],
        "primary_us_per_read_and_shard": slope["redis primaries"],
        "worker_us_per_row": batches.us["worker"],
        "postgres_us_per_row": batches.us["postgres"],
        **_bytes_of(board),
        "bytes_per_outbox_row": singles.outbox_bytes,
        "bytes_per_game": disk["games"],
        "bytes_per_user": disk["users"],
        "bytes_per_snapshot": disk["leaderboard_snapshots"],
    }
    return msgspec.convert({name: round(value, 2) for name, value in costs.items()}, Costs), board


def _bytes_of(board: MemoryOfBoard) -> dict[str, float]:
    """The costs that the memory of a board tells."""
    return {
        "bytes_per_row": board.each["rows"],
        "bytes_per_entry": board.each["directory"],
        "bytes_per_epoch": board.each["epochs"],
        "bytes_per_tombstone": board.each["gone"],
        "bytes_per_recent_player": board.each["recent"],
        "bytes_per_recent_event": EVENT_BYTES,
    }


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--players", type=int, nargs="+", default=[100_000], help="sizes of board")
    ask.add_argument("--seconds", type=float, default=10.0, help="of each load")
    ask.add_argument("--to", type=Path, default=FILE)
    wanted = ask.parse_args()
    settings = msgspec.structs.replace(settings_of_command("costs"), shards=SHARDS)
    sizes = sorted(wanted.players)
    few, many = (reads_over(settings, shards, sizes[0], wanted.seconds) for shards in (SHARDS, MANY_SHARDS))
    slope = {part: (many.us[part] - few.us[part]) / (MANY_SHARDS - SHARDS) for part in few.us}
    results = [measure(settings, players, wanted.seconds, slope) for players in sizes]
    known = measured().memory if wanted.to == FILE else []
    boards = {board.seeded: board for board in [*known, *(board for _, board in results)]}
    memory = [boards[size] for size in sorted(boards)]
    found = Measured(
        on=_today(),
        machine=f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}",
        how=(
            f"`make costs`: an embedded stack with {sizes[-1]:,} players on {SHARDS} shards, loads of"
            f" {wanted.seconds:g} s over {CONNECTIONS} connections, load generator and all servers on the same cores"
        ),
        costs=msgspec.structs.replace(results[-1][0], **_bytes_of(memory[-1])),
        memory=memory,
    )
    wanted.to.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    console.print_json(wanted.to.read_text())


if __name__ == "__main__":
    main()
