"""Players who are hidden, or erased.

`settle_visibility`: late: a change that the API could not carry out is seen later. Twice and beside itself: it only
says again how it is to be.
`erase_pending`: late: the audit log names an erased player for longer. Twice: finds nobody. Beside itself: the second
waits for the first's row, and finds it gone. Killed: the next run begins anew, and finds less to do.
"""

from datetime import UTC, datetime

from workers import players, resources
from workers.tasks.base import job


@job("players.settle_visibility")
def settle_visibility() -> None:
    """Make all open boards hide and show whom they should."""
    players.settle_visibility(resources.leaderboard(), resources.engine(), datetime.now(UTC))


@job("players.erase_pending")
def erase_pending() -> None:
    """Go on with all erasures."""
    players.erase_pending(resources.leaderboard(), resources.engine(), datetime.now(UTC))
