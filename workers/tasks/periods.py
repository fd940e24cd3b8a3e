"""Opening periods.

`open_all`: late: a period opens late, and until then its submissions are answered 503 or 404. Twice: finds all open.
Beside itself: PostgreSQL keeps the first map inserted, and both publish that one.
"""

from datetime import UTC, datetime

from workers import periods, resources
from workers.tasks.base import job


@job("periods.open_all")
def open_all() -> None:
    """Open what is to be open now or soon."""
    periods.open_all(resources.leaderboard(), resources.engine(), resources.settings(), datetime.now(UTC))
