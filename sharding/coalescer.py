"""Group commit: submissions that arrive while a call is in flight leave together in the next one.

A call for thirty submissions costs hardly more than a call for one, so under load a process makes few calls with many
submissions. Without load nothing waits: the first to arrive leads, and leaves at once. A leader writes what is queued,
then hands the lead to one who came meanwhile. So a submission waits for one call in flight at the most, in the order
of arrival, which also keeps one player's submissions in order.

One submission in dozens takes its player out of a shard's range, and the move home takes several calls more. Nobody
else waits for that: as soon as all are applied, those who stay where they are have their answers, and the next leader
leaves.

A call has its leader's deadline, so the lead goes to the one with the most time: handed to the eldest it would, under
load, leave no time for all the others.

The queue is bounded: beyond that a submission is refused, having changed nothing.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from runtime.deadlines import Deadline
from sharding.errors import LeaderboardError, Overloaded, ShardOutcomeUnknown, ShardUnavailable
from sharding.submissions import Submission, failure
from sharding.writer import Settled, Written

#: Writes submissions by a deadline, one result each. Tells of those that are done when only moves are left.
Write = Callable[[Sequence[Submission], Deadline, Settled], Sequence[Written]]

_MOST_TOGETHER = 500


@dataclass(slots=True, eq=False)
class _Waiting:
    submission: Submission
    deadline: Deadline
    leads: bool = False
    taken: bool = False
    written: Written | None = None
    woken: threading.Event = field(default_factory=threading.Event)


class Coalescer:
    """Joins single submissions to one board into calls."""

    def __init__(self, write: Write, *, most_waiting: int) -> None:
        self._write = write
        self._most_waiting = most_waiting
        self._queue: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._has_leader = False

    @property
    def waiting(self) -> int:
        """How many submissions wait for a call to leave in."""
        return len(self._queue)

    def submit(self, submission: Submission, deadline: Deadline) -> Written:
        """What became of the submission. Overloaded if too many are waiting."""
        me = _Waiting(submission, deadline)
        with self._lock:
            if len(self._queue) >= self._most_waiting:
                raise Overloaded
            self._queue.append(me)
            if not self._has_leader:
                self._has_leader = me.leads = True
        try:
            if not me.leads:
                me.woken.wait(deadline.remaining())
            if me.leads and not deadline.passed:
                self._lead(deadline)
        finally:  # also where the wait was interrupted, by a greenlet's timeout say
            if me.written is None:
                self._withdraw(me)
        return me.written or Written(failure(ShardOutcomeUnknown() if me.taken else ShardUnavailable()))

    def _lead(self, deadline: Deadline) -> None:
        """Write what is queued, mine among it, and hand on the lead."""
        with self._lock:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _MOST_TOGETHER))]
            for waiting in batch:
                waiting.taken = True
        leads = True

        def hand_on() -> None:
            nonlocal leads
            if leads:
                leads = False
                with self._lock:
                    self._hand_on()

        def settled(results: Mapping[int, Written]) -> None:
            for index, written in results.items():
                batch[index].written = written
            hand_on()
            for index in results:
                batch[index].woken.set()

        try:
            results = self._write([waiting.submission for waiting in batch], deadline, settled)
            for waiting, written in zip(batch, results, strict=True):
                waiting.written = written
        except LeaderboardError as error:  # it says itself what is known of the write, to all of them
            for waiting in batch:
                waiting.written = waiting.written or Written(failure(error))
            if leads:
                raise
        finally:
            hand_on()
            for waiting in batch:
                waiting.woken.set()

    def _withdraw(self, me: _Waiting) -> None:
        """Out of time: leave the queue if still in it, and hand on the lead if it came too late."""
        with self._lock:
            if not me.taken and me in self._queue:
                self._queue.remove(me)
                if me.leads:
                    self._hand_on()

    def _hand_on(self) -> None:
        if self._queue:
            heir = max(islice(self._queue, _MOST_TOGETHER), key=lambda waiting: waiting.deadline.at)
            heir.leads = True
            heir.woken.set()
        else:
            self._has_leader = False
