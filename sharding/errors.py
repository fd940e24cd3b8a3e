"""What can go wrong with a board, and whether the write may have happened.

One tree; the docstring of a class is its message. Every class says its `outcome`, and the HTTP status and the retry
policy derive from that: NOT_APPLIED is definite (nothing changed, a retry is a new attempt), UNKNOWN means that the
connection died after sending, so only a retry under the same match id is safe. The library's own exception stays as
`__cause__`.
"""

from enum import Enum
from math import ceil
from typing import Self


class Outcome(Enum):
    """What is known of the write that failed."""

    NOT_APPLIED = "not_applied"
    UNKNOWN = "unknown"


class LeaderboardError(Exception):
    """Something about a board went wrong."""

    outcome = Outcome.NOT_APPLIED
    #: whether the same request may succeed a moment later
    retryable = False

    def __init__(self, detail: str = "", *, field: str | None = None) -> None:
        self.detail = detail or (self.__doc__ or "").strip()
        self.field = field
        super().__init__(self.detail)


class InvalidValue(LeaderboardError):
    """A value does not have the form that is asked for."""


class OutOfBounds(LeaderboardError):
    """A value is well formed and not allowed here."""


class UnknownPlayer(LeaderboardError):
    """No player has this id."""


class NotOnBoard(LeaderboardError):
    """The player has no row on this board."""


class UnknownBoard(LeaderboardError):
    """No board has this name and period."""


class TooManySubmissions(LeaderboardError):
    """The player has too many submissions in this retry window; the next one takes more."""

    retryable = True

    def __init__(self, retry_after_s: int = 1) -> None:
        """`retry_after_s`: until the next window begins."""
        super().__init__(field="user_id")
        self.retry_after_s = retry_after_s

    @classmethod
    def until_next(cls, now_s: float, window_s: float) -> Self:
        """With the time that is left of a window at this moment; windows are whole ones since 1970."""
        return cls(max(1, ceil(window_s - now_s % window_s)))


class PeriodClosed(OutOfBounds):
    """The period takes no submissions any more, or not yet."""


class MatchConflict(LeaderboardError):
    """The match was reported before with another content."""


class NotNow(LeaderboardError):
    """The board is not in a state that allows this."""


class PeriodNotOver(NotNow):
    """The period still takes submissions."""


class ArchiveDiffers(NotNow):
    """The final ranking does not agree with what it was made of."""


class RebuildRefused(NotNow):
    """The board cannot be rebuilt as things are."""


class Unavailable(LeaderboardError):
    """A part that this request needs cannot serve it now."""

    retryable = True
    retry_after_s = 1


class BoardFrozen(Unavailable):
    """The board is being closed or rebuilt and takes no submissions now."""


class AuditBacklog(Unavailable):
    """The audit log is too far behind: writing on would risk an entry."""

    retry_after_s = 5


class NotDurable(Unavailable):
    """No replica confirmed the write in time; it may be lost if the primary fails."""

    outcome = Outcome.UNKNOWN


class ShardUnavailable(Unavailable):
    """The shard could not be reached, or refused before doing anything."""


class ShardLost(ShardUnavailable):
    """The shard's data are lost; `rangeboard rebuild --shard` brings them back."""


class DirectoryLost(ShardUnavailable):
    """The part of the directory that knew this player is lost; `rangeboard rebuild --shard` brings it back."""


class ShardOutcomeUnknown(Unavailable):
    """The shard did not answer before the deadline; it may or may not have applied the write."""

    outcome = Outcome.UNKNOWN


class NotEverywhereYet(Unavailable):
    """The wish is kept, and some board cannot be told now; the workers carry it out soon, or the same call again."""

    outcome = Outcome.UNKNOWN


class Overloaded(Unavailable):
    """Too many submissions are waiting in this process."""
