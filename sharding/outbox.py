"""A shard's outbox: the audit entries that its functions wrote and PostgreSQL has not yet.

A stream used as a queue: everything in it is unread, and what has been stored is trimmed. There is no consumer group
and nothing to acknowledge. Reading twice is harmless, since an audit entry is stored once by its event id.

Reading is fenced. An entry that the primary has and no replica yet could vanish in a failover together with the
score it is about; were it stored by then, the audit would tell of a score that no board has.
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from runtime.deadlines import Deadline
from sharding.cluster.client import Call
from sharding.errors import LeaderboardError
from sharding.functions import Functions
from sharding.keys import ShardKeys
from sharding.players import PlayerId, player_of
from sharding.shard_map import ShardMap
from sharding.submissions import read_notes

#: What an entry is made of stands in lua/prelude.lua.
_FORMAT = 2
_ASKED = 3
_EVENT_ID = struct.Struct(">q")


#: One submission that was applied: player, event id, its place in the entry, value, points after, match id, when it was
#: played (ms since 1970, or None), request id (or None), kind. A plain tuple: a hundred thousand are made a second, and
#: those of numbers and texts the garbage collector does not go through again and again.
Applied = tuple[PlayerId, int, int, int, int, str, int | None, str | None, str]


class Entry(NamedTuple):
    """An audit entry, as the shard wrote it down: what one call applied. `received_at_ms`: ms since 1970."""

    received_at_ms: int
    operator: str
    applied: list[Applied]


class Undecodable(LeaderboardError):
    """The outbox entry has no form that this version knows."""


class RawEntry(NamedTuple):
    """A stream entry as it came, names and values in turn: it may hold many submissions."""

    entry_id: str
    fields: Sequence[bytes]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.fields))

    def content(self) -> bytes:
        """All of it in one piece, to be put aside."""
        packed: bytes = msgpack.packb(list(self.fields))
        return packed

    def decode(self) -> Entry:
        """What is in it; Undecodable if it is damaged or of another version."""
        try:
            named = dict(zip(self.fields[::2], self.fields[1::2], strict=True))
            asked = msgpack.unpackb(named[b"s"], raw=True)
            notes = read_notes(named[b"n"])
            version, received_at_ms, operator, *results = msgpack.unpackb(named[b"r"], raw=True)
            if version != _FORMAT:
                raise Undecodable(f"outbox entry {self.entry_id} has format {version}")
            number = _EVENT_ID.unpack_from
            each = zip(zip(*[iter(asked)] * _ASKED, strict=True), results, notes, strict=True)
            applied = [
                (
                    player_of(member),
                    number(event)[0],
                    item,
                    value,
                    points,
                    match_id,
                    played_at_ms,
                    request_id or None,
                    kind,
                )
                for item, ((member, value, event), points, (match_id, played_at_ms, request_id, kind)) in enumerate(
                    each
                )
                if points is not False
            ]
            return Entry(received_at_ms, operator.decode(), applied)
        except (LookupError, ValueError, TypeError, AttributeError, struct.error, msgpack.UnpackException) as error:
            raise Undecodable(f"outbox entry {self.entry_id} cannot be decoded: {error}") from error


class Backlog(NamedTuple):
    """What waits in an outbox: how many entries, and since when the oldest does (ms since 1970, the shard's clock)."""

    entries: int
    oldest_ms: int


class Outbox:
    """The outboxes of all shards, as one process drains them."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    def read(self, keys: Sequence[ShardKeys], most: int, deadline: Deadline) -> list[list[RawEntry]]:
        """The oldest entries of each outbox, all of them on a replica when this returns; NotDurable if none confirms.

        Where the primary has no replica at all nothing could take its place, and unless the settings insist on
        replicas it is read without: a lost replica must not end in a full outbox.
        """
        found: list[list[RawEntry]] = [[] for _ in keys]
        filled = [place for place, length in enumerate(self.lengths(keys, deadline)) if length]
        # In one message, so that one node answers both: a primary that came back stale would show entries that the one
        # which took its place has never had, and it is the latter that would confirm a touch of its own.
        calls = []
        for each in (keys[place] for place in filled):
            calls.append(Call(each.slot, ("XRANGE", each.outbox, "-", "+", "COUNT", most)))
            calls.append(Call(each.slot, ("HINCRBY", each.head, "drains", 1)))
        answers = self._functions.on_keys(calls, deadline, fence=True)
        self._functions.hold([call.slot for call in calls], answers)
        for answer in answers:
            if answer.error is not None:
                raise answer.error
        for place, entries in zip(filled, answers[::2], strict=True):
            found[place] = [RawEntry(entry_id.decode(), fields) for entry_id, fields in entries.reply]
        return found

    def last(self, keys: ShardKeys, deadline: Deadline) -> str | None:
        """The id of the newest entry; None if there is none."""
        reply = self._reply(Call(keys.slot, ("XREVRANGE", keys.outbox, "+", "-", "COUNT", 1)), deadline)
        return reply[0][0].decode() if reply else None

    def has_up_to(self, keys: ShardKeys, last: str, deadline: Deadline) -> bool:
        """Whether an entry with this id, or an older one, is still there."""
        return bool(self._reply(Call(keys.slot, ("XRANGE", keys.outbox, "-", last, "COUNT", 1)), deadline))

    def trim(self, keys: Sequence[ShardKeys], lasts: Sequence[str], deadline: Deadline) -> None:
        """Remove from each outbox the entries up to and including its last."""
        calls = []
        for each, last in zip(keys, lasts, strict=True):
            milliseconds, _, sequence = last.partition("-")
            calls.append(Call(each.slot, ("XTRIM", each.outbox, "MINID", f"{milliseconds}-{int(sequence) + 1}")))
        for answer in self._functions.on_keys(calls, deadline):
            if answer.error is not None:
                raise answer.error

    def backlogs(self, shard_map: ShardMap, deadline: Deadline) -> dict[int, "Backlog | LeaderboardError"]:
        """What waits in the outbox of each shard, or why that cannot be told."""
        shards = list(shard_map.shards())
        calls = []
        for keys in map(shard_map.keys, shards):
            calls.append(Call(keys.slot, ("XLEN", keys.outbox)))
            calls.append(Call(keys.slot, ("XRANGE", keys.outbox, "-", "+", "COUNT", 1)))
        answers = iter(self._functions.on_keys(calls, deadline))
        found: dict[int, Backlog | LeaderboardError] = {}
        for shard, length, first in zip(shards, answers, answers, strict=True):
            if (error := length.error or first.error) is not None:
                found[shard] = error
            else:
                oldest = int(first.reply[0][0].partition(b"-")[0]) if first.reply else 0
                found[shard] = Backlog(int(length.reply) if first.reply else 0, oldest)
        return found

    def lengths(self, keys: Sequence[ShardKeys], deadline: Deadline) -> list[int]:
        """How many entries wait in each outbox."""
        calls = [Call(key.slot, ("XLEN", key.outbox)) for key in keys]
        lengths = []
        for answer in self._functions.on_keys(calls, deadline):
            if answer.error is not None:
                raise answer.error
            lengths.append(int(answer.reply))
        return lengths

    def _reply(self, call: Call, deadline: Deadline) -> Any:
        answer = self._functions.on_keys([call], deadline)[0]
        if answer.error is not None:
            raise answer.error
        return answer.reply
