"""Processes of a data directory that nobody supervises any more, found and ended.

After `kill -9` of the supervisor its programs go on, under pids that no file can be trusted to name: they were
restarted since, or the number belongs to somebody else by now. So processes are recognised by what they are. All
inherit an environment variable that names the data directory; PostgreSQL overwrites that memory, but runs in a folder
of its own.
"""

import os
import signal
import time
from pathlib import Path

import psutil

from cli.supervisor import MARK


def find(data_dir: Path, postgres_data: Path) -> list[psutil.Process]:
    """Every live process of this data directory, the supervisor included."""
    return [process for process in psutil.process_iter() if _belongs(process, data_dir, postgres_data)]


DEATH_S = 30.0  # a killed process may have to wait for its disk


def end(data_dir: Path, postgres_data: Path, deadline_s: float) -> int:
    """End them, in good order as far as `deadline_s` allows, and return how many there were."""
    found = find(data_dir, postgres_data)
    for process in sorted(found, key=_is_supervisor, reverse=True):  # the supervisor first, or it restarts the others
        _send(process, signal.SIGKILL if _is_supervisor(process) else _ending(process))
    for process in _wait(data_dir, postgres_data, deadline_s if found else 0):
        _send(process, signal.SIGKILL)
    _wait(data_dir, postgres_data, DEATH_S)
    return len(found)


def _wait(data_dir: Path, postgres_data: Path, deadline_s: float) -> list[psutil.Process]:
    """Wait until there are none, and return those that are left when the time is over.

    A dead process that its parent has not buried yet is none, so psutil's own waiting would not do.
    """
    deadline = time.monotonic() + deadline_s
    while (left := find(data_dir, postgres_data)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _belongs(process: psutil.Process, data_dir: Path, postgres_data: Path) -> bool:
    if process.pid == os.getpid():
        return False
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.name() == "postgres" and Path(process.cwd()) == postgres_data:
            return True
        return process.environ().get(MARK) == str(data_dir)
    except (psutil.Error, OSError):
        return False


def _is_supervisor(process: psutil.Process) -> bool:
    try:
        return "supervisor.supervisord" in process.cmdline()
    except psutil.Error:
        return False


def _ending(process: psutil.Process) -> signal.Signals:
    try:
        return signal.SIGINT if process.name() == "postgres" else signal.SIGTERM  # its TERM waits for every client
    except psutil.Error:
        return signal.SIGTERM


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)  # psutil makes sure that the pid is still the same process
    except psutil.Error:
        return
