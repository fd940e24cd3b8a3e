"""Jobs that are asked for over HTTP.

`wake_all`: late: jobs begin late. Twice and beside itself: wakes for the same job; the first to come takes it.
`run`: late, twice, beside itself: finds that the job waits no longer, or that as many run as may, and ends. Killed: the
job is shown as failed, and is asked for again.
"""

from records import jobs
from workers import resources
from workers.jobs import Jobs
from workers.tasks.archive import SOFT_LIMIT_S
from workers.tasks.base import job

_AT_ONCE = 10


@job("jobs.wake_all")
def wake_all() -> None:
    """Wake a worker for every job that waits."""
    for job_id in jobs.waiting(resources.engine(), _AT_ONCE):
        run.apply_async((job_id,), expires=10)


@job("jobs.run", soft_time_limit=SOFT_LIMIT_S, time_limit=SOFT_LIMIT_S + 60)
def run(job_id: str) -> None:
    """Do a job that waits."""
    Jobs(resources.leaderboard(), resources.engine(), resources.settings()).run(job_id)
