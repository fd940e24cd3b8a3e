"""What all tasks share: one base class that gives each its context, its time, its metrics, and its end.

A task ends *done*, *put off*, *refused* or *failed*. Put off is what a server that is away makes of it: it is logged
by its reason, and nothing is retried, because the tick comes again by itself and looks anew at what there is to do.
Refused needs somebody to look at it. Anything else is a defect of ours, and is raised, so that the log has its stack.
"""

import time
from typing import Any

import structlog
from celery import Task, shared_task
from celery.exceptions import SoftTimeLimitExceeded

from records.errors import RecordsError
from sharding.errors import LeaderboardError
from workers import metrics

log = structlog.get_logger()


class Job(Task):  # type: ignore[misc]  # Celery has no types
    """A task of this project."""

    abstract = True
    ignore_result = True
    max_retries = 0

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Run it, and say how it ended."""
        structlog.contextvars.bind_contextvars(task=self.name, task_id=self.request.id)
        began = time.monotonic()
        outcome = "failed"
        try:
            self.run(*args, **kwargs)
            outcome = "done"
            metrics.task_succeeded_at.labels(self.name).set_to_current_time()
        except (LeaderboardError, RecordsError) as error:
            outcome = "put_off" if error.retryable else "refused"
            log.warning(f"task_{outcome}", reason=error.detail, error=type(error).__name__)
        except SoftTimeLimitExceeded:
            outcome = "put_off"
            log.warning("task_put_off", reason="it took too long; the next tick goes on with it")
        finally:
            metrics.task_seconds.labels(self.name, outcome).observe(time.monotonic() - began)
            structlog.contextvars.unbind_contextvars("task", "task_id")


def job(name: str, **options: Any) -> Any:
    """Declares a task: `@job("audit.drain_all")`. The options are Celery's."""
    return shared_task(name=name, base=Job, **options)
