"""Comparing a board with its audit log, and making it what the audit log says.

Every player's points in Redis against the fold of `games`, in flat memory, whatever the size of the board: the fold is
streamed, its players are looked up in batches; then the rows are walked, for players who are in Redis alone.

What is submitted meanwhile looks like a difference until it is drained, so each difference is looked at again: the row
is read *first*, then the outboxes are drained, and the player's part of the audit log is folded *last*. Everything that
the row had counted is in that fold, so if the two still differ the difference is real, or the row has changed since.
A row that has changed is looked at anew; and a repair leaves it to the shard, which sets the row only if it still is
what was read. So a repair never undoes a submission, however busy the board is.

The audit log is the truth: a repair changes the board, and is recorded in the log as a `repair`, which no fold counts.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from secrets import token_hex

import structlog
from sqlalchemy import Engine

from records import audit, players
from records.audit import Folded, Replayed
from runtime.deadlines import Deadline
from sharding.directory import FIRST_EPOCH, Entry
from sharding.leaderboard import Leaderboard
from sharding.lifecycle import Repair
from sharding.players import Member, PlayerId, member_of, player_of
from sharding.reader import Found
from sharding.scores import points_of
from sharding.shard_map import ShardMap
from sharding.submissions import OWN_MARK, Submission
from workers import metrics
from workers.draining import drain_now
from workers.rows import packed_of

log = structlog.get_logger()

_BATCH = 2_000
_MOST_LISTED = 1_000
_STEP_S = 30.0
_DRAIN_S = 600.0
_MOST_TRIES = 20
_MOST_COUNTS, _BETWEEN_COUNTS_S = 10, 0.2
KIND = "repair"

#: Told how many players of another batch are compared.
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Difference:
    """A player whose points differ; None: no row, or no submission."""

    player: PlayerId
    in_redis: int | None
    in_audit: int | None
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison found; `differences` lists the first thousand."""

    players_in_audit: int
    rows_in_redis: int
    different: int
    repaired: int
    differences: list[Difference]

    @property
    def agrees(self) -> bool:
        """Whether board and audit tell the same."""
        return self.different == self.repaired and self.players_in_audit == self.rows_in_redis


def verify(
    leaderboard: Leaderboard, engine: Engine, shard_map: ShardMap, progress: Progress, *, repair: bool = False
) -> Verdict:
    """Compare all players of a board period, after draining it; with `repair`, set rows to what the audit log says."""
    comparison = _Comparison(leaderboard, engine, shard_map, repair=repair)
    drain_now(leaderboard, engine, shard_map, Deadline.after(_DRAIN_S))
    compared = comparison.fold(progress)
    if comparison.different or comparison.count() != compared:
        comparison.walk()
    rows = comparison.count_when_settled(compared)
    return Verdict(compared, rows, comparison.different, comparison.repaired, comparison.listed)


class _Comparison:
    """One run of `verify`."""

    def __init__(self, leaderboard: Leaderboard, engine: Engine, shard_map: ShardMap, *, repair: bool) -> None:
        self.different = 0
        self.repaired = 0
        self.listed: list[Difference] = []
        self._leaderboard = leaderboard
        self._engine = engine
        self._map = shard_map
        self._repair = repair
        self._walked: dict[PlayerId, Found] = {}

    def fold(self, progress: Progress) -> int:
        """Compare whom the audit log has; how many those are."""
        compared = 0
        for batch in _batches(audit.fold(self._engine, self._map.name.board, self._map.name.period)):
            told = {PlayerId(item.user_id): item.points for item in batch}
            rows = self._rows(told)
            self._look_again([player for player, points in told.items() if self._points(rows.get(player)) != points])
            compared += len(batch)
            progress(len(batch))
        return compared

    def walk(self) -> None:
        """Find whom only Redis has."""
        for shard, rows in self._leaderboard.lifecycle.members(self._map):
            found = {player_of(row.member): Found(shard, row.packed) for row in rows}
            known = audit.with_games(self._engine, self._map.name.board, self._map.name.period, found)
            self._walked = {player: row for player, row in found.items() if player not in known}
            self._look_again(list(self._walked))

    def count(self) -> int:
        """How many rows there are, those of hidden players among them."""
        return self._leaderboard.lifecycle.count(self._map, Deadline.after(_STEP_S))

    def count_when_settled(self, compared: int) -> int:
        """The same, anew while it lacks rows that were compared: who is afloat is in no shard.

        Rows too many are told at once: they may be a player's second ones, and who is afloat would hide those.
        """
        rows = self.count()
        for _ in range(_MOST_COUNTS):
            if rows >= compared or self.different != self.repaired:
                break
            time.sleep(_BETWEEN_COUNTS_S)
            rows = self.count()
        return rows

    def _look_again(self, suspects: list[PlayerId]) -> None:
        """Tell real differences from submissions that were on their way, and repair them if that is asked for."""
        for _ in range(_MOST_TRIES):
            if not suspects:
                return
            rows = self._rows(suspects)
            drain_now(self._leaderboard, self._engine, self._map, Deadline.after(_DRAIN_S))
            folded = self._replay(suspects)
            differing = []
            for player in suspects:
                row, replayed = rows.get(player), folded.get(player)
                if self._points(row) != (replayed.points if replayed else None):
                    differing.append(_Suspect(player, row, replayed))
            now = self._rows(suspect.player for suspect in differing)
            real = [suspect for suspect in differing if _same(suspect.row, now.get(suspect.player))]
            changed = self._mend(real) if self._repair else {}
            for suspect in real:
                if changed.get(suspect.player) is not False:
                    self._report(suspect, repaired=changed.get(suspect.player, False))
            settled = {suspect.player for suspect in real if changed.get(suspect.player) is not False}
            suspects = [suspect.player for suspect in differing if suspect.player not in settled]
        for player in suspects:  # it changed under every attempt: nothing can be said of it now
            log.warning("player_not_compared", player=player, board=str(self._map.name))

    def _rows(self, suspects: Iterable[PlayerId]) -> dict[PlayerId, Found]:
        wanted = list(suspects)
        found = self._leaderboard.reader.find_many(self._map, wanted, Deadline.after(_STEP_S), hidden=True)
        # A row that the directory does not know is where the walk has seen it.
        return {player: self._walked[player] for player in wanted if player in self._walked} | found

    def _replay(self, wanted: Sequence[PlayerId]) -> dict[PlayerId, Replayed]:
        name = self._map.name
        replayed = audit.replay(self._engine, name.board, name.period, since=datetime.now(UTC), players=wanted)
        return {PlayerId(item.user_id): item for item in replayed if item.points is not None}

    def _points(self, row: Found | None) -> int | None:
        return None if row is None else points_of(row.packed, self._map.board.order)

    def _mend(self, differing: Sequence["_Suspect"]) -> dict[PlayerId, bool]:
        """Set rows to what the audit log says; of each, whether it still was what had been read.

        A row that is taken away leaves the mark of a removed player, so the directory needs no change.
        """
        if not differing:
            return {}
        entries = self._entries([suspect for suspect in differing if suspect.row is None])
        repairs = {}
        for suspect in differing:
            member = member_of(suspect.player)
            wanted = packed_of(self._map, suspect.replayed) if suspect.replayed else None
            if suspect.row is not None:
                place = Entry(suspect.row.shard, FIRST_EPOCH)
            elif wanted is not None and member not in entries:
                claim = {member: Entry(self._map.shard_for(wanted, member), FIRST_EPOCH)}
                claimed = self._leaderboard.directory.claim(self._map, claim, Deadline.after(_STEP_S))
                place = claimed.of(member) or claim[member]
            else:
                place = entries[member]
            seen = suspect.row.packed if suspect.row else None
            record = Submission(suspect.player, 0, f"{OWN_MARK}{KIND}:{token_hex(8)}", kind=KIND)
            repairs[suspect.player] = Repair(place.shard, member, seen, wanted, record, place.epoch)
        deadline = Deadline.after(_STEP_S)
        done = self._leaderboard.lifecycle.repair(self._map, list(repairs.values()), deadline)
        begun = [suspect.player for suspect in differing if suspect.row is None]
        hidden = {PlayerId(player): True for player in players.hidden_among(self._engine, begun)}
        self._leaderboard.hide(self._map.name, hidden, deadline)
        return dict(zip(repairs, done, strict=True))

    def _entries(self, suspects: Iterable["_Suspect"]) -> dict[Member, Entry]:
        members = [member_of(suspect.player) for suspect in suspects]
        located = self._leaderboard.directory.locate(self._map, members, Deadline.after(_STEP_S), fresh=True)
        if located.failed:
            raise next(iter(located.failed.values()))
        return located.entries

    def _report(self, suspect: "_Suspect", *, repaired: bool) -> None:
        self.different += 1
        points = suspect.replayed.points if suspect.replayed else None
        difference = Difference(suspect.player, self._points(suspect.row), points, repaired)
        if repaired:
            self.repaired += 1
            metrics.repaired_rows.labels(self._map.name.board).inc()
            log.warning(
                "row_repaired",
                board=str(self._map.name),
                player=suspect.player,
                before=difference.in_redis,
                after=difference.in_audit,
            )
        if len(self.listed) < _MOST_LISTED:
            self.listed.append(difference)


@dataclass(frozen=True, slots=True)
class _Suspect:
    """A player whose row and audit log differ."""

    player: PlayerId
    row: Found | None
    replayed: Replayed | None


def _same(row: Found | None, other: Found | None) -> bool:
    return (row and row.packed) == (other and other.packed)


def _batches(folded: Iterator[Folded]) -> Iterator[list[Folded]]:
    while batch := list(islice(folded, _BATCH)):
        yield batch
