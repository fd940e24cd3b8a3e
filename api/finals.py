"""Rankings, whether Redis still has them or they are final rows in PostgreSQL.

A period that is over keeps its keys for some days; then its map is gone, and `Leaderboard` knows no such board. What is
asked of it from then on is answered from the snapshots: the same rows, the same ranks, the same numbers. `Rankings` has
the reads of `Leaderboard` and takes that one step more. Pages, standings and statistics out of the snapshots are of a
kind of their own, so that answers can say that they are final, and since when. Who is hidden by now is left out, and
the ranks behind close up.

Nothing is scanned: a page is a range of ranks, a player a key, a score thirty steps of halving. Every question ends
with the request, and a PostgreSQL that is away makes it 503, as a shard does.

A cursor names the row that its page ended with. Where a player's final row is another one, what follows begins with the
players who have these points.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import TypeVar

from sqlalchemy import Engine

from api.boards import BoardRules
from api.caches import Cache
from api.patience import in_background
from api.shown import Shown
from records import archives, shard_maps, snapshots
from records.errors import RecordsUnavailable
from records.snapshots import FinalRow
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.cursors import Cursors
from sharding.errors import LeaderboardError, NotOnBoard, OutOfBounds, UnknownBoard
from sharding.leaderboard import TOP_LENGTH, Leaderboard, Page, RankStyle, Row, Standing, Standings, Stats
from sharding.merge import Placed
from sharding.players import PlayerId, member_of, player_of
from sharding.reader import MOST_DENSE
from sharding.scores import Order, best_of_points, points_of
from sharding.shard_map import ShardMap

T = TypeVar("T")

_FRESH_S = 10.0
_MOST_REMEMBERED = 1_000


@dataclass(frozen=True, slots=True)
class FinalPage(Page):
    """Rows that do not change any more; `as_of_ms` is when the period was closed."""


@dataclass(frozen=True, slots=True)
class FinalStanding(Standing):
    """A rank that does not change any more."""


@dataclass(frozen=True, slots=True)
class FinalStandings(Standings):
    """Ranks that do not change any more."""


@dataclass(frozen=True, slots=True)
class FinalStats(Stats):
    """A board as it was when it was closed."""


@dataclass(frozen=True, slots=True)
class Closed:
    """What is known of a period whose final ranking is stored."""

    players: int
    points: int
    submissions: int
    closed_at: datetime
    shards: int


def closed(engine: Engine, name: BoardPeriod) -> Closed | None:
    """A period whose final ranking is stored; None for any other."""
    whole = archives.final(engine, name.board, name.period)
    if whole is None:
        return None
    last_map = shard_maps.latest(engine, name.board, name.period)
    shards = list(ShardMap.from_document(last_map.document).shards()) if last_map is not None else []
    return Closed(whole.players or 0, whole.points or 0, whole.submissions or 0, whole.changed_at, len(shards))


class Rankings:
    """The reads of `Leaderboard`, of any period that has or had a ranking. UnknownBoard for one that never had."""

    def __init__(self, live: Leaderboard, engine: Engine, rules: BoardRules, cursors: Cursors) -> None:
        self._live = live
        self._engine = engine
        self._rules = rules
        self._cursors = cursors
        self._closed: Cache[BoardPeriod, Closed | None] = Cache(
            lambda name: closed(engine, name), fresh_s=_FRESH_S, most=_MOST_REMEMBERED
        )

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
        """The rows of ranks offset+1 .. offset+limit."""
        try:
            return self._live.top(name, offset, limit, deadline, style=style, partial=partial)
        except UnknownBoard as gone:
            return self._final(name, deadline, gone).page(offset, limit, style)

    def recent_top(self, name: BoardPeriod, deadline: Deadline) -> Page:
        """The first TOP_LENGTH rows, as they were a moment ago."""
        try:
            return self._live.recent_top(name, deadline)
        except UnknownBoard as gone:
            return self._final(name, deadline, gone).page(0, TOP_LENGTH, RankStyle.ORDINAL)

    def beginning(self, page: Page, count: int) -> Page:
        """The first `count` rows of a page."""
        return self._live.beginning(page, count)

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
        try:
            return self._live.page_after(name, cursor, limit, deadline, style=style, partial=partial)
        except UnknownBoard as gone:
            return self._final(name, deadline, gone).page_after(self._cursors.read(name, cursor), limit, style)

    def cursor(self, name: BoardPeriod, page: Page) -> str | None:
        """The cursor for what follows a page; None where nothing does."""
        if not isinstance(page, FinalPage):
            return self._live.cursor(name, page)
        if not page.rows or page.matching is not None or page.rows[-1].rank >= page.total:
            return None
        last, order = page.rows[-1], self._rules.get(name.board).order
        return self._cursors.write(name, Placed(best_of_points(last.points, order), member_of(last.player)))

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
        try:
            return self._live.between(name, lowest, highest, offset, limit, deadline, style=style, partial=partial)
        except UnknownBoard as gone:
            return self._final(name, deadline, gone).between(lowest, highest, offset, limit, style)

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
        try:
            return self._live.around_score(name, points, limit, deadline, style=style, partial=partial)
        except UnknownBoard as gone:
            return self._final(name, deadline, gone).around_score(points, limit, style)

    def standing(
        self,
        name: BoardPeriod,
        player: PlayerId,
        deadline: Deadline,
        *,
        style: RankStyle = RankStyle.ORDINAL,
        partial: bool = False,
    ) -> Standing:
        """The player's exact rank. NotOnBoard if there is none."""
        try:
            return self._live.standing(name, player, deadline, style=style, partial=partial)
        except UnknownBoard as gone:
            return self._final(name, deadline, gone).standing(player, style)

    def standings(
        self, name: BoardPeriod, players: Sequence[PlayerId], deadline: Deadline, *, partial: bool = False
    ) -> Standings:
        """The exact rank of each of many players, in their order; NotOnBoard for those who have none."""
        try:
            return self._live.standings(name, players, deadline, partial=partial)
        except UnknownBoard as gone:
            return self._final(name, deadline, gone).standings(players)

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
        try:
            return self._live.surrounding(name, player, each_side, deadline, style=style, partial=partial)
        except UnknownBoard as gone:
            return self._final(name, deadline, gone).surrounding(player, each_side, style)

    def stats(self, name: BoardPeriod, deadline: Deadline, *, partial: bool = False) -> Stats:
        """The board at a glance."""
        try:
            return self._live.stats(name, deadline, partial=partial)
        except UnknownBoard as gone:
            return self._final(name, deadline, gone).stats()

    def _final(self, name: BoardPeriod, deadline: Deadline, gone: UnknownBoard) -> "_Final":
        """The final ranking of a period whose keys are gone; `gone` is raised if there is none."""
        known = until(deadline, lambda: self._closed.get(name))
        if known is None:
            raise gone
        return _Final(self._engine, name, known, self._rules.get(name.board).order, deadline)


class _Final:
    """One final ranking, read for one request, without the players who are hidden by now."""

    def __init__(self, engine: Engine, name: BoardPeriod, known: Closed, order: Order, deadline: Deadline) -> None:
        self._engine = engine
        self._name = name
        self._known = known
        self._order = order
        self._deadline = deadline
        self._hidden = self._ask(snapshots.hidden)
        self._shown = Shown(known.players, [row.rank for row in self._hidden])

    def page(self, offset: int, limit: int, style: RankStyle, matching: int | None = None) -> FinalPage:
        """The rows of ranks offset+1 .. offset+limit."""
        rows = self._rows(offset, limit)
        styled = self._restyled(rows, style)
        return FinalPage(rows, self._shown.total, self._as_of_ms, matching=matching, styled=styled)

    def page_after(self, last: Placed, limit: int, style: RankStyle) -> FinalPage:
        """The rows behind the one that a cursor names."""
        points = points_of(last.packed, self._order)
        row = self._ask(snapshots.standing, player_of(last.member))
        unmoved = row is not None and row.points == points
        offset = self._shown.count(row.rank) if row is not None and unmoved else self._ahead(points)
        return self.page(offset, limit, style)

    def between(self, lowest: int | None, highest: int | None, offset: int, limit: int, style: RankStyle) -> FinalPage:
        """The players with lowest <= points <= highest."""
        descending = self._order is Order.DESC
        best, worst = (highest, lowest) if descending else (lowest, highest)
        start = 0 if best is None else self._ahead(best)
        stop = self._shown.total if worst is None else self._ahead(worst - 1 if descending else worst + 1)
        matching = max(0, stop - start)
        return self.page(start + offset, max(0, min(limit, matching - offset)), style, matching)

    def around_score(self, points: int, limit: int, style: RankStyle) -> FinalPage:
        """The players around some points."""
        return self._window(self._ahead(points) - limit // 2, limit, style)

    def surrounding(self, player: PlayerId, each_side: int, style: RankStyle) -> FinalPage:
        """The player and those around."""
        standing = self.standing(player, RankStyle.ORDINAL)
        return self._window(standing.row.rank - 1 - each_side, 2 * each_side + 1, style)

    def standing(self, player: PlayerId, style: RankStyle) -> FinalStanding:
        """The player's rank. NotOnBoard if there is none."""
        standing = self._standings([player])[0]
        if isinstance(standing, LeaderboardError):
            raise standing from None
        (rank,) = self._restyled([standing.row], style)
        return replace(standing, styled=rank)

    def standings(self, players: Sequence[PlayerId]) -> FinalStandings:
        """The rank of each of these players, or that there is none."""
        return FinalStandings(list(self._standings(players)), self._shown.total, self._as_of_ms)

    def _standings(self, players: Sequence[PlayerId]) -> list[FinalStanding | NotOnBoard]:
        found = self._ask(snapshots.find_many, players)
        for row in self._hidden:
            found.pop(row.user_id, None)
        return [
            FinalStanding(self._row(found[player]), self._shown.total, self._as_of_ms)
            if player in found
            else NotOnBoard(f"{player} has no score on {self._name}", field="user_id")
            for player in players
        ]

    def _restyled(self, rows: Sequence[Row], style: RankStyle) -> list[int]:
        """The ranks of consecutive rows in another style."""
        if style is RankStyle.ORDINAL or not rows:
            return [row.rank for row in rows]
        if style is RankStyle.DENSE:
            return self._dense(rows)
        ranks = [1 + self._ahead(rows[0].points)]
        for before, row in pairwise(rows):
            ranks.append(ranks[-1] if row.points == before.points else row.rank)
        return ranks

    def _dense(self, rows: Sequence[Row]) -> list[int]:
        if rows[-1].rank > MOST_DENSE:
            raise OutOfBounds(f"dense ranks are told for the first {MOST_DENSE} players", field="rank_style") from None
        top = self._rows(0, rows[-1].rank)
        dense = {points: rank for rank, points in enumerate(dict.fromkeys(row.points for row in top), start=1)}
        return [dense[row.points] for row in rows]

    def stats(self) -> FinalStats:
        """The board as it was closed."""
        first, known = self._rows(0, 1), self._known
        points = known.points - sum(row.points for row in self._hidden)
        return FinalStats(self._shown.total, known.submissions, points, first[0] if first else None, known.shards)

    def _window(self, offset: int, limit: int, style: RankStyle) -> FinalPage:
        """So many rows from about there on, as many as there are."""
        return self.page(max(0, min(offset, self._shown.total - limit)), limit, style)

    def _ahead(self, points: int) -> int:
        """How many players have better points than these."""
        descending = self._order is Order.DESC
        return self._shown.count(self._ask(snapshots.ahead_of, points, self._known.players, descending))

    def _rows(self, offset: int, limit: int) -> list[Row]:
        if limit <= 0:
            return []
        first, last = self._shown.stored_place(offset), self._shown.stored_place(offset + limit - 1)
        hidden = {row.user_id for row in self._hidden}
        stored = self._ask(snapshots.page, first, last - first + 1)
        return [self._row(row) for row in stored if row.user_id not in hidden]

    def _row(self, row: FinalRow) -> Row:
        return Row(self._shown.rank(row.rank), PlayerId(row.user_id), row.points)

    @property
    def _as_of_ms(self) -> int:
        return int(self._known.closed_at.astimezone(UTC).timestamp() * 1000)

    def _ask(self, question: Callable[..., T], *given: object) -> T:
        name = self._name
        return until(self._deadline, lambda: question(self._engine, name.board, name.period, *given))


def until(deadline: Deadline, ask: Callable[[], T]) -> T:
    """The answer of PostgreSQL, if it comes in time; RecordsUnavailable if not."""
    try:
        return in_background(ask).result(deadline.remaining())
    except TimeoutError:
        raise RecordsUnavailable("PostgreSQL did not answer in time") from None
