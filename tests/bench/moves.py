"""Ranges that move: how many players a second, and what those feel who write meanwhile.

Every cut of the board wanders to the middle of its range and back again, as long as is measured, so that every player
in half of all ranges changes shards. The one who moves them is a process of its own, as `rangeboard rebalance` is.
"""

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from multiprocessing.connection import Connection
from typing import NamedTuple

import msgspec

from bench import load
from bench.measures import Bench, Pair, cpu_spent
from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, period_at
from sharding.rebalancing import GENTLE_PER_S
from sharding.scores import PackedScore

#: Players a second that a range move is to reach.
PROMISED = 20_000.0
CONNECTIONS = 8
_DEADLINE_S = 120.0


class _Moves(NamedTuple):
    """What a mover did; `cpu_s` is its own process's."""

    players: int
    seconds: float
    cpu_s: float


def range_move(bench: Bench) -> Pair:
    """Players a second, with nobody else about."""
    with _moving(bench.stack.settings, players_per_s=1e9) as stop, cpu_spent(bench.stack) as spent:
        time.sleep(bench.seconds)
        moves = stop()
    cpu_us = {name: seconds / moves.players * 1e6 for name, seconds in spent.items()}
    return Pair(moves.players / moves.seconds, PROMISED, cpu_us | {"mover": moves.cpu_s / moves.players * 1e6})


def writes_meanwhile(bench: Bench) -> Pair:
    """`POST /scores` while ranges move at the gentle rate, beside the same before; latencies are those meanwhile."""
    key = bench.stack.state.api_key
    run = random.getrandbits(40)
    numbers = count()

    def requests() -> Iterator[bytes]:
        for number in numbers:
            body = {"user_id": random.choice(bench.players), "score": 1, "match_id": f"moves-{run}-{number}"}
            yield load.post("/api/v1/scores", key, msgspec.json.encode(body))

    before = load.run(bench.url, requests(), connections=CONNECTIONS, seconds=bench.seconds)
    with _moving(bench.stack.settings, players_per_s=GENTLE_PER_S) as stop, cpu_spent(bench.stack) as spent:
        meanwhile = load.run(bench.url, requests(), connections=CONNECTIONS, seconds=bench.seconds)
        stop()
    assert before.failed == meanwhile.failed == 0, "a request failed"
    cpu_us = {name: seconds / len(meanwhile.latencies) * 1e6 for name, seconds in spent.items()}
    p50_ms, p99_ms, before_ms = (
        run.quantile(share) * 1000 for run, share in ((meanwhile, 0.5), (meanwhile, 0.99), (before, 0.99))
    )
    return Pair(meanwhile.per_s, before.per_s, cpu_us, p50_ms, p99_ms, before_ms)


@contextmanager
def _moving(settings: Settings, *, players_per_s: float) -> Iterator[Callable[[], _Moves]]:
    """Ranges move inside the block until what it yields is called, which tells what was done."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    mover = context.Process(target=_move_to_and_fro, args=(settings, theirs, players_per_s))
    mover.start()
    assert ours.poll(_DEADLINE_S), "the mover did not begin"
    ours.recv()

    def stop() -> _Moves:
        ours.send("stop")
        assert ours.poll(_DEADLINE_S), "the mover did not come to its end"
        moves: _Moves = ours.recv()
        return moves

    try:
        yield stop
    finally:
        mover.kill()
        mover.join()


def _move_to_and_fro(settings: Settings, pipe: Connection, players_per_s: float) -> None:
    """Move ranges until the other end says something."""
    leaderboard = Leaderboard.connect(settings, known_players=lambda _, players: players)
    name = BoardPeriod("global", period_at(PeriodKind.MONTH, datetime.now(UTC)).name)
    shard_map = leaderboard.maps.published(name, Deadline.after(10))
    packed = sorted(row.packed for _, rows in leaderboard.lifecycle.members(shard_map) for row in rows)
    pipe.send("begun")
    players, start, cpu = 0, time.perf_counter(), time.process_time()
    for turn in count(1):
        wanted = shard_map.recut(_cuts(packed, len(shard_map.ranges), turn % 2 / 2))
        shard_map = leaderboard.rebalancer.switch(wanted)
        done = leaderboard.rebalancer.move_strays(
            shard_map, Deadline.after(_DEADLINE_S), players_per_s=players_per_s, report=lambda _: None
        )
        players += done.moved
        if pipe.poll():
            break
    pipe.send(_Moves(players, time.perf_counter() - start, time.process_time() - cpu))
    leaderboard.close()


def _cuts(packed: list[PackedScore], shards: int, shift: float) -> list[PackedScore]:
    """Cuts that give each shard as many rows, but for the two at the ends, where they are shifted."""
    places = (int((part + shift) * len(packed) / shards) for part in range(1, shards))
    return sorted({packed[min(place, len(packed) - 1)] for place in places})
