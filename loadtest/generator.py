"""Locust as a process of its own: started with a scenario, watched, and its measurements collected.

Locust replaces the standard library's sockets and threads as soon as it is imported, so it is never imported here.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from loadtest.measurements import Measurements, together
from loadtest.scenario import Scenario

#: What Locust may take beyond the load itself: start, last answers, end.
GRACE_S = 60
_POLL_S = 0.2


class GeneratorError(Exception):
    """Locust could not do its work."""


def send_load(
    scenario: Scenario,
    directory: Path,
    url: str,
    api_key: str,
    *,
    processes: int,
    connections: int,
    elapsed: Callable[[float], None],
) -> Measurements:
    """Run the scenario; ledgers and measurements of each process are in the directory afterwards.

    `elapsed` is told how many seconds have passed. GeneratorError if Locust fails, or if no process of it reports; a
    process that dies shows in the measurements' number of processes.
    """
    log = directory / "locust.log"
    with log.open("wb") as output:
        locust = subprocess.Popen(
            _command(scenario, directory, url, processes, connections),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"LOADTEST_API_KEY": api_key},
        )
        try:
            began = time.monotonic()
            while locust.poll() is None:
                elapsed(time.monotonic() - began)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    locust.wait(_POLL_S)
        finally:
            if locust.poll() is None:
                locust.terminate()
                locust.wait()
    if locust.returncode:
        raise GeneratorError(f"Locust ended with {locust.returncode}: {_last_line(log)}")
    files = sorted(directory.glob("*.json"))
    if not files:
        raise GeneratorError(f"no process of Locust reported anything: {_last_line(log)}")
    return together(msgspec.json.decode(file.read_bytes(), type=Measurements) for file in files)


def _command(scenario: Scenario, directory: Path, url: str, processes: int, connections: int) -> list[str]:
    port = str(_free_port())
    several = ["--processes", str(processes), "--master-bind-port", port, "--master-port", port]
    return [
        *(sys.executable, "-m", "locust", "--locustfile", str(Path(__file__).with_name("locustfile.py"))),
        *("--headless", "--only-summary", "--loglevel", "WARNING", "--exit-code-on-error", "0"),
        *("--host", url, "--users", str(2 * processes), "--spawn-rate", str(2 * processes)),
        *("--run-time", f"{int(scenario.seconds) + GRACE_S}s", "--connections", str(connections)),
        *("--scenario", msgspec.json.encode(scenario).decode(), "--directory", str(directory)),
        *(several if processes > 1 else ()),
    ]


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
