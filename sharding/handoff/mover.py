"""The move of players from shard to shard: depart, arrive, point, finish (`write-path` in docs/architecture.md).

Three places take part (source, target, directory) and no transaction spans them, so the move is four idempotent steps
that anybody may repeat. Whoever needs a player that is leaving finishes the move instead of waiting for the one who
began it. After each of the first three steps the actor waits until a replica has it: without that fence a failover
could leave the player in two shards or in none.

Every step takes many players: one call per step and shard.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from runtime.deadlines import Deadline
from sharding.cluster.client import Answer
from sharding.directory import Directory, Entry
from sharding.functions import (
    SLICE,
    Arrival,
    Arrive,
    Depart,
    Functions,
    Payload,
    ShardCall,
    arrivals,
    pairs,
    read_payload,
    read_tombstone,
)
from sharding.players import Member
from sharding.scores import PackedScore
from sharding.shard_map import ShardMap

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Leaving:
    """A player on the way out of `source`."""

    source: int
    payload: bytes
    about: Payload


@dataclass(frozen=True, slots=True)
class Moved:
    """Where a player is after a move; `place` in that shard (-1 if not asked for or not known)."""

    entry: Entry
    place: int = -1
    is_stray: bool = False


def leaving(source: int, payload: bytes) -> Leaving:
    """The move that a payload found in `source` stands for."""
    return Leaving(source, payload, read_payload(payload))


class Mover:
    """Takes players through the steps of the handoff."""

    def __init__(self, functions: Functions, directory: Directory) -> None:
        self._functions = functions
        self._directory = directory

    def move(
        self,
        shard_map: ShardMap,
        strays: Mapping[Member, tuple[Entry, PackedScore]],
        deadline: Deadline,
        *,
        tell_places: bool = False,
    ) -> dict[Member, Moved]:
        """Move strays (entry they are under, packed score) to where the map wants them; where each of them is now.

        A player whom somebody else moved meanwhile is reported where that one put it. Left out is one who is at home by
        now, or known nowhere, or for whom a shard did not answer: a move that was begun stays for whoever comes next.
        """
        found, departed = self._depart(shard_map, strays, deadline)
        found.update(self.complete(shard_map, departed, deadline, tell_places=tell_places))
        return found

    def complete(
        self,
        shard_map: ShardMap,
        movers: Mapping[Member, Leaving],
        deadline: Deadline,
        *,
        tell_places: bool = False,
    ) -> dict[Member, Moved]:
        """Finish the moves of players who have departed, whoever began them."""
        if not movers:
            return {}
        landed = self._arrive(shard_map, movers, deadline, tell_places)
        entries = {member: Entry(movers[member].about.target, movers[member].about.epoch) for member in landed}
        pointed = self._directory.point(shard_map, entries, deadline)
        self._finish(shard_map, {member: movers[member] for member in landed if member in pointed.entries}, deadline)
        return {
            member: Moved(entries[member], arrival.place, bool(arrival.is_stray)) for member, arrival in landed.items()
        }

    def _depart(
        self, shard_map: ShardMap, strays: Mapping[Member, tuple[Entry, PackedScore]], deadline: Deadline
    ) -> tuple[dict[Member, Moved], dict[Member, Leaving]]:
        moved: dict[Member, Moved] = {}
        departed: dict[Member, Leaving] = {}
        wanted = dict(strays)
        # A second time for those who are here under another epoch than the one they were last seen with.
        for _ in range(2):
            groups: dict[int, list[Member]] = defaultdict(list)
            args: dict[Member, Sequence[Any]] = {}
            for member, (entry, packed) in wanted.items():
                target = shard_map.shard_for(packed, member)
                groups[entry.shard].append(member)
                args[member] = (member, entry.epoch, target)
            again: dict[Member, tuple[Entry, PackedScore]] = {}
            for source, members, answer in self._step("rb1_depart", shard_map, groups, args, deadline):
                for member, (code, detail) in zip(members, pairs(answer.reply), strict=True):
                    if code == Depart.DEPARTED:
                        departed[member] = leaving(source, detail)
                    elif code == Depart.OTHER_EPOCH:
                        again[member] = (Entry(source, int(detail)), wanted[member][1])
                    elif code == Depart.NOT_HERE and detail:
                        moved[member] = Moved(Entry(*read_tombstone(detail)))
            if not again:
                break
            wanted = again
        return moved, departed

    def _arrive(
        self, shard_map: ShardMap, movers: Mapping[Member, Leaving], deadline: Deadline, tell_places: bool
    ) -> dict[Member, Arrival]:
        groups: dict[int, list[Member]] = defaultdict(list)
        for member, mover in movers.items():
            groups[mover.about.target].append(member)
        args = {member: (member, mover.payload) for member, mover in movers.items()}
        landed: dict[Member, Arrival] = {}
        option = 1 if tell_places else 0
        for _, members, answer in self._step("rb1_arrive", shard_map, groups, args, deadline, option=option):
            told = zip(members, arrivals(answer.reply), strict=True)
            landed.update({member: arrival for member, arrival in told if arrival.code != Arrive.MISDIRECTED})
        return landed

    def _finish(self, shard_map: ShardMap, movers: Mapping[Member, Leaving], deadline: Deadline) -> None:
        groups: dict[int, list[Member]] = defaultdict(list)
        for member, mover in movers.items():
            groups[mover.source].append(member)
        args = {member: (member, mover.about.epoch) for member, mover in movers.items()}
        for _ in self._step("rb1_finish", shard_map, groups, args, deadline, fence=False):
            pass

    def _step(
        self,
        function: str,
        shard_map: ShardMap,
        groups: Mapping[int, Sequence[Member]],
        args: Mapping[Member, Sequence[Any]],
        deadline: Deadline,
        *,
        option: int = 0,
        fence: bool = True,
    ) -> Iterable[tuple[int, Sequence[Member], Answer]]:
        """One step for all players: shard, its players and its answer, for the shards that took it."""
        slices = [
            (shard, members[start : start + SLICE])
            for shard, members in groups.items()
            for start in range(0, len(members), SLICE)
        ]
        calls = [
            ShardCall(shard_map.keys(shard), function, (option, *(arg for member in members for arg in args[member])))
            for shard, members in slices
        ]
        answers = self._functions.on_shards(calls, shard_map.retry_window_ms, deadline, fence=fence)
        if fence:
            self._functions.hold([call.keys.slot for call in calls], answers)
        for (shard, members), answer in zip(slices, answers, strict=True):
            if answer.error is not None:
                log.warning(
                    "handoff_step_failed",
                    step=function,
                    board=str(shard_map.name),
                    shard=shard,
                    players=len(members),
                    reason=answer.error.detail,
                )
            else:
                yield shard, members, answer
