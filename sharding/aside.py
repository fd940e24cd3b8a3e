"""Taking players off a board, and hiding them: what keeps a player out of the ranking who has been in it.

Both are one call to the shard that has the player (lua/aside.lua); this module finds that shard. It goes where the
directory says, and on from there as the shard tells: along a tombstone, or to the target of a move, which is finished
first. Both may be repeated: hiding says how it is to be, and a removal is an event, which a shard recognises when it
comes again, like the match of a submission.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.deadlines import Deadline
from sharding.directory import FIRST_EPOCH, Directory, Entry
from sharding.errors import LeaderboardError, NotOnBoard, ShardUnavailable
from sharding.functions import SLICE, Code, Functions, ShardCall, pairs, read_tombstone
from sharding.handoff.mover import Leaving, Mover, leaving
from sharding.players import Member, PlayerId, member_of, player_of
from sharding.scores import points_of
from sharding.shard_map import ShardMap
from sharding.submissions import Submission, pack_notes

_MOST_HOPS = 10
_ENDS = {Code.APPLIED, Code.DUPLICATE, Code.REMOVED}


@dataclass(frozen=True, slots=True)
class Removal:
    """A player is off the board. `points`: what was taken away; None if this very removal was made before."""

    points: int | None
    durable: bool


@dataclass(frozen=True, slots=True)
class _Told:
    """What a shard answered about a player in the end."""

    code: int
    detail: bytes
    confirmed: bool


class Aside:
    """Removes and hides players. One per process; safe to use from many threads or greenlets."""

    def __init__(self, functions: Functions, directory: Directory, mover: Mover, *, outbox_limit: int) -> None:
        self._functions = functions
        self._directory = directory
        self._mover = mover
        self._outbox_limit = outbox_limit

    def remove(self, shard_map: ShardMap, removal: Submission, deadline: Deadline) -> Removal:
        """Take a player off the board, by an event that the audit keeps. NotOnBoard if there is no row."""
        member = member_of(removal.player)
        options = (self._outbox_limit, pack_notes([removal.note()]))
        told = self._visit(shard_map, "rb1_remove", options, {member: (member, removal.event())}, deadline)[member]
        if isinstance(told, LeaderboardError):
            raise told
        if told.code == Code.REMOVED:
            raise _not_on_board(shard_map, removal.player)
        points = points_of(int(told.detail), shard_map.board.order) if told.detail else None
        return Removal(points, told.confirmed)

    def hide(
        self, shard_map: ShardMap, wanted: Mapping[PlayerId, bool], deadline: Deadline
    ) -> dict[PlayerId, LeaderboardError]:
        """Hide players (True) or show them (False); why it could not be done, by player.

        Players without a row are passed over: whether they are hidden is asked when their row begins.
        """
        args = {member_of(player): (member_of(player), int(hidden)) for player, hidden in wanted.items()}
        told = self._visit(shard_map, "rb1_hide", (0,), args, deadline)
        return {
            player_of(member): one
            for member, one in told.items()
            if isinstance(one, LeaderboardError) and not isinstance(one, NotOnBoard)
        }

    def _visit(
        self,
        shard_map: ShardMap,
        function: str,
        options: Sequence[Any],
        args: Mapping[Member, Sequence[Any]],
        deadline: Deadline,
    ) -> dict[Member, _Told | LeaderboardError]:
        """Call a function for players in the shards that have them; its answer, or why there is none, for each."""
        told: dict[Member, _Told | LeaderboardError] = {}
        located = self._directory.locate(shard_map, args, deadline)
        entries, looked_up = dict(located.entries), set[Member]()
        told.update(located.failed)
        self._end_absent(shard_map, told, entries, args)
        for hop in range(_MOST_HOPS):
            waiting = [member for member in args if member not in told]
            if not waiting or deadline.passed:
                break
            lost: list[Member] = []
            movers: dict[Member, Leaving] = {}
            gone: dict[Member, Entry] = {}
            for shard, members, answer in self._call(shard_map, function, options, entries, waiting, args, deadline):
                if answer.error is not None:
                    told.update(dict.fromkeys(members, answer.error))
                    continue
                for member, (code, detail) in zip(members, pairs(answer.reply), strict=True):
                    if code in _ENDS:
                        told[member] = _Told(code, detail, answer.confirmed)
                    elif code == Code.LEAVING:
                        movers[member] = leaving(shard, detail)
                    elif code == Code.GONE:
                        gone[member] = Entry(*read_tombstone(detail))
                    else:
                        lost.append(member)
            moved = self._mover.complete(shard_map, movers, deadline)
            entries.update({member: to.entry for member, to in moved.items()})
            if gone:
                entries.update(self._directory.follow(shard_map, gone, deadline, again=hop > 0))
            self._look_up(shard_map, lost, told, entries, looked_up, deadline)
        for member in args:
            told.setdefault(member, ShardUnavailable("the player is on the move; try again"))
        return told

    def _call(
        self,
        shard_map: ShardMap,
        function: str,
        options: Sequence[Any],
        entries: Mapping[Member, Entry],
        waiting: Iterable[Member],
        args: Mapping[Member, Sequence[Any]],
        deadline: Deadline,
    ) -> Iterable[tuple[int, Sequence[Member], Any]]:
        """One call to each shard that should have one of these players."""
        groups: dict[int, list[Member]] = defaultdict(list)
        for member in waiting:
            groups[entries[member].shard].append(member)
        slices = [
            (shard, members[start : start + SLICE])
            for shard, members in groups.items()
            for start in range(0, len(members), SLICE)
        ]
        calls = [
            ShardCall(shard_map.keys(shard), function, (*options, *(arg for member in members for arg in args[member])))
            for shard, members in slices
        ]
        answers = self._functions.on_shards(calls, shard_map.retry_window_ms, deadline, fence=True)
        self._functions.hold([call.keys.slot for call in calls], answers)
        return [(shard, members, answer) for (shard, members), answer in zip(slices, answers, strict=True)]

    def _look_up(
        self,
        shard_map: ShardMap,
        lost: Sequence[Member],
        told: dict[Member, _Told | LeaderboardError],
        entries: dict[Member, Entry],
        looked_up: set[Member],
        deadline: Deadline,
    ) -> None:
        """Read the entries of players who are not where they were thought to be.

        A claim without a row is a player whose first submission is still to come: not on the board. Under a later epoch
        the row is on its way, or lost, and the next look may find it.
        """
        if not lost:
            return
        located = self._directory.locate(shard_map, lost, deadline, fresh=True)
        told.update(located.failed)
        for member in lost:
            known = located.entries.get(member)
            if member in told:
                continue
            if known is None or (member in looked_up and known.epoch == FIRST_EPOCH):
                told[member] = _not_on_board(shard_map, player_of(member))
            else:
                entries[member] = known
        looked_up.update(lost)

    @staticmethod
    def _end_absent(
        shard_map: ShardMap,
        told: dict[Member, _Told | LeaderboardError],
        entries: Mapping[Member, Entry],
        members: Iterable[Member],
    ) -> None:
        for member in members:
            if member not in entries and member not in told:
                told[member] = _not_on_board(shard_map, player_of(member))


def _not_on_board(shard_map: ShardMap, player: PlayerId) -> NotOnBoard:
    return NotOnBoard(f"{player} has no score on {shard_map.name}", field="user_id")
