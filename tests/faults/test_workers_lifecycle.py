"""Archives and rebuilds killed (`kill -9`) in the middle, and run again until they come through."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from played_boards import Played, open_played, rows_of
from sqlalchemy import Engine
from waiting import wait_until

from cli.servers import ServerSet
from records import archives, jobs
from runtime.settings import Settings
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, period_at
from workers.verify import verify

pytestmark = pytest.mark.servers

#: `make faults-records` asks for a million.
PLAYERS = int(os.environ.get("ARCHIVE_PLAYERS", "5000"))
_MOST_RUNS = 40


@pytest.fixture
def settings(servers: ServerSet, database: Engine) -> Settings:
    [(name,)] = rows_of(database, "SELECT current_database()")
    return msgspec.structs.replace(servers.settings, postgres_dsn=servers.postgres.dsn(name))


def run(settings: Settings, verb: str, board: Played, *options: str, failpoints: str) -> int:
    """The exit code of the operator's verb, in a process that may die at these points."""
    environment = msgspec.structs.replace(settings, failpoints=failpoints).environment()
    names = ("--board", board.name.board, "--period", board.name.period)
    line = [sys.executable, "-c", f"from cli.lifecycle import {verb}; {verb}()", *names, *options]
    done = subprocess.run(line, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode in {0, -signal.SIGKILL}, done.stdout + done.stderr
    return done.returncode


def test_a_job_whose_worker_is_killed_is_shown_as_lost_and_goes_on_when_asked_for_again(
    leaderboard: Leaderboard, database: Engine, settings: Settings
) -> None:
    """`kill -9` in the middle of its work, then between its end and what it writes of it."""
    board = open_played(leaderboard, database)
    board.play(5_000, 6_000)
    board.drain()
    before = board.ranking()
    board.destroy()
    work = """
import sys
from records.engine import connect
from runtime.settings import load
from sharding.leaderboard import Leaderboard
from workers.jobs import Jobs
settings = load()
board = Leaderboard.connect(settings, known_players=lambda _, players: players)
Jobs(board, connect(settings.postgres_dsn, pool_size=6), settings).run(sys.argv[1])
"""
    for point in ("rebuild.prepared=kill", "rebuild.published=kill", ""):
        asked = {"shard": None, "force": True}
        job = jobs.ask_for(database, "rebuild", board.name.board, board.name.period, asked)
        environment = msgspec.structs.replace(settings, failpoints=point).environment()
        line = [sys.executable, "-c", work, job.id]
        ended = subprocess.run(line, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
        assert ended.returncode == (-signal.SIGKILL if point else 0), ended.stderr

        def ended_job(job_id: str = job.id) -> jobs.Job | None:
            """Once PostgreSQL has seen that whoever worked at it is gone."""
            found = jobs.get(database, job_id)
            return found if found is not None and found.state != "running" else None

        found = wait_until(ended_job)
        assert found is not None
        assert (found.state, found.problem) == (("failed", jobs.LOST) if point else ("done", None))
    assert board.ranking() == before


def killed_until_done(
    settings: Settings, verb: str, board: Played, *options: str, failpoints: str, at_once: int = 1
) -> int:
    """How often it was killed before so many of it came through `at_once`."""
    kills = 0
    with ThreadPoolExecutor(at_once) as pool:
        for _ in range(_MOST_RUNS):
            runs = [pool.submit(run, settings, verb, board, *options, failpoints=failpoints) for _ in range(at_once)]
            killed = sum(one.result() != 0 for one in runs)
            if not killed:
                return kills
            kills += killed
    raise AssertionError(f"{verb} never came through")


def test_an_archive_killed_again_and_again_is_right_in_the_end(
    leaderboard: Leaderboard, database: Engine, settings: Settings
) -> None:
    """Two at a time, between and in the middle of shards: stored in the end is what PostgreSQL computes by itself."""
    past = period_at(PeriodKind.DAY, datetime.now(UTC) - timedelta(days=3))
    board = open_played(leaderboard, database, period_kind="day", period=past, cuts=range(10, 50, 10))
    board.play(PLAYERS, PLAYERS + 7_000)
    copying = min(0.1, 5_000 / PLAYERS)
    points = f"archive.frozen=kill@0.1,archive.copying=kill@{copying},archive.copied=kill@0.1,archive.recorded=kill@0.3"
    assert run(settings, "archive", board, failpoints="archive.copied=kill") == -signal.SIGKILL
    kills = 1 + killed_until_done(settings, "archive", board, failpoints=points, at_once=2)
    assert archives.is_archived(database, board.name.board, board.name.period)
    name = {"board": board.name.board}
    stored = rows_of(
        database, "SELECT rank, user_id, points FROM leaderboard_snapshots WHERE board = :board ORDER BY rank", **name
    )
    # The day is over, so every tie-break time is its last moment: points, then player.
    computed = rows_of(
        database,
        """SELECT row_number() OVER (ORDER BY sum(value) DESC, user_id COLLATE "C"), user_id, sum(value)::bigint
           FROM games WHERE board = :board GROUP BY user_id ORDER BY 1""",
        **name,
    )
    assert stored == computed
    print(f"archive: killed {kills} times, {len(stored):,} players, equal to SQL")


def test_a_rebuild_killed_again_and_again_brings_back_the_same_ranking(
    leaderboard: Leaderboard, database: Engine, settings: Settings
) -> None:
    """Nobody twice, nobody missing, and the board is open again."""
    board = open_played(leaderboard, database)
    board.play(5_000, 12_000)
    board.drain()
    before = board.ranking()
    board.destroy()
    points = "rebuild.prepared=kill@0.4,rebuild.loaded=kill@0.6"
    assert run(settings, "rebuild", board, failpoints="rebuild.loaded=kill") == -signal.SIGKILL
    kills = 1 + killed_until_done(settings, "rebuild", board, failpoints=points)
    assert board.ranking() == before
    assert board.win("player-000000", 1, "goes on") == "applied"
    assert verify(leaderboard, database, board.now(), lambda _: None).agrees
    assert run(settings, "rebuild", board, "--force", failpoints="rebuild.recorded=kill") == -signal.SIGKILL
    assert board.now().generation == 2
    print(f"rebuild: killed {kills} times, {len(before):,} players, the same ranking")
