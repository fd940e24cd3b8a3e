"""The write path: submissions to the shards that hold their players, each applied exactly once.

A submission costs one round trip to the shard where the directory's entry is remembered, two where it has to be read.
The entry may be out of date, so the writer follows what the shards tell it: a tombstone names the next shard, a player
who is leaving is helped over, an unknown one is looked up again. Rows that it writes out of their range count where
they are, and are handed on to be moved (handoff/queue.py).

Hops are bounded; what has no place by then, or by the deadline, is answered as unavailable.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from runtime import failpoints
from runtime.deadlines import Deadline
from sharding.boards import Board
from sharding.cluster.client import Answer
from sharding.directory import FIRST_EPOCH, Directory, Entry, Located
from sharding.errors import (
    LeaderboardError,
    MatchConflict,
    NotDurable,
    Outcome,
    OutOfBounds,
    PeriodClosed,
    ShardOutcomeUnknown,
    ShardUnavailable,
    TooManySubmissions,
    UnknownPlayer,
)
from sharding.functions import (
    SLICE,
    ApplyMode,
    Code,
    Functions,
    May,
    ShardCall,
    apply_call,
    effects,
    map_version,
    read_tombstone,
)
from sharding.handoff.mover import Leaving, Mover, leaving
from sharding.handoff.queue import StrayQueue
from sharding.handoff.refusals import Why, refuse
from sharding.maps import Maps
from sharding.periods import following
from sharding.players import Member, PlayerId, member_of, player_of
from sharding.scores import ELAPSED_SPAN, LOWEST, POINTS_LIMIT, POINTS_SPAN, PackedScore, pack
from sharding.shard_map import ShardMap
from sharding.submissions import Result, Status, Submission, status_after

# A member of an enumeration takes longer to look up than all else that is done with it here, and there are thousands.
_MAY_NOTHING, _MAY_CREATE = May.NOTHING, frozenset({May.CREATE, May.CREATE_HIDDEN})
_IS_APPLIED, _IS_COUNTED = int(Code.APPLIED), frozenset({int(Code.APPLIED), int(Code.DUPLICATE)})
_APPLIED, _DUPLICATE = Status.APPLIED, Status.DUPLICATE

_MOST_HOPS = 10
_NO_LIMIT = 1 << 53

#: Which of these players exist, for a board; where registration is open, it makes them exist. LeaderboardError if that
#: cannot be told now.
KnownPlayers = Callable[[Board, Sequence[PlayerId]], Collection[PlayerId]]
#: Which of these players are hidden: asked for those whose row begins.
HiddenPlayers = Callable[[Sequence[PlayerId]], Collection[PlayerId]]


def nobody(_players: Sequence[PlayerId]) -> Collection[PlayerId]:
    """No player is hidden."""
    return ()


class Written(Result):
    """What became of one submission, and where its player is now: what a rank is told from."""

    shard: int = -1
    place: int = -1
    packed: PackedScore = LOWEST


def failed(error: LeaderboardError) -> Written:
    """What became of a submission that ended in an error."""
    return Written(status_after(error), error=error)


@dataclass(slots=True)
class _Work:
    """The state of one `write`."""

    shard_map: ShardMap
    submissions: Sequence[Submission]
    members: list[Member]
    written: list[Written | None]
    deadline: Deadline
    mode: ApplyMode
    entries: dict[Member, Entry] = field(default_factory=dict)
    #: what this write may do for players who have no row
    may: dict[Member, May] = field(default_factory=dict)
    #: players who were taken off the board
    removed: set[Member] = field(default_factory=set)
    #: players whose entry turned out to be wrong
    lost: set[Member] = field(default_factory=set)
    #: players who are gone from where they were looked for, and where their tombstones lead
    gone: dict[Member, Entry] = field(default_factory=dict)
    #: submissions that a sending without an answer may have applied, wherever their players are by now
    doubtful: set[int] = field(default_factory=set)
    map_version: int = 0

    def take(self, located: Located) -> None:
        """Take in what the directory told."""
        self.entries.update(located.entries)
        self.fail(located.failed)

    def pending(self) -> list[int]:
        """The submissions that have no end yet."""
        return [index for index, written in enumerate(self.written) if written is None]

    def fail(self, errors: Mapping[Member, LeaderboardError]) -> None:
        """The end of these members' submissions, so far as they have none."""
        if errors:
            for index in self.pending():
                if (error := errors.get(self.members[index])) is not None:
                    self.end(index, error)

    def end(self, index: int, error: LeaderboardError) -> None:
        """The end of a submission that has none."""
        if index in self.doubtful and error.outcome is Outcome.NOT_APPLIED:
            error, definite = ShardOutcomeUnknown(), error
            error.__cause__ = definite
        self.written[index] = failed(error)


class Writer:
    """Applies submissions. One per process; safe to use from many threads or greenlets."""

    def __init__(
        self,
        functions: Functions,
        maps: Maps,
        directory: Directory,
        mover: Mover,
        strays: StrayQueue,
        known_players: KnownPlayers,
        hidden_players: HiddenPlayers,
        *,
        outbox_limit: int,
    ) -> None:
        self._functions = functions
        self._maps = maps
        self._directory = directory
        self._mover = mover
        self._strays = strays
        self._known_players = known_players
        self._hidden_players = hidden_players
        self._outbox_limit = outbox_limit

    def write(
        self,
        shard_map: ShardMap,
        submissions: Sequence[Submission],
        deadline: Deadline,
        *,
        mode: ApplyMode = ApplyMode.PLAIN,
    ) -> list[Written]:
        """What became of the submissions, in their order.

        With SETTLE they take back what was applied twice. Neither a closed period nor a full outbox refuses that: it
        is the drain which does it, before it trims the outbox.
        """
        members = [member_of(submission.player) for submission in submissions]
        work = _Work(shard_map, submissions, members, [None] * len(submissions), deadline, mode)
        work.take(self._directory.locate(shard_map, members, deadline, lost_is_none=True))
        self._claim(work, [member for member in dict.fromkeys(members) if member not in work.entries])
        for hop in range(_MOST_HOPS):
            pending = work.pending()
            if not pending or deadline.passed:
                break
            self._hop(work, pending)
            if work.gone:
                work.entries.update(self._directory.follow(shard_map, work.gone, deadline, again=hop > 0))
                work.gone.clear()
        if work.pending():
            why = "there was no time left; try again" if deadline.passed else "the player is on the move; try again"
            work.fail(dict.fromkeys(members, ShardUnavailable(why)))
        self._use_newer_map(work)
        return [written for written in work.written if written is not None]

    def _hop(self, work: _Work, pending: list[int]) -> None:
        """Send what is pending to where its players should be, and take in what the shards answer."""
        if work.lost or work.removed:
            self._find_again(work)
            self._begin_anew(work)
            pending = work.pending()
        groups: dict[int, list[int]] = defaultdict(list)
        for index in pending:
            groups[work.entries[work.members[index]].shard].append(index)
        slices = [
            (shard, indexes[start : start + SLICE])
            for shard, indexes in groups.items()
            for start in range(0, len(indexes), SLICE)
        ]
        calls = [self._call(work, shard, indexes) for shard, indexes in slices]
        answers = self._functions.on_shards(calls, work.shard_map.retry_window_ms, work.deadline, fence=True)
        strays: dict[Member, tuple[Entry, PackedScore]] = {}
        helped: dict[Member, Leaving] = {}
        for asked, answer in zip(slices, answers, strict=True):
            self._take_in(work, asked, answer, strays, helped)
        if helped:
            moved = self._mover.complete(work.shard_map, helped, work.deadline)
            work.entries.update({member: to.entry for member, to in moved.items()})
        if strays:
            self._use_newer_map(work)
            self._strays.take(work.shard_map, strays)

    def _call(self, work: _Work, shard: int, indexes: Iterable[int]) -> ShardCall:
        asked = []
        for index in indexes:
            submission, member, may = work.submissions[index], work.members[index], _MAY_NOTHING
            if work.may:
                may = work.may.get(member, _MAY_NOTHING)
                # Under a later epoch the player has moved: an absent row is lost or on its way, and not to be created.
                if may in _MAY_CREATE and work.entries[member].epoch != FIRST_EPOCH:
                    may = _MAY_NOTHING
            asked.append((member, submission.value, submission.event(), submission.note(), may))
        return apply_call(
            work.shard_map.keys(shard),
            asked,
            outbox_limit=_NO_LIMIT if work.mode is ApplyMode.SETTLE else self._outbox_limit,
            mode=work.mode,
        )

    def _take_in(
        self,
        work: _Work,
        asked: tuple[int, Sequence[int]],
        answer: Answer,
        strays: dict[Member, tuple[Entry, PackedScore]],
        helped: dict[Member, Leaving],
    ) -> None:
        shard, indexes = asked
        if answer.repeated:
            work.doubtful.update(indexes)
        if answer.error is not None:
            error = _closed(work.shard_map) if isinstance(answer.error, PeriodClosed) else answer.error
            for index in indexes:
                work.end(index, error)
            return
        work.map_version = max(work.map_version, map_version(answer.reply))
        undurable = self._functions.insist and self._functions.replicas > 0 and not answer.confirmed
        # What `points_of` looks up for each, they all share.
        sign, durable = work.shard_map.board.order.sign, answer.confirmed
        for index, effect in zip(indexes, effects(answer.reply), strict=True):
            member, code, detail = work.members[index], effect.code, effect.detail
            if code in _IS_COUNTED:
                # A call that had to be sent twice finds what its first sending did: no duplicate of the caller's.
                status = _APPLIED if code == _IS_APPLIED or index in work.doubtful else _DUPLICATE
                if undurable:
                    work.written[index] = failed(NotDurable())
                elif detail == b"":  # the match was counted, and the player removed since
                    work.written[index] = Written(status, durable=durable)
                else:
                    points = sign * (detail // ELAPSED_SPAN)
                    work.written[index] = Written(
                        status, points, durable=durable, shard=shard, place=effect.place, packed=detail
                    )
                if effect.is_stray:
                    strays[member] = (work.entries[member], detail)
            elif code == Code.REFUSED:
                work.written[index] = failed(_refusal(detail, work.shard_map))
            elif code == Code.LEAVING:
                try:
                    helped[member] = leaving(shard, detail)
                except ShardUnavailable as error:
                    refuse(Why.PAYLOAD, work.shard_map, shard, member)
                    work.end(index, error)
            elif code == Code.GONE:
                work.gone[member] = Entry(*read_tombstone(detail))
            elif code == Code.REMOVED:
                work.removed.add(member)
            else:
                work.lost.add(member)

    def _use_newer_map(self, work: _Work) -> None:
        """Go on by the map that the shards told of: by an older one strays would be moved to where they are strays."""
        if work.map_version > work.shard_map.version:
            with suppress(LeaderboardError):
                work.shard_map = self._maps.current(work.shard_map.name, work.deadline, newer_than=work.map_version)

    def _find_again(self, work: _Work) -> None:
        """Read the entries of players who are not where they were thought to be."""
        lost, work.lost = work.lost, set()
        found = self._directory.locate(work.shard_map, lost, work.deadline, fresh=True, lost_is_none=True)
        work.take(found)
        # A claim whose row is absent: the player's first row. Any later epoch is an arrival on its way: try again.
        first = Entry(0, FIRST_EPOCH)
        unborn = [
            member for member in lost - set(found.failed) if found.entries.get(member, first).epoch == FIRST_EPOCH
        ]
        self._claim(work, unborn)

    def _claim(self, work: _Work, members: Sequence[Member]) -> None:
        """Enter players into the directory under the first epoch, or rewrite their claims; a replica has them then."""
        if not members:
            return
        claims = {member: work.entries[member] for member in members if member in work.entries}
        strangers = [member for member in members if member not in claims]
        hidden = self._register(work, members)
        if strangers:
            first = {work.members[index]: work.submissions[index].value for index in reversed(work.pending())}
            claims.update(
                {member: self._home(work.shard_map, member, first[member]) for member in strangers if member in first}
            )
        if claims:
            stored = self._directory.claim(work.shard_map, claims, work.deadline)
            failpoints.reach("write.claimed")
            work.take(stored)
            for member, entry in stored.entries.items():
                if entry.epoch == FIRST_EPOCH:
                    work.may[member] = May.CREATE.hidden if member in hidden else May.CREATE

    def _begin_anew(self, work: _Work) -> None:
        """Let players who were taken off the board begin again, if they are still there.

        No claim is needed: the mark is where the row was, and the row rested on one.
        """
        removed, work.removed = sorted(work.removed), set()
        if removed:
            hidden = self._register(work, removed)
            for member in removed:
                work.may[member] = May.BEGIN_ANEW.hidden if member in hidden else May.BEGIN_ANEW

    def _register(self, work: _Work, members: Sequence[Member]) -> set[Member]:
        """End the submissions of those who are not players, or cannot be looked up; the hidden ones of the others."""
        players = {player_of(member): member for member in members}
        try:
            known = set(self._known_players(work.shard_map.board, list(players)))
            hidden = {players[player] for player in self._hidden_players(sorted(known))}
        except LeaderboardError as error:
            work.fail(dict.fromkeys(members, error))
            return set()
        work.fail({member: UnknownPlayer(field="user_id") for player, member in players.items() if player not in known})
        return hidden

    def _home(self, shard_map: ShardMap, member: Member, points: int) -> Entry:
        """Where a player with these points will live. A guess is enough: a row out of range is moved."""
        points = min(max(points, 1 - POINTS_LIMIT), POINTS_LIMIT - 1)
        return Entry(shard_map.shard_for(pack(points, 0, shard_map.board.order), member), FIRST_EPOCH)


def _closed(shard_map: ShardMap) -> PeriodClosed:
    """The refusal of a frozen shard, with the period in which play goes on."""
    period = shard_map.period
    after = following(period)
    open_now = f"; the next one is {after.name}" if after else ""
    return PeriodClosed(f"{period.kind} {period.name} is closed{open_now}", field="played_at")


def _refusal(why: bytes, shard_map: ShardMap) -> LeaderboardError:
    if why == b"match":
        return MatchConflict("this match was reported for this player before, with another score", field="match_id")
    if why == b"recent":
        return TooManySubmissions.until_next(time.time(), shard_map.retry_window_ms / 1000)
    return OutOfBounds(f"the player's points would leave {POINTS_SPAN}", field="score")
