"""A board spoken to in bare function calls and read key by key, in the words of the handoff's table."""

import hashlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from runtime.deadlines import Deadline
from sharding.cluster.client import Answer, Call, Refused
from sharding.directory import Entry
from sharding.functions import ApplyMode, Asked, apply_call, pack_list, point_call, read_tombstone
from sharding.handoff.states import Clock, Gone, Head, Leaving, Live, Memory, Removed, State
from sharding.keys import Windows, windows_at
from sharding.leaderboard import Leaderboard
from sharding.players import Member
from sharding.scores import ELAPSED_SPAN, PackedScore
from sharding.shard_map import ShardMap
from sharding.slots import key_slot

PAYLOAD_VERSION = 1
NOW = Windows(0, 0)
_EVENT = 10


NO_LIMIT = 10**9


class Said(NamedTuple):
    """What a shard replied, or the code of its refusal, and the time windows that the call named."""

    reply: Any
    refusal: str | None
    windows: Windows


def pack_payload(payload: Leaving, version: int = PAYLOAD_VERSION) -> bytes:
    """A payload as the shards pass it on."""
    memory = payload.memory
    recent, before = b"".join(sorted(memory.recent)), b"".join(sorted(memory.before))
    content = [version, payload.packed, payload.epoch, payload.target, memory.window, recent, before]
    content += [1] if payload.hidden else []
    packed: bytes = msgpack.packb(content, use_bin_type=False)  # Lua knows only the older form
    return packed


def read_leaving(payload: bytes) -> Leaving:
    """The payload that a shard made."""
    version, packed, epoch, target, window, recent, before, *hidden = msgpack.unpackb(payload, raw=True)
    assert version == PAYLOAD_VERSION
    assert hidden in ([], [1])
    return Leaving(epoch, PackedScore(packed), Memory(window, _events(recent), _events(before)), target, bool(hidden))


def _events(packed: bytes) -> frozenset[bytes]:
    return frozenset(packed[at : at + _EVENT] for at in range(0, len(packed), _EVENT))


class RawBoard:
    """The keys of one board."""

    def __init__(self, leaderboard: Leaderboard, shard_map: ShardMap) -> None:
        self._client = leaderboard.client
        self.shard_map = shard_map
        self._ahead_ms = 0.0

    # -- calls

    def apply(self, shard: int, *asked: Asked, mode: ApplyMode = ApplyMode.PLAIN, limit: int = NO_LIMIT) -> Said:
        """Submissions to a shard, in one call."""
        call = apply_call(self.shard_map.keys(shard), asked, outbox_limit=limit, mode=mode)
        return self.call(shard, call.function, *call.args)

    def call(self, shard: int, function: str, *args: object, shift: Windows = NOW) -> Said:
        """A function on a shard's keys, named for the windows of its clock (or for ones so far from them)."""
        keys = self.shard_map.keys(shard)
        for _ in range(3):
            now = windows_at(int(time.time() * 1000 + self._ahead_ms), self.shard_map.retry_window_ms)
            named = Windows(now.recent + shift.recent, now.gone + shift.gone)
            names = keys.for_function(named)
            words = ("FCALL", function, len(names), *names, named.recent, named.gone, *args)
            answer = self._client.execute_one(Call(keys.slot, words), Deadline.after(10))
            if _refusal(answer) != "RBWINDOW" or shift != NOW:
                return Said(answer.reply, _refusal(answer), named)
            assert isinstance(answer.error, Refused)
            self._ahead_ms = int(answer.error.words) - time.time() * 1000
        raise AssertionError("the shard's clock cannot be met")

    def bare(self, shard: int, *words: object) -> Said:
        """A command on the shard's slot."""
        answer = self._client.execute_one(Call(self.shard_map.keys(shard).slot, words), Deadline.after(10))
        return Said(answer.reply, _refusal(answer), Windows(0, 0))

    def step(self, shard: int, function: str, *flat: object) -> Said:
        """A step of the handoff."""
        return self.call(shard, function, pack_list(flat))

    def point(self, members: Sequence[Member], *flat: object) -> Said:
        """Point to members whose directory buckets lie in one slot."""
        buckets = [self.shard_map.directory.bucket(member) for member in members]
        call = point_call(buckets[0][0], [key for _, key in buckets], flat)
        answer = self._client.execute_one(call, Deadline.after(10))
        return Said(answer.reply, _refusal(answer), Windows(0, 0))

    # -- what the table calls the head and the clock

    def head(self, shard: int, member: Member) -> Head:
        """A shard's head, as it concerns a player."""
        board = self.shard_map.board
        bounds = self.shard_map.bounds(shard)
        takes = (int.from_bytes(member_sha(member)[:2], "big") % bounds.parts) == bounds.part
        shards = max(self.shard_map.shards()) + 1
        return Head(shard, bounds.low, bounds.high, board.order, board.operator, takes, shards)

    def clock(self, said: Said, now_ms: int | None = None) -> Clock:
        """The shard's time at a call: the window it accepted, and the tie-break units if it told the time."""
        if now_ms is None:
            return Clock(said.windows.recent)
        period = self.shard_map.period
        elapsed = (now_ms - period.start_ms) // period.tie_unit_ms
        return Clock(said.windows.recent, min(max(elapsed, 0), ELAPSED_SPAN - 1))

    # -- what is stored

    def keyspace(self) -> dict[bytes, tuple[bytes, int]]:
        """Every key of the board with its content and its end."""
        pattern = f"*}}{self.shard_map.name}:*"
        found = self._client.on_primaries(("KEYS", pattern), Deadline.after(10)).values()
        keys = [key for reply in found for key in reply]
        calls = [Call(key_slot(key), (word, key)) for key in keys for word in ("DUMP", "PEXPIRETIME")]
        replies = iter(self._replies(calls))
        return {key: (next(replies), next(replies)) for key in keys}

    def players(self, windows: Windows) -> dict[tuple[int, Member], State]:
        """What each shard knows of each player (those it knows nothing of are left out)."""
        found: dict[tuple[int, Member], State] = {}
        for shard in self.shard_map.shards():
            names = self.shard_map.keys(shard).for_function(windows)
            calls = [Call(self.shard_map.keys(shard).slot, ("ZRANGE", names[0], 0, -1, "WITHSCORES"))]
            calls += [Call(self.shard_map.keys(shard).slot, ("ZRANGE", names[9], 0, -1, "WITHSCORES"))]
            calls += [Call(self.shard_map.keys(shard).slot, ("HGETALL", name)) for name in names[1:7]]
            rows, aside, *hashes = [_pairs(reply) for reply in self._replies(calls)]
            epochs, recent, before, leaving, gone, gone_before = hashes
            for member, entry in (gone_before | gone).items():
                target, epoch = read_tombstone(entry)
                found[shard, Member(member)] = Gone(epoch, target)
            for member, payload in leaving.items():
                found[shard, Member(member)] = read_leaving(payload)
            here = rows.keys() | aside.keys()
            for member, packed in (aside | rows).items():
                memory = Memory(windows.recent, _events(recent.get(member, b"")), _events(before.get(member, b"")))
                epoch = int(epochs.get(member, 1))
                if packed == b"inf":
                    found[shard, Member(member)] = Removed(epoch, memory)
                else:
                    score = PackedScore(int(float(packed)))
                    found[shard, Member(member)] = Live(epoch, score, memory, member in aside)
            assert not rows.keys() & aside.keys(), "in the ranking and aside"
            assert epochs.keys() <= here, "an epoch without a row"
            assert recent.keys() | before.keys() <= here, "events without a row"
            assert not here & leaving.keys(), "a row that is leaving"
        return found

    def entries(self, members: Sequence[Member]) -> dict[Member, Entry]:
        """The directory's entries of members."""
        calls = [Call(slot, ("HGET", key, member)) for member in members for slot, key in [self._bucket(member)]]
        entries = {}
        for member, stored in zip(members, self._replies(calls), strict=True):
            if stored is not None:
                shard, epoch = stored.split(b":")
                entries[member] = Entry(int(shard), int(epoch))
        return entries

    def outbox(self, shard: int) -> list[list[Any]]:
        """The calls that a shard has written down: what was asked for, the notes, and the results."""
        keys = self.shard_map.keys(shard)
        (stream,) = self._replies([Call(keys.slot, ("XRANGE", keys.outbox, "-", "+"))])
        return [[msgpack.unpackb(value, raw=True) for value in fields[1::2]] for _, fields in stream]

    def counters(self, shard: int) -> tuple[int, int]:
        """Submissions and the sum of points, as a shard counts them."""
        keys = self.shard_map.keys(shard)
        (counted,) = self._replies([Call(keys.slot, ("HMGET", keys.head, "submissions", "points"))])
        return int(counted[0] or 0), int(counted[1] or 0)

    def moves(self, shard: int) -> int:
        """How many steps of moves a shard counts."""
        keys = self.shard_map.keys(shard)
        (counted,) = self._replies([Call(keys.slot, ("HGET", keys.head, "moves"))])
        return int(counted or 0)

    def _bucket(self, member: Member) -> tuple[int, str]:
        return self.shard_map.directory.bucket(member)

    def _replies(self, calls: Sequence[Call]) -> list[Any]:
        answers = self._client.execute(calls, Deadline.after(10))
        assert [answer.error for answer in answers if answer.error] == []
        return [answer.reply for answer in answers]


def member_sha(member: Member) -> bytes:
    """The hash by which ranges are split."""
    return hashlib.sha1(member, usedforsecurity=False).digest()


def _refusal(answer: Answer) -> str | None:
    if answer.error is None:
        return None
    return answer.error.code if isinstance(answer.error, Refused) else type(answer.error).__name__


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
