"""Submissions, what identifies them, and what became of them."""

import binascii
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import msgpack
import msgspec

from sharding.errors import LeaderboardError, Outcome
from sharding.players import PlayerId

EVENT_ID_BYTES = 8
_blank = blake2b(digest_size=EVENT_ID_BYTES)
SUBMISSION = "submission"
REMOVAL = "removal"
#: Begins the match ids of what this system does by itself. Match ids of the API may not have this character.
OWN_MARK = "\N{LEFTWARDS ARROW WITH HOOK}"


class Submission(msgspec.Struct, frozen=True, gc=False):
    """A player's score in one match. (player, match id) counts once, however often it is sent."""

    player: PlayerId
    value: int
    match_id: str
    played_at_ms: int | None = None
    request_id: str = ""
    #: what the audit calls it: a submission, or what this system does by itself
    kind: str = SUBMISSION

    def event(self) -> bytes:
        """What is kept to recognise a retry: the 8-byte event id and two bytes of the content.

        The content is the value alone: a retry may well say another time or carry another request id.
        """
        hashed = _blank.copy()  # to make one anew takes longer than all the rest
        hashed.update(self.match_id.encode())
        return hashed.digest() + _content(self.value)

    def note(self) -> "PackedNote":
        """What the audit keeps of a submission besides what the shard knows."""
        if self.kind == SUBMISSION:
            return (self.match_id, self.played_at_ms, self.request_id)
        return (self.match_id, self.played_at_ms, self.request_id, self.kind)


def removal_of(player: PlayerId, removal_id: str, request_id: str = "") -> Submission:
    """A removal from a board, as the event it is: the same (player, removal id) removes once."""
    return Submission(player, 0, f"{OWN_MARK}{REMOVAL}:{removal_id}", request_id=request_id, kind=REMOVAL)


class Note(NamedTuple):
    """A note for the audit."""

    match_id: str
    played_at_ms: int | None
    request_id: str
    kind: str = SUBMISSION


_OF_SUBMISSIONS = len(Note._fields) - 1
#: The fields of a note as they travel: a submission's are without its kind.
PackedNote = tuple[str, int | None, str] | tuple[str, int | None, str, str]


def pack_notes(notes: Iterable[PackedNote]) -> bytes:
    """Notes as they travel with the submissions that they are about."""
    packed: bytes = msgpack.packb(list(notes))
    return packed


def read_notes(packed: bytes) -> list[list[Any]]:
    """The fields of the notes that `pack_notes` packed."""
    notes: list[list[Any]] = msgpack.unpackb(packed)
    for note in notes:
        if len(note) == _OF_SUBMISSIONS:
            note.append(SUBMISSION)
    return notes


def event_kept(event_id: int, value: int) -> bytes:
    """`Submission.event`, of an event as the audit keeps it."""
    return event_id.to_bytes(EVENT_ID_BYTES, "big", signed=True) + _content(value)


@lru_cache(maxsize=1024)
def _content(value: int) -> bytes:
    return binascii.crc_hqx(str(value).encode(), 0).to_bytes(2, "big")


class Status(StrEnum):
    """What became of a submission."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class RankMode(StrEnum):
    """Which rank the answer to a submission carries."""

    #: exact within the shard; the players in better shards were counted up to a second ago
    RECENT = "recent"
    EXACT = "exact"
    NONE = "none"


class Result(msgspec.Struct):
    """What became of one submission. `error` says why, for refused and unknown."""

    status: Status
    points: int | None = None
    rank: int | None = None
    rank_is: RankMode = RankMode.NONE
    durable: bool = False
    error: LeaderboardError | None = None


def status_after(error: LeaderboardError) -> Status:
    """What an error says of a submission: refused if nothing changed, else unknown."""
    return Status.REFUSED if error.outcome is Outcome.NOT_APPLIED else Status.UNKNOWN


def failure(error: LeaderboardError) -> Result:
    """The result of a submission that ended in an error."""
    return Result(status_after(error), error=error)
