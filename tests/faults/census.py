"""Where everybody is at rest, read key by key, without any function of the code under test.

It sees what points alone do not show: a player with rows in two shards, one that is still frozen, a row outside of its
shard's range, a directory that tells something else.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from runtime.deadlines import Deadline
from sharding.cluster.client import Call
from sharding.leaderboard import Leaderboard
from sharding.players import PlayerId, player_of
from sharding.scores import points_of
from sharding.shard_map import ShardMap


class Misplacement(StrEnum):
    """What can be wrong with where somebody is."""

    IN_TWO_SHARDS = "in two shards"
    LEAVING = "leaving"  # frozen, with nobody at it any more
    MISPLACED = "out of range"  # a row where the map does not want it
    STALE = "directory differs"  # the directory names another shard or epoch than the row's, or nothing
    NOWHERE = "nowhere"  # the directory knows of a move of the player, and no shard knows the player


@dataclass(frozen=True, slots=True)
class Census:
    """Players' points as the rows have them, and everything that is not in its place, as (what, player, where)."""

    points: dict[PlayerId, int]
    found: list[tuple[Misplacement, PlayerId, str]]

    def count(self, what: Misplacement) -> int:
        """How many players this is true of."""
        return len({player for kind, player, _ in self.found if kind is what})


@dataclass(slots=True)
class _Whereabouts:
    rows: list[tuple[int, int, int]] = field(default_factory=list)  # shard, packed score, epoch
    leaving: list[int] = field(default_factory=list)
    entry: str | None = None


def census(leaderboard: Leaderboard, shard_map: ShardMap) -> Census:
    """Look at every shard and every bucket of the directory."""
    people: dict[PlayerId, _Whereabouts] = defaultdict(_Whereabouts)
    for shard in shard_map.shards():
        keys = shard_map.keys(shard)
        epochs = _pairs(_reply(leaderboard, keys.slot, "HGETALL", keys.prefix + "epochs"))
        for member, packed in _pairs(_reply(leaderboard, keys.slot, "ZRANGE", keys.rows, 0, -1, "WITHSCORES")).items():
            people[player_of(member)].rows.append((shard, int(float(packed)), int(epochs.get(member, 1))))
        for member in _reply(leaderboard, keys.slot, "HKEYS", keys.leaving):
            people[player_of(member)].leaving.append(shard)
    directory = shard_map.directory
    for bucket in range(directory.buckets):
        partition = bucket % len(directory.slots)
        entries = _reply(leaderboard, directory.slots[partition], "HGETALL", f"{directory.prefixes[partition]}{bucket}")
        for member, entry in _pairs(entries).items():
            people[player_of(member)].entry = entry.decode()
    found = [
        (what, player, str(where))
        for player, where in sorted(people.items())
        for what in _misplacements(shard_map, player, where)
    ]
    order = shard_map.board.order
    points = {
        player: sum(points_of(packed, order) for _, packed, _ in where.rows)
        for player, where in people.items()
        if where.rows
    }
    return Census(points, found)


def _misplacements(shard_map: ShardMap, player: PlayerId, where: _Whereabouts) -> list[Misplacement]:
    found = []
    if len(where.rows) > 1:
        found.append(Misplacement.IN_TWO_SHARDS)
    if where.leaving:
        found.append(Misplacement.LEAVING)
    # A claim alone (epoch 1) is no loss: its writer died before the first row.
    if where.entry is not None and not where.entry.endswith(":1") and not where.rows and not where.leaving:
        found.append(Misplacement.NOWHERE)
    for shard, packed, epoch in where.rows:
        if shard_map.shard_for(packed, player.encode()) != shard:  # type: ignore[arg-type]
            found.append(Misplacement.MISPLACED)
        if where.entry != f"{shard}:{epoch}":
            found.append(Misplacement.STALE)
    return found


def _pairs(reply: list[Any]) -> dict[bytes, bytes]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _reply(leaderboard: Leaderboard, slot: int, *command: Any) -> Any:
    answer = leaderboard.functions.on_keys([Call(slot, command)], Deadline.after(10))[0]
    if answer.error is not None:
        raise answer.error
    return answer.reply
