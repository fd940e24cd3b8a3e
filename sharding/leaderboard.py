"""The door to everything about boards, for one process: submit, read, look into the shards.

Made after the fork, closed at the end, safe to use from many threads or greenlets. It knows boards by name and period,
finds their current map, and leaves the work to the modules named for it.
"""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from runtime import failpoints, metrics
from runtime.deadlines import Deadline
from runtime.gathering import Gathering, TooLate
from runtime.settings import Settings
from sharding.aside import Aside, Removal
from sharding.boards import BoardPeriod
from sharding.cluster.client import Call, ClusterClient
from sharding.coalescer import Coalescer
from sharding.cursors import Cursors
from sharding.directory import Directory
from sharding.errors import LeaderboardError, NotOnBoard, PeriodClosed, ShardUnavailable, UnknownBoard
from sharding.functions import ApplyMode, Functions, Shape, library_code
from sharding.handoff.mover import Mover
from sharding.handoff.queue import StrayQueue
from sharding.lifecycle import Lifecycle
from sharding.maps import Maps
from sharding.merge import Placed
from sharding.outbox import Outbox
from sharding.players import PlayerId, member_of
from sharding.reader import Page, RankStyle, Reader, Row, Standing, Standings
from sharding.rebalancing import Rebalancer
from sharding.scores import HIGHEST, LOWEST, PackedScore, points_of
from sharding.shard_map import ShardMap
from sharding.submissions import RankMode, Result, Submission
from sharding.tops import LENGTH as TOP_LENGTH
from sharding.tops import Tops
from sharding.writer import HiddenPlayers, KnownPlayers, Writer, Written, nobody

__all__ = [
    "TOP_LENGTH",
    "Leaderboard",
    "Page",
    "RankMode",
    "RankStyle",
    "Removal",
    "Result",
    "Row",
    "ShardView",
    "Standing",
    "Standings",
    "Stats",
    "Submission",
]

#: Of a shard that nobody can look into.
_NO_SHAPE = Shape.of_reply([0] * 10)
#: Counts of better shards are at most this old in a recent rank.
_COUNTS_LIVE_S = 0.5
#: Submissions that leave together, and that wait for it: those that come one in a request, and those of batches. A
#: thousand and more go to a board's shards in pieces that are worth a call.
_MOST_TOGETHER, _MOST_WAITING = 500, 5_000
_MOST_TOGETHER_IN_BATCHES, _MOST_WAITING_IN_BATCHES = 2_000, 50_000
_MOST_BOARDS = 1_000


@dataclass(frozen=True, slots=True)
class Stats:
    """A board at a glance. `submissions` counts those applied; `points_sum` is over all players."""

    total: int
    submissions: int
    points_sum: int
    top: Row | None
    shards: int
    #: shards that did not answer; their players and submissions are not counted
    missing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardView:
    """One shard as an operator sees it. The points of its best and worst possible row; None is no bound.

    `problem`: why nobody can look into it, if so; then all that would have been counted is 0.
    """

    shard: int
    slot: int
    node: str
    retiring: bool
    best_points: int | None
    worst_points: int | None
    part: int
    parts: int
    rows: int
    strays: int
    leaving: int
    submissions: int
    outbox: int
    version: int
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class _Counts:
    sizes: list[int]
    at: float


class Leaderboard:
    """All boards of one cluster."""

    def __init__(
        self,
        settings: Settings,
        client: ClusterClient,
        known_players: KnownPlayers,
        hidden_players: HiddenPlayers = nobody,
    ) -> None:
        self.client = client
        self.functions = Functions(
            client,
            replicas=settings.ack_replicas,
            ack_ms=settings.ack_timeout_ms,
            insist=settings.without_replicas == "refuse",
        )
        self.directory = Directory(self.functions, remembered=settings.directory_cache)
        self.maps = Maps(self.functions, self.directory)
        self.mover = Mover(self.functions, self.directory)
        self.reader = Reader(self.functions, self.maps, self.directory, self.mover)
        self.outbox = Outbox(self.functions)
        self.lifecycle = Lifecycle(self.functions, self.maps, self.directory)
        self.strays = StrayQueue(self.mover)
        self.rebalancer = Rebalancer(self.functions, self.maps, self.mover, self.reader)
        self._writer = Writer(
            self.functions,
            self.maps,
            self.directory,
            self.mover,
            self.strays,
            known_players,
            hidden_players,
            outbox_limit=settings.outbox_limit,
        )
        self._aside = Aside(self.functions, self.directory, self.mover, outbox_limit=settings.outbox_limit)
        self._coalescers: dict[tuple[BoardPeriod, ApplyMode], Coalescer] = {}
        self._askings: dict[BoardPeriod, Gathering[PlayerId, Standing | LeaderboardError]] = {}
        self._counts: dict[BoardPeriod, _Counts] = {}
        self._cursors = Cursors.of(settings)
        self._tops = Tops(self._read_top, fresh_ms=settings.top_cache_ms)
        self._lock = threading.Lock()

    @classmethod
    def connect(
        cls, settings: Settings, *, known_players: KnownPlayers, hidden_players: HiddenPlayers = nobody
    ) -> Self:
        """`known_players`: which of these players exist; asked once for players that a board does not know yet.

        Where the board's registration is open, it makes them exist. `hidden_players`: which of them are hidden.
        """
        failpoints.arm(settings.failpoints)
        client = ClusterClient(
            settings.redis_nodes.split(","),
            node_timeout_s=settings.node_timeout_ms / 1000,
            connections=settings.node_connections,
            library=library_code,
        )
        return cls(settings, client, known_players, hidden_players)

    def close(self) -> None:
        """Bring home whom submissions took out of range, and close the connections that nobody uses."""
        self.strays.close()
        self.client.close()

    # -- writing

    def submit(
        self, name: BoardPeriod, submissions: Sequence[Submission], deadline: Deadline, *, rank: RankMode
    ) -> list[Result]:
        """What became of each submission, in their order. They may leave in company (coalescer.py).

        Overloaded, and nothing was applied, where too many are waiting.
        """
        shard_map = self.maps.current(name, deadline)
        # Batches want no places, and shall not keep those waiting who come one in a request.
        mode = ApplyMode.PLAIN if rank is RankMode.NONE and len(submissions) > 1 else ApplyMode.TELL_PLACES
        written = self._coalescer(name, mode).submit(submissions, deadline)
        if rank is not RankMode.NONE:
            for submission, one in zip(submissions, written, strict=True):
                # What is applied stays applied, also when its rank cannot be told.
                if one.place >= 0:
                    with suppress(LeaderboardError):
                        one.rank, one.rank_is = self._rank(shard_map, submission.player, one, rank, deadline)
        return list(written)

    def settle(self, shard_map: ShardMap, submissions: Sequence[Submission], deadline: Deadline) -> list[Result]:
        """Take back what was applied twice, by submissions that also a frozen shard and a full outbox take."""
        return list(self._writer.write(shard_map, submissions, deadline, mode=ApplyMode.SETTLE))

    # -- off the board

    def remove(self, name: BoardPeriod, removal: Submission, deadline: Deadline) -> Removal:
        """Take a player off a board, at once; the same removal again changes nothing. NotOnBoard if there is no row."""
        return self._aside.remove(self.maps.current(name, deadline), removal, deadline)

    def hide(self, name: BoardPeriod, wanted: Mapping[PlayerId, bool], deadline: Deadline) -> None:
        """Keep players out of every read of a board, or show them again; raises what keeps one of them from it."""
        failed = self._aside.hide(self.maps.current(name, deadline), wanted, deadline)
        for error in failed.values():
            raise error

    def remove_everywhere(
        self, names: Iterable[BoardPeriod], removal: Submission, deadline: Deadline
    ) -> tuple[list[BoardPeriod], list[BoardPeriod]]:
        """Take a player off all of these boards that are open; those it was on, and those that are closed already."""
        removed, closed = [], []
        for name in names:
            try:
                self.remove(name, removal, deadline)
                removed.append(name)
            except (UnknownBoard, NotOnBoard):
                continue
            except PeriodClosed:
                closed.append(name)
        return removed, closed

    def hide_everywhere(
        self, names: Iterable[BoardPeriod], wanted: Mapping[PlayerId, bool], deadline: Deadline
    ) -> None:
        """Hide players on all of these boards that are open, or show them. One that cannot does not keep the others."""
        failed: LeaderboardError | None = None
        for name in names:
            try:
                self.hide(name, wanted, deadline)
            except (UnknownBoard, PeriodClosed):
                continue
            except LeaderboardError as error:
                failed = error
        if failed is not None:
            raise failed

    def outlive_tops(self) -> None:
        """Return when whoever is hidden or off the board by now is in no recent top, of any process, that is asked for.

        It takes as long as a top is kept: for those who promise it to somebody.
        """
        self._tops.outlive()

    def _coalescer(self, name: BoardPeriod, mode: ApplyMode) -> Coalescer:
        coalescer = self._coalescers.get((name, mode))
        if coalescer is None:
            if mode is ApplyMode.PLAIN:
                most_together, most_waiting = _MOST_TOGETHER_IN_BATCHES, _MOST_WAITING_IN_BATCHES
            else:
                most_together, most_waiting = _MOST_TOGETHER, _MOST_WAITING

            def write(submissions: Sequence[Submission], deadline: Deadline) -> list[Written]:
                metrics.coalesced_submissions.observe(len(submissions))
                metrics.coalescer_waiting.set(sum(one.waiting for one in list(self._coalescers.values())))
                return self._write(name, submissions, deadline, mode)

            with self._lock:
                if len(self._coalescers) >= _MOST_BOARDS:  # periods long past
                    self._coalescers.clear()
                made = Coalescer(write, most_together=most_together, most_waiting=most_waiting)
                coalescer = self._coalescers.setdefault((name, mode), made)
        return coalescer

    def _write(
        self,
        name: BoardPeriod,
        submissions: Sequence[Submission],
        deadline: Deadline,
        mode: ApplyMode,
    ) -> list[Written]:
        shard_map = self.maps.current(name, deadline)
        return self._writer.write(shard_map, submissions, deadline, mode=mode)

    def _rank(
        self, shard_map: ShardMap, player: PlayerId, written: Written, mode: RankMode, deadline: Deadline
    ) -> tuple[int, RankMode]:
        """The rank of a row just written, and what it is: where players change shards all the while, never exact."""
        placed = Placed(written.packed, member_of(player))
        if mode is RankMode.EXACT:
            rank, settled = self.reader.rank(shard_map, placed, deadline)
            return rank, RankMode.EXACT if settled else RankMode.RECENT
        index = shard_map.range_at(written.packed)
        shards = shard_map.ranges[index].shards
        others = [shard for shard in shards if shard != written.shard]
        beside = self.reader.ahead(shard_map, placed, deadline, others) if others else 0
        place = written.place if written.shard in shards else 0
        better = sum(self._recent_sizes(shard_map, deadline)[:index])
        return 1 + better + beside + place, RankMode.RECENT

    def _recent_sizes(self, shard_map: ShardMap, deadline: Deadline) -> list[int]:
        """Rows of each range, counted a moment ago."""
        counts = self._counts.get(shard_map.name)
        if (
            counts is None
            or len(counts.sizes) != len(shard_map.ranges)
            or time.monotonic() - counts.at > _COUNTS_LIVE_S
        ):
            if counts is not None:  # others go on with what there is while this one counts
                self._counts[shard_map.name] = _Counts(counts.sizes, time.monotonic())
            shapes = iter(self.reader.shapes(shard_map, deadline))
            counts = _Counts(
                [sum(next(shapes).rows for _ in part.shards) for part in shard_map.ranges], time.monotonic()
            )
            if len(self._counts) >= _MOST_BOARDS:
                self._counts.clear()
            self._counts[shard_map.name] = counts
        return counts.sizes

    # -- reading

    def top(
        self,
        name: BoardPeriod,
        offset: int,
        limit: int,
        deadline: Deadline,
        *,
        style: RankStyle = RankStyle.ORDINAL,
        partial: bool = False,
    ) -> Page:
        """The rows of ranks offset+1 .. offset+limit. `partial`: go without the shards that do not answer."""
        shard_map = self.maps.current(name, deadline)
        return self.reader.page(shard_map, offset, limit, deadline, style=style, partial=partial)

    def _read_top(self, name: BoardPeriod, deadline: Deadline) -> Page:
        return self.reader.page(self.maps.current(name, deadline), 0, TOP_LENGTH, deadline)

    def recent_top(self, name: BoardPeriod, deadline: Deadline) -> Page:
        """The first TOP_LENGTH rows, as they were a moment ago; the same object as long as nothing newer was read."""
        return self._tops.page(name, deadline)

    @staticmethod
    def beginning(page: Page, count: int) -> Page:
        """The first `count` rows of a page."""
        return replace(page, rows=page.rows[:count], placed=page.placed[:count], styled=page.styled[:count])

    def page_after(
        self,
        name: BoardPeriod,
        cursor: str,
        limit: int,
        deadline: Deadline,
        *,
        style: RankStyle = RankStyle.ORDINAL,
        partial: bool = False,
    ) -> Page:
        """The rows behind those that a cursor was given out for. InvalidValue if it is not this board's."""
        last = self._cursors.read(name, cursor)
        shard_map = self.maps.current(name, deadline)
        return self.reader.page_after(shard_map, last, limit, deadline, style=style, partial=partial)

    def cursor(self, name: BoardPeriod, page: Page) -> str | None:
        """The cursor for what follows a page; None where nothing does, or could not when it was read."""
        if not page.rows or page.matching is not None or page.rows[-1].rank >= page.total:
            return None
        return self._cursors.write(name, page.placed[-1])

    def between(
        self,
        name: BoardPeriod,
        lowest: int | None,
        highest: int | None,
        offset: int,
        limit: int,
        deadline: Deadline,
        *,
        style: RankStyle = RankStyle.ORDINAL,
        partial: bool = False,
    ) -> Page:
        """The players with lowest <= points <= highest, from the `offset`-th of them on, with their ranks."""
        shard_map = self.maps.current(name, deadline)
        return self.reader.between(shard_map, lowest, highest, offset, limit, deadline, style=style, partial=partial)

    def around_score(
        self,
        name: BoardPeriod,
        points: int,
        limit: int,
        deadline: Deadline,
        *,
        style: RankStyle = RankStyle.ORDINAL,
        partial: bool = False,
    ) -> Page:
        """The players around some points, clamped at the ends of the board."""
        shard_map = self.maps.current(name, deadline)
        return self.reader.around_score(shard_map, points, limit, deadline, style=style, partial=partial)

    def standing(
        self,
        name: BoardPeriod,
        player: PlayerId,
        deadline: Deadline,
        *,
        style: RankStyle = RankStyle.ORDINAL,
        partial: bool = False,
    ) -> Standing:
        """The player's exact rank. NotOnBoard if there is none. Asked for in company (runtime/gathering.py)."""
        if partial or style is not RankStyle.ORDINAL:
            shard_map = self.maps.current(name, deadline)
            return self.reader.standing(shard_map, player, deadline, style=style, partial=partial)
        try:
            standing = self._asking(name).ask(player, deadline)
        except TooLate:
            raise ShardUnavailable from None
        if isinstance(standing, LeaderboardError):
            raise standing
        return standing

    def _asking(self, name: BoardPeriod) -> Gathering[PlayerId, Standing | LeaderboardError]:
        asking = self._askings.get(name)
        if asking is None:

            def ask(players: Sequence[PlayerId], deadline: Deadline) -> list[Standing | LeaderboardError]:
                return self.reader.standings(self.maps.current(name, deadline), players, deadline).told

            with self._lock:
                if len(self._askings) >= _MOST_BOARDS:  # periods long past
                    self._askings.clear()
                asking = self._askings.setdefault(name, Gathering(ask))
        return asking

    def standings(
        self, name: BoardPeriod, players: Sequence[PlayerId], deadline: Deadline, *, partial: bool = False
    ) -> Standings:
        """The exact rank of each of many players, in their order; NotOnBoard for those who have none."""
        return self.reader.standings(self.maps.current(name, deadline), players, deadline, partial=partial)

    def surrounding(
        self,
        name: BoardPeriod,
        player: PlayerId,
        each_side: int,
        deadline: Deadline,
        *,
        style: RankStyle = RankStyle.ORDINAL,
        partial: bool = False,
    ) -> Page:
        """The player with `each_side` rows on both sides, clamped at the ends of the board."""
        shard_map = self.maps.current(name, deadline)
        return self.reader.surrounding(shard_map, player, each_side, deadline, style=style, partial=partial)

    def stats(self, name: BoardPeriod, deadline: Deadline, *, partial: bool = False) -> Stats:
        """The board at a glance."""
        glance = self.reader.glance(self.maps.current(name, deadline), deadline, partial=partial)
        return Stats(glance.total, glance.submissions, glance.points, glance.top, glance.shards, glance.missing)

    # -- looking into the shards

    def shards(self, name: BoardPeriod, deadline: Deadline, *, partial: bool = False) -> list[ShardView]:
        """Every shard, best range first. `partial`: with those that cannot be looked into, and why."""
        shard_map = self.maps.current(name, deadline)
        keys = [shard_map.keys(shard) for shard in shard_map.shards()]
        shapes = self.reader.shapes_told(shard_map, deadline)
        lengths = [
            call
            for key in keys
            for call in (Call(key.slot, ("XLEN", key.outbox)), Call(key.slot, ("HLEN", key.leaving)))
        ]
        answers = iter(self.functions.on_keys(lengths, deadline))
        views = []
        for shard, told, outbox, leaving in zip(shard_map.shards(), shapes, answers, answers, strict=True):
            error = told if isinstance(told, LeaderboardError) else outbox.error or leaving.error
            if error is not None and not partial:
                raise error
            shape = _NO_SHAPE if error is not None or isinstance(told, LeaderboardError) else told
            slot, bounds = shard_map.keys(shard).slot, shard_map.bounds(shard)
            views.append(
                ShardView(
                    shard=shard,
                    slot=slot,
                    node=self.client.owner(slot) or "",
                    retiring=shard in shard_map.retiring,
                    best_points=_points_bound(shard_map, bounds.low),
                    worst_points=_points_bound(shard_map, PackedScore(bounds.high - 1)),
                    part=bounds.part,
                    parts=bounds.parts,
                    rows=shape.rows,
                    strays=shape.better + shape.worse,
                    leaving=0 if error is not None else int(leaving.reply),
                    submissions=shape.submissions,
                    outbox=0 if error is not None else int(outbox.reply),
                    version=shape.version,
                    problem=None if error is None else error.detail,
                )
            )
        return views

    def lost_partitions(self, name: BoardPeriod, deadline: Deadline) -> dict[int, str]:
        """The partitions of the board's directory that are lost, or cannot be asked, and why."""
        lost = self.directory.lost_partitions(self.maps.current(name, deadline), deadline)
        return {partition: error.detail for partition, error in lost.items()}

    def ping(self, deadline: Deadline) -> dict[str, str]:
        """Every primary's address, with `ok` or what is wrong with it."""
        replies = self.client.on_primaries(("PING",), deadline)
        return {address: _said(reply) for address, reply in replies.items()}


def _said(reply: object) -> str:
    """What a node said to a ping, in our words where it said nothing."""
    if isinstance(reply, TimeoutError | RedisTimeoutError):
        return "no answer in time"
    if isinstance(reply, OSError | RedisConnectionError):
        return "no connection"
    return str(reply) if isinstance(reply, Exception) else "ok"


def _points_bound(shard_map: ShardMap, packed: PackedScore) -> int | None:
    if packed in {LOWEST, HIGHEST - 1}:
        return None
    return points_of(packed, shard_map.board.order)
