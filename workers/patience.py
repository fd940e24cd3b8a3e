"""Repeating what may be repeated.

A long job meets every failover there is. Its steps are idempotent, so one that a shard cannot take just now is tried
again for a while, instead of leaving the operator with a job to start anew.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from records.errors import RecordsError
from runtime.deadlines import Deadline
from sharding.errors import LeaderboardError

Result = TypeVar("Result")

_FOR_S = 30.0
_PAUSE_S = 0.2


def patiently(step: Callable[[], Result], *, for_s: float = _FOR_S) -> Result:
    """What an idempotent step answers, tried again after errors that pass by themselves."""
    until = Deadline.after(for_s)
    while True:
        try:
            return step()
        except (LeaderboardError, RecordsError) as error:
            if not error.retryable or until.passed:
                raise
            time.sleep(min(_PAUSE_S, until.remaining()))
