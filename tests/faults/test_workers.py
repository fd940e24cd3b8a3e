"""Celery workers killed at random while submissions pass: the audit log has each once, and folds to the board.

Real workers, a real beat and a real broker, as they run in production. The environment asks for more than the suite has
time for (`make faults-records`): `WORKER_KILLS`, `WORKER_SUBMISSIONS` at least, `AWAY_S` for how long servers are away.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import psutil
import pytest
from faults.rig import Rig
from sqlalchemy import Engine, text
from waiting import wait_until

from cli.ports import free_ports
from cli.servers import ServerSet
from records import audit, boards, migrations
from records.boards import NewBoard
from records.engine import connect
from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.errors import LeaderboardError, Outcome
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.periods import PeriodKind, period_at
from sharding.players import PlayerId
from sharding.submissions import Status
from workers.drain import drain_shards
from workers.patience import patiently
from workers.periods import open_current
from workers.verify import verify

pytestmark = pytest.mark.servers

KILLS = int(os.environ.get("WORKER_KILLS", "8"))
SUBMISSIONS = int(os.environ.get("WORKER_SUBMISSIONS", "0"))
AWAY_S = float(os.environ.get("AWAY_S", "0"))
PLAYERS = 2_000
TOGETHER = 200


class Workers:
    """A Celery worker with two processes, and beat; killed and started again."""

    def __init__(self, settings: Settings, home: Path) -> None:
        metrics = home / "metrics"
        metrics.mkdir()
        own = {"PYTHONWARNINGS": "ignore", "PROMETHEUS_MULTIPROC_DIR": str(metrics)}
        self._environment = {**os.environ, **settings.environment(), **own}
        self._home = home
        self._log = (home / "workers.log").open("ab")
        self.beat = self._start("beat", "--schedule", str(home / "schedule"), "--pidfile=")
        self.worker = self._start_worker()

    def _start_worker(self) -> "subprocess.Popen[bytes]":
        return self._start("worker", "--concurrency", "2", "--without-gossip", "--without-mingle")

    def _start(self, *words: str) -> "subprocess.Popen[bytes]":
        line = [sys.executable, "-m", "celery", "--quiet", "-A", "workers.app:app", *words]
        root = Path(__file__).parents[2]
        return subprocess.Popen(
            line, env=self._environment, cwd=root, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def kill_one(self, rng: random.Random) -> bool:
        """Kill a process that runs tasks; now and then the worker as a whole. False if there is none just now."""
        if rng.random() < 0.1:
            os.killpg(self.worker.pid, signal.SIGKILL)
            self.worker.wait()
            self.worker = self._start_worker()
            return True
        return self.kill_child(rng)

    def kill_child(self, rng: random.Random) -> bool:
        """Kill a process that runs tasks. False if there is none just now."""
        children = psutil.Process(self.worker.pid).children()
        if not children:
            return False
        try:
            rng.choice(children).kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def end_worker(self) -> int:
        """Tell the worker to end, as a deployment does, and wait for it; its exit code."""
        self.worker.terminate()
        return self.worker.wait(60)

    def stop(self) -> None:
        for process in (self.worker, self.beat):
            with suppress(ProcessLookupError):  # it was told to end, and has
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._log.close()


class Submitting:
    """Submissions that go on until told to end; each is repeated under its match id until its end is known."""

    def __init__(self, leaderboard: Leaderboard, name: BoardPeriod) -> None:
        self.applied = 0
        self.refused = 0
        self._leaderboard = leaderboard
        self._name = name
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Submitting":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        rng = random.Random(5)
        number = 0
        while not self._ended.is_set():
            number += 1
            batch = [
                Submission(PlayerId(f"player-{rng.randrange(PLAYERS)}"), rng.randint(1, 9), f"kill-{number}-{item}")
                for item in range(TOGETHER)
            ]
            while batch:
                batch = self._submit(batch)
                if batch:
                    self._ended.wait(0.05)

    def _submit(self, batch: list[Submission]) -> list[Submission]:
        """Those whose end is not known, or that were refused for now."""
        try:
            results = self._leaderboard.submit(self._name, batch, Deadline.after(5), rank=RankMode.NONE)
        except LeaderboardError as error:
            self.refused += len(batch) if error.outcome is Outcome.NOT_APPLIED else 0
            return batch
        again = []
        for submission, result in zip(batch, results, strict=True):
            if result.status in {Status.APPLIED, Status.DUPLICATE}:
                self.applied += 1
            else:
                self.refused += result.status is Status.REFUSED
                again.append(submission)
        return again


@contextmanager
def wired(servers: ServerSet, **other: int) -> Iterator[tuple[Settings, Engine]]:
    """Settings and an engine for a database of the test's own."""
    name = f"workers_{random.randrange(10**9)}"
    _administer(servers, f"CREATE DATABASE {name}")
    settings = msgspec.structs.replace(servers.settings, postgres_dsn=servers.postgres.dsn(name), **other)
    migrations.upgrade(settings.postgres_dsn)
    engine = connect(settings.postgres_dsn, pool_size=5, statement_timeout_ms=0)
    try:
        yield settings, engine
    finally:
        engine.dispose()
        _administer(servers, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _administer(servers: ServerSet, statement: str) -> None:
    admin = connect(servers.settings.postgres_dsn, pool_size=1).execution_options(isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(statement))
    admin.dispose()


@dataclass(frozen=True)
class Scene:
    """A board of the test's own, workers that look after it, and somebody who plays."""

    engine: Engine
    leaderboard: Leaderboard
    name: BoardPeriod
    workers: Workers

    def waiting(self) -> int:
        """Outbox entries that are not drained."""
        shard_map = self.leaderboard.maps.published(self.name, Deadline.after(10))
        keys = [shard_map.keys(shard) for shard in shard_map.shards()]
        return sum(self.leaderboard.outbox.lengths(keys, Deadline.after(10)))

    def drains(self) -> bool:
        """Whether the workers have begun."""
        assert self.workers.worker.poll() is None, "the worker has ended"
        return audit.has_games(self.engine, self.name.board, self.name.period)

    def check(self, submitting: Submitting) -> None:
        """Once all is drained: each submission is there once, and the board is what they fold to."""
        wait_until(lambda: self.waiting() == 0, 120, "drained to the end")
        stored = audit.totals(self.engine, self.name.board, self.name.period)
        assert stored.games == submitting.applied > 0
        shard_map = self.leaderboard.maps.published(self.name, Deadline.after(10))
        self.leaderboard.strays.bring_home(Deadline.after(10))
        verdict = verify(self.leaderboard, self.engine, shard_map, lambda _: None)
        assert (verdict.agrees, verdict.different) == (True, 0)
        print(
            f"{stored.games:,} submissions, {submitting.refused:,} refused meanwhile, {stored.players:,} players agree"
        )


@contextmanager
def played(rig: Rig, home: Path, **other: int) -> Iterator[Scene]:
    with wired(rig.servers, **{"worker_metrics_port": 0, **other}) as (settings, engine):
        board = boards.create(engine, NewBoard(f"workers-{random.randrange(10**9)}", registration="open"))
        open_current(settings)
        name = BoardPeriod(board.name, period_at(PeriodKind.MONTH, datetime.now(UTC)).name)
        leaderboard = Leaderboard.connect(settings, known_players=lambda _, players: players)
        workers = Workers(settings, home)
        try:
            yield Scene(engine, leaderboard, name, workers)
        finally:
            workers.stop()
            leaderboard.close()


def test_workers_killed_at_random_lose_nothing_and_store_nothing_twice(rig: Rig, tmp_path: Path) -> None:
    """Killed in the middle of whatever they do, one after the other, while submissions pass."""
    rng = random.Random(11)
    with played(rig, tmp_path) as scene:
        with Submitting(scene.leaderboard, scene.name) as submitting:
            wait_until(scene.drains, 60, "a worker drains")
            for _ in range(KILLS):
                wait_until(lambda: scene.workers.kill_one(rng), 60, "there is a worker to kill")
                time.sleep(rng.uniform(0, 0.3))  # the moments of the kills are what is random here
            wait_until(lambda: submitting.applied >= SUBMISSIONS, 3600, "submissions pass")
        scene.check(submitting)


def test_a_worker_that_is_told_to_end_ends_its_drain_first(rig: Rig, tmp_path: Path) -> None:
    """In the middle of load: nothing is left that was stored and not trimmed, so nothing is read twice."""
    with played(rig, tmp_path) as scene:
        with Submitting(scene.leaderboard, scene.name) as submitting:
            wait_until(scene.drains, 60, "a worker drains")
            least = submitting.applied + 20 * TOGETHER
            wait_until(lambda: submitting.applied > least, 60, "submissions pass")
            assert scene.workers.end_worker() == 0
        shard_map = scene.leaderboard.maps.published(scene.name, Deadline.after(10))
        left = [
            patiently(
                partial(drain_shards, scene.leaderboard, scene.engine, shard_map, [shard], 500, Deadline.after(30))
            )
            for shard in shard_map.shards()
        ]
        assert sum(drained.stored for drained in left) > 0, "submissions went on while nobody drained"
        assert sum(drained.repeated for drained in left) == 0
        scene.check(submitting)


def test_without_postgres_the_outbox_grows_to_its_limit_and_nothing_is_lost(rig: Rig, tmp_path: Path) -> None:
    """Past the limit submissions are refused whole; when PostgreSQL is back everything that counted is stored."""
    with played(rig, tmp_path, outbox_limit=60) as scene:
        with Submitting(scene.leaderboard, scene.name) as submitting:
            wait_until(scene.drains, 60, "a worker drains")
            rig.servers.kill("postgres")
            away, refused = Deadline.after(AWAY_S), submitting.refused
            wait_until(lambda: submitting.refused > refused + 10 * TOGETHER, 60, "some are refused")
            wait_until(lambda: away.passed, AWAY_S + 60, "the time is over")
            assert scene.waiting() > 0
            applied = submitting.applied
            rig.servers.start("postgres")
            wait_until(lambda: submitting.applied > applied + 10 * TOGETHER, 60, "submissions pass again")
        scene.check(submitting)


def test_without_the_broker_the_audit_log_waits_and_then_catches_up(rig: Rig, tmp_path: Path) -> None:
    """No task is woken while it is away, and nobody has to start the workers again when it is back."""
    with played(rig, tmp_path) as scene:
        with Submitting(scene.leaderboard, scene.name) as submitting:
            wait_until(scene.drains, 60, "a worker drains")
            rig.servers.kill("broker")
            away, least = Deadline.after(AWAY_S), scene.waiting() + 100
            wait_until(lambda: scene.waiting() > least, 60, "the outbox grows")
            wait_until(lambda: away.passed, AWAY_S + 60, "the time is over")
            rig.servers.start("broker")
        scene.check(submitting)


def test_one_port_tells_what_all_processes_of_a_worker_counted(rig: Rig, tmp_path: Path) -> None:
    """The lag, what was stored, and when each job last succeeded; a process that is killed takes nothing back."""
    (port,) = free_ports(1)
    with played(rig, tmp_path, worker_metrics_port=port) as scene:
        with Submitting(scene.leaderboard, scene.name) as submitting:
            wait_until(scene.drains, 60, "a worker drains")
            wait_until(lambda: scene.workers.kill_child(random.Random(1)), 60, "there is a worker to kill")
        wait_until(lambda: scene.waiting() == 0, 60, "drained to the end")
        board = f'{{board="{scene.name.board}"}}'

        def told() -> dict[str, float]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
            return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

        def caught_up() -> dict[str, float] | None:
            counted = told()
            lag = (counted[f"rangeboard_outbox_entries{board}"], counted[f"rangeboard_audit_lag_seconds{board}"])
            return counted if lag == (0, 0) else None

        counted = wait_until(caught_up, 30, "no lag is told")
        assert counted
        assert 0 < counted[f"rangeboard_drained_submissions_total{board}"] <= submitting.applied
        stamp = counted['rangeboard_task_succeeded_at_seconds{task="audit.drain_all"}']
        assert 0 <= time.time() - stamp < 60
