"""Group commit: submissions that arrive while a call is in flight leave together in the next one.

A call for thirty submissions costs hardly more than a call for one, so under load a process makes few calls with many
submissions. Without load nothing waits: the first to arrive leads, and leaves at once. A leader writes what is queued,
then hands the lead to one who came meanwhile. So a submission waits for one call in flight at the most, in the order
of arrival, which also keeps one player's submissions in order.

What comes in one request is a *party*: a single submission, or a batch, which shares its calls with other batches. One
that is larger than what goes together leaves in parts, one after the other, and between two of them whoever else waits
has a turn.

A call has its leader's deadline, so the lead goes to the one with the most time: handed to the eldest it would, under
load, leave no time for all the others.

The queue is bounded, in submissions: beyond that a party is refused as a whole, having changed nothing.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from runtime.deadlines import Deadline
from sharding.errors import LeaderboardError, Overloaded, ShardOutcomeUnknown, ShardUnavailable
from sharding.submissions import Submission
from sharding.writer import Written, failed

#: Writes submissions by a deadline, one result each.
Write = Callable[[Sequence[Submission], Deadline], Sequence[Written]]


@dataclass(slots=True, eq=False)
class _Party:
    submissions: Sequence[Submission]
    deadline: Deadline
    written: list[Written | None]
    #: how many of them have no result yet
    unwritten: int
    #: how many have left in a call
    left: int = 0
    leads: bool = False
    woken: threading.Event = field(default_factory=threading.Event)


class _Part(NamedTuple):
    """What of a party leaves in one call: `size` of its submissions from `first` on, from `at` on in the call."""

    party: _Party
    first: int
    size: int
    at: int

    def submissions(self) -> Sequence[Submission]:
        """The submissions themselves."""
        return self.party.submissions[self.first : self.first + self.size]

    def take_in(self, results: Sequence[Written]) -> None:
        """Results of the whole call, in its order."""
        self.party.written[self.first : self.first + self.size] = results[self.at : self.at + self.size]
        self.party.unwritten -= self.size


class Coalescer:
    """Joins submissions to one board into calls."""

    def __init__(self, write: Write, *, most_together: int, most_waiting: int) -> None:
        """How many submissions leave in one call, and how many may wait for one."""
        self._write = write
        self._most_together = most_together
        self._most_waiting = most_waiting
        self._queue: deque[_Party] = deque()
        self._waiting = 0
        self._lock = threading.Lock()
        self._has_leader = False

    @property
    def waiting(self) -> int:
        """How many submissions wait for a call to leave in."""
        return self._waiting

    def submit(self, submissions: Sequence[Submission], deadline: Deadline) -> list[Written]:
        """What became of the submissions, in their order. Overloaded, and none is sent, if too many are waiting."""
        if not submissions:
            return []
        count = len(submissions)
        me = _Party(submissions, deadline, [None] * count, count)
        with self._lock:
            if self._waiting and self._waiting + count > self._most_waiting:
                raise Overloaded
            self._waiting += count
            self._queue.append(me)
            if not self._has_leader:
                self._has_leader = me.leads = True
        try:
            while me.unwritten and not deadline.passed:
                if me.leads:
                    self._lead(me)
                else:
                    me.woken.wait(deadline.remaining())
                    me.woken.clear()
        finally:  # also where the wait was interrupted, by a greenlet's timeout say
            self._withdraw(me)
        return [
            written or failed(ShardOutcomeUnknown() if index < me.left else ShardUnavailable())
            for index, written in enumerate(me.written)
        ]

    def _lead(self, me: _Party) -> None:
        """Write what leaves next, mine among it, and hand on the lead."""
        with self._lock:
            parts = self._take()
        submissions = [one for part in parts for one in part.submissions()]
        error: LeaderboardError = ShardOutcomeUnknown()
        results: Sequence[Written] = ()
        try:
            results = self._write(submissions, me.deadline)
        except LeaderboardError as told:  # it says itself what is known of the write, to all of them
            error = told
        finally:
            with self._lock:
                for part in parts:
                    part.take_in(results or [failed(error) for _ in submissions])
                self._hand_on(me)
            for part in parts:
                if not part.party.unwritten:
                    part.party.woken.set()

    def _next(self) -> Iterator[tuple[_Party, int]]:
        """The parties that leave with the next call, and how many submissions of each."""
        room = self._most_together
        for party in self._queue:
            if not room:
                break
            count = min(len(party.submissions) - party.left, room)
            room -= count
            yield party, count

    def _take(self) -> list[_Part]:
        """Take out of the queue what leaves now. A party of which some is left over waits behind all others."""
        parts: list[_Part] = []
        at = 0
        for party, count in list(self._next()):
            self._queue.popleft()
            parts.append(_Part(party, party.left, count, at))
            at += count
            party.left += count
            if party.left < len(party.submissions):
                self._queue.append(party)
        self._waiting -= at
        return parts

    def _withdraw(self, me: _Party) -> None:
        """Leave the queue if still in it, out of time, and hand on the lead if it came too late."""
        with self._lock:
            if me.left < len(me.submissions):
                self._queue.remove(me)
                self._waiting -= len(me.submissions) - me.left
            if me.leads:
                self._hand_on(me)

    def _hand_on(self, leader: _Party) -> None:
        """The lead goes to one that leaves with the next call; to the leader itself only where there is no other."""
        leader.leads = False
        if self._queue:
            heir, _ = max(self._next(), key=lambda next_one: (next_one[0] is not leader, next_one[0].deadline.at))
            heir.leads = True
            heir.woken.set()
        else:
            self._has_leader = False
