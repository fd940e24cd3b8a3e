"""The tops of boards, as one process shows them: read at most every so often, by one reader at a time.

The top is what most requests ask for, and what all of them may share. A page older than `fresh_ms` is read anew by
whoever comes next; those who come meanwhile wait for that very page. So an answer is at most `fresh_ms` old, plus the
time it takes to read, and its `as_of_ms` says how old it is: whatever was acknowledged before that moment is in it.
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

    def forget(self, name: BoardPeriod) -> None:
        """Read the top of a board anew, the next time it is asked for."""
        self._kept.pop(name, None)

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
