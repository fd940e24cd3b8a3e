"""Does a worker stay small? The jobs that go through a whole board, each in a process of its own, on two sizes of it.

What is told is the peak of the resident memory (as the kernel has it), beside what the process had before it began.
"""

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import track
from sqlalchemy import Engine

from cli.servers import ServerSet
from records import boards, migrations
from records.engine import connect
from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.cluster.formation import Library
from sharding.functions import LIBRARY_NAME, library_code
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.periods import PeriodKind, following, period_at
from sharding.players import PlayerId
from workers import resources
from workers.archive import Archive
from workers.draining import drain_now
from workers.periods import open_current
from workers.rebuild import Rebuild
from workers.verify import verify

_BOARD = "memory"
_TOGETHER = 2_000
_STEP_S = 600.0
_KB = 1024
_MB = 1_000_000


@dataclass(frozen=True)
class Peak:
    """What a process took, in bytes: connected, and at most."""

    before: int
    most: int


def measure(given: Settings, players: int, console: Console) -> dict[str, Peak]:
    """The peak of each job on a board of so many players; they have a game each."""
    with _servers(given) as settings:
        _fill(settings, players, console)
        return {job: _peak(settings, job) for job in track(JOBS, f"On {players:,} players", console=console)}


@contextmanager
def _servers(given: Settings) -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="rangeboard-") as home:
        library = Library(LIBRARY_NAME, library_code())
        with ServerSet(Path(home), settings=given, library=library) as servers:
            migrations.upgrade(servers.settings.postgres_dsn)
            yield servers.settings


def _fill(settings: Settings, players: int, console: Console) -> None:
    engine = connect(settings.postgres_dsn)
    boards.create(engine, boards.NewBoard(_BOARD))
    engine.dispose()
    open_current(settings)
    leaderboard = Leaderboard.connect(settings, known_players=lambda _, players: players)
    try:
        for first in track(range(0, players, _TOGETHER), "Submitting", console=console):
            games = [
                Submission(PlayerId(f"memory-{number:08d}"), random.randint(1, 500), "m")
                for number in range(first, min(first + _TOGETHER, players))
            ]
            results = leaderboard.submit(_name(), games, Deadline.after(_STEP_S), rank=RankMode.NONE)
            assert all(result.error is None for result in results)
    finally:
        leaderboard.close()


def _peak(settings: Settings, job: str) -> Peak:
    """What the job takes in a process of its own."""
    environment = {**os.environ, **settings.environment()}
    line = [sys.executable, "-m", "bench.worker_memory", job]
    told = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    before, most = map(int, told.stdout.splitlines()[-1].split())
    return Peak(before, most)


# -- in the process of its own, with a worker's connections


def _drain(leaderboard: Leaderboard, engine: Engine) -> None:
    deadline = Deadline.after(_STEP_S)
    drain_now(leaderboard, engine, leaderboard.maps.current(_name(), deadline), deadline)


def _verify(leaderboard: Leaderboard, engine: Engine) -> None:
    shard_map = leaderboard.maps.published(_name(), Deadline.after(_STEP_S))
    assert verify(leaderboard, engine, shard_map, lambda _: None).agrees


def _rebuild(leaderboard: Leaderboard, engine: Engine) -> None:
    Rebuild(leaderboard, engine, _name()).whole(lambda *_: None, force=True)


def _archive(leaderboard: Leaderboard, engine: Engine) -> None:
    after = following(period_at(PeriodKind.MONTH, datetime.now(UTC)))
    assert after is not None
    late = datetime.fromtimestamp(after.start_ms / 1000 + 86_400, UTC)
    Archive(leaderboard, engine, resources.settings()).close(_name(), late, lambda *_: None)


#: In this order: each finds what the one before has left.
JOBS: dict[str, Callable[[Leaderboard, Engine], None]] = {
    "drain": _drain,
    "verify": _verify,
    "rebuild": _rebuild,
    "archive": _archive,
}


def _name() -> BoardPeriod:
    return BoardPeriod(_BOARD, period_at(PeriodKind.MONTH, datetime.now(UTC)).name)


def _run(job: str) -> None:
    leaderboard, engine = resources.leaderboard(), resources.engine()
    leaderboard.maps.published(_name(), Deadline.after(_STEP_S))
    boards.get(engine, _BOARD)
    before = psutil.Process().memory_info().rss
    JOBS[job](leaderboard, engine)
    print(before, _most())


def _most() -> int:
    """The peak of this process. Not `ru_maxrss`: that remembers what the process before the `exec` had."""
    told = Path("/proc/self/status").read_text()
    return int(told.partition("VmHWM:")[2].split()[0]) * _KB


# -- the table

HEADINGS = ("job", "players", "MB before", "MB at most", "players", "MB at most", "bytes a player more")


def rows(small: int, low: dict[str, Peak], large: int, high: dict[str, Peak]) -> list[tuple[str, ...]]:
    """What each job took on a board of `small` and of `large` players."""
    return [
        (
            job,
            f"{small:,}",
            f"{low[job].before / _MB:.0f}",
            f"{low[job].most / _MB:.0f}",
            f"{large:,}",
            f"{high[job].most / _MB:.0f}",
            f"{(high[job].most - low[job].most) / (large - small):.0f}",
        )
        for job in JOBS
    ]


if __name__ == "__main__":
    _run(sys.argv[1])
