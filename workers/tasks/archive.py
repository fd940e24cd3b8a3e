"""Closing periods.

`close_due`: late: whatever is over by then is closed, the oldest first, also months that were missed. Twice: finds
everything archived. Beside itself: the second sees that it is under way and goes on with the next. Killed: the next run
takes up the copy where it was.
"""

from datetime import UTC, datetime

from records.errors import RecordsError
from sharding.errors import LeaderboardError
from workers import resources
from workers.archive import Archive
from workers.jobs import Jobs
from workers.tasks.base import job, log

#: A period of a hundred million players takes its time; the lease keeps the ticks meanwhile from doing it again.
SOFT_LIMIT_S = 6 * 3600


@job("archive.close_due", soft_time_limit=SOFT_LIMIT_S, time_limit=SOFT_LIMIT_S + 60)
def close_due() -> None:
    """Archive every period that is over and is not archived. One that cannot be does not keep the others."""
    given = resources.leaderboard(), resources.engine(), resources.settings()
    failed: LeaderboardError | RecordsError | None = None
    for name in Archive(*given).due(datetime.now(UTC)):
        try:
            Jobs(*given).archive_due(name)
        except (LeaderboardError, RecordsError) as error:
            log.error("period_not_archived", board=name.board, period=name.period, reason=error.detail)
            failed = error
    if failed is not None:
        raise failed
