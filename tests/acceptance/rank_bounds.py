"""What a rank may be while others' submissions are under way: bounds from what was sent and answered, and when.

The players whose ranks are read stand still, and all others only win. So the number of players ahead never falls, and
a rank that is right at some moment between request and answer lies between two counts:

- at least, those who were ahead by submissions that had been *answered* before the request was sent;
- at most, those who could be ahead by submissions that had been *sent* before the answer came.

That is what is proven of each read: no player who was surely ahead is missing, nobody is counted twice or too early.
Two players ahead who change places within the bounds would go unnoticed.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Win:
    """A submission that was applied, with times in seconds of one clock; `answered_at` is infinite if nobody heard."""

    player: str
    value: int
    sent_at: float
    answered_at: float


@dataclass(frozen=True, slots=True)
class Read:
    """A rank that was told, of a player who stands still with these points. No other player ever has just as many."""

    points: int
    rank: int
    sent_at: float
    answered_at: float


@dataclass(frozen=True, slots=True)
class Wrong:
    """A rank outside of its bounds."""

    read: Read
    least: int
    most: int


def wrong_ranks(wins: Sequence[Win], reads: Sequence[Read], standing: Iterable[int]) -> list[Wrong]:
    """The reads that no moment explains. `standing`: the points of all who stand still."""
    held = sorted(standing)
    surely = _ahead([(win.answered_at, win) for win in wins], [(read.sent_at, read) for read in reads], held)
    perhaps = _ahead([(win.sent_at, win) for win in wins], [(read.answered_at, read) for read in reads], held)
    found = []
    for read, least, most in zip(reads, surely, perhaps, strict=True):
        better = len(held) - held.index(read.points) - 1
        if not 1 + better + least <= read.rank <= 1 + better + most:
            found.append(Wrong(read, 1 + better + least, 1 + better + most))
    return found


def _ahead(wins: list[tuple[float, Win]], reads: list[tuple[float, Read]], held: Sequence[int]) -> list[int]:
    """For each read, how many players have more points by the wins before its moment."""
    points: dict[str, int] = defaultdict(int)
    ahead = [0] * len(held)
    counted = [0] * len(reads)
    coming = iter(sorted(wins, key=lambda timed: timed[0]))
    win = next(coming, None)
    for index in sorted(range(len(reads)), key=lambda index: reads[index][0]):
        moment, read = reads[index]
        while win is not None and win[0] < moment:
            player, before = win[1].player, points[win[1].player]
            points[player] = before + win[1].value
            for passed in range(bisect_left(held, before), bisect_left(held, points[player])):
                ahead[passed] += 1
            win = next(coming, None)
        counted[index] = ahead[held.index(read.points)]
    return counted
