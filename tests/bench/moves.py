"""Ranges that move: how many players a second, and what those feel who write meanwhile.

Every cut of the board goes a way into its range and back again, as long as is measured: at most to the middle, and so
far that some ten thousand players change shards at a time, whatever the size of the board. The one who moves them is a
process of its own, as `rangeboard rebalance` is.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count, islice
from multiprocessing.connection import Connection
from typing import NamedTuple

from bench import cpu, load
from bench.measures import REQUESTS_PER_S, Bench, Pair, require_applied, single_requests
from records.engine import connect
from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, period_at
from sharding.rebalancing import GENTLE_PER_S
from sharding.scores import PackedScore
from workers.recutting import recut

#: Players a second that a range move is to reach.
PROMISED = 20_000.0
CONNECTIONS = 8
#: Players who change shards in a turn, as far as the board has as many to move.
_A_TURN = 25_000
_DEADLINE_S = 120.0


class _Moves(NamedTuple):
    """What a mover did; `cpu_s` is its own process's."""

    players: int
    seconds: float
    cpu_s: float


def range_move(bench: Bench) -> Pair:
    """Players a second, with nobody else about."""
    with _moving(bench.stack.settings, players_per_s=1e9) as stop, cpu.cpu_spent(bench.stack) as spent:
        time.sleep(bench.seconds)
        moves = stop()
    cpu_us = cpu.each({**spent, "mover": moves.cpu_s}, moves.players)
    return Pair(moves.players / moves.seconds, PROMISED, cpu_us)


def writes_meanwhile(bench: Bench) -> Pair:
    """`POST /scores` while ranges move at the gentle rate, beside the same before; latencies are those meanwhile."""
    before = _writes(bench)
    with _moving(bench.stack.settings, players_per_s=GENTLE_PER_S) as stop, cpu.cpu_spent(bench.stack) as spent:
        meanwhile = _writes(bench)
        stop()
    cpu_us = cpu.each(spent, len(meanwhile.latencies))
    p50_ms, p99_ms, before_ms = (
        run.quantile(share) * 1000 for run, share in ((meanwhile, 0.5), (meanwhile, 0.99), (before, 0.99))
    )
    driver = max(before.busy, meanwhile.busy)
    return Pair(meanwhile.per_s, before.per_s, cpu_us, p50_ms, p99_ms, before_ms, driver)


def _writes(bench: Bench) -> load.Measured:
    ready = list(islice(single_requests(bench), int(REQUESTS_PER_S * bench.seconds)))
    seen = load.run(bench.url, iter(ready), connections=CONNECTIONS, seconds=bench.seconds)
    require_applied(seen, 1)
    return seen


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
    engine = connect(settings.postgres_dsn)
    name = BoardPeriod("global", period_at(PeriodKind.MONTH, datetime.now(UTC)).name)
    shard_map = leaderboard.maps.published(name, Deadline.after(10))
    packed = sorted(row.packed for _, rows in leaderboard.lifecycle.members(shard_map) for row in rows)
    shift = min(0.5, _A_TURN / max(1, len(packed)))
    pipe.send("begun")
    players, start, busy = 0, time.perf_counter(), time.process_time()
    for turn in count(1):
        cuts = _cuts(packed, len(shard_map.ranges), turn % 2 * shift)
        players += recut(leaderboard, engine, name, cuts, lambda *_: None, players_per_s=players_per_s).moved
        if pipe.poll():
            break
    pipe.send(_Moves(players, time.perf_counter() - start, time.process_time() - busy))
    leaderboard.close()
    engine.dispose()


def _cuts(packed: list[PackedScore], shards: int, shift: float) -> list[PackedScore]:
    """Cuts that give each shard as many rows, but for the two at the ends, where they are shifted."""
    places = (int((part + shift) * len(packed) / shards) for part in range(1, shards))
    return sorted({packed[min(place, len(packed) - 1)] for place in places})
