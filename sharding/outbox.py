"""A shard's outbox: the audit entries that its functions wrote and PostgreSQL has not yet.

A stream used as a queue: everything in it is unread, and what has been stored is trimmed. There is no consumer group
and nothing to acknowledge. Reading twice is harmless, since an audit entry is stored once by its event id.

Reading is fenced. An entry that the primary has and no replica yet could vanish in a failover together with the
score it is about; were it stored by then, the audit would tell of a score that no board has.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgpack

from runtime.deadlines import Deadline
from sharding.cluster.client import Call
from sharding.errors import LeaderboardError, NotDurable
from sharding.functions import Functions
from sharding.keys import ShardKeys
from sharding.players import PlayerId, player_of
from sharding.submissions import Note, read_note

_FORMAT = 1


class Entry(NamedTuple):
    """One applied submission, as the shard wrote it down. Times are milliseconds since 1970."""

    entry_id: str
    player: PlayerId
    event_id: int
    operator: str
    value: int
    points_after: int
    received_at_ms: int
    note: Note


class Undecodable(LeaderboardError):
    """The outbox entry has no form that this version knows."""


class RawEntry(NamedTuple):
    """A stream entry, not decoded yet: it may hold many submissions."""

    entry_id: str
    content: bytes

    def decode(self) -> Iterator[Entry]:
        """The submissions in it; Undecodable if it is damaged or of another version."""
        try:
            version, received_at_ms, operator, applied = msgpack.unpackb(self.content, raw=True)
            if version != _FORMAT:
                raise Undecodable(f"outbox entry {self.entry_id} has format {version}")
            for member, event_id, value, points_after, note in applied:
                yield Entry(
                    self.entry_id,
                    player_of(member),
                    int.from_bytes(event_id, "big", signed=True),
                    operator.decode(),
                    value,
                    points_after,
                    received_at_ms,
                    read_note(note),
                )
        except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
            raise Undecodable(f"outbox entry {self.entry_id} cannot be decoded: {error}") from error


class Outbox:
    """The outboxes of all shards, as one process drains them."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    def read(self, keys: ShardKeys, most: int, deadline: Deadline) -> list[RawEntry]:
        """The oldest entries; all of them are on a replica when this returns. NotDurable if none confirms."""
        reply = self._reply(Call(keys.slot, ("XRANGE", keys.outbox, "-", "+", "COUNT", most)), deadline)
        if reply and self._functions.replicas:
            touch = Call(keys.slot, ("HINCRBY", keys.head, "drains", 1))
            if not self._functions.on_keys([touch], deadline, fence=True)[0].confirmed:
                raise NotDurable("no replica has confirmed these outbox entries yet")
        return [RawEntry(entry_id.decode(), _content(fields)) for entry_id, fields in reply]

    def trim(self, keys: ShardKeys, last: str, deadline: Deadline) -> int:
        """Remove the entries up to and including `last`; how many that were."""
        milliseconds, _, sequence = last.partition("-")
        after = f"{milliseconds}-{int(sequence) + 1}"
        return int(self._reply(Call(keys.slot, ("XTRIM", keys.outbox, "MINID", after)), deadline))

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


def _content(fields: Sequence[bytes]) -> bytes:
    """The value of the field `e`; an entry of another form decodes as nothing, and is quarantined."""
    content = dict(zip(fields[::2], fields[1::2], strict=False))
    return content.get(b"e", b"")
