"""What an HTTP answer says: read from the document, never guessed from the status.

Only an answer that says `applied` or `outcome` is believed. Whatever else comes (nothing, a proxy's page, a 500 without
a document) leaves the submission unknown: the checker then demands less of it, and a service that hides behind such
answers fails by their number.

Reads are checked for what must hold under any load: they are about who was asked for, ranks begin at 1 and ascend, and
a player whose submission was acknowledged is on the board.
"""

from itertools import pairwise
from typing import Literal

import msgspec

from loadtest.ledger import Answer


class _Single(msgspec.Struct):
    applied: bool
    durable: bool | None = None


class _Item(msgspec.Struct):
    status: Literal["applied", "duplicate", "refused", "unknown"]
    durable: bool | None = None
    reason: str = ""


class _Batch(msgspec.Struct):
    results: list[_Item]
    durable: bool | None = None


class _Problem(msgspec.Struct):
    outcome: Literal["not_applied", "unknown"]
    title: str = ""


class _Standing(msgspec.Struct):
    user_id: str
    rank: int


class _Entry(msgspec.Struct):
    user_id: str
    rank: int
    is_current_user: bool = False


class _Entries(msgspec.Struct):
    entries: list[_Entry]


class Told(msgspec.Struct, frozen=True):
    """What became of one submission; `durable` is None where the answer does not tell.

    `reason` says in a few words why it does not count for certain.
    """

    answer: Answer
    durable: bool | None = None
    reason: str = ""


_ANSWERS = {
    "applied": Answer.ACKNOWLEDGED,
    "duplicate": Answer.DUPLICATE,
    "refused": Answer.REFUSED,
    "unknown": Answer.UNKNOWN,
}
_single = msgspec.json.Decoder(_Single)
_batch = msgspec.json.Decoder(_Batch)
_problem = msgspec.json.Decoder(_Problem)
_standing = msgspec.json.Decoder(_Standing)
_entries = msgspec.json.Decoder(_Entries)


def told_single(status: int, body: bytes) -> Told:
    """What `POST /scores` answered. `status` 0: no answer came."""
    if status == 200:
        try:
            single = _single.decode(body)
        except msgspec.DecodeError:
            return Told(Answer.UNKNOWN, reason="200 without the documented body")
        return Told(Answer.ACKNOWLEDGED if single.applied else Answer.DUPLICATE, single.durable)
    return _refusal(status, body)


def told_batch(status: int, body: bytes, size: int) -> list[Told]:
    """What `POST /scores:batch` answered about each of its submissions, in the order sent."""
    if status != 200:
        return [_refusal(status, body)] * size
    try:
        batch = _batch.decode(body)
    except msgspec.DecodeError:
        return [Told(Answer.UNKNOWN, reason="200 without the documented body")] * size
    if len(batch.results) != size:
        return [Told(Answer.UNKNOWN, reason=f"{len(batch.results)} results for {size} submissions")] * size
    return [
        Told(_ANSWERS[item.status], batch.durable if item.durable is None else item.durable, item.reason)
        for item in batch.results
    ]


def wrong_with_read(kind: str, status: int, body: bytes, player: str = "") -> str:
    """What is wrong with the answer to a read of this kind, in a few words; empty if nothing is.

    `player`: who was asked for, or anybody of whom it is known that they are on the board; empty if nobody is yet.
    """
    if status != 200:
        return _refusal(status, body).reason
    try:
        return _wrong_rank(body, player) if kind == "rank" else _wrong_entries(kind, body, player)
    except msgspec.DecodeError:
        return "200 without the documented body"


def _wrong_rank(body: bytes, player: str) -> str:
    standing = _standing.decode(body)
    return "" if standing.user_id == player and standing.rank >= 1 else "rank of somebody else, or none"


def _wrong_entries(kind: str, body: bytes, player: str) -> str:
    entries = _entries.decode(body).entries
    ranks = [entry.rank for entry in entries]
    if not ranks and player and kind != "top":  # a top may be a moment older than the player's first row
        return "nobody, though there are players"
    # Friends stand on several shards, which are not counted in one instant: while others play two may seem to tie.
    least_step = 0 if kind == "lookup" else 1
    if any(rank < 1 for rank in ranks[:1]) or any(later - earlier < least_step for earlier, later in pairwise(ranks)):
        return "ranks do not ascend"
    if kind == "neighbours" and [entry.user_id for entry in entries if entry.is_current_user] != [player]:
        return "the player is not among the neighbours"
    return ""


def _refusal(status: int, body: bytes) -> Told:
    if status == 0:
        return Told(Answer.UNKNOWN, reason="no answer")
    try:
        problem = _problem.decode(body)
    except msgspec.DecodeError:
        return Told(Answer.UNKNOWN, reason=f"{status} without a problem document")
    answer = Answer.REFUSED if problem.outcome == "not_applied" else Answer.UNKNOWN
    return Told(answer, reason=f"{status} {problem.title}".strip())
