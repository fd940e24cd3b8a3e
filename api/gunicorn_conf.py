"""How gunicorn serves the API: `gunicorn -c python:api.gunicorn_conf api.app:create_app()`.

Read in the master process, which must stay simple: it forks, so nothing is connected here, and the application is made
in the workers. The master listens to two ports, the API's and the metrics'; any worker answers on both.
"""

import os
import sys
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from gunicorn.glogging import Logger

from runtime.logs import configure
from runtime.settings import SettingsError, load

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

try:
    _settings = load()
except SettingsError as error:
    sys.exit(f"rangeboard api: {error}")

_own_directory = mkdtemp(prefix="rangeboard-metrics-") if not os.environ.get(_DIRECTORY) else ""
if _own_directory:
    os.environ[_DIRECTORY] = _own_directory


def _address(port: int) -> str:
    host = _settings.api_host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own events, in the form of all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        configure(_settings, "api")


bind = [_address(_settings.api_port), _address(_settings.metrics_port)]
workers = _settings.api_workers
worker_class = "api.server.Worker"
worker_connections = _settings.api_connections
logger_class = _Log
accesslog = None
# It would go past the head of the answer, which api/server.py keeps for what follows. Nothing is served from files.
sendfile = False
# Longer than the idle time of load balancers (60 s for most), so that it is they who close idle connections.
keepalive = 75
# Requests that are being served get their whole deadline; idle connections are closed after it.
graceful_timeout = _settings.request_deadline_ms // 1000 + 2
control_socket_disable = True
proc_name = "rangeboard-api"


def child_exit(_server: Any, worker: Any) -> None:
    """A worker is gone: its gauges go, what it counted stays counted."""
    # Not before the directory is named: the library looks for it when it is imported.
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(_server: Any) -> None:
    """The master ends: nobody will read the counts any more."""
    if _own_directory:
        rmtree(_own_directory, ignore_errors=True)
