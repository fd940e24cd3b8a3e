"""What beat wakes up, how often, and why that often.

Every entry expires before the next but a few, so that a worker that comes back does not find a heap of old ticks. Late,
double and missed ticks are harmless: each job looks at what there is to do.
"""

from typing import Any

SCHEDULE: dict[str, dict[str, Any]] = {
    # The audit log follows the boards within a second or two; that is how long a lost cluster could hide a score.
    "drain": {"task": "audit.drain_all", "schedule": 1.0, "options": {"expires": 5}},
    # A process moves its own strays in a moment; what it leaves behind when it dies should be home within five seconds.
    "sweep": {"task": "handoff.sweep_all", "schedule": 2.0, "options": {"expires": 6}},
    # The scrub repairs what two failures at once leave behind: a million players in half an hour, and then again.
    "scrub": {"task": "scrub.scrub_all", "schedule": 60.0, "options": {"expires": 60}},
    # A new period must be open before it starts, a new board soon after it is made.
    "open-periods": {"task": "periods.open_all", "schedule": 10.0, "options": {"expires": 30}},
    # A month is archived within a minute of being over. Mostly it finds nothing due, which one query tells; a crontab
    # for the first of the month would have to be caught up when it was missed, and this always is.
    "archive": {"task": "archive.close_due", "schedule": 60.0, "options": {"expires": 120}},
    # Somebody who has asked for a job looks at its status soon.
    "jobs": {"task": "jobs.wake_all", "schedule": 2.0, "options": {"expires": 6}},
    # The API hides and shows players at once; what it could not do, as it died or a shard was away, within seconds.
    "visibility": {"task": "players.settle_visibility", "schedule": 5.0, "options": {"expires": 10}},
    # An erased person is gone from the API at once; the audit log follows soon. Mostly one query that finds nobody.
    "erasures": {"task": "players.erase_pending", "schedule": 10.0, "options": {"expires": 20}},
    # Months leave the audit log once a month; looking every hour costs nothing, and no outage makes it a month later.
    "retention": {"task": "audit.drop_old_months", "schedule": 3600.0, "options": {"expires": 3600}},
}
