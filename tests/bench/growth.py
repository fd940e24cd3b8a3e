"""Does it stay fast? The same calls on a small board and on a large one, one at a time over one connection.

The rows are put into the shards as a rebuild does it, so that ten million players take minutes and not a day. What a
single call takes says how the work of a call grows; how many calls a process does is what the other benchmarks say.

Both boards are there at the same time, each on a stack of its own, and take turns: what else the machine does comes to
both. A process remembers whom it has met, on a small board soon everybody, so calls about players whom it has met are
told from calls about players whom it has not.
"""

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track
from rich.table import Table
from waiting import wait_until

from bench import load
from bench.measures import nodes_rest
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
_FRIENDS = 500
#: Turns of each board with each kind of call.
_TURNS = 10
#: Players whom both processes have met before anything is measured. The others of the small board are for those calls
#: that are about strangers: so many for ranks, the rest for lookups.
_KNOWN, _STRANGERS = 2_000, 1_000
_FIRST_LOOKUPS = (SMALL - _KNOWN - _STRANGERS) // _FRIENDS
_FIRST_RANK, _FIRST_LOOKUP = "exact rank, never seen before", "lookup of 500, never seen before"


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


def measure(given: Settings, players: int, calls: int, console: Console) -> tuple[Grown, Grown]:
    """What each kind of call takes on a board of SMALL players and on one of so many."""
    with filled(given, SMALL, console) as (small, _, _), filled(given, players, console) as (large, _, _):
        boards = [(small, _calls(small, SMALL)), (large, _calls(large, players))]
        loaded = [_memory(stack) for stack, _ in boards]
        for stack, _ in boards:
            wait_until(lambda stack=stack: nodes_rest(stack), _STEP_S, "nodes have written down what was loaded")
        for stack, kinds in boards:
            _meet_known(stack)
            for name in kinds.keys() - {_FIRST_RANK, _FIRST_LOOKUP}:
                _take(stack, kinds[name], 2 * _TURNS)
        seconds: list[dict[str, list[float]]] = [defaultdict(list), defaultdict(list)]
        for name in track(boards[0][1], "Measuring", console=console):
            most = {_FIRST_RANK: min(calls, _STRANGERS), _FIRST_LOOKUP: _FIRST_LOOKUPS}.get(name, calls)
            for turn in range(_TURNS):
                count = (turn + 1) * most // _TURNS - turn * most // _TURNS
                for (stack, kinds), taken in zip(boards, seconds, strict=True):
                    taken[name] += _take(stack, kinds[name], count)
    sizes = zip((SMALL, players), loaded, seconds, strict=True)
    one, other = (
        Grown(size, used / size, {name: _took(of) for name, of in taken.items()}) for size, used, taken in sizes
    )
    return one, other


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


def _meet_known(stack: Stack) -> None:
    for first in range(0, _KNOWN, _FRIENDS):
        _take(stack, iter([_lookup(stack, range(first, first + _FRIENDS))]), 1)


def _lookup(stack: Stack, numbers: Iterable[int]) -> bytes:
    body = msgspec.json.encode({"user_ids": [player(number) for number in numbers]})
    return load.post("/api/v1/scores/lookup", stack.state.api_key, body)


def _calls(stack: Stack, players: int) -> dict[str, Iterator[bytes]]:
    somebody = random.Random(7)

    def known() -> int:
        return somebody.randrange(_KNOWN)

    def submission(number: int) -> bytes:
        body = {"user_id": player(known()), "score": 1, "match_id": f"growth-{number}"}
        return load.post("/api/v1/scores", stack.state.api_key, msgspec.json.encode(body))

    def rank(number: int) -> bytes:
        return load.get(f"/api/v1/scores/{player(number)}")

    strangers = itertools.count(_KNOWN + _STRANGERS, _FRIENDS)
    return {
        "submission": map(submission, itertools.count()),
        "exact rank": (rank(known()) for _ in itertools.count()),
        _FIRST_RANK: map(rank, itertools.count(_KNOWN)),
        "players around": (load.get(f"/api/v1/scores/{player(known())}/surrounding") for _ in itertools.count()),
        "top 10": itertools.repeat(load.get("/api/v1/scores?limit=10")),
        "100 rows in the middle": itertools.repeat(load.get(f"/api/v1/scores?limit=100&offset={players // 2}")),
        "lookup of 500": (_lookup(stack, [known() for _ in range(_FRIENDS)]) for _ in itertools.count()),
        _FIRST_LOOKUP: (_lookup(stack, range(first, first + _FRIENDS)) for first in strangers),
    }


def _take(stack: Stack, requests: Iterator[bytes], count: int) -> list[float]:
    """The seconds that so many of these requests took."""
    if not count:
        return []
    measured = load.run(stack.state.api_url, requests, connections=1, seconds=_STEP_S, most=count)
    assert measured.failed == 0, f"{measured.failed} requests failed"
    return measured.latencies


def _took(seconds: list[float]) -> Took:
    return Took(1000 * load.quantile(seconds, 0.5), 1000 * load.quantile(seconds, 0.99))


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
