"""What the workers count, for Prometheus, right under several processes.

Celery's child processes count into files of their own, in a directory named by `PROMETHEUS_MULTIPROC_DIR`; the parent,
which runs no tasks, adds them up and answers on a port of its own. Without that directory, or where the port is taken,
a worker works without being watched: no audit entry waits for a metric.

A job that beat wakes has a time stamp of its last success. An alert on its age notices what no error tells: that beat,
the broker or the workers are gone.
"""

import os

import structlog
from billiard import current_process
from prometheus_client import Counter, Gauge, Histogram, start_http_server

from runtime import metrics as shared
from runtime.settings import Settings

log = structlog.get_logger()


def _place() -> str:
    """The place of this process in Celery's pool, in which one follows the other; `parent` outside of it."""
    index = getattr(current_process(), "index", None)
    return "parent" if index is None else f"child-{index}"


shared.count_as(_place)

_BUCKETS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)

task_seconds = Histogram(
    "rangeboard_task_seconds", "Time of a task, by how it ended", ["task", "outcome"], buckets=_BUCKETS_S
)
task_succeeded_at = Gauge(
    "rangeboard_task_succeeded_at_seconds", "When a task last ended well", ["task"], multiprocess_mode="max"
)
drained_rows = Counter("rangeboard_drained_submissions", "Submissions stored in the audit log", ["board"])
quarantined_entries = Counter("rangeboard_quarantined_entries", "Outbox entries put aside", ["board"])
compensated_events = Counter("rangeboard_compensated_events", "Events applied twice and taken back", ["board"])
outbox_entries = Gauge(
    "rangeboard_outbox_entries", "Outbox entries that wait for the drain", ["board"], multiprocess_mode="mostrecent"
)
audit_lag_seconds = Gauge(
    "rangeboard_audit_lag_seconds", "Age of the oldest outbox entry", ["board"], multiprocess_mode="mostrecent"
)
board_generation = Gauge(
    "rangeboard_board_generation",
    "Highest generation among a board's open periods: every rebuild makes a new one",
    ["board"],
    multiprocess_mode="mostrecent",
)
archived_players = Counter("rangeboard_archived_players", "Final ranks that were copied out of Redis", ["board"])
scrubbed = Counter("rangeboard_scrubbed", "Rows and directory entries that the scrub looked at", ["board", "kind"])
scrub_repairs = Counter("rangeboard_scrub_repairs", "What the scrub found wrong, by kind", ["board", "kind"])
repaired_rows = Counter("rangeboard_repaired_rows", "Rows set to what the audit log says", ["board"])


def serve(settings: Settings) -> None:
    """Answer with the counts of all processes of this worker, on the port that the settings name."""
    if not settings.worker_metrics_port or not os.environ.get(shared.DIRECTORY):
        return
    try:
        start_http_server(settings.worker_metrics_port, addr=settings.api_host, registry=shared.everybodys())
    except OSError as error:
        log.warning("metrics_not_served", port=settings.worker_metrics_port, reason=str(error))
