"""Questions that arrive while one is being asked leave together in the next one.

To ask for thirty things costs hardly more than to ask for one, so under load a process asks few questions about many
things. Without load nothing waits: the first to come asks at once. An answer is never older than its question, since
whoever comes while a question is out waits for the one after it.

For reads. Submissions have `sharding/coalescer.py`, which also keeps an order and tells what may have happened.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from runtime.deadlines import Deadline

T = TypeVar("T")
R = TypeVar("R")

_MOST_TOGETHER = 500


@dataclass(slots=True, eq=False)
class _Waiting(Generic[T, R]):
    about: T
    deadline: Deadline
    leads: bool = False
    answer: R | None = None
    error: BaseException | None = None
    answered: bool = False
    woken: threading.Event = field(default_factory=threading.Event)


class TooLate(Exception):
    """No answer came before the deadline."""


class Gathering(Generic[T, R]):
    """Joins questions of one kind. Safe to use from many threads or greenlets."""

    def __init__(self, ask: Callable[[Sequence[T], Deadline], Sequence[R]]) -> None:
        """`ask` gives one answer for each of the things it is asked about, by a deadline."""
        self._ask = ask
        self._queue: list[_Waiting[T, R]] = []
        self._lock = threading.Lock()
        self._has_leader = False

    def ask(self, about: T, deadline: Deadline) -> R:
        """The answer about one thing. TooLate after the deadline, and whatever `ask` raised."""
        me: _Waiting[T, R] = _Waiting(about, deadline)
        with self._lock:
            self._queue.append(me)
            if not self._has_leader:
                self._has_leader = me.leads = True
        try:
            if not me.leads:
                me.woken.wait(deadline.remaining())
            if me.leads and not me.answered:
                self._lead(deadline)
        finally:  # also where the wait was interrupted
            if not me.answered:
                self._withdraw(me)
        if me.error is not None:
            raise me.error
        if not me.answered:
            raise TooLate
        return me.answer  # type: ignore[return-value]  # an answer may be None

    def _lead(self, deadline: Deadline) -> None:
        """Ask for all that wait, and hand on the lead."""
        with self._lock:
            together, self._queue = self._queue[:_MOST_TOGETHER], self._queue[_MOST_TOGETHER:]
        try:
            answers = self._ask([waiting.about for waiting in together], deadline)
            for waiting, answer in zip(together, answers, strict=True):
                waiting.answer = answer
        except Exception as error:  # noqa: BLE001  # it is the waiting ones', whatever it is
            for waiting in together:
                waiting.error = error
        finally:
            with self._lock:
                self._hand_on()
            for waiting in together:
                waiting.answered = True
                waiting.woken.set()

    def _withdraw(self, me: _Waiting[T, R]) -> None:
        """Out of time: leave the queue, and hand on the lead if it came too late."""
        with self._lock:
            if me in self._queue:
                self._queue.remove(me)
                if me.leads:
                    self._hand_on()

    def _hand_on(self) -> None:
        """The lead goes to the one with the most time: it is the leader's deadline that a question has."""
        if self._queue:
            heir = max(self._queue[:_MOST_TOGETHER], key=lambda waiting: waiting.deadline.at)
            heir.leads = True
            heir.woken.set()
        else:
            self._has_leader = False
