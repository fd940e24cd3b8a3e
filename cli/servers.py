"""The servers alone, as plain child processes: a formed Redis Cluster, a broker and PostgreSQL, for the tests.

    with ServerSet(tmp_path) as servers:
        client = connect(servers.settings)

Real servers in a few seconds, from the same commands as `rangeboard up`, without its supervisor: a test that kills a
server wants it to stay dead until it says otherwise.
"""

import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import msgspec
import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cli import programs
from cli.errors import StackError
from cli.ports import free_ports
from cli.postgres import Postgres, find_binaries, make_home
from cli.programs import HOST, Program
from runtime.settings import Settings
from sharding.cluster.executor import form
from sharding.cluster.formation import Library, Shape

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 10.0


class ServerSet:
    """Servers below `data_dir`, running and ready from the constructor to `stop`.

    `settings` are the given ones with the addresses of these servers. `library` is loaded on every primary.
    Processes are named `redis-1` …, `broker` and `postgres`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        primaries: int = 3,
        replicas: int = 1,
        settings: Settings | None = None,
        library: Library | None = None,
    ) -> None:
        given = settings or Settings()
        nodes = primaries * (1 + replicas)
        *node_ports, broker_port, postgres_port = free_ports(nodes + 2)
        self._logs = data_dir / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._home = make_home(data_dir / "postgres")
        self.postgres = Postgres(
            find_binaries(given, self._home), self._home, postgres_port, secrets.token_urlsafe(16), fsync=False
        )
        binary = programs.redis_binary(given)
        self.ports = {f"redis-{place}": port for place, port in enumerate(node_ports, start=1)}
        redis_programs = [
            programs.cluster_node(name, binary, port, data_dir / name) for name, port in self.ports.items()
        ]
        redis_programs.append(programs.broker(binary, broker_port, data_dir / "broker"))
        self._programs = {program.name: program for program in [*redis_programs, self.postgres.program()]}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.settings = msgspec.structs.replace(
            given,
            redis_nodes=",".join(f"{HOST}:{port}" for port in node_ports),
            broker_url=f"redis://{HOST}:{broker_port}/0",
            postgres_dsn=self.postgres.dsn(),
            ack_replicas=min(given.ack_replicas, replicas),
        )
        try:
            with ThreadPoolExecutor(max_workers=1) as pool:
                database = pool.submit(self._start_postgres)
                for program in redis_programs:
                    program.directory.mkdir(parents=True, exist_ok=True)
                    self.start(program.name)
                form(
                    self.settings.redis_nodes.split(","),
                    Shape(primaries, replicas, library),
                    deadline_s=START_DEADLINE_S,
                )
                wait_for_redis(broker_port, START_DEADLINE_S)
                database.result()
        except BaseException:
            self.stop()
            raise

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of what is running."""
        return {name: process.pid for name, process in self._running.items()}

    def directory_of(self, name: str) -> Path:
        """Where a process keeps its data."""
        return self._programs[name].directory

    def start(self, name: str) -> None:
        """Start a process that is not running; it need not be ready on return."""
        self._running[name] = self._programs[name].popen(self._logs / f"{name}.log")

    def kill(self, name: str) -> None:
        """End a process as a crash would, and return once it is gone; StackError if what it had started goes on.

        PostgreSQL does not start again while a backend of the one before it has the shared memory.
        """
        process = self._running.pop(name)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(children, STOP_DEADLINE_S)
        if alive:
            raise StackError(f"{name} is gone, and processes that it had started are not: {alive}")

    def stop(self) -> None:
        """End everything. The data of the nodes stay in the data directory; PostgreSQL's are removed."""
        for name, process in self._running.items():
            process.send_signal(signal.SIGCONT)  # a test may have stopped it
            process.send_signal(_signal_of(self._programs[name]))
        deadline = time.monotonic() + STOP_DEADLINE_S
        for process in self._running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()
        self._home.remove()

    def __enter__(self) -> "ServerSet":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_postgres(self) -> None:
        self.postgres.initialise()
        self.start("postgres")
        process = self._running["postgres"]
        self.postgres.wait_ready(START_DEADLINE_S, alive=lambda: process.poll() is None)
        self.postgres.create_database()


def wait_for_redis(port: int, deadline_s: float, alive: Callable[[], bool] = lambda: True) -> None:
    """Return once the server on this port answers and has its data loaded."""
    deadline = time.monotonic() + deadline_s
    with redis.Redis(host=HOST, port=port, socket_timeout=1.0, retry=Retry(NoBackoff(), 0)) as client:
        while True:
            try:
                client.ping()
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if not alive() or time.monotonic() > deadline:
                    raise StackError(f"The Redis server on port {port} did not start: {error}") from error
                time.sleep(0.02)
            else:
                return


def _signal_of(program: Program) -> signal.Signals:
    return signal.Signals[f"SIG{program.stop_signal}"]
