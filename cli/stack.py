"""The embedded stack: every part of Rangeboard as real processes on loopback, from one data directory.

Starting is a list of stages. The servers start first, the cluster is formed while PostgreSQL is migrated, then a period
is opened, and the processes that need all of it start at once. Whatever happens on the way, what was started is taken
down again.
"""

import shutil
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from typing import Any

from cli import leftovers, programs
from cli.errors import StackError
from cli.log_lines import readable
from cli.postgres import Postgres, find_binaries
from cli.programs import Program
from cli.servers import wait_for_redis
from cli.state import DataDirectory, StackState
from cli.supervisor import Supervisor
from runtime.settings import Settings
from sharding.cluster.executor import form, observe
from sharding.cluster.formation import FormationError, Library, Shape

RECORDS, REDIS, SERVICES = "records", "redis", "services"
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 30.0

Report = Callable[[str, float], None]
"""Told of each finished stage: what was done, and the seconds it took."""


class Stack:
    """The stack of one data directory."""

    def __init__(self, directory: DataDirectory, state: StackState, given: Settings) -> None:
        self.directory = directory
        self.state = state
        self.settings = state.settings(given)
        self.supervisor = Supervisor(directory, state.socket)

    @classmethod
    def existing(cls, directory: DataDirectory, given: Settings) -> "Stack | None":
        """The stack that this folder holds, running or not; None where there is none."""
        state = directory.load()
        return None if state is None else cls(directory, state, given)

    @classmethod
    def running(cls, directory: DataDirectory, given: Settings) -> "Stack":
        """The stack that runs in this folder. Raises `StackError` if none does."""
        stack = cls.existing(directory, given)
        if stack is None or not stack.supervisor.answers():
            raise StackError(f"Nothing runs in {directory.path}: start it with `rangeboard up`.")
        return stack

    @property
    def log_files(self) -> dict[str, Path]:
        """The log of every process, by its name."""
        names = [*self.state.redis_ports, "broker", "postgres", "worker", "beat", "api"]
        return {name: self.directory.logs / f"{name}.log" for name in names}

    # -- up

    def start(self, report: Report) -> None:
        """Bring everything up, and return once the API is ready. Raises `StackError`, and leaves nothing running."""
        with ThreadPoolExecutor(max_workers=2) as pool:
            try:
                self._start(pool, report)
            except BaseException:
                self.stop()  # which also ends what the pool may be waiting for
                raise

    def _start(self, pool: ThreadPoolExecutor, report: Report) -> None:
        self.directory.logs.mkdir(mode=0o700, exist_ok=True)
        postgres = self._postgres()
        groups = {RECORDS: [postgres.program()], REDIS: self._redis(), SERVICES: self._services()}
        for program in chain(*groups.values()):
            program.directory.mkdir(mode=0o700, exist_ok=True)
        with _stage(report, "supervisor running"):
            self.supervisor.start(groups, self.settings.environment())
        stages = [pool.submit(self._form_cluster, report), pool.submit(self._prepare_database, postgres, report)]
        for stage in as_completed(stages):
            stage.result()
        with _stage(report, "current period open"):
            self._open_period()
        self.supervisor.start_group(SERVICES)
        with _stage(report, "API, workers and beat ready"):
            self._wait_for_api()

    def _redis(self) -> list[Program]:
        binary = programs.redis_binary(self.settings)
        path = self.directory.path
        nodes = [
            programs.cluster_node(name, binary, port, path / name) for name, port in self.state.redis_ports.items()
        ]
        return [*nodes, programs.broker(binary, self.state.ports["broker"], path / "broker")]

    def _services(self) -> list[Program]:
        found = []
        for make in (programs.worker, programs.beat, programs.api):
            name = make.__name__
            metrics = self.directory.path / "metrics" / name
            shutil.rmtree(metrics, ignore_errors=True)  # of processes that are gone
            metrics.mkdir(parents=True)
            found.append(make(self.directory.path / name, {"PROMETHEUS_MULTIPROC_DIR": str(metrics)}))
        return found

    def _postgres(self) -> Postgres:
        home = self.state.home
        home.directory.mkdir(parents=True, exist_ok=True)
        binaries = find_binaries(self.settings, home)
        return Postgres(binaries, home, self.state.ports["postgres"], self.state.postgres_password)

    def _form_cluster(self, report: Report) -> None:
        from sharding.functions import LIBRARY_NAME, library_code  # noqa: PLC0415 -- not needed by `down`

        ports = {**self.state.redis_ports, "broker": self.state.ports["broker"]}
        with _stage(report, "Redis Cluster formed"):
            self.supervisor.start_group(REDIS)
            for name, port in ports.items():
                wait_for_redis(port, START_DEADLINE_S, alive=partial(self._require_alive, name))
            try:
                form(
                    self.settings.redis_nodes.split(","),
                    Shape(self.state.primaries, self.state.replicas, Library(LIBRARY_NAME, library_code())),
                    deadline_s=START_DEADLINE_S,
                    alive=lambda: all(map(self._require_alive, ports)),
                )
            except FormationError as error:
                raise StackError(f"The Redis Cluster could not be formed: {error}.") from error

    def _prepare_database(self, postgres: Postgres, report: Report) -> None:
        from records import api_keys, migrations  # noqa: PLC0415 -- costs half a second
        from records.engine import connect  # noqa: PLC0415
        from records.errors import RecordsError  # noqa: PLC0415

        with _stage(report, "PostgreSQL migrated"):
            postgres.initialise()
            self.supervisor.start_group(RECORDS)
            postgres.wait_ready(START_DEADLINE_S, alive=partial(self._require_alive, "postgres"))
            postgres.create_database()
            engine = connect(self.state.postgres_dsn, pool_size=1)
            try:
                migrations.upgrade(self.state.postgres_dsn)
                api_keys.ensure(engine, self.state.api_key, "local stack", ["scores:write", "scores:read", "admin"])
            except RecordsError as error:
                raise StackError(f"The database cannot be used: {error}.") from error
            finally:
                engine.dispose()

    def _open_period(self) -> None:
        from records.errors import RecordsError  # noqa: PLC0415
        from sharding.errors import LeaderboardError  # noqa: PLC0415
        from workers.periods import open_current  # noqa: PLC0415

        try:
            open_current(self.settings)
        except (LeaderboardError, RecordsError) as error:
            raise StackError(f"The current period could not be opened: {error}") from error

    def _wait_for_api(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while (reason := self.unready()) is not None:
            self._require_alive("api")
            if time.monotonic() > deadline:
                raise StackError(f"The API is not ready after {START_DEADLINE_S:g} s: {reason}")
            time.sleep(0.05)

    def _require_alive(self, name: str) -> bool:
        """True; or `StackError` with its last words if the process has ended, even if it is being restarted."""
        if self.supervisor.processes()[name].alive:
            return True
        raise StackError(f"{name} did not start: {self._last_words(name)}")

    def _last_words(self, name: str) -> str:
        file = self.log_files[name]
        with suppress(FileNotFoundError), file.open(errors="replace") as log:
            last = deque((line.strip() for line in log if line.strip()), maxlen=1)
            if last:
                line = readable(last[0])
                return f"{line.text if line else last[0]} (all of it in {file})"
        return "it wrote no log."

    # -- down

    def stop(self) -> int:
        """End every process of this directory, supervised or left over; returns how many had to be hunted down."""
        with suppress(OSError):
            self._stopping.touch()
        self.supervisor.shut_down(STOP_DEADLINE_S)
        return self.end_leftovers()

    @property
    def told_to_stop(self) -> bool:
        """Whether somebody, perhaps in another terminal, has asked this run to end."""
        return self._stopping.exists()

    @property
    def _stopping(self) -> Path:
        return self.directory.run / "stopping"

    def end_leftovers(self) -> int:
        """End the processes that no supervisor looks after any more; returns how many there were."""
        ended = leftovers.end(self.directory.path, self.state.home.directory / "data", deadline_s=5.0)
        socket_folder = Path(self.state.socket).parent
        if socket_folder != self.directory.path:
            shutil.rmtree(socket_folder, ignore_errors=True)
        return ended

    def remove(self) -> None:
        """Delete all data of a stopped stack."""
        self.state.home.remove()
        shutil.rmtree(self.directory.path)

    # -- status

    def unready(self) -> str | None:
        """Why the API is not ready; None if it is."""
        try:
            with urllib.request.urlopen(f"{self.state.api_url}/readyz", timeout=2.0):  # noqa: S310 -- http
                return None
        except urllib.error.HTTPError as error:
            return error.read(500).decode(errors="replace")
        except (OSError, HTTPException) as error:
            return str(error)

    def status(self) -> dict[str, Any]:
        """Everything that a script may want to know of a running stack."""
        processes = self.supervisor.processes()
        pids = {name: process.pid for name, process in processes.items() if process.pid}
        nodes = observe(self.settings.redis_nodes.split(","))
        return {
            "ready": self.unready() is None,
            "api_url": self.state.api_url,
            "metrics_url": self.state.metrics_url,
            "api_key": self.state.api_key,
            "redis": [
                {
                    "name": name,
                    "port": port,
                    "role": ("down" if not node.answers else "replica" if node.primary_id else "primary"),
                    "pid": pids.get(name),
                    "slots": sum(map(len, node.slots)) if node.answers else 0,
                }
                for (name, port), node in zip(self.state.redis_ports.items(), nodes, strict=True)
            ],
            "broker_url": self.state.broker_url,
            "postgres_dsn": self.state.postgres_dsn,
            "pids": {**pids, "supervisord": self.supervisor.pid()},
            "processes": {name: process.state.lower() for name, process in processes.items()},
            "data_dir": str(self.directory.path),
            "logs": str(self.directory.logs),
        }


@contextmanager
def _stage(report: Report, name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    report(name, time.monotonic() - began)
