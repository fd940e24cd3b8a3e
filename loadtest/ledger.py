"""The ledger: what was sent and what was answered, in a file that survives whoever writes it.

Problem: "nothing was lost" can only be said by somebody who knows everything that was sent, also when the sender is
killed in the middle. Guarantee: a submission is in the file before it is on the wire. `sending` returns once the
operating system has the record, so a killed process loses none; a submission without an answer in the file is unknown.
Each process writes a file of its own, and reading takes any number of them.

The file is append-only and bounded: about 80 bytes a submission, and when the limit comes near `sending` refuses, so
nothing is sent that could not be written down. Rejected: one record per submission written at its answer (a crash
would forget what is under way), JSON lines (twice the size), fsync (the ledger need not survive the machine).

    file    magic "RBL1", length (2 bytes), header as JSON, records
    sent    1, ticket, time, value, length of player id, length of match id, both as ASCII
    answer  2, ticket, time, answer | 4 if durable | 8 if not, where the answer tells
"""

import json
import os
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import count
from pathlib import Path
from types import TracebackType

_MAGIC = b"RBL1"
_LENGTH = struct.Struct("<H")
_KIND_SENT, _KIND_ANSWER = 1, 2
_SENT = struct.Struct("<BIdqBB")
_ANSWER = struct.Struct("<BIdB")
_DURABLE, _NOT_DURABLE = 4, 8
_LONGEST_ID = 255
DEFAULT_LIMIT_BYTES = 1 << 30


class Answer(IntEnum):
    """What the service said about a submission."""

    ACKNOWLEDGED = 0  # it counts now, and did not before
    DUPLICATE = 1  # it had been counted before
    REFUSED = 2  # it does not count, definitely
    UNKNOWN = 3  # nobody can tell, or nothing was said


class LedgerFull(Exception):
    """The ledger has no room for another submission, so it must not be sent."""


class DamagedLedger(Exception):
    """A file that is no ledger, or that somebody else has written into."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One sending of one submission. Sent again, it is another entry with the same player and match id.

    Times are seconds since 1970. `answered_at` is None where no answer came, `durable` where the answer does not tell.
    """

    player: str
    match_id: str
    value: int
    answer: Answer
    durable: bool | None
    sent_at: float
    answered_at: float | None


class Ledger:
    """The file of one process; safe to share between its threads and greenlets."""

    def __init__(self, path: Path, header: dict[str, object] | None = None, *, limit_bytes: int = DEFAULT_LIMIT_BYTES):
        """`header`: what a reader should know, kept as JSON. FileExistsError if there is such a file."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._limit = limit_bytes
        self._tickets = count()
        self._used = 0
        self._broken = False
        text = json.dumps(header or {}).encode()
        self._append(_MAGIC + _LENGTH.pack(len(text)) + text)

    def sending(self, submissions: Sequence[tuple[str, str, int]]) -> list[int]:
        """Write down (player, match id, value) of each, to be called before they are sent; gives their tickets.

        LedgerFull if there is no room for them and their answers, or on the disk: then none must be sent.
        """
        now = time.time()
        tickets = [next(self._tickets) for _ in submissions]
        records = b"".join(
            _sent(ticket, now, *submission) for ticket, submission in zip(tickets, submissions, strict=True)
        )
        self._reserve(len(records) + len(tickets) * _ANSWER.size)
        self._append(records)
        return tickets

    def answered(self, ticket: int, answer: Answer, *, durable: bool | None = None) -> None:
        """Write down what became of a submission; `sending` has kept room for it. LedgerFull if the disk has none."""
        told = 0 if durable is None else _DURABLE if durable else _NOT_DURABLE
        self._append(_ANSWER.pack(_KIND_ANSWER, ticket, time.time(), answer | told))

    def close(self) -> None:
        """Give the file back; what was not answered stays unknown."""
        os.close(self._file)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reserve(self, size: int) -> None:
        if self._used + size > self._limit:
            raise LedgerFull(f"the ledger has reached its limit of {self._limit:,} bytes")
        self._used += size

    def _append(self, records: bytes) -> None:
        """One write, so that records of several threads never mix; none after one that was cut off."""
        if self._broken:
            raise LedgerFull("the ledger could not be written before")
        try:
            written = os.write(self._file, records)
        except OSError as error:
            raise LedgerFull(f"the ledger cannot be written: {error.strerror}") from error
        if written < len(records):
            self._broken = True
            raise LedgerFull(f"the ledger's disk is full: {written} of {len(records)} bytes written")


def read(paths: Iterable[Path]) -> Iterator[Entry]:
    """All entries of these files; those of a file in the order of their answers, unanswered ones last.

    A record that is cut off at the end of a file is passed over: it was never wholly written, so never sent, or an
    answer that nobody has heard. DamagedLedger for anything else that is not as it was written.
    """
    for path in paths:
        yield from _entries(path)


def header_of(path: Path) -> dict[str, object]:
    """The header that the file was made with."""
    header, _ = _opened(path.read_bytes(), path)
    return header


def _sent(ticket: int, now: float, player: str, match_id: str, value: int) -> bytes:
    who, match = player.encode("ascii"), match_id.encode("ascii")
    if len(who) > _LONGEST_ID or len(match) > _LONGEST_ID:
        raise ValueError("a player id or match id is longer than 255 characters")
    return _SENT.pack(_KIND_SENT, ticket, now, value, len(who), len(match)) + who + match


def _opened(content: bytes, path: Path) -> tuple[dict[str, object], int]:
    """The header, and where the records begin."""
    begin = len(_MAGIC) + _LENGTH.size
    if not content.startswith(_MAGIC) or len(content) < begin:
        raise DamagedLedger(f"{path} is no ledger")
    (length,) = _LENGTH.unpack_from(content, len(_MAGIC))
    try:
        header = json.loads(content[begin : begin + length])
    except ValueError as error:
        raise DamagedLedger(f"{path} has no readable header") from error
    return header, begin + length


def _entries(path: Path) -> Iterator[Entry]:
    content = path.read_bytes()
    _, at = _opened(content, path)
    open_ones: dict[int, tuple[str, str, int, float]] = {}
    while at < len(content):
        size = _size(content, at, path)
        if size is None or at + size > len(content):
            break
        if content[at] == _KIND_SENT:
            _, ticket, sent_at, value, who, _ = _SENT.unpack_from(content, at)
            begin = at + _SENT.size
            player, match_id = content[begin : begin + who].decode(), content[begin + who : at + size].decode()
            open_ones[ticket] = (player, match_id, value, sent_at)
        else:
            _, ticket, answered_at, flags = _ANSWER.unpack_from(content, at)
            if ticket not in open_ones:
                raise DamagedLedger(f"{path} answers what was not sent, at byte {at}")
            player, match_id, value, sent_at = open_ones.pop(ticket)
            durable = bool(flags & _DURABLE) if flags & (_DURABLE | _NOT_DURABLE) else None
            answer = Answer(flags & ~(_DURABLE | _NOT_DURABLE))
            yield Entry(player, match_id, value, answer, durable, sent_at, answered_at)
        at += size
    for player, match_id, value, sent_at in open_ones.values():
        yield Entry(player, match_id, value, Answer.UNKNOWN, None, sent_at, None)


def _size(content: bytes, at: int, path: Path) -> int | None:
    """The length of the record that begins here; None if not even its fixed part is there."""
    kind = content[at]
    if kind == _KIND_ANSWER:
        return _ANSWER.size
    if kind != _KIND_SENT:
        raise DamagedLedger(f"{path} has no record at byte {at}")
    if at + _SENT.size > len(content):
        return None
    who, match = content[at + _SENT.size - 2 : at + _SENT.size]
    return _SENT.size + who + match
