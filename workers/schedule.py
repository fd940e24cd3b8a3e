"""What beat wakes up, how often, and why that often.

Every entry expires before the next but a few, so that a worker that comes back does not find a heap of old ticks. Late,
double and missed ticks are harmless: each job looks at what there is to do.
"""

from typing import Any

SCHEDULE: dict[str, dict[str, Any]] = {
    # The audit log follows the boards within a second or two; that is how long a lost cluster could hide a score.
    "drain": {"task": "audit.drain_all", "schedule": 1.0, "options": {"expires": 5}},
    # A writer moves its own strays at once; what it leaves behind when it dies should be home within five seconds.
    "sweep": {"task": "handoff.sweep_all", "schedule": 2.0, "options": {"expires": 6}},
    # A new period must be open before it starts, a new board soon after it is made.
    "open-periods": {"task": "periods.open_all", "schedule": 10.0, "options": {"expires": 30}},
}
