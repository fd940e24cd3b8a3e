"""Ranks among those who are shown, where stored ranks count players who were hidden since. Pure.

A final ranking never changes, and a player may be hidden long after. Instead of ranking everybody anew, stored ranks
are counted without those who are hidden: there are few of them, and where each one stands is all that has to be known.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable


class Shown:
    """The ranks of a stored ranking without some of its players. Ranks begin at 1, places at 0."""

    def __init__(self, stored: int, hidden_ranks: Iterable[int]) -> None:
        """`stored`: players in the ranking, those among them who are hidden included."""
        self._hidden = sorted(hidden_ranks)
        #: per hidden player, how many who are shown stand before
        self._before = [rank - 1 - index for index, rank in enumerate(self._hidden)]
        self.total = stored - len(self._hidden)

    def rank(self, stored_rank: int) -> int:
        """The rank of somebody who is shown, and is stored under this one."""
        return stored_rank - bisect_left(self._hidden, stored_rank)

    def count(self, stored_count: int) -> int:
        """How many of the first so many stored players are shown."""
        return stored_count - bisect_right(self._hidden, stored_count)

    def stored_place(self, place: int) -> int:
        """Where the player at this place is stored."""
        return place + bisect_right(self._before, place)
