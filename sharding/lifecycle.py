"""What happens to a board besides play: it is frozen, rebuilt into a new generation, corrected, and in the end expires.

A new generation has keys of its own, so a rebuild touches nothing that anybody reads or writes until its map is
published, and an interrupted one leaves keys that the next attempt clears away. Shards that are loaded are in a state
of their own (`rebuilding`): rows cannot be loaded into a shard that plays, nor can anybody play in one that is loaded.

Everything here may be repeated. Nothing here knows where rows come from; that is records' and workers' business.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any, Literal, NamedTuple

import msgpack

from runtime.deadlines import Deadline
from sharding.cluster.client import Answer, Call
from sharding.directory import FIRST_EPOCH, Directory, Entry
from sharding.functions import REBUILDING, SLICE, Functions, ShardCall, on_bucket, read_payload, read_tombstone
from sharding.keys import map_key, windows_at
from sharding.maps import Maps
from sharding.merge import Placed
from sharding.players import Member
from sharding.scores import PackedScore, best_of_points
from sharding.shard_map import ShardMap
from sharding.submissions import Submission, pack_notes

State = Literal["open", "frozen", "rebuilding"]

#: Rows of a shard that are read at once: half a megabyte, and a few milliseconds of a node.
CHUNK = 5_000
_BUCKETS_AT_ONCE = 2_000
_STEP_S = 30.0
_SET = 1


class LoadedRow(NamedTuple):
    """A row as it is put into a shard. `recent` and `before`: its events of a window, and of the one before.

    Without a packed score it is the mark of a player who was removed.
    """

    member: Member
    packed: PackedScore | None
    epoch: int = FIRST_EPOCH
    recent: bytes = b""
    before: bytes = b""
    hidden: bool = False

    def home(self, shard_map: ShardMap) -> int:
        """The shard where it belongs; a mark, where somebody without points would be."""
        packed = best_of_points(0, shard_map.board.order) if self.packed is None else self.packed
        return shard_map.shard_for(packed, self.member)

    def flat(self) -> tuple[object, ...]:
        """What the shard is told of it."""
        return self.member, _or_none(self.packed), self.epoch, self.recent, self.before, int(self.hidden)


@dataclass(frozen=True, slots=True)
class Repair:
    """A row that is to become another. None is: no row. `record` is what the audit keeps of it."""

    shard: int
    member: Member
    seen: PackedScore | None
    wanted: PackedScore | None
    record: Submission
    epoch: int = FIRST_EPOCH


@dataclass(frozen=True, slots=True)
class Totals:
    """What a shard's head counts."""

    submissions: int = 0
    points: int = 0

    def plus(self, submissions: int, points: int) -> "Totals":
        """With so many more."""
        return Totals(self.submissions + submissions, self.points + points)


class Lifecycle:
    """Freezes, loads, repairs and expires the shards of a board."""

    def __init__(self, functions: Functions, maps: Maps, directory: Directory) -> None:
        self._functions = functions
        self._maps = maps
        self._directory = directory

    # -- states

    def states(self, shard_map: ShardMap, deadline: Deadline) -> dict[int, State | None]:
        """The state of each shard; None for one that has no head: its data are lost."""
        calls = {shard: shard_map.keys(shard) for shard in shard_map.shards()}
        answers = self._functions.on_keys(
            [Call(keys.slot, ("HMGET", keys.head, "shard", "state")) for keys in calls.values()], deadline
        )
        states: dict[int, State | None] = {}
        for shard, answer in zip(calls, answers, strict=True):
            head, state = _value(answer)
            states[shard] = None if head is None else state.decode()
        return states

    def set_state(
        self,
        shard_map: ShardMap,
        state: State,
        deadline: Deadline,
        *,
        shards: Sequence[int] | None = None,
        totals: Mapping[int, Totals] | None = None,
    ) -> dict[int, State | None]:
        """Set the state of shards (default: all), and what their heads count; the states before. A replica has it."""
        chosen = list(shard_map.shards()) if shards is None else list(shards)
        calls = []
        for shard in chosen:
            keys = shard_map.keys(shard)
            counted = totals.get(shard, Totals()) if totals is not None else None
            fields = ("submissions", counted.submissions, "points", counted.points) if counted else ()
            calls.append(Call(keys.slot, ("FCALL", "rb1_state", 1, keys.head, state, *fields)))
        answers = self._functions.on_keys(calls, deadline, fence=True)
        self._functions.hold([call.slot for call in calls], answers)
        before: dict[int, State | None] = {}
        for shard, answer in zip(chosen, answers, strict=True):
            reply = _value(answer)
            before[shard] = None if reply is None else reply.decode()
        return before

    # -- loading

    def prepare(self, shard_map: ShardMap, deadline: Deadline, *, shards: Sequence[int] | None = None) -> None:
        """Make shards ready to be loaded: heads, no rows, state `rebuilding`. All of them: no directory either."""
        chosen = list(shard_map.shards()) if shards is None else list(shards)
        # A head that is made here is closed from the first: its players would begin anew in an open one.
        bounds = {shard: shard_map.bounds(shard) for shard in chosen}
        self._maps.open_shards(shard_map, bounds, 1, deadline, state=REBUILDING)
        self.set_state(shard_map, REBUILDING, deadline, shards=chosen)
        calls = []
        for shard in chosen:
            keys = shard_map.keys(shard)
            calls.append(Call(keys.slot, ("UNLINK", keys.rows, keys.aside, keys.epochs, keys.leaving, keys.outbox)))
        for answer in self._functions.on_keys(calls, deadline):
            _value(answer)
        if shards is None:
            for _ in self._on_buckets(shard_map, "UNLINK", ()):
                pass

    def load(
        self, shard_map: ShardMap, rows: Mapping[int, Sequence[LoadedRow]], window: int, deadline: Deadline
    ) -> None:
        """Put rows into shards, and players into the directory; `window`: the recent window of the rows' events."""
        slices = [
            (shard, its[start : start + SLICE]) for shard, its in rows.items() for start in range(0, len(its), SLICE)
        ]
        calls = [
            ShardCall(
                shard_map.keys(shard),
                "rb1_load",
                (window, msgpack.packb([item for row in its for item in row.flat()], use_bin_type=False)),
            )
            for shard, its in slices
        ]
        for answer in self._functions.on_shards(calls, shard_map.retry_window_ms, deadline):
            _value(answer)
        entries = {row.member: Entry(shard, row.epoch) for shard, its in rows.items() for row in its}
        pointed = self._directory.point(shard_map, entries, deadline)
        if pointed.failed:
            raise next(iter(pointed.failed.values()))

    # -- repairing

    def repair(self, shard_map: ShardMap, repairs: Sequence[Repair], deadline: Deadline) -> list[bool]:
        """Make rows what they are wanted to be; False for one that was not what was seen, and stays as it is."""
        groups: dict[int, list[int]] = defaultdict(list)
        for index, repair in enumerate(repairs):
            groups[repair.shard].append(index)
        calls = []
        for shard, indexes in groups.items():
            args: list[object] = [pack_notes(repairs[index].record.note() for index in indexes)]
            for repair in (repairs[index] for index in indexes):
                seen, wanted = _or_none(repair.seen), _or_none(repair.wanted)
                args += (repair.member, seen, wanted, repair.epoch, repair.record.event())
            calls.append(ShardCall(shard_map.keys(shard), "rb1_repair", tuple(args)))
        answers = self._functions.on_shards(calls, shard_map.retry_window_ms, deadline, fence=True)
        self._functions.hold([call.keys.slot for call in calls], answers)
        done = [False] * len(repairs)
        for indexes, answer in zip(groups.values(), answers, strict=True):
            for index, repaired in zip(indexes, _value(answer), strict=True):
                done[index] = repaired == _SET
        return done

    # -- reading all of it

    def holders(
        self, shard_map: ShardMap, members: Sequence[Member], shards: Sequence[int], deadline: Deadline
    ) -> dict[Member, Entry]:
        """Which of these shards have a row or mark of these players, or have them on the way out, and the epoch."""
        calls = []
        for shard in shards:
            keys = shard_map.keys(shard)
            calls.append(Call(keys.slot, ("ZMSCORE", keys.rows, *members)))
            calls.append(Call(keys.slot, ("ZMSCORE", keys.aside, *members)))
            calls.append(Call(keys.slot, ("HMGET", keys.leaving, *members)))
            calls.append(Call(keys.slot, ("HMGET", keys.epochs, *members)))
        replies = map(_value, self._functions.on_keys(calls, deadline))
        found: dict[Member, Entry] = {}
        for shard, *told in zip(shards, replies, replies, replies, replies, strict=True):
            for member, packed, aside, payload, epoch in zip(members, *told, strict=True):
                if packed is not None or aside is not None:
                    entry = Entry(shard, int(epoch or FIRST_EPOCH))
                elif payload is not None:  # under the epoch of the row that departed: it has not arrived anywhere
                    entry = Entry(shard, read_payload(payload).epoch - 1)
                else:
                    continue
                if member not in found or found[member].epoch < entry.epoch:
                    found[member] = entry
        return found

    def followed(
        self, shard_map: ShardMap, members: Sequence[Member], shards: Sequence[int], deadline: Deadline
    ) -> dict[Member, Entry]:
        """Where the tombstones in these shards led, of those players who have one: the latest of each."""
        windows = windows_at(time.time_ns() // 1_000_000, shard_map.retry_window_ms)
        calls = []
        for keys in map(shard_map.keys, shards):
            # The shard's clock names the windows. One before and one after cover that this process's is not the same.
            calls += [Call(keys.slot, ("HMGET", gone, *members)) for gone in keys.gone_around(windows)]
        found: dict[Member, Entry] = {}
        for told in map(_value, self._functions.on_keys(calls, deadline)):
            for member, tombstone in zip(members, told, strict=True):
                if tombstone is not None:
                    entry = Entry(*read_tombstone(tombstone))
                    if member not in found or found[member].epoch < entry.epoch:
                        found[member] = entry
        return found

    def size(self, shard_map: ShardMap, range_at: int, deadline: Deadline) -> int:
        """How many rows the shards of a range hold, hidden players left out."""
        keys = [shard_map.keys(shard) for shard in shard_map.ranges[range_at].shards]
        answers = self._functions.on_keys([Call(key.slot, ("ZCARD", key.rows)) for key in keys], deadline)
        return sum(int(_value(answer)) for answer in answers)

    def hidden_size(self, shard_map: ShardMap, deadline: Deadline) -> int:
        """How many rows of hidden players there are."""
        keys = [shard_map.keys(shard) for shard in shard_map.shards()]
        calls = [Call(key.slot, ("ZCOUNT", key.aside, "-inf", "(+inf")) for key in keys]
        return sum(int(_value(answer)) for answer in self._functions.on_keys(calls, deadline))

    def count(self, shard_map: ShardMap, deadline: Deadline) -> int:
        """How many rows there are, those of hidden players among them."""
        shown = sum(self.size(shard_map, index, deadline) for index in range(len(shard_map.ranges)))
        return shown + self.hidden_size(shard_map, deadline)

    def ranking(self, shard_map: ShardMap, range_at: int) -> Iterator[list[Placed]]:
        """The rows of a range in rank order, some thousands at a time. Only of a board at rest: it reads by place."""
        shards = shard_map.ranges[range_at].shards
        if len(shards) == 1:
            yield from self._chunks(shard_map, shards[0])
            return
        merged = merge(*((row for chunk in self._chunks(shard_map, shard) for row in chunk) for shard in shards))
        while chunk := list(islice(merged, CHUNK)):
            yield chunk

    def members(self, shard_map: ShardMap) -> Iterator[tuple[int, list[Placed]]]:
        """All rows with their shards, some thousands at a time. While the board plays, some may be missed."""
        for shard in shard_map.shards():
            for chunk in self._chunks(shard_map, shard):
                yield shard, chunk
        yield from self.hidden(shard_map)

    def hidden(self, shard_map: ShardMap) -> Iterator[tuple[int, list[Placed]]]:
        """The rows of hidden players with their shards, some thousands at a time."""
        for shard in shard_map.shards():
            for chunk in self._beside(shard_map, shard):
                yield shard, chunk

    def _chunks(self, shard_map: ShardMap, shard: int) -> Iterator[list[Placed]]:
        keys, start = shard_map.keys(shard), 0
        while True:
            call = Call(keys.slot, ("ZRANGE", keys.rows, start, start + CHUNK - 1, "WITHSCORES"))
            if chunk := self._placed(call):
                yield chunk
            if len(chunk) < CHUNK:
                return
            start += CHUNK

    def _beside(self, shard_map: ShardMap, shard: int) -> Iterator[list[Placed]]:
        """The rows of a shard's hidden players; the marks of removed ones stand behind them, at infinity."""
        keys, start = shard_map.keys(shard), 0
        while True:
            words = ("ZRANGE", keys.aside, "-inf", "(+inf", "BYSCORE", "LIMIT", start, CHUNK, "WITHSCORES")
            if chunk := self._placed(Call(keys.slot, words)):
                yield chunk
            if len(chunk) < CHUNK:
                return
            start += CHUNK

    def _placed(self, call: Call) -> list[Placed]:
        flat = _value(self._functions.on_keys([call], Deadline.after(_STEP_S))[0])
        packed = map(int, map(float, flat[1::2]))
        return list(map(Placed, map(PackedScore, packed), map(Member, flat[::2])))

    # -- the end

    def expire(self, shard_map: ShardMap, at_ms: int, deadline: Deadline) -> int:
        """Let all keys of this generation expire at a moment (ms since 1970); how many there are.

        Windowed keys (recent events, tombstones) expire by themselves.
        """
        calls = []
        for shard in shard_map.shards():
            keys = shard_map.keys(shard)
            names = (keys.rows, keys.aside, keys.epochs, keys.leaving, keys.outbox, keys.head)
            calls.append(Call(keys.slot, ("FCALL", "rb1_expire", len(names), *names, at_ms)))
        count = sum(int(_value(answer)) for answer in self._functions.on_keys(calls, deadline))
        return count + sum(self._on_buckets(shard_map, "rb1_expire", (at_ms,)))

    def unpublish(self, shard_map: ShardMap, at_ms: int, deadline: Deadline) -> None:
        """Let the board's published map expire at a moment; who asks for the board then is told that there is none."""
        slot, key = map_key(shard_map.name)
        call = on_bucket("rb1_expire", slot, [key], (at_ms,))
        _value(self._functions.on_keys([call], deadline)[0])

    def _on_buckets(self, shard_map: ShardMap, command: str, args: tuple[int, ...]) -> Iterator[int]:
        """Run a command or function on all keys of the directory, marks and buckets; the integers it answers."""
        by_slot: dict[int, list[str]] = defaultdict(list)
        for slot, key in {shard_map.directory.mark_of(partition) for partition in range(shard_map.partitions)}:
            by_slot[slot].append(key)
        for bucket in range(shard_map.directory.buckets):
            slot, key = shard_map.directory.key_of(bucket)
            by_slot[slot].append(key)
        calls = []
        for slot, keys in by_slot.items():
            for start in range(0, len(keys), _BUCKETS_AT_ONCE):
                some = keys[start : start + _BUCKETS_AT_ONCE]
                calls.append(Call(slot, (command, *some)) if not args else on_bucket(command, slot, some, args))
        for answer in self._functions.on_keys(calls, Deadline.after(_STEP_S)):
            yield int(_value(answer))


def _or_none(packed: object) -> object:
    return "" if packed is None else packed


def _value(answer: Answer) -> Any:
    if answer.error is not None:
        raise answer.error
    return answer.reply
