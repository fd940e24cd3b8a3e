"""The tops of boards, as one process shows them: read at most every so often, by one reader at a time.

The top is what most requests ask for, and what all of them may share. A page older than `fresh_ms` is read anew by
whoever comes next; who comes while it is being read takes what that reading brings, if it is not too old by then, or
reads anew. A page's age counts from when its reading *began*. So whatever asks for a top gets one whose reading began
at most `fresh_ms` before it asked, and `as_of_ms` says when: whatever was acknowledged before that moment is in it.

Other processes have tops of their own, which nobody can take back. Who must be in no top any more, because a player was
hidden or taken off, waits that time out (`outlive`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.deadlines import Deadline
from runtime.gathering import Gathering, TooLate
from sharding.boards import BoardPeriod
from sharding.errors import LeaderboardError, ShardUnavailable
from sharding.reader import Page

#: How many rows are kept: what one request may ask for.
LENGTH = 100
_MOST_BOARDS = 1_000


@dataclass(frozen=True, slots=True)
class _Kept:
    page: Page
    until: float


class Tops:
    """The first LENGTH rows of boards."""

    def __init__(self, read: Callable[[BoardPeriod, Deadline], Page], *, fresh_ms: int) -> None:
        """`read` reads the first LENGTH rows."""
        self._read = read
        self._fresh_s = fresh_ms / 1000
        self._kept: dict[BoardPeriod, _Kept] = {}
        self._gathering: Gathering[BoardPeriod, Page | LeaderboardError] = Gathering(self._read_all)

    def page(self, name: BoardPeriod, deadline: Deadline) -> Page:
        """The top of a board. The same object for as long as it is fresh."""
        kept = self._kept.get(name)
        if kept is not None and kept.until > time.monotonic():
            return kept.page
        try:
            page = self._gathering.ask(name, deadline)
        except TooLate:
            raise ShardUnavailable from None
        if isinstance(page, LeaderboardError):
            raise page
        return page

    def outlive(self) -> None:
        """Return when no process shows a top any more whose reading began before this call.

        A reading that is still under way then is no exception: what it brings is too old to be kept. This holds where
        all processes have the same `fresh_ms`.
        """
        until = Deadline.after(self._fresh_s)
        while not until.passed:  # a greenlet's sleep may end a little early
            time.sleep(until.remaining())

    def _read_all(self, names: Sequence[BoardPeriod], deadline: Deadline) -> list[Page | LeaderboardError]:
        pages = {name: self._renewed(name, deadline) for name in dict.fromkeys(names)}
        return [pages[name] for name in names]

    def _renewed(self, name: BoardPeriod, deadline: Deadline) -> Page | LeaderboardError:
        began = time.monotonic()
        kept = self._kept.get(name)
        if kept is not None and kept.until > began:  # somebody read it a moment ago
            return kept.page
        try:
            page = self._read(name, deadline)
        except LeaderboardError as error:
            return error
        if len(self._kept) >= _MOST_BOARDS:
            self._kept.clear()
        self._kept[name] = _Kept(page, began + self._fresh_s)
        return page
