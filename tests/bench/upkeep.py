"""What the workers do with the audit log, beside the least that PostgreSQL takes for the same rows.

The floor is `COPY` into a temporary table and `INSERT ... ON CONFLICT DO NOTHING` into a table with the same keys, by
hand, of rows that lie ready. Both sides are one process and one connection. The workers' beat sleeps meanwhile, so the
outboxes fill until this process drains them, with the workers' own code.
"""

import io
import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psutil
import psycopg2
from sqlalchemy import Engine

from bench.checks import check
from bench.costs import beat_asleep
from bench.measures import Bench, Pair
from records import boards
from records.engine import connect
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.periods import PeriodKind, following, period_at
from sharding.players import PlayerId
from workers.archive import Archive
from workers.draining import drain_now
from workers.periods import open_current
from workers.rebuild import Rebuild

_GAMES, _GAMES_A_PLAYER = 100_000, 5
_TOGETHER = 2_000
_STEP_S = 300.0
_numbers = itertools.count()


def drain(bench: Bench) -> Pair:
    """Rows a second from the outboxes into the audit log."""
    with _filled(bench) as (engine, leaderboard, name):
        took, cpu = _timed(lambda: _drain(engine, leaderboard, name))
        check(leaderboard, engine, name)
        return Pair(_GAMES / took, _floor(bench, "games", name), {"worker": cpu / _GAMES * 1e6})


def rebuild(bench: Bench) -> Pair:
    """Games a second from the audit log into fresh shards."""
    with _filled(bench) as (engine, leaderboard, name):
        _drain(engine, leaderboard, name)
        took, cpu = _timed(lambda: Rebuild(leaderboard, engine, name).whole(lambda *_: None, force=True))
        check(leaderboard, engine, name)
        return Pair(_GAMES / took, _floor(bench, "games", name), {"worker": cpu / _GAMES * 1e6})


def archive(bench: Bench) -> Pair:
    """Final ranks a second from the shards into the snapshots, the closing of the board and the checks included."""
    with _filled(bench, games_a_player=1) as (engine, leaderboard, name):
        _drain(engine, leaderboard, name)
        after = following(period_at(PeriodKind.MONTH, datetime.now(UTC)))
        assert after is not None
        late = datetime.fromtimestamp(after.start_ms / 1000 + 86_400, UTC)
        took, cpu = _timed(
            lambda: Archive(leaderboard, engine, bench.stack.settings).close(name, late, lambda *_: None)
        )
        rows = _count(bench, "leaderboard_snapshots", name)
        return Pair(rows / took, _floor(bench, "leaderboard_snapshots", name), {"worker": cpu / rows * 1e6})


@contextmanager
def _filled(bench: Bench, games_a_player: int = _GAMES_A_PLAYER) -> Iterator[tuple[Engine, Leaderboard, BoardPeriod]]:
    """A board of its own whose games are still in the outboxes."""
    settings = bench.stack.settings
    engine = connect(settings.postgres_dsn, statement_timeout_ms=0)
    leaderboard = Leaderboard.connect(settings, known_players=lambda _, players: players)
    board = f"bench-{next(_numbers)}"
    try:
        with beat_asleep(bench.stack):
            boards.create(engine, boards.NewBoard(board))
            open_current(settings)
            name = BoardPeriod(board, period_at(PeriodKind.MONTH, datetime.now(UTC)).name)
            players = [PlayerId(f"{board}-{number}") for number in range(_GAMES // games_a_player)]
            for first in range(0, _GAMES, _TOGETHER):
                games = [
                    Submission(players[number % len(players)], random.randint(5, 40), f"m-{number}")
                    for number in range(first, first + _TOGETHER)
                ]
                results = leaderboard.submit(name, games, Deadline.after(_STEP_S), rank=RankMode.NONE)
                assert all(result.error is None for result in results)
            yield engine, leaderboard, name
    finally:
        leaderboard.close()
        engine.dispose()


def _drain(engine: Engine, leaderboard: Leaderboard, name: BoardPeriod) -> None:
    deadline = Deadline.after(_STEP_S)
    drain_now(leaderboard, engine, leaderboard.maps.current(name, deadline), deadline)


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that the work took, and CPU seconds of this process."""
    process = psutil.Process()
    before, start = sum(process.cpu_times()[:2]), time.perf_counter()
    work()
    return time.perf_counter() - start, sum(process.cpu_times()[:2]) - before


def _count(bench: Bench, table: str, name: BoardPeriod) -> int:
    with psycopg2.connect(bench.stack.settings.postgres_dsn) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table} WHERE board = %s AND period = %s", (name.board, name.period))
        return int(cursor.fetchone()[0])


def _floor(bench: Bench, table: str, name: BoardPeriod) -> float:
    """Rows a second, of the rows that the board has in this table."""
    with psycopg2.connect(bench.stack.settings.postgres_dsn) as connection, connection.cursor() as cursor:
        rows = io.BytesIO()
        wanted = cursor.mogrify("board = %s AND period = %s", (name.board, name.period)).decode()
        cursor.copy_expert(f"COPY (SELECT * FROM {table} WHERE {wanted}) TO STDOUT", rows)
        cursor.execute(f"CREATE TABLE bench_floor (LIKE {table} INCLUDING ALL)")
        cursor.execute(f"CREATE TEMPORARY TABLE bench_incoming (LIKE {table})")
        connection.commit()
        rows.seek(0)
        start = time.perf_counter()
        cursor.copy_expert("COPY bench_incoming FROM STDIN", rows)
        cursor.execute("INSERT INTO bench_floor SELECT * FROM bench_incoming ON CONFLICT DO NOTHING")
        count = cursor.rowcount
        connection.commit()
        took = time.perf_counter() - start
        cursor.execute("DROP TABLE bench_floor")
        return float(count / took)
