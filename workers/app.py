"""The Celery app. A message is only a wake-up call: losing one costs latency, never data.

So messages are acknowledged late, given back when a worker dies, not kept as results, and a tick that nobody took in
time expires. The broker is a standalone Redis: Celery has no transport for a cluster, and must not share its memory.
"""

import sys
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_ready

from runtime.logs import configure
from runtime.settings import SettingsError, load
from workers import metrics
from workers.schedule import SCHEDULE

try:
    _settings = load()
except SettingsError as error:
    sys.exit(f"rangeboard worker: {error}")

app = Celery("rangeboard", broker=_settings.broker_url)
app.conf.update(
    include=[
        "workers.tasks.audit",
        "workers.tasks.periods",
        "workers.tasks.handoff",
        "workers.tasks.archive",
        "workers.tasks.scrub",
        "workers.tasks.jobs",
        "workers.tasks.players",
    ],
    beat_schedule=SCHEDULE,
    timezone="UTC",
    enable_utc=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_soft_time_limit=240,
    task_time_limit=300,
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    worker_max_tasks_per_child=20_000,
    worker_soft_shutdown_timeout=10,  # what runs may end; what does not is given back, and done by another worker
    worker_enable_soft_shutdown_on_idle=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": 600,  # longer than any task may run
        "socket_timeout": 10,  # without one, a broker that hangs is waited for for ever
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "retry_on_timeout": True,
    },
)


@setup_logging.connect
def _log_as_everybody(**_: Any) -> None:
    configure(_settings, process="beat" if "beat" in sys.argv else "worker")


@worker_ready.connect
def _tell_metrics(**_: Any) -> None:
    metrics.serve(_settings)
