"""The move of players from shard to shard: depart, arrive, point, finish (`write-path` in docs/architecture.md).

Three places take part (source, target, directory) and no transaction spans them, so the move is four idempotent steps
that anybody may repeat (`states.py` has the theory, and the table of what each of them does). Whoever needs a player
that is leaving finishes the move instead of waiting for the one who began it. After each of the first three steps the
actor waits until a replica has it: without that fence a failover could leave the player in two shards or in none.

Every step takes many players: one call per step and shard.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from runtime import failpoints, metrics
from runtime.deadlines import Deadline
from sharding.cluster.client import Answer
from sharding.directory import Directory, Entry, entry_at
from sharding.errors import ShardUnavailable
from sharding.functions import (
    MOVE_SLICE,
    Arrive,
    Depart,
    Functions,
    Payload,
    arrivals,
    departures,
    read_payload,
    read_tombstone,
    refusal_of,
    step_call,
)
from sharding.handoff.refusals import Why, refuse
from sharding.players import Member
from sharding.scores import PackedScore
from sharding.shard_map import ShardMap

log = structlog.get_logger()


class Leaving(msgspec.Struct, frozen=True):
    """A player on the way out of `source`."""

    source: int
    payload: bytes
    about: Payload


class Moved(msgspec.Struct, frozen=True):
    """Where a player is after a move.

    `packed`: the score that moved, where it is known; the one before the move may have changed until the departure.
    """

    entry: Entry
    is_stray: bool = False
    packed: PackedScore | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a step asks of one shard: for which players, and their values in one flat list."""

    members: list[Member] = field(default_factory=list)
    flat: list[Any] = field(default_factory=list)

    def add(self, values: tuple[Any, ...]) -> None:
        """Ask for one more player, who comes first of the values."""
        self.members.append(values[0])
        self.flat.extend(values)

    def slices(self) -> Iterator["_Asked"]:
        """The same in parts that a shard takes in one call."""
        size = len(self.flat) // len(self.members)
        for start in range(0, len(self.members), MOVE_SLICE):
            end = start + MOVE_SLICE
            yield _Asked(self.members[start:end], self.flat[start * size : end * size])


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
    ) -> dict[Member, Moved]:
        """Move strays (entry they are under, packed score) to where the map wants them; where each of them is now.

        A player whom somebody else moved meanwhile is reported where that one put it. Left out is one who is at home by
        now, or known nowhere, or for whom a shard did not answer: a move that was begun stays for whoever comes next.
        """
        return self._move(shard_map, strays, deadline, old=False)

    def complete(
        self,
        shard_map: ShardMap,
        movers: Mapping[Member, Leaving],
        deadline: Deadline,
    ) -> dict[Member, Moved]:
        """Finish moves that were found, whoever began them, and whenever; where each player is now, as `move` says.

        The departure is repeated first. A payload that was merely read may be taken back by a failover, with the row
        live again at the source, and one that has arrived by then would be a second row: so nothing is done with a
        payload before this actor has touched it and a replica has it.
        """
        strays = {
            member: (Entry(mover.source, mover.about.epoch - 1), PackedScore(mover.about.packed))
            for member, mover in movers.items()
        }
        return self._move(shard_map, strays, deadline, old=True)

    def _move(
        self,
        shard_map: ShardMap,
        strays: Mapping[Member, tuple[Entry, PackedScore]],
        deadline: Deadline,
        *,
        old: bool,
    ) -> dict[Member, Moved]:
        """All steps; `old`: the moves may have been begun at any time."""
        if not strays:
            return {}
        failpoints.reach("handoff.begun")
        found, left = self._depart(shard_map, strays, deadline)
        if not left:
            return found
        failpoints.reach("handoff.departed")
        moved: dict[Member, Moved] = {}
        movers = left
        if old:
            moved, left = self._arrived_before(shard_map, movers, deadline)
        moved.update(self._arrive(shard_map, left, deadline))
        failpoints.reach("handoff.arrived")
        entries = {member: to.entry for member, to in moved.items()}
        pointed = self._directory.point(shard_map, entries, deadline)
        failpoints.reach("handoff.pointed")
        arrived = {member: movers[member] for member in moved if member in pointed.entries}
        self._finish(shard_map, arrived, deadline)
        metrics.moves_finished.inc(len(arrived))
        metrics.moves_left.inc(len(movers) - len(arrived))
        failpoints.reach("handoff.finished")
        return found | moved

    def _arrived_before(
        self, shard_map: ShardMap, movers: Mapping[Member, Leaving], deadline: Deadline
    ) -> tuple[dict[Member, Moved], dict[Member, Leaving]]:
        """Those who have arrived before, as the directory knows, and those who still have to.

        The target of an old move may have forgotten the player: who has gone on from there leaves a tombstone, and that
        expires. The payload would be taken for a first arrival. Who cannot be looked up is in neither.
        """
        located = self._directory.locate(shard_map, movers, deadline, fresh=True)
        arrived = {
            member: Moved(entry)
            for member, entry in located.entries.items()
            if entry.epoch >= movers[member].about.epoch
        }
        settled = arrived.keys() | located.failed.keys()
        return arrived, {member: mover for member, mover in movers.items() if member not in settled}

    def _depart(
        self, shard_map: ShardMap, strays: Mapping[Member, tuple[Entry, PackedScore]], deadline: Deadline
    ) -> tuple[dict[Member, Moved], dict[Member, Leaving]]:
        moved: dict[Member, Moved] = {}
        departed: dict[Member, Leaving] = {}
        wanted = dict(strays)
        # A second time for those who are here under another epoch than the one they were last seen with.
        for _ in range(2):
            asked: dict[int, _Asked] = defaultdict(_Asked)
            for member, (entry, packed) in wanted.items():
                asked[entry.shard].add((member, entry.epoch, shard_map.shard_for(packed, member)))
            again: dict[Member, tuple[Entry, PackedScore]] = {}
            for source, members, answer in self._step("rb1_depart", shard_map, asked, deadline):
                for member, (code, detail) in zip(members, departures(answer.reply), strict=True):
                    if code == Depart.DEPARTED:
                        try:
                            departed[member] = leaving(source, detail)
                        except ShardUnavailable:
                            refuse(Why.PAYLOAD, shard_map, source, member)
                    elif code == Depart.OTHER_EPOCH:
                        # A row of an earlier epoch than is known of may be a ghost: that is for the scrub to find out.
                        if int(detail) < wanted[member][0].epoch:
                            refuse(Why.EPOCH, shard_map, source, member)
                        else:
                            again[member] = (Entry(source, int(detail)), wanted[member][1])
                    elif code == Depart.MISDIRECTED and shard_map.shard_for(wanted[member][1], member) != source:
                        refuse(Why.UNKNOWN_SHARD, shard_map, source, member)
                    elif code == Depart.NOT_HERE and detail:
                        moved[member] = Moved(Entry(*read_tombstone(detail)))
            if not again:
                break
            wanted = again
        return moved, departed

    def _arrive(self, shard_map: ShardMap, movers: Mapping[Member, Leaving], deadline: Deadline) -> dict[Member, Moved]:
        asked: dict[int, _Asked] = defaultdict(_Asked)
        for member, mover in movers.items():
            asked[mover.about.target].add((member, mover.payload))
        landed: dict[Member, Moved] = {}
        for _, members, answer in self._step("rb1_arrive", shard_map, asked, deadline):
            for member, arrival in zip(members, arrivals(answer.reply), strict=True):
                about = movers[member].about
                if arrival.code == Arrive.MISDIRECTED:
                    refuse(Why.PAYLOAD, shard_map, about.target, member)
                else:
                    landed[member] = Moved(
                        entry_at(about.target, about.epoch),
                        bool(arrival.is_stray),
                        PackedScore(about.packed),
                    )
        return landed

    def _finish(self, shard_map: ShardMap, movers: Mapping[Member, Leaving], deadline: Deadline) -> None:
        asked: dict[int, _Asked] = defaultdict(_Asked)
        for member, mover in movers.items():
            asked[mover.source].add((member, mover.about.epoch))
        for _ in self._step("rb1_finish", shard_map, asked, deadline, fence=False):
            pass

    def _step(
        self,
        function: str,
        shard_map: ShardMap,
        asked: Mapping[int, _Asked],
        deadline: Deadline,
        *,
        fence: bool = True,
    ) -> Iterable[tuple[int, Sequence[Member], Answer]]:
        """One step for all players: shard, its players and its answer, for the shards that took it."""
        slices = [(shard, some) for shard, each in asked.items() for some in each.slices()]
        calls = [step_call(shard_map.keys(shard), function, some.flat) for shard, some in slices]
        answers = self._functions.on_shards(calls, shard_map.retry_window_ms, deadline, fence=fence)
        if fence:
            self._functions.hold([call.keys.slot for call in calls], answers)
        for (shard, some), answer in zip(slices, answers, strict=True):
            if answer.error is not None:
                log.warning(
                    "handoff_step_failed",
                    step=function,
                    board=str(shard_map.name),
                    shard=shard,
                    players=len(some.members),
                    reason=answer.error.detail,
                )
                refusal = refusal_of(answer.error)
                if refusal is not None and refusal.code == "RBNOHEAD":
                    why = Why.NO_HEAD if shard in shard_map.shards() else Why.UNKNOWN_SHARD
                    for member in some.members:
                        refuse(why, shard_map, shard, member)
            else:
                yield shard, some.members, answer
