"""The player-to-shard directory: who is where, under which epoch.

Partitioned by player hash over the cluster, with a bounded memory in each process in front. An entry, remembered or
stored, may be out of date: the shards correct it (a tombstone tells where a player went, an absent row sends the
writer back here), so reading it needs no fence. But that a player has *no* entry is a statement too, and no shard
corrects it: it holds only where the partition's mark is, which is lost together with the entries.

What needs a fence is a *claim*: a row is created only by somebody whose own claim, or whose own rewriting of somebody
else's, is on a replica. Otherwise a failover could lose the claim that a row rests on, and the next claim could put the
player into a second shard.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count, islice, starmap
from typing import NamedTuple

from runtime.deadlines import Deadline
from sharding.cluster.client import Call
from sharding.errors import DirectoryLost, LeaderboardError
from sharding.functions import Functions, claim_call, point_call, pointed
from sharding.players import Member
from sharding.shard_map import ShardMap


class Entry(NamedTuple):
    """Where a player is."""

    shard: int
    epoch: int


FIRST_EPOCH = 1
_MOST_SHARED = 4_096
_MOST_BOARDS = 1_000


@lru_cache(_MOST_SHARED)
def entry_at(shard: int, epoch: int) -> Entry:
    """The entry, as one object for all players who are in one place under one epoch: quicker than to make it anew."""
    return Entry(shard, epoch)


class Located(NamedTuple):
    """What the directory told: entries, and the error of each member whose part of it could not be asked.

    A member in neither has no entry.
    """

    entries: dict[Member, Entry]
    failed: dict[Member, LeaderboardError]

    def of(self, member: Member) -> Entry | None:
        """The member's entry; raises the error if it could not be asked for."""
        if member in self.failed:
            raise self.failed[member]
        return self.entries.get(member)


class Directory:
    """The directory of all boards, as one process uses it."""

    def __init__(self, functions: Functions, *, remembered: int) -> None:
        """`remembered`: how many entries the process keeps."""
        self._functions = functions
        self._memory = _Memory(remembered)

    def locate(
        self,
        shard_map: ShardMap,
        members: Iterable[Member],
        deadline: Deadline,
        *,
        fresh: bool = False,
        lost_is_none: bool = False,
    ) -> Located:
        """The entries of members; `fresh`: as stored, whatever is remembered.

        Whose entry may have been lost fails with DirectoryLost, unless `lost_is_none`: for those who claim it next,
        which is refused then, and for those who repair.
        """
        wanted = list(dict.fromkeys(members))
        found = {} if fresh else self._memory.get(shard_map, wanted)
        missing = [member for member in wanted if member not in found]
        if not missing:
            return Located(found, {})
        stored = self._stored(shard_map, missing, deadline)
        if not lost_is_none:
            absent = [member for member in missing if member not in stored.entries and member not in stored.failed]
            stored.failed.update(self._lost(shard_map, absent, deadline))
        return Located(found | stored.entries, stored.failed)

    def claim(self, shard_map: ShardMap, claims: Mapping[Member, Entry], deadline: Deadline) -> Located:
        """Enter players under FIRST_EPOCH who have no entry yet; the entries as they are then. Fenced.

        DirectoryLost is the error of those whose entries may have been lost: they may have a row somewhere.
        """
        return self._point(shard_map, claims, deadline, claimed=True)

    def open(self, shard_map: ShardMap, deadline: Deadline, *, partitions: Iterable[int] | None = None) -> None:
        """Mark partitions (default: all) as whole: who has no entry there has no row. Fenced."""
        chosen = range(shard_map.partitions) if partitions is None else partitions
        marks = [shard_map.directory.mark_of(partition) for partition in chosen]
        answers = self._functions.on_keys([Call(slot, ("SET", key, 1)) for slot, key in marks], deadline, fence=True)
        self._functions.hold([slot for slot, _ in marks], answers)
        for answer in answers:
            if answer.error is not None:
                raise answer.error

    def lost_partitions(self, shard_map: ShardMap, deadline: Deadline) -> dict[int, LeaderboardError]:
        """The partitions that are lost, or cannot be asked."""
        return self._unmarked(shard_map, range(shard_map.partitions), deadline)

    def point(self, shard_map: ShardMap, entries: Mapping[Member, Entry], deadline: Deadline) -> Located:
        """Point to where players are, unless an entry of a higher epoch is stored; the entries as they are then.

        For those who know that there is a row, or will be before anybody may write. Fenced: what is returned is on a
        replica.
        """
        return self._point(shard_map, entries, deadline, claimed=False)

    def _point(
        self, shard_map: ShardMap, entries: Mapping[Member, Entry], deadline: Deadline, *, claimed: bool
    ) -> Located:
        slots: dict[int, tuple[list[Member], list[str], list[bytes | int]]] = defaultdict(lambda: ([], [], []))
        for member, entry in entries.items():
            slot, key = shard_map.directory.bucket(member)
            members, keys, flat = slots[slot]
            members.append(member)
            keys.append(key)
            flat += (member, entry.shard, entry.epoch)
        calls = [
            claim_call(slot, shard_map.directory.mark_in(slot), keys, flat) if claimed else point_call(slot, keys, flat)
            for slot, (_, keys, flat) in slots.items()
        ]
        answers = self._functions.on_keys(calls, deadline, fence=True)
        self._functions.hold([call.slot for call in calls], answers)
        located = Located({}, {})
        for (members, _, _), answer in zip(slots.values(), answers, strict=True):
            if answer.error is not None:
                located.failed.update(dict.fromkeys(members, answer.error))
                continue
            located.entries.update(zip(members, starmap(entry_at, pointed(answer.reply)), strict=True))
        self._memory.put(shard_map, located.entries)
        return located

    def follow(
        self, shard_map: ShardMap, gone: Mapping[Member, Entry], deadline: Deadline, *, again: bool
    ) -> dict[Member, Entry]:
        """Where to look for players who are gone from a shard: where its tombstones led, which is remembered.

        `again`: it was not the first, and may be one of many. The directory has known of every move before there was a
        tombstone of it, so what is stored there is taken, where it is later; where it cannot be asked, the tombstone.
        """
        led = dict(gone)
        if again:
            stored = self._stored(shard_map, list(gone), deadline).entries
            led.update({member: entry for member, entry in stored.items() if entry.epoch > gone[member].epoch})
        self.learn(shard_map, led)
        return led

    def learn(self, shard_map: ShardMap, entries: Mapping[Member, Entry]) -> None:
        """Remember what was told by shards."""
        self._memory.put(shard_map, entries)

    def _lost(
        self, shard_map: ShardMap, absent: Sequence[Member], deadline: Deadline
    ) -> dict[Member, LeaderboardError]:
        """Those of these players without an entry who may have had one."""
        if not absent:
            return {}
        partitions = {member: shard_map.directory.partition_of(member) for member in absent}
        lost = self._unmarked(shard_map, sorted(set(partitions.values())), deadline)
        return {member: lost[partition] for member, partition in partitions.items() if partition in lost}

    def _unmarked(
        self, shard_map: ShardMap, partitions: Sequence[int], deadline: Deadline
    ) -> dict[int, LeaderboardError]:
        marks = [shard_map.directory.mark_of(partition) for partition in partitions]
        answers = self._functions.on_keys([Call(slot, ("EXISTS", key)) for slot, key in marks], deadline)
        return {
            partition: answer.error or DirectoryLost()
            for partition, answer in zip(partitions, answers, strict=True)
            if answer.error is not None or not answer.reply
        }

    def _stored(self, shard_map: ShardMap, members: Sequence[Member], deadline: Deadline) -> Located:
        """The entries as they are stored. A plain command each: a function call costs a node several times as much."""
        buckets = [shard_map.directory.bucket(member) for member in members]
        calls = [Call(slot, ("HGET", key, member)) for (slot, key), member in zip(buckets, members, strict=True)]
        located = Located({}, {})
        for member, answer in zip(members, self._functions.on_keys(calls, deadline), strict=True):
            if answer.error is not None:
                located.failed[member] = answer.error
            elif answer.reply is not None:
                located.entries[member] = _entry(answer.reply)
        self._memory.put(shard_map, located.entries)
        return located


@lru_cache(_MOST_SHARED)
def _entry(stored: bytes) -> Entry:
    shard, _, epoch = stored.partition(b":")
    return entry_at(int(shard), int(epoch))


class _Memory:
    """The entries seen last, over all boards; the least recently used ones are forgotten, some at a time.

    There are hundreds of thousands, so each is one line of one dictionary: in the order of use, under a key that begins
    with a number for the board.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._at_a_time = max(1, most // 64)  # a dictionary that loses its first line again and again finds it slowly
        self._entries: dict[bytes, Entry] = {}
        self._boards: dict[tuple[str, str, int], bytes] = {}
        self._numbers = count()
        self._lock = threading.Lock()

    def get(self, shard_map: ShardMap, members: Sequence[Member]) -> dict[Member, Entry]:
        """What is remembered of members."""
        found = {}
        with self._lock:
            board, entries = self._board(shard_map), self._entries
            for member in members:
                key = board + member
                if (entry := entries.pop(key, None)) is not None:
                    found[member] = entries[key] = entry
        return found

    def put(self, shard_map: ShardMap, told: Mapping[Member, Entry]) -> None:
        """Remember entries, but for those of which a later one is remembered."""
        with self._lock:
            board, entries = self._board(shard_map), self._entries
            for member, entry in told.items():
                key = board + member
                known = entries.get(key)
                if known is None or known.epoch <= entry.epoch:
                    entries.pop(key, None)
                    entries[key] = entry_at(*entry)
            if len(entries) > self._most:
                spare = len(entries) - self._most
                for key in list(islice(entries, max(spare, self._at_a_time))):
                    del entries[key]

    def _board(self, shard_map: ShardMap) -> bytes:
        """The number of a board."""
        name = (shard_map.board.name, shard_map.period.name, shard_map.generation)
        number = self._boards.get(name)
        if number is None:
            if len(self._boards) >= _MOST_BOARDS:  # periods long past; what is remembered of others is so no more
                self._boards.clear()
            number = self._boards[name] = next(self._numbers).to_bytes(4, "big")
        return number
