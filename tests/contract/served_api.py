"""The API in a process of its own, served as in production: for what only sockets and a server show."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import msgspec
from waiting import wait_until

from cli.ports import free_ports
from runtime.settings import Settings


@contextmanager
def served(settings: Settings, home: Path, more: str = "") -> Iterator[tuple["subprocess.Popen[bytes]", int, int]]:
    """A server with one worker, and its ports, the second that of the metrics; `more`: lines for its configuration.

    It must not have logged any error by the end.
    """
    port, metrics_port = free_ports(2)
    own = msgspec.structs.replace(settings, api_port=port, metrics_port=metrics_port, api_workers=1)
    configuration = home / "configuration.py"
    configuration.write_text(f"from api.gunicorn_conf import *\n{more}")
    line = [sys.executable, "-m", "gunicorn", "-c", str(configuration), "api.app:create_app()"]
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(line, env={**os.environ, **own.environment()}, stdout=log, stderr=log)
    try:
        wait_until(lambda: _answers(port), 30)
        yield server, port, metrics_port
    finally:
        server.terminate()
        server.wait(20)
    assert b'"level":"error"' not in (home / "server.log").read_bytes()


def _answers(port: int) -> bool:
    try:
        with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/livez")
            return connection.getresponse().status == 200
    except OSError:
        return False
