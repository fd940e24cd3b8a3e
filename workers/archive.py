"""A period closes by itself: its final ranking goes to PostgreSQL, and its keys expire.

The steps, each of which may be repeated: the shards are frozen, moves are finished, outboxes drained; then the shards
are copied in rank order, each in a transaction of its own (a shard's first rank follows from the players in better
ranges, which do not change any more); then what is stored is counted by SQL and compared with Redis and with the audit
log; then it counts as archived, reads of it may come from PostgreSQL, and its keys expire after the days of grace.

It is done under a lease, so the second at the same time does nothing; one that died is taken up where it was, since a
copied shard is recorded with its rows; a second run finds it archived and only sees to it that the keys expire.

Stored rows that do not agree with Redis are discarded, and the next run copies them anew. A board that does not agree
with its audit log is not archived: its rows are all there is, and somebody has to look (`rangeboard verify`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Engine

from records import archives, audit, boards, partitions, shard_maps, snapshots
from records.errors import MissingPartition
from records.leases import lease
from runtime import failpoints
from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.errors import ArchiveDiffers, PeriodNotOver, ShardUnavailable, UnknownBoard
from sharding.functions import FROZEN
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, parse_period
from sharding.players import player_of
from sharding.scores import Order, points_of
from sharding.shard_map import ShardMap
from workers import metrics
from workers.draining import drain_now
from workers.patience import patiently

log = structlog.get_logger()

#: Told how many of how many players are copied.
Report = Callable[[int, int], None]

_STEP_S = 60.0
_DRAIN_S = 3600.0
_MOVES_PER_S = 1_000_000.0


@dataclass(frozen=True, slots=True)
class Closed:
    """What became of a period. `already`: it was archived before; None: somebody else is archiving it now."""

    players: int
    points: int
    already: bool


class Archive:
    """Archives board periods."""

    def __init__(self, leaderboard: Leaderboard, engine: Engine, settings: Settings) -> None:
        self._leaderboard = leaderboard
        self._engine = engine
        self._late = timedelta(minutes=settings.late_minutes)
        self._grace = timedelta(days=settings.archive_grace_days)

    def due(self, now: datetime) -> list[BoardPeriod]:
        """The periods that are over and not archived, the oldest first, whenever they should have been."""
        kinds = {board.name: PeriodKind(board.period_kind) for board in boards.list_all(self._engine)}
        names = [BoardPeriod(board, period) for board, period in archives.unarchived(self._engine)]
        return [name for name in names if self._is_over(kinds[name.board], name.period, now)]

    def close(self, name: BoardPeriod, now: datetime, report: Report) -> Closed | None:
        """Archive a period; None if somebody else is at it. PeriodNotOver, ArchiveDiffers, UnknownBoard."""
        rules = boards.get(self._engine, name.board)
        stored = shard_maps.latest(self._engine, name.board, name.period)
        if rules is None or stored is None:
            raise UnknownBoard(f"there is no ranking of {name}", field="board")
        if not self._is_over(PeriodKind(rules.period_kind), name.period, now):
            raise PeriodNotOver(f"{name} still takes submissions: it can be archived when it is over", field="period")
        with lease(self._engine, f"lifecycle:{name}") as held:
            if held is None:
                return None
            latest = ShardMap.from_document(stored.document)
            already = archives.of_period(self._engine, name.board, name.period).get(archives.WHOLE)
            if already is not None and already.state == "archived":
                self._expire(latest, already.changed_at)
                return Closed(already.players or 0, already.points or 0, already=True)
            return self._close(name, now, report)

    def _close(self, name: BoardPeriod, now: datetime, report: Report) -> Closed:
        try:
            shard_map = self._leaderboard.maps.published(name, _soon())
        except UnknownBoard as lost:
            raise ArchiveDiffers(f"the data of {name} are lost: `rangeboard rebuild` brings them back") from lost
        archives.record(self._engine, name.board, name.period, archives.WHOLE, "closing")
        self._freeze(shard_map)
        failpoints.reach("archive.frozen")
        self._settle(shard_map)
        drain_now(self._leaderboard, self._engine, shard_map, Deadline.after(_DRAIN_S))
        failpoints.reach("archive.drained")
        self._copy(shard_map, report)
        players, points = self._verify(shard_map)
        submissions = self._leaderboard.stats(name, _soon()).submissions
        told = {"players": players, "points": points, "submissions": submissions}
        archives.record(self._engine, name.board, name.period, archives.WHOLE, "archived", **told)
        failpoints.reach("archive.recorded")
        self._expire(shard_map, now)
        log.info("period_archived", board=name.board, period=name.period, players=players)
        return Closed(players, points, already=False)

    def _freeze(self, shard_map: ShardMap) -> None:
        before = patiently(lambda: self._leaderboard.lifecycle.set_state(shard_map, FROZEN, _soon()))
        lost = [shard for shard, state in before.items() if state is None]
        if lost:
            raise ArchiveDiffers(f"shards {', '.join(map(str, lost))} are lost; `rangeboard rebuild` brings them back")

    def _settle(self, shard_map: ShardMap) -> None:
        """Finish every move: then each row is in its range, and nobody is on the way."""
        done = self._leaderboard.rebalancer.move_strays(
            shard_map, Deadline.after(_DRAIN_S), players_per_s=_MOVES_PER_S, report=lambda _: None
        )
        leaving = sum(view.leaving for view in self._leaderboard.shards(shard_map.name, _soon()))
        if done.left or leaving:
            raise ShardUnavailable(
                f"{shard_map.name} is not at rest: {done.left} strays, {leaving} players on the move"
            )

    def _copy(self, shard_map: ShardMap, report: Report) -> None:
        """Copy the shards that are not copied yet. A range that is split by player hash is merged, and goes as one."""
        name = shard_map.name
        sizes = [self._leaderboard.lifecycle.size(shard_map, index, _soon()) for index in range(len(shard_map.ranges))]
        known = archives.of_period(self._engine, name.board, name.period)
        first = 1
        for index, size in enumerate(sizes):
            shard = shard_map.ranges[index].shards[0]
            copied = known.get(shard)
            if copied is None:
                self._copy_range(shard_map, index, shard, first)
                failpoints.reach("archive.copied")
            first += size
            report(first - 1, sum(sizes))

    def _copy_range(self, shard_map: ShardMap, index: int, shard: int, first: int) -> None:
        name = shard_map.name
        rows = (name.board, name.period, shard, first)
        try:
            copied, _ = snapshots.copy_shard(self._engine, *rows, self._rows(shard_map, index))
        except MissingPartition as missing:
            partitions.ensure(self._engine, missing.months)
            copied, _ = snapshots.copy_shard(self._engine, *rows, self._rows(shard_map, index))
        metrics.archived_players.labels(name.board).inc(copied)

    def _rows(self, shard_map: ShardMap, index: int) -> Iterator[list[tuple[str, int]]]:
        order = shard_map.board.order
        for chunk in self._leaderboard.lifecycle.ranking(shard_map, index):
            failpoints.reach("archive.copying")
            yield [(player_of(row.member), points_of(row.packed, order)) for row in chunk]

    def _verify(self, shard_map: ShardMap) -> tuple[int, int]:
        """Compare what is stored with Redis and with the audit log; players, and the sum of their points."""
        name = shard_map.name
        rows = sum(self._leaderboard.lifecycle.size(shard_map, at, _soon()) for at in range(len(shard_map.ranges)))
        copied = archives.of_period(self._engine, name.board, name.period)
        points = sum(shard.points or 0 for shard in copied.values() if shard.shard != archives.WHOLE)
        stored = snapshots.check(self._engine, name.board, name.period, descending=shard_map.board.order is Order.DESC)
        if not stored.is_sound() or (stored.players, stored.points) != (rows, points):
            snapshots.discard(self._engine, name.board, name.period)
            raise ArchiveDiffers(
                f"{name}: {stored.players:,} players with {stored.points:,} points were stored, and Redis has "
                f"{rows:,} with {points:,}; what was stored is discarded, and copied anew next time"
            )
        kept = audit.totals(self._engine, name.board, name.period)
        hidden, hidden_points = self._hidden(shard_map)
        if (kept.players, kept.points) != (stored.players + hidden, stored.points + hidden_points):
            snapshots.discard(self._engine, name.board, name.period)
            raise ArchiveDiffers(
                f"{name}: {stored.players:,} players with {stored.points:,} points, and {hidden:,} hidden ones with "
                f"{hidden_points:,}, where the audit log has {kept.players:,} with {kept.points:,}; "
                "`rangeboard verify` tells who differs"
            )
        return stored.players, stored.points

    def _hidden(self, shard_map: ShardMap) -> tuple[int, int]:
        """The players who have no final rank because they are hidden, and the sum of their points."""
        order, players, points = shard_map.board.order, 0, 0
        for _, rows in self._leaderboard.lifecycle.hidden(shard_map):
            players += len(rows)
            points += sum(points_of(row.packed, order) for row in rows)
        return players, points

    def _expire(self, shard_map: ShardMap, archived_at: datetime) -> None:
        """Let the keys expire when the days of grace are over. The map goes first: without it nobody asks for them."""
        at_ms = int((archived_at + self._grace).timestamp() * 1000)
        self._leaderboard.lifecycle.unpublish(shard_map, at_ms, _soon())
        self._leaderboard.lifecycle.expire(shard_map, at_ms + _MAP_REMEMBERED_MS, _soon())

    def _is_over(self, kind: PeriodKind, period: str, now: datetime) -> bool:
        end = parse_period(kind, period).end
        return end is not None and end + self._late <= now


#: Longer than any process remembers a map.
_MAP_REMEMBERED_MS = 60_000


def _soon() -> Deadline:
    return Deadline.after(_STEP_S)
