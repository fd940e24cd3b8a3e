"""Does it stay fast? The same calls on a small board and on a large one, one at a time over one connection.

The rows are put into the shards as a rebuild does it, so that ten million players take minutes and not a day. What a
single call takes says how the work of a call grows; how many calls a process does is what the other benchmarks say.
"""

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench import load
from cli.stack import Stack
from cli.temporary import temporary_stack
from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.functions import OPEN
from sharding.leaderboard import Leaderboard
from sharding.lifecycle import LoadedRow, Totals
from sharding.periods import PeriodKind, period_at
from sharding.players import PlayerId, member_of
from sharding.scores import pack
from sharding.shard_map import ShardMap
from workers.patience import patiently

SMALL = 10_000
_AT_ONCE = 20_000
_LOADERS = 3
_STEP_S = 120.0
_PLAYERS_A_BUCKET = 200
_SECONDS_IN = 100_000
_WARM = 200
_FRIENDS = 500
#: Players that a process soon remembers, on a board of any size.
_KNOWN = 5_000
#: Lookups of players whom the process has not met, disjoint: so many that the small board has enough players.
_FIRST_LOOKUPS = SMALL // _FRIENDS


@dataclass(frozen=True)
class Took:
    """Milliseconds of a call."""

    p50: float
    p99: float


@dataclass(frozen=True)
class Grown:
    """What was seen at one size. `bytes_a_player`: of the data in the primaries' memory, the empty stack's included."""

    players: int
    bytes_a_player: float
    took: dict[str, Took]


def measure(given: Settings, players: int, calls: int, console: Console) -> Grown:
    """A board of so many players, and what each kind of call takes on it."""
    with filled(given, players, console) as (stack, _, _):
        loaded = _memory(stack)
        first = _took(stack, _first_lookups(stack), _FIRST_LOOKUPS, warm=0)
        took = {name: _took(stack, requests(), calls) for name, requests in _calls(stack, players).items()}
    took["lookup of 500, never seen before"] = first
    return Grown(players, loaded / players, took)


@contextmanager
def filled(given: Settings, players: int, console: Console) -> Iterator[tuple[Stack, Leaderboard, BoardPeriod]]:
    """A stack with so many players on its global board, and directory buckets enough for them."""
    buckets = max(given.directory_buckets, 2 ** math.ceil(math.log2(players / _PLAYERS_A_BUCKET)))
    settings = msgspec.structs.replace(given, directory_buckets=buckets, api_workers=1)
    with (
        temporary_stack(settings) as stack,
        closing(Leaderboard.connect(stack.settings, known_players=lambda _, players: players)) as leaderboard,
    ):
        name = BoardPeriod("global", period_at(PeriodKind.MONTH, datetime.now(UTC)).name)
        _fill(leaderboard, name, stack.settings, players, console)
        yield stack, leaderboard, name


def _fill(leaderboard: Leaderboard, name: BoardPeriod, settings: Settings, players: int, console: Console) -> None:
    shard_map = leaderboard.maps.current(name, _soon())
    leaderboard.lifecycle.prepare(shard_map, _soon())
    window = int(datetime.now(UTC).timestamp() * 1000) // shard_map.retry_window_ms
    totals: dict[int, Totals] = defaultdict(Totals)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar, ThreadPoolExecutor(_LOADERS) as pool:
        task = bar.add_task("loading players", total=players)
        pending: set[Future[int]] = set()
        for first in range(0, players, _AT_ONCE):
            rows: dict[int, list[LoadedRow]] = defaultdict(list)
            for number in range(first, min(first + _AT_ONCE, players)):
                row, points, shard = _row(shard_map, settings, number)
                rows[shard].append(row)
                totals[shard] = totals[shard].plus(1, points)
            pending.add(pool.submit(_load, leaderboard, shard_map, rows, window))
            if len(pending) > _LOADERS:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                bar.advance(task, sum(future.result() for future in finished))
        bar.advance(task, sum(future.result() for future in pending))
    leaderboard.lifecycle.set_state(shard_map, OPEN, _soon(), totals=totals)


def _row(shard_map: ShardMap, settings: Settings, number: int) -> tuple[LoadedRow, int, int]:
    """A player's row, points and shard; points are spread as a new period's cuts expect them."""
    rng = random.Random(number)
    points = max(1, round(rng.lognormvariate(math.log(settings.median_points), settings.points_sigma)))
    member = member_of(player(number))
    packed = pack(points, rng.randrange(_SECONDS_IN), shard_map.board.order)
    return LoadedRow(member, packed), points, shard_map.shard_for(packed, member)


def player(number: int) -> PlayerId:
    """The player of this number; neighbours in number are nobody's neighbours in rank."""
    return PlayerId(str(UUID(int=random.Random(-number).getrandbits(128), version=4)))


def _load(leaderboard: Leaderboard, shard_map: ShardMap, rows: dict[int, list[LoadedRow]], window: int) -> int:
    # replicas that share these cores fall behind now and then, and catch up
    patiently(lambda: leaderboard.lifecycle.load(shard_map, rows, window, _soon()), for_s=_STEP_S)
    return sum(map(len, rows.values()))


def _soon() -> Deadline:
    return Deadline.after(_STEP_S)


def _memory(stack: Stack) -> int:
    """Bytes that the primaries' data take."""
    total = 0
    for node in stack.status()["redis"]:
        if node["slots"]:
            with redis.Redis(port=node["port"]) as client:
                total += client.info("memory")["used_memory_dataset"]
    return total


def _first_lookups(stack: Stack) -> Iterator[bytes]:
    """Lookups of players whom nobody has asked for, so that directory and names have to be read."""
    for first in itertools.count(0, _FRIENDS):
        yield _lookup(stack, [player(number) for number in range(first, first + _FRIENDS)])


def _lookup(stack: Stack, players: list[PlayerId]) -> bytes:
    return load.post("/api/v1/scores/lookup", stack.state.api_key, msgspec.json.encode({"user_ids": players}))


def _calls(stack: Stack, players: int) -> dict[str, Callable[[], Iterator[bytes]]]:
    key = stack.state.api_key
    somebody = random.Random(7)

    def anybody() -> PlayerId:
        return player(somebody.randrange(players))

    def each(path: str) -> Callable[[], Iterator[bytes]]:
        return lambda: (load.get(path.format(player=anybody())) for _ in itertools.count())

    def lookups() -> Iterator[bytes]:
        for _ in itertools.count():
            yield _lookup(stack, [player(somebody.randrange(min(players, _KNOWN))) for _ in range(_FRIENDS)])

    def submissions() -> Iterator[bytes]:
        run = somebody.getrandbits(40)
        for number in itertools.count():
            body = msgspec.json.encode({"user_id": anybody(), "score": 1, "match_id": f"growth-{run}-{number}"})
            yield load.post("/api/v1/scores", key, body)

    return {
        "submission": submissions,
        "exact rank": each("/api/v1/scores/{player}"),
        "players around": each("/api/v1/scores/{player}/surrounding"),
        "top 10": each("/api/v1/scores?limit=10"),
        "100 rows in the middle": each(f"/api/v1/scores?limit=100&offset={players // 2}"),
        "lookup of 500, seen before": lookups,
    }


def _took(stack: Stack, requests: Iterator[bytes], calls: int, *, warm: int = _WARM) -> Took:
    url = stack.state.api_url
    if warm:
        load.run(url, requests, connections=1, seconds=_STEP_S, most=min(warm, calls))
    measured = load.run(url, requests, connections=1, seconds=_STEP_S, most=calls)
    assert measured.failed == 0, f"{measured.failed} requests failed"
    return Took(1000 * measured.quantile(0.5), 1000 * measured.quantile(0.99))


HEADINGS = ("call", "p50 ms", "p99 ms", "p50 ms", "p99 ms", "growth of p50")


def rows(small: Grown, large: Grown) -> list[tuple[str, ...]]:
    """The table's rows: each call on the small and on the large board."""
    lines = []
    for name, took in large.took.items():
        before = small.took[name]
        figures = (before.p50, before.p99, took.p50, took.p99)
        lines.append((name, *(f"{figure:.2f}" for figure in figures), f"{took.p50 / before.p50:.2f}"))
    return lines


def table(small: Grown, large: Grown) -> Table:
    """The same for a person."""
    titles = [*HEADINGS[:1], *(f"{heading} ({small.players:,})" for heading in HEADINGS[1:3])]
    titles += [*(f"{heading} ({large.players:,})" for heading in HEADINGS[3:5]), HEADINGS[5]]
    shown = Table(*titles, title="Growth", caption=f"{large.bytes_a_player:.0f} bytes a player at {large.players:,}")
    for row in rows(small, large):
        shown.add_row(*row)
    return shown
