"""The process supervisor of `rangeboard up`: supervisord, written a configuration for and talked to over a unix socket.

It keeps output in rotated files, restarts what dies, and stops in order; a supervisor of our own would have been the
same again with fewer years behind it. Every program becomes a small shell script in `run/`, which can be read, and run
by hand; the configuration holds only their names, since its format has no way to quote a path.

A primary that died is not restarted at once. Its last writes may be in its replica's memory and not in its own file (an
answer does not wait for the file while a slow fsync runs), and a primary that is back before its replica has taken over
would make the replica forget them too. So it waits until the cluster has had time to fail over, and comes back as a
replica. Its own `nodes.conf` says whether it was a primary, and has a replica to wait for.
"""

import math
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from tempfile import mkdtemp
from typing import Any
from xmlrpc.client import Error as RpcError
from xmlrpc.client import ServerProxy, Transport

import psutil

from cli.errors import StackError
from cli.programs import NODE_TIMEOUT_S, Program
from cli.state import DataDirectory

MARK = "STACK_DATA_DIR"
"""The environment variable by which the processes of one data directory are known."""

# Until a dead primary is noticed and a replica elected: three seconds mostly. On a busy machine the first election may
# lack votes, and the next is held four node timeouts later.
FAILOVER_S = math.ceil(5 * NODE_TIMEOUT_S + 3)

AFTER_A_CRASH = """
# After a crash: let a replica take over before its primary is back, see cli/supervisor.py
if [ -e {started} ]; then
  primary=$(awk '/myself,master/ {{ print $1 }}' nodes.conf)
  if [ -n "$primary" ] && grep -q "slave $primary " nodes.conf; then sleep {seconds}; fi
fi
: > {started}
"""

SOCKET = "supervisor.sock"
SOCKET_PATH_LIMIT = 80  # the system's is about 104, and supervisord adds its pid while it binds

_START_DEADLINE_S = 10.0
_ANSWER_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What the supervisor says of one process."""

    name: str
    state: str  # RUNNING, STARTING, BACKOFF, EXITED, FATAL, STOPPED …
    pid: int  # 0: none

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as anybody knows."""
        return self.state in {"STARTING", "RUNNING"}


class SupervisorGone(StackError):
    """The supervisor does not answer, or is about to end."""


class Supervisor:
    """The supervisord of one data directory, running or not."""

    def __init__(self, directory: DataDirectory, socket_path: str) -> None:
        self._directory = directory
        self._socket = socket_path

    def start(self, groups: Mapping[str, Sequence[Program]], environment: Mapping[str, str]) -> None:
        """Start supervisord with these programs, none of them running; groups are stopped last to first.

        `environment` is added to every program's.
        """
        run = self._directory.run
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(mode=0o700)
        scripts = {program.name: self.write_script(program) for group in groups.values() for program in group}
        (run / "supervisord.conf").write_text(_configuration(groups, scripts, self._socket))
        errors = run / "supervisord.err"
        with errors.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "-c", "run/supervisord.conf"],
                cwd=self._directory.path,
                env={**os.environ, **environment, MARK: str(self._directory.path), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_DEADLINE_S
        while not self.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise StackError(f"The process supervisor did not start: {errors.read_text().strip()}")
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it runs."""
        try:
            self._call("getState")
        except SupervisorGone:
            return False
        return True

    def start_group(self, group: str) -> None:
        """Start the programs of a group; they are not ready on return."""
        self._call("startProcessGroup", group, False)

    def processes(self) -> dict[str, ProcessState]:
        """All programs by name."""
        return {
            info["name"]: ProcessState(info["name"], info["statename"], info["pid"])
            for info in self._call("getAllProcessInfo")
        }

    def pid(self) -> int:
        """Its own process id."""
        return int(self._call("getPID"))

    def shut_down(self, deadline_s: float) -> None:
        """Stop every program in order and end; returns when it has, or when the time is over."""
        try:
            process = psutil.Process(self.pid())
            self._call("shutdown")
            process.wait(deadline_s)
        except (SupervisorGone, psutil.Error):
            return

    def write_script(self, program: Program) -> str:
        """The program as a shell script; its path is as the supervisor should name it."""
        lines = ["#!/bin/sh", f"cd {shlex.quote(str(program.directory))} || exit 1"]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in program.environment.items()]
        if program.name.startswith("redis-"):
            started = shlex.quote(str(self._directory.run / f"{program.name}.started"))
            lines.append(AFTER_A_CRASH.format(started=started, seconds=FAILOVER_S))
        lines.append(f"exec {shlex.join(program.command)}")
        # Another account may have no way into the data directory; its program's own folder it can read.
        script = (program.directory if program.account else self._directory.run) / f"{program.name}.sh"
        script.write_text("\n".join(lines) + "\n")
        inside = script.is_relative_to(self._directory.path)
        return str(script.relative_to(self._directory.path) if inside else script)

    def _call(self, method: str, *arguments: object) -> Any:
        transport = _Transport(self._socket)
        try:
            with ServerProxy("http://localhost", transport=transport) as server:
                return getattr(server.supervisor, method)(*arguments)
        except (OSError, RpcError, HTTPException) as error:
            raise SupervisorGone(f"The process supervisor does not answer: {error}.") from error
        finally:
            transport.close()


class _Connection(HTTPConnection):
    """HTTP over a unix socket; a supervisor that hangs counts as gone."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWER_DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.settimeout(self.timeout)
        try:
            opened.connect(self._path)
        except OSError:
            opened.close()
            raise
        self.sock = opened


class _Transport(Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: object) -> HTTPConnection:  # noqa: ARG002  # it is always the same
        return _Connection(self._path)


def choose_socket(directory: DataDirectory) -> str:
    """Where a supervisor may listen: in the data directory, or in a private one if a socket's path cannot be that."""
    wanted = str(directory.path / SOCKET)
    plain = wanted.isascii() and not any(sign in wanted for sign in " %;#\"'")
    return wanted if plain and len(wanted) <= SOCKET_PATH_LIMIT else f"{mkdtemp(prefix='rangeboard-')}/{SOCKET}"


def _configuration(groups: Mapping[str, Sequence[Program]], scripts: Mapping[str, str], socket_path: str) -> str:
    sections = [
        ("unix_http_server", {"file": socket_path}),
        (
            "supervisord",
            {
                "logfile": "logs/supervisord.log",
                "logfile_maxbytes": "1MB",
                "logfile_backups": "1",
                "pidfile": "run/supervisord.pid",
                "nocleanup": "true",
                "silent": "true",
            },
        ),
        (
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
    ]
    for priority, (group, programs) in enumerate(groups.items(), start=1):
        sections.append((f"group:{group}", {"programs": ",".join(p.name for p in programs), "priority": str(priority)}))
        sections += [(f"program:{program.name}", _program(program, scripts[program.name])) for program in programs]
    return "\n".join(
        "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in options.items()), ""])
        for name, options in sections
    )


def _program(program: Program, script: str) -> dict[str, str]:
    options = {
        "command": f"/bin/sh {script}",
        "autostart": "false",
        "autorestart": "true",
        "startsecs": "1",
        "startretries": "20",
        "stopsignal": program.stop_signal,
        "stopasgroup": str(program.name.startswith("redis-")).lower(),  # with the `sleep` before a restart
        "killasgroup": "true",
        "stopwaitsecs": "10",
        "redirect_stderr": "true",
        "stdout_logfile": f"logs/{program.name}.log",
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": "2",
    }
    return options | ({"user": program.account} if program.account else {})
