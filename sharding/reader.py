"""Exact reads over all shards of a board.

`rank = 1 + sum over shards of the rows ahead`: exact wherever rows happen to be. Every read *looks* at all shards in
one parallel round trip, which brings their shapes (how many rows, how they lie to the range, the version of the map,
who is leaving) and whatever else the read needs to know of them, all of a shard in one call and so at one moment. The
shapes decide how to count:

- **In order** every shard serves the range that this map says, and all rows lie in it but a few, which the shapes
  tell. Better ranges count whole, worse ones nothing; the first look brings a player's rank. Pages are places of
  ranges. The few stand *apart* and are put among the others here (`merge.joined`).
- **In motion**, with more strays than that, or where a range is split by player hash, rows are counted in all shards:
  one more look for a rank, about twenty round trips for a page, whatever its offset (`merge.Search`).

Both give the same number. Whatever an answer tells comes from *one* look: where an earlier one had to say what to ask
for (which places, whose points to count), the last one asks for that too, and what does not agree with it any more is
asked anew, a few times. What could make it wrong:

- *An old map.* A shard that is at a later version says so, and the read begins anew with the published map. Heads are
  widened before a map is published, so no row can lie where the older of two maps does not look.
- *Players who change shards meanwhile* could be counted in both or in none. Heads count the steps of moves. If they say
  the same in two looks, nobody moved between any shard's first answer and its second, so the second look saw every
  player once. The first of the two may be another read's, so on a quiet board one look is enough. Players who are
  between two shards all the while are in no shard's rows: they are *afloat*, and counted from what their source keeps
  of them. Where moves go on and on, the read looks a few times, and then says that it is not `settled`.

A shard that does not answer fails the read, unless the caller takes a partial answer, which says what is missing.
"""

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate, pairwise, repeat
from typing import Any, NamedTuple, TypeVar

from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.cluster.client import Answer, Call
from sharding.directory import Directory, Entry
from sharding.errors import LeaderboardError, NotOnBoard, Outcome, OutOfBounds, ShardUnavailable
from sharding.functions import LIVE, SLICE, Code, Functions, Shape, ShardCall, pairs, read_tombstone
from sharding.handoff.mover import Leaving, Mover, leaving
from sharding.handoff.refusals import Why, refuse
from sharding.maps import Maps
from sharding.merge import START, Halves, Placed, Search, Span, after, first_rows, joined, spans
from sharding.players import Member, PlayerId, member_of, player_of
from sharding.scores import ELAPSED_SPAN, HIGHEST, Order, PackedScore, best_of_points, points_of
from sharding.shard_map import ShardMap

T = TypeVar("T")

_MOST_HOPS = 10
_MOST_ATTEMPTS = 4
_MOST_LOOKS = 5
#: Attempts at a page. The last two search for it, wherever its rows lie.
_MOST_PAGES = 6
#: Rows that a page takes in excess on both sides of it, for what changes between the plan and the look.
_SLACK = 16
#: For so long a look may serve to plan the next one, whose shapes then show whether the plan was good.
_GLIMPSE_MS = 200
_MOST_STEPS = 120
_MOST_REMEMBERED = 1000
_NOWHERE = (HIGHEST, HIGHEST)
#: How far down the ranking points are told apart, for dense ranks.
MOST_DENSE = 1000


class RankStyle(StrEnum):
    """How players with equal points are numbered."""

    #: 1234: who was there first
    ORDINAL = "ordinal"
    #: 1224: as many as have better points, and one
    COMPETITION = "competition"
    #: 1223: as many better points as somebody has, and one
    DENSE = "dense"


@dataclass(frozen=True, slots=True)
class Row:
    """A player on the board; ranks begin at 1."""

    rank: int
    player: PlayerId
    points: int


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive rows, the number of players on the board, and when the reading began (milliseconds since 1970).

    Not `settled`: players were changing shards meanwhile, and ranks may be off by those. `missing`: shards that did not
    answer; their players are not counted. `placed` are the rows as the shards keep them.
    """

    rows: list[Row]
    total: int
    as_of_ms: int
    settled: bool = True
    missing: tuple[int, ...] = ()
    placed: Sequence[Placed] = ()
    #: for a part of the ranking between two scores: how many rows it has
    matching: int | None = None
    #: the ranks of the rows in another style, where that was asked for
    styled: Sequence[int] = ()

    @property
    def ranks(self) -> Sequence[int]:
        """The ranks of the rows, in the style that was asked for."""
        return self.styled or [row.rank for row in self.rows]


@dataclass(frozen=True, slots=True)
class Standing:
    """A player's row and the number of players on the board; `settled` and `missing` as for a page.

    `placed` is the row as the shard keeps it, `styled` its rank in another style, where that was asked for.
    """

    row: Row
    total: int
    as_of_ms: int = 0
    settled: bool = True
    missing: tuple[int, ...] = ()
    placed: Placed | None = None
    styled: int | None = None

    @property
    def rank(self) -> int:
        """The player's rank, in the style that was asked for."""
        return self.row.rank if self.styled is None else self.styled

    @property
    def percentile(self) -> float:
        """The share of players, in per cent, who rank no better than this one: the first has 100."""
        return round(100.0 * (self.total - self.row.rank + 1) / self.total, 4) if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Standings:
    """What one look said of several players: in their order, each one's rank or why there is none."""

    told: list[Standing | LeaderboardError]
    total: int
    as_of_ms: int
    settled: bool = True
    missing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Glance:
    """A board as a whole. `points` is the sum over all players; `missing` shards did not answer."""

    total: int
    submissions: int
    points: int
    shards: int
    top: Row | None
    missing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A row and the shard it was found in."""

    shard: int
    packed: PackedScore


@dataclass(frozen=True, slots=True)
class _Plan:
    """What follows from a map alone, for every read by it."""

    shards: list[int]
    #: the calls for the shards' shapes, in their order
    shapes: list[Call]
    #: what each shard's head says, once it serves this map
    bounds: dict[int, tuple[PackedScore, PackedScore]]
    #: the range that each shard serves
    range_at: dict[int, int]
    #: per range: whether it has one shard
    is_whole: list[bool]

    @classmethod
    def of(cls, shard_map: ShardMap) -> "_Plan":
        shards = list(shard_map.shards())
        shapes = [
            Call(keys.slot, ("FCALL_RO", "rb1_shape", 3, keys.rows, keys.head, keys.leaving))
            for keys in map(shard_map.keys, shards)
        ]
        bounds = {shard: shard_map.bounds(shard) for shard in shards}
        return cls(
            shards,
            shapes,
            {shard: (its.low, its.high) for shard, its in bounds.items()},
            {shard: index for index, part in enumerate(shard_map.ranges) for shard in part.shards},
            [len(part.shards) == 1 for part in shard_map.ranges],
        )


#: Per shard: version of the map, steps of moves, players leaving. Equal ones in two looks: nobody moved between them.
_Marks = dict[int, tuple[int, int, int]]
#: What a shard is asked besides its shape: the name of the question, as rb1_look has it, and its arguments.
_Question = tuple[Any, ...]
#: What a read asks shards besides their shapes, by the map that is current.
_Asks = Callable[[ShardMap], Sequence[tuple[int, _Question]]]


@dataclass(frozen=True, slots=True)
class _View:
    """The shards that answered, and how their rows lie, as one look saw them."""

    shard_map: ShardMap
    plan: _Plan
    shapes: dict[int, Shape]
    as_of_ms: int
    missing: tuple[int, ...]
    #: what was asked besides, with the shard that was
    beside: Sequence[tuple[int, Answer]]
    #: in rank order, players who are in no shard's rows
    afloat: Sequence[Placed]
    #: in rank order, those and the strays that the shapes told: whoever is not in the rows of the right range
    apart: Sequence[Placed]
    settled: bool = False

    @property
    def total(self) -> int:
        return sum(shape.rows for shape in self.shapes.values()) + len(self.afloat)

    @property
    def leaving(self) -> int:
        return sum(shape.leaving for shape in self.shapes.values())

    @property
    def marks(self) -> _Marks:
        return {shard: (shape.version, shape.moves, shape.leaving) for shard, shape in self.shapes.items()}

    @property
    def in_order(self) -> bool:
        """Whether every shard serves the range that the map says, and all rows outside of theirs are told."""
        if self.missing:
            return False
        bounds = self.plan.bounds
        return all(
            shape.tells_strays and (shape.rows == 0 or (shape.low, shape.high) == bounds[shard])
            for shard, shape in self.shapes.items()
        )

    def sizes(self) -> list[int]:
        """The rows that lie in each range, in order."""
        return [sum(self.shapes[shard].within for shard in part.shards) for part in self.shard_map.ranges]

    def replies(self) -> Iterator[tuple[int, Any]]:
        """What was answered besides, by shard, without those that are missing."""
        for shard, answer in self.beside:
            if answer.error is None:
                yield shard, answer.reply
            elif shard not in self.missing:
                raise _unread(answer.error)

    def parted(self, count: int) -> tuple["_View", "_View"]:
        """The same look with the first so many answers of what it asked besides, and with the others."""
        return replace(self, beside=self.beside[:count]), replace(self, beside=self.beside[count:])

    def counted(self, places: Sequence[Placed]) -> list[int]:
        """The rows before each of some places, where the look asked for that (`_counts`).

        A player's own row is not before any place of that player's, wherever it is by now.
        """
        own = {row.member: row for row in self.afloat}
        counts = [bisect_left(self.afloat, placed) - (own.get(placed.member, placed) < placed) for placed in places]
        done: dict[int, int] = defaultdict(int)
        for shard, reply in self.replies():
            for count in reply:
                counts[done[shard]] += count
                done[shard] += 1
        return counts


#: How many rows before a page say what ranks are in a style: all, or whether its first row shares points.
_LEAD = {RankStyle.ORDINAL: 0, RankStyle.COMPETITION: 1, RankStyle.DENSE: MOST_DENSE}


class _Seen(NamedTuple):
    """A player's row in a look, and how many rows are ahead; None where that has to be counted in all shards."""

    placed: Placed
    ahead: int | None


@dataclass(frozen=True, slots=True)
class _Cut:
    """Which part of the ranking a page is: `limit` rows, and the very look that brings them tells from where on."""

    limit: int
    #: what is counted in the look: the rows before each of these
    places: Sequence[Placed] = ()
    #: the first rank (0-based) and the number of rows, from how many players there are and those counts
    ranks: Callable[[int, Sequence[int]], tuple[int, int]] = lambda _total, _counts: (0, 0)
    style: RankStyle = RankStyle.ORDINAL

    @classmethod
    def at(cls, offset: int, limit: int, style: RankStyle) -> "_Cut":
        """The rows of ranks offset+1 .. offset+limit."""
        return cls(limit, (), lambda _total, _counts: (offset, limit), style)

    def lead(self, offset: int) -> int:
        """How many rows before its first one say what ranks are in this style."""
        return min(offset, _LEAD[self.style])


class Reader:
    """Reads of tops and ranks. One per process; safe to use from many threads or greenlets."""

    def __init__(self, functions: Functions, maps: Maps, directory: Directory, mover: Mover) -> None:
        self._functions = functions
        self._maps = maps
        self._directory = directory
        self._mover = mover
        self._plans: dict[tuple[str, int, int], _Plan] = {}
        self._last: dict[BoardPeriod, _View] = {}

    # -- where players are

    def find(self, shard_map: ShardMap, player: PlayerId, deadline: Deadline, *, hidden: bool = False) -> Found:
        """The player's row; a move it is in the middle of is finished first. NotOnBoard if there is none.

        `hidden`: also if it is a hidden player's.
        """
        member = member_of(player)
        entry = self._directory.locate(shard_map, [member], deadline).of(member)
        looked_up = False
        for hop in range(_MOST_HOPS):
            if entry is None:
                break
            call = ShardCall(shard_map.keys(entry.shard), "rb1_find", (0, member))
            answer = self._functions.on_shards([call], shard_map.retry_window_ms, deadline)[0]
            if answer.error is not None:
                raise answer.error
            code, detail = next(pairs(answer.reply))
            if code == LIVE or (code == Code.HIDDEN and hidden):
                return Found(entry.shard, PackedScore(int(detail)))
            if code == Code.HIDDEN:
                break
            if code == Code.LEAVING:
                try:
                    move = leaving(entry.shard, detail)
                except ShardUnavailable:
                    refuse(Why.PAYLOAD, shard_map, entry.shard, member)
                    raise
                moved = self._mover.complete(shard_map, {member: move}, deadline)
                if member not in moved:
                    raise ShardUnavailable("the player is on the move; try again")
                entry = moved[member].entry
            elif code == Code.GONE:
                gone = {member: Entry(*read_tombstone(detail))}
                entry = self._directory.follow(shard_map, gone, deadline, again=hop > 0)[member]
            elif looked_up:
                break
            else:
                looked_up = True
                entry = self._directory.locate(shard_map, [member], deadline, fresh=True).of(member)
        else:
            raise ShardUnavailable("the player is on the move; try again")
        raise NotOnBoard(f"{player} has no score on {shard_map.name}", field="user_id")

    def find_many(
        self, shard_map: ShardMap, players: Sequence[PlayerId], deadline: Deadline, *, hidden: bool = False
    ) -> dict[PlayerId, Found]:
        """The rows of those players who have one, at one call a shard; who is in motion is looked for singly."""
        members = {member_of(player): player for player in players}
        located = self._directory.locate(shard_map, members, deadline)
        if located.failed:
            raise next(iter(located.failed.values()))
        groups: dict[int, list[Member]] = defaultdict(list)
        for member, entry in located.entries.items():
            groups[entry.shard].append(member)
        slices = _slices(groups)
        calls = [ShardCall(shard_map.keys(shard), "rb1_find", (0, *group)) for shard, group in slices]
        answers = self._functions.on_shards(calls, shard_map.retry_window_ms, deadline)
        found: dict[PlayerId, Found] = {}
        for (shard, group), answer in zip(slices, answers, strict=True):
            if answer.error is not None:
                raise answer.error
            for member, (code, detail) in zip(group, pairs(answer.reply), strict=True):
                if code == LIVE or (code == Code.HIDDEN and hidden):
                    found[members[member]] = Found(shard, PackedScore(int(detail)))
                elif code != Code.HIDDEN:
                    with suppress(NotOnBoard):
                        found[members[member]] = self.find(shard_map, members[member], deadline, hidden=hidden)
        return found

    # -- ranks of players

    def standing(
        self,
        shard_map: ShardMap,
        player: PlayerId,
        deadline: Deadline,
        *,
        style: RankStyle = RankStyle.ORDINAL,
        partial: bool = False,
    ) -> Standing:
        """The player's exact rank. NotOnBoard if there is none."""
        if style is not RankStyle.ORDINAL:
            page = self.surrounding(shard_map, player, 0, deadline, style=style, partial=partial)
            return Standing(
                page.rows[0],
                page.total,
                page.as_of_ms,
                page.settled,
                page.missing,
                page.placed[0],
                page.styled[0],
            )
        (standing,) = self.standings(shard_map, [player], deadline, partial=partial).told
        if isinstance(standing, LeaderboardError):
            raise standing
        return standing

    def standings(
        self, shard_map: ShardMap, players: Sequence[PlayerId], deadline: Deadline, *, partial: bool = False
    ) -> Standings:
        """The exact rank of each of these players, in their order, or why there is none: NotOnBoard for one.

        One round trip for all of them where the board is at rest and the directory's entries are remembered. All ranks
        are of one look, with the rows that it saw. Where rows change so fast that a look which counts before a row
        never sees that same row, the last ones known are counted in one look, and it is not settled.
        """
        members = {member_of(player): player for player in players}
        located = self._directory.locate(shard_map, members, deadline)
        failed = {member: _unread(error) for member, error in located.failed.items()}
        homes = {member: entry.shard for member, entry in located.entries.items()}
        counted: dict[Member, Placed] = {}
        for _ in range(_MOST_ATTEMPTS):
            view, seen = self._seen(shard_map, homes, counted, failed, deadline, partial)
            shard_map = view.shard_map
            known = {member: row.placed for member, row in seen.items()}
            uncounted = {member: row.placed for member, row in seen.items() if row.ahead is None}
            absent = [members[member] for member in homes if member not in seen and member not in failed]
            for member in map(member_of, absent):
                del homes[member]
            for player, found in (self._found_again(shard_map, absent, deadline) if absent else {}).items():
                member = member_of(player)
                if isinstance(found, LeaderboardError):
                    failed[member] = found
                else:
                    homes[member] = found.shard
                    known[member] = uncounted[member] = Placed(found.packed, member)
            if not uncounted:
                ahead = {member: row.ahead for member, row in seen.items() if row.ahead is not None}
                return _standings(view, players, known, ahead, failed)
            counted.update(uncounted)
        places = sorted(known.values())
        view = replace(self._view(shard_map, deadline, _counts(places), partial=partial), settled=False)
        ahead, least = {}, 0
        for placed, count in zip(places, view.counted(places), strict=True):
            ahead[placed.member] = max(count, least)  # a row that has gone elsewhere leaves its rank to nobody
            least = ahead[placed.member] + 1
        return _standings(view, players, known, ahead, failed)

    def _seen(
        self,
        shard_map: ShardMap,
        homes: Mapping[Member, int],
        counted: Mapping[Member, Placed],
        failed: dict[Member, LeaderboardError],
        deadline: Deadline,
        partial: bool,
    ) -> tuple[_View, dict[Member, _Seen]]:
        """A look for the rows of players in the shards that should have them; what failed is put down in `failed`.

        `counted`: places that are counted in all shards too, for rows whose own places do not tell their ranks.
        """
        groups: dict[int, list[Member]] = defaultdict(list)
        for member, shard in homes.items():
            if member not in failed:
                groups[shard].append(member)
        slices, places = _slices(groups), list(counted.values())
        view = self._view(
            shard_map,
            deadline,
            lambda current: [
                *((shard, _places(current, shard, group)) for shard, group in slices),
                *_counts(places)(current),
            ],
            partial=partial,
        )
        told, counts = view.parted(len(slices))
        ahead_of = dict(zip(places, counts.counted(places), strict=True))
        before = [0, *accumulate(view.sizes())] if view.in_order else []
        seen: dict[Member, _Seen] = {}
        for (shard, group), (_, answer) in zip(slices, told.beside, strict=True):
            if answer.error is not None:
                failed.update(dict.fromkeys(group, _unread(answer.error)))
                continue
            better, *rows = answer.reply
            low, high = view.plan.bounds.get(shard, _NOWHERE)
            index = view.plan.range_at.get(shard)
            is_ranked = bool(before) and index is not None and view.plan.is_whole[index]
            for member, score, place in zip(group, rows[::2], rows[1::2], strict=True):
                if place < 0:
                    continue
                placed = Placed(PackedScore(int(score)), member)
                if is_ranked and index is not None and low <= placed.packed < high:
                    ahead: int | None = before[index] + place - better + bisect_left(view.apart, placed)
                else:
                    ahead = ahead_of.get(placed)
                seen[member] = _Seen(placed, ahead)
        return view, seen

    def _found_again(
        self, shard_map: ShardMap, players: Sequence[PlayerId], deadline: Deadline
    ) -> Mapping[PlayerId, Found | LeaderboardError]:
        """Players who are not where the directory was thought to say; left out are those who have no row."""
        try:
            self._directory.locate(shard_map, map(member_of, players), deadline, fresh=True)
            return self.find_many(shard_map, players, deadline)
        except LeaderboardError as error:
            return dict.fromkeys(players, _unread(error))

    def rank(self, shard_map: ShardMap, placed: Placed, deadline: Deadline) -> tuple[int, bool]:
        """The rank of a row, and whether it is settled."""
        view = self._view(shard_map, deadline, _counts([placed]))
        return 1 + view.counted([placed])[0], view.settled

    def ahead(self, shard_map: ShardMap, placed: Placed, deadline: Deadline, shards: Sequence[int]) -> int:
        """How many rows of these shards rank before a place in the ranking."""
        replies = self._replies([_call(shard_map, shard, _ahead([placed])) for shard in shards], deadline)
        return sum(reply[0] for reply in replies)

    def surrounding(
        self,
        shard_map: ShardMap,
        player: PlayerId,
        each_side: int,
        deadline: Deadline,
        *,
        style: RankStyle = RankStyle.ORDINAL,
        partial: bool = False,
    ) -> Page:
        """The player and those around, always a full window where the board has enough players."""
        length = 2 * each_side + 1

        def window(total: int, ahead: Sequence[int]) -> tuple[int, int]:
            return max(0, min(ahead[0] - each_side, total - length)), length

        for attempt in range(_MOST_ATTEMPTS):
            standing = self.standing(shard_map, player, deadline, partial=partial)
            assert standing.placed is not None
            if attempt == 0:  # hardly ever has anything changed since
                cut = _Cut.at(*window(standing.total, [standing.row.rank - 1]), style)
            else:
                cut = _Cut(length, [standing.placed], window, style)
            page = self._cut(shard_map, cut, deadline, partial)
            rank = next((row.rank for row in page.rows if row.player == player), None)
            if rank is None:
                continue
            offset, _ = window(page.total, [rank - 1])
            if page.rows[0].rank == offset + 1 or attempt == _MOST_ATTEMPTS - 1:
                return page
        # The ranking moved under every attempt: that is a shard's trouble, not an answer.
        raise ShardUnavailable("the ranking changes too fast around this player; try again")

    # -- pages

    def page(
        self,
        shard_map: ShardMap,
        offset: int,
        limit: int,
        deadline: Deadline,
        *,
        style: RankStyle = RankStyle.ORDINAL,
        partial: bool = False,
    ) -> Page:
        """The rows of ranks offset+1 .. offset+limit."""
        return self._cut(shard_map, _Cut.at(offset, limit, style), deadline, partial)

    def _cut(self, shard_map: ShardMap, cut: _Cut, deadline: Deadline, partial: bool) -> Page:
        """A part of the ranking, as one look saw it."""
        #: whose players with better points are counted too, for ranks that equal points share
        guesses: list[int] = []
        for attempt in range(_MOST_PAGES):
            remembered = attempt == 0 and not cut.places
            view = self._glimpse(shard_map, deadline, partial, _counts(cut.places), remembered=remembered)
            shard_map = view.shard_map
            offset, _ = cut.ranks(view.total, view.counted(cut.places))
            wanted = self._spans(view, cut, offset) if attempt < _MOST_PAGES - 2 else None
            if wanted is not None:
                page = self._in_ranges(view, wanted, cut, guesses, deadline)
            else:
                page = self._searched(view, offset, cut, guesses, deadline, partial)
            if page is not None:
                return page
        raise ShardUnavailable("the ranking changes too fast at this rank; try again")

    @staticmethod
    def _spans(view: _View, cut: _Cut, offset: int) -> list[Span] | None:
        """The places of ranges that hold a page, with some on both sides. None if places in ranges do not tell.

        What is taken reaches further on both sides than is needed, by as many as are apart and some more: while it was
        planned and looked for, players have come, and rows have left their ranges.
        """
        if not view.in_order:
            return None
        margin = len(view.apart) + view.leaving + _SLACK
        first = max(0, offset - cut.lead(offset) - margin)
        wanted = spans(view.sizes(), first, offset + cut.limit + _SLACK - first)
        if any(span.skipped and len(view.shard_map.ranges[span.range_at].shards) > 1 for span in wanted):
            return None
        return wanted

    def _in_ranges(
        self, view: _View, wanted: Sequence[Span], cut: _Cut, guesses: list[int], deadline: Deadline
    ) -> Page | None:
        """Places are taken from the ranges in turn, and whoever is apart put among them. None if too much changed."""
        ranges, order = view.shard_map.ranges, view.shard_map.board.order
        questions: list[tuple[int, _Question]] = []
        for span in wanted:
            part = ranges[span.range_at]
            question = ("within", part.low, span.skipped, span.taken + _SLACK)
            questions += [(shard, question) for shard in part.shards]
        places = [*cut.places, *_points_places(guesses, view.shard_map)]
        after = self._view(view.shard_map, deadline, lambda current: [*questions, *_counts(places)(current)])
        if not after.in_order or after.shard_map is not view.shard_map:
            return None
        brought, counted = after.parted(len(questions))
        rows = _rows_within(brought, wanted)
        if rows is None:
            return None
        counts = counted.counted(places)
        sizes = after.sizes()
        begins = sum(sizes[: wanted[0].range_at]) + wanted[0].skipped if wanted else 0
        offset, limit = cut.ranks(after.total, counts)
        lead = cut.lead(offset)
        placed = joined(rows, begins, sum(sizes), after.apart, offset - lead, lead + limit)
        if placed is None:
            return None
        better = dict(zip(guesses, counts[len(cut.places) :], strict=True))
        return _styled_page(after, cut.style, offset, placed[:lead], placed[lead:], better, guesses, order)

    def _searched(
        self, view: _View, offset: int, cut: _Cut, guesses: list[int], deadline: Deadline, partial: bool
    ) -> Page | None:
        """The rows of these ranks, wherever they lie. None if the ranking changed too much meanwhile."""
        shards, order = list(view.shapes), view.shard_map.board.order
        margin = view.leaving + _SLACK
        places = [*cut.places, *_points_places(guesses, view.shard_map)]
        begin = offset - cut.lead(offset)
        search = Search(max(0, begin - margin), [view.shapes[shard].rows for shard in shards])
        search.done = search.offset <= search.nearly or begin >= view.total + margin
        steps = 0
        while not search.done:
            steps += 1
            if steps > _MOST_STEPS or deadline.passed:
                return None
            search.take(self._halves(view.shard_map, shards, search, deadline))
        most = search.nearly + 2 * margin + offset - begin + cut.limit
        after = self._view(
            view.shard_map,
            deadline,
            lambda current: [*_rows_from(search.found, most)(current), *_counts(places)(current)],
            partial=partial,
        )
        brought, counted = after.parted(len(after.plan.shards))
        counts = counted.counted(places)
        offset, limit = cut.ranks(after.total, counts)
        if offset >= after.total:
            return _page(after, offset, [])
        lead = cut.lead(offset)
        ahead, rankings = _rows_of(brought, search.found, after.afloat)
        skip = offset - lead - ahead
        if skip < 0 or skip + lead + limit > most:
            return None
        placed = first_rows(rankings, lead + limit, skip)
        better = dict(zip(guesses, counts[len(cut.places) :], strict=True))
        return _styled_page(after, cut.style, offset, placed[:lead], placed[lead:], better, guesses, order)

    def _halves(self, shard_map: ShardMap, shards: Sequence[int], search: Search, deadline: Deadline) -> list[Halves]:
        calls = []
        for shard, low, high in zip(shards, search.lows, search.highs, strict=True):
            keys = shard_map.keys(shard)
            calls.append(Call(keys.slot, ("FCALL_RO", "rb1_halve", 1, keys.rows, *search.pivot, low, high)))
        return [
            Halves(ahead, _row(left, left_packed), _row(right, right_packed))
            for ahead, left, left_packed, right, right_packed in self._replies(calls, deadline)
        ]

    def page_after(
        self,
        shard_map: ShardMap,
        placed: Placed,
        limit: int,
        deadline: Deadline,
        *,
        style: RankStyle = RankStyle.ORDINAL,
        partial: bool = False,
    ) -> Page:
        """The rows behind a place in the ranking, whatever has changed before it."""
        place = after(placed)
        if style is not RankStyle.ORDINAL:
            behind = _Cut(limit, [place], lambda _total, counts: (counts[0], limit), style)
            return self._cut(shard_map, behind, deadline, partial)
        view = self._glimpse(shard_map, deadline, partial, remembered=True)
        if view.in_order:
            index, sizes = view.shard_map.range_at(place.packed), view.sizes()
            stop = index + 1
            while stop < len(sizes) and sum(sizes[index + 1 : stop]) < limit:
                stop += 1
            look = self._view(view.shard_map, deadline, _rows_within_from(place, limit, index, stop))
            if look.in_order and look.shard_map is view.shard_map:
                ahead, rankings = _rows_of(look, place, look.apart, within=True)
                page = _page(look, sum(look.sizes()[:index]) + ahead, first_rows(rankings, limit))
                if len(page.rows) == limit or stop == len(sizes):
                    return page
        look = self._view(view.shard_map, deadline, _rows_from(place, limit), partial=partial)
        ahead, rankings = _rows_of(look, place, look.afloat)
        return _page(look, ahead, first_rows(rankings, limit))

    def around_score(
        self,
        shard_map: ShardMap,
        points: int,
        limit: int,
        deadline: Deadline,
        *,
        style: RankStyle = RankStyle.ORDINAL,
        partial: bool = False,
    ) -> Page:
        """The players around some points, a full window where the board has enough players.

        In its middle stands who would be overtaken first with these points, reached right when the period began.
        """
        place = Placed(best_of_points(points, shard_map.board.order), Member(b""))

        def around(total: int, counts: Sequence[int]) -> tuple[int, int]:
            return max(0, min(counts[0] - limit // 2, total - limit)), limit

        return self._cut(shard_map, _Cut(limit, [place], around, style), deadline, partial)

    def between(
        self,
        shard_map: ShardMap,
        lowest: int | None,
        highest: int | None,
        offset: int,
        limit: int,
        deadline: Deadline,
        *,
        style: RankStyle = RankStyle.ORDINAL,
        partial: bool = False,
    ) -> Page:
        """The players with lowest <= points <= highest (None: no bound), from the `offset`-th of them on."""
        order = shard_map.board.order
        best, worst = (highest, lowest) if order is Order.DESC else (lowest, highest)
        first = START if best is None else Placed(best_of_points(best, order), Member(b""))
        behind = Placed(HIGHEST if worst is None else _behind_points(worst, order), Member(b""))
        matching = 0

        def within(_total: int, counts: Sequence[int]) -> tuple[int, int]:
            nonlocal matching
            start, stop = counts[0], counts[1]
            matching = max(0, stop - start)
            return start + offset, max(0, min(limit, matching - offset))

        page = self._cut(shard_map, _Cut(limit, [first, behind], within, style), deadline, partial)
        return replace(page, matching=matching)

    # -- how the shards are

    def glance(self, shard_map: ShardMap, deadline: Deadline, *, partial: bool = False) -> Glance:
        """The board as a whole."""
        view = self._view(shard_map, deadline, partial=partial)
        page = self.page(view.shard_map, 0, 1, deadline, partial=partial)
        shapes, order = view.shapes.values(), shard_map.board.order
        return Glance(
            total=view.total,
            submissions=sum(shape.submissions for shape in shapes),
            points=sum(shape.points for shape in shapes) + sum(points_of(row.packed, order) for row in view.afloat),
            shards=len(shapes),
            top=page.rows[0] if page.rows else None,
            missing=tuple(sorted({*view.missing, *page.missing})),
        )

    def shapes(self, shard_map: ShardMap, deadline: Deadline) -> list[Shape]:
        """How the rows of each shard lie, in the order of `shard_map.shards()`."""
        return [Shape.of_reply(reply) for reply in self._replies(self._plan(shard_map).shapes, deadline)]

    def shapes_told(self, shard_map: ShardMap, deadline: Deadline) -> list[Shape | LeaderboardError]:
        """The same, with what is wrong with a shard in the place of its shape."""
        answers = self._functions.on_keys(self._plan(shard_map).shapes, deadline)
        return [_unread(answer.error) if answer.error else Shape.of_reply(answer.reply) for answer in answers]

    def _view(
        self, shard_map: ShardMap, deadline: Deadline, asks: _Asks = lambda _: (), *, partial: bool = False
    ) -> _View:
        """A look at all shards in which every player was seen once; not `settled`, if there was none."""
        afloat: dict[Member, Leaving] = {}
        for _ in range(_MOST_LOOKS):
            last = self._last.get(shard_map.name)
            view = self._look(shard_map, deadline, asks(shard_map), afloat, partial)
            if (newer := self._newer_map(view, deadline)) is not None:
                shard_map, afloat = newer, {}
                continue
            if last is not None and view.marks == last.marks and view.leaving == len(afloat):
                return replace(view, settled=True)
            afloat = self._leaving(view, deadline) if view.leaving else {}
        return view

    def _glimpse(
        self,
        shard_map: ShardMap,
        deadline: Deadline,
        partial: bool,
        asks: _Asks = lambda _: (),
        *,
        remembered: bool,
    ) -> _View:
        """A look by the current map, to plan the next one by; `remembered`: the last one will do, if it is not old."""
        last = self._last.get(shard_map.name)
        if remembered and not partial and last is not None and last.shard_map is shard_map and not last.missing:
            age_ms = time.time() * 1000 - last.as_of_ms
            if 0 <= age_ms < _GLIMPSE_MS:
                return last
        view = self._look(shard_map, deadline, asks(shard_map), {}, partial)
        newer = self._newer_map(view, deadline)
        return view if newer is None else self._look(newer, deadline, asks(newer), {}, partial)

    def _newer_map(self, view: _View, deadline: Deadline) -> ShardMap | None:
        """The published map, if a shard was at a later version than this one."""
        version = max(shape.version for shape in view.shapes.values())
        if version <= view.shard_map.version:
            return None
        published = self._maps.current(view.shard_map.name, deadline, newer_than=version)
        return published if published.version > view.shard_map.version else None

    def _look(
        self,
        shard_map: ShardMap,
        deadline: Deadline,
        asked: Sequence[tuple[int, _Question]],
        leaving_then: Mapping[Member, Leaving],
        partial: bool,
    ) -> _View:
        """One round trip. `leaving_then`: players who may be afloat, if they are not in their targets' rows."""
        as_of_ms = int(time.time() * 1000)
        plan = self._plan(shard_map)
        groups: dict[int, list[Member]] = defaultdict(list)
        for member, mover in leaving_then.items():
            groups[mover.about.target].append(member)
        targets = [(shard, _places(shard_map, shard, group)) for shard, group in groups.items()]
        told = self._ask(shard_map, plan, [*asked, *targets], deadline)
        shapes: dict[int, Shape] = {}
        missing = []
        for shard, answer in zip(plan.shards, told, strict=False):
            if answer.error is None:
                shapes[shard] = Shape.of_reply(answer.reply)
            elif partial:
                missing.append(shard)
            else:
                raise _unread(answer.error)
        if not shapes:
            raise ShardUnavailable("no shard of this board answers")
        answers = told[len(plan.shards) :]
        beside = [(shard, answer) for (shard, _), answer in zip(asked, answers, strict=False)]
        afloat = []
        for group, answer in zip(groups.values(), answers[len(asked) :], strict=True):
            if answer.error is None:
                for member, place in zip(group, answer.reply[2::2], strict=True):
                    about = leaving_then[member].about
                    if place < 0 and not about.is_hidden:
                        afloat.append(Placed(PackedScore(about.packed), member))
            elif not partial:
                raise _unread(answer.error)
        strays = [row for shape in shapes.values() if shape.astray for row in _placed(shape.astray)]
        apart = sorted([*afloat, *strays])
        view = _View(shard_map, plan, shapes, as_of_ms, tuple(missing), beside, sorted(afloat), apart)
        if len(self._last) >= _MOST_REMEMBERED:
            self._last.clear()
        self._last[shard_map.name] = replace(view, beside=())
        return view

    def _ask(
        self, shard_map: ShardMap, plan: _Plan, asked: Sequence[tuple[int, _Question]], deadline: Deadline
    ) -> list[Answer]:
        """The shapes of all shards, and what was asked besides, of each shard in one call.

        Only a shard that is not on the map any more, and so in no shape, is asked by itself.
        """
        questions: dict[int, list[_Question]] = {shard: [] for shard in plan.shards}
        others: list[Call] = []
        for shard, question in asked:
            if shard in questions:
                questions[shard].append(question)
            else:
                others.append(_call(shard_map, shard, question))
        calls = [
            _look_call(shard_map, shard, questions[shard]) if questions[shard] else shape
            for shard, shape in zip(plan.shards, plan.shapes, strict=True)
        ]
        answers = self._functions.on_keys([*calls, *others], deadline)
        alone = iter(answers[len(calls) :])
        shapes, beside = [], dict[int, Iterator[Answer]]()
        for (shard, its), answer in zip(questions.items(), answers, strict=False):
            if answer.error is not None or not its:
                shapes.append(answer)
                beside[shard] = repeat(answer)
            else:
                shape, *told = answer.reply
                shapes.append(Answer(shape))
                beside[shard] = map(Answer, told)
        return [*shapes, *(next(beside.get(shard, alone)) for shard, _ in asked)]

    def _leaving(self, view: _View, deadline: Deadline) -> dict[Member, Leaving]:
        """Who is on the way out of the shards of this view."""
        sources = [shard for shard, shape in view.shapes.items() if shape.leaving]
        calls = []
        for shard in sources:
            keys = view.shard_map.keys(shard)
            calls.append(Call(keys.slot, ("FCALL_RO", "rb1_leaving", 1, keys.leaving)))
        return {
            Member(member): leaving(shard, payload)
            for shard, reply in zip(sources, self._replies(calls, deadline), strict=True)
            for member, payload in zip(reply[::2], reply[1::2], strict=True)
        }

    def _plan(self, shard_map: ShardMap) -> _Plan:
        name = (str(shard_map.name), shard_map.generation, shard_map.version)
        plan = self._plans.get(name)
        if plan is None:
            if len(self._plans) >= _MOST_REMEMBERED:
                self._plans.clear()
            plan = self._plans[name] = _Plan.of(shard_map)
        return plan

    def _replies(self, calls: Sequence[Call], deadline: Deadline) -> list[list[Any]]:
        """The replies to reads. A shard that does not answer fails the whole read: no rank is ever made up."""
        replies = []
        for answer in self._functions.on_keys(calls, deadline):
            if answer.error is not None:
                raise _unread(answer.error)
            replies.append(answer.reply)
        return replies


def _unread(error: LeaderboardError) -> LeaderboardError:
    """An error of a read: a shard that left a call without an answer was asked to change nothing."""
    if error.outcome is Outcome.NOT_APPLIED:
        return error
    unread = ShardUnavailable("a shard that is needed did not answer")
    unread.__cause__ = error
    return unread


def _page(view: _View, offset: int, placed: Sequence[Placed], matching: int | None = None) -> Page:
    order = view.shard_map.board.order
    rows = [
        Row(rank, player_of(member), points_of(packed, order))
        for rank, (packed, member) in enumerate(placed, start=offset + 1)
    ]
    return Page(rows, view.total, view.as_of_ms, view.settled, view.missing, placed, matching)


def _styled_page(
    view: _View,
    style: RankStyle,
    offset: int,
    lead: Sequence[Placed],
    placed: Sequence[Placed],
    better: Mapping[int, int],
    guesses: list[int],
    order: Order,
) -> Page | None:
    """A page with its ranks in a style. None where that takes a count which the look did not ask for; then `guesses`
    has the points for the next one.

    `lead`: the rows before it. `better`: how many players are better than some points.
    """
    page = _page(view, offset, placed)
    if style is RankStyle.ORDINAL or not page.rows:
        return page
    earlier = [points_of(packed, order) for packed, _ in lead]
    if style is RankStyle.DENSE:
        _refuse_dense(page.rows[-1].rank)
        distinct = dict.fromkeys([*earlier, *(row.points for row in page.rows)])
        numbers = {points: number for number, points in enumerate(distinct, start=1)}
        return replace(page, styled=[numbers[row.points] for row in page.rows])
    first = page.rows[0]
    if not earlier or earlier[-1] != first.points:
        ranks = [first.rank]
    elif first.points in better:
        ranks = [1 + better[first.points]]
    else:
        guesses.append(first.points)
        return None
    for before, row in pairwise(page.rows):
        ranks.append(ranks[-1] if row.points == before.points else row.rank)
    return replace(page, styled=ranks)


def _refuse_dense(rank: int) -> None:
    """Beyond the first MOST_DENSE players every row of the board would have to be read."""
    if rank > MOST_DENSE:
        raise OutOfBounds(f"dense ranks are told for the first {MOST_DENSE} players", field="rank_style")


def _points_places(points: Sequence[int], shard_map: ShardMap) -> list[Placed]:
    """The places before all players with some points."""
    return [Placed(best_of_points(value, shard_map.board.order), Member(b"")) for value in points]


def _standings(
    view: _View,
    players: Sequence[PlayerId],
    known: Mapping[Member, Placed],
    ahead: Mapping[Member, int],
    failed: Mapping[Member, LeaderboardError],
) -> Standings:
    """What a look said of players: of those whose rows are `known`, how many are ahead."""
    told: list[Standing | LeaderboardError] = []
    total = max([view.total, *(count + 1 for count in ahead.values())])
    order = view.shard_map.board.order
    for player in players:
        member = member_of(player)
        if member in failed:
            told.append(failed[member])
        elif member in ahead:
            row = Row(ahead[member] + 1, player, points_of(known[member].packed, order))
            told.append(Standing(row, total, view.as_of_ms, view.settled, view.missing, known[member]))
        else:
            told.append(NotOnBoard(f"{player} has no score on {view.shard_map.name}", field="user_id"))
    return Standings(told, total, view.as_of_ms, view.settled, view.missing)


def _counts(places: Sequence[Placed]) -> _Asks:
    """Asks every shard how many of its rows rank before each of some places."""

    def asks(shard_map: ShardMap) -> list[tuple[int, _Question]]:
        return [
            (shard, _ahead(places[start : start + SLICE]))
            for shard in shard_map.shards()
            for start in range(0, len(places), SLICE)
        ]

    return asks


def _rows_from(place: Placed, most: int) -> _Asks:
    """Asks all shards for their rows from a place on, and how many are before it."""

    def asks(shard_map: ShardMap) -> list[tuple[int, _Question]]:
        return [(shard, _after(place, most, "-inf")) for shard in shard_map.shards()]

    return asks


def _rows_within_from(place: Placed, most: int, index: int, stop: int) -> _Asks:
    """Asks some ranges for those of their own rows that stand behind a place in the first of them, and likewise."""

    def asks(shard_map: ShardMap) -> list[tuple[int, _Question]]:
        found = []
        for part in shard_map.ranges[index:stop]:
            begin = max(place, Placed(part.low, Member(b"")))
            found += [(shard, _after(begin, most, part.low)) for shard in part.shards]
        return found

    return asks


def _rows_of(
    view: _View, place: Placed, others: Sequence[Placed], *, within: bool = False
) -> tuple[int, list[Sequence[Placed]]]:
    """What a look brought that asked for rows from a place on: those before it, and rankings from there on.

    `others` are put beside what the shards have. `within`: of those the rows in their shards' ranges.
    """
    ahead = bisect_left(others, place)
    rankings: list[Sequence[Placed]] = [others[ahead:]]
    for shard, reply in view.replies():
        rows = _placed(reply[1:])
        ahead += reply[0]
        rankings.append(_before(rows, view.plan.bounds[shard][1]) if within else rows)
    return ahead, rankings


def _rows_within(view: _View, wanted: Sequence[Span]) -> list[Placed] | None:
    """The rows that a look brought of some places of ranges, in order; None if they are not consecutive any more.

    It has asked for more than is wanted: a range that others follow must have come to its end.
    """
    replies, found = view.replies(), list[Placed]()
    for span in wanted:
        part, most = view.shard_map.ranges[span.range_at], span.taken + _SLACK
        rankings = [_before(_placed(next(replies)[1]), part.high) for _ in part.shards]
        if span is not wanted[-1] and any(len(rows) == most for rows in rankings):
            return None
        found += first_rows(rankings, most if span is wanted[-1] else sum(map(len, rankings)))
    return found


def _before(rows: list[Placed], high: PackedScore) -> list[Placed]:
    """The rows before the end of a range."""
    return rows[: bisect_left(rows, Placed(high, Member(b"")))]


def _places(shard_map: ShardMap, shard: int, members: Sequence[Member]) -> _Question:
    return ("places", shard_map.bounds(shard).low, *members)


def _after(place: Placed, most: int, low: PackedScore | str) -> _Question:
    return ("after", *place, most, low)


def _ahead(places: Sequence[Placed]) -> _Question:
    return ("ahead", *(part for placed in places for part in placed))


def _call(shard_map: ShardMap, shard: int, question: _Question) -> Call:
    """A question by itself."""
    keys, (name, *args) = shard_map.keys(shard), question
    return Call(keys.slot, ("FCALL_RO", f"rb1_{name}", 1, keys.rows, *args))


def _look_call(shard_map: ShardMap, shard: int, questions: Sequence[_Question]) -> Call:
    keys = shard_map.keys(shard)
    flat = [part for name, *args in questions for part in (name, len(args), *args)]
    return Call(keys.slot, ("FCALL_RO", "rb1_look", 3, keys.rows, keys.head, keys.leaving, *flat))


def _behind_points(points: int, order: Order) -> PackedScore:
    """The first packed score that is worse than all with these points."""
    return PackedScore(best_of_points(points, order) + ELAPSED_SPAN)


def _slices(groups: Mapping[int, Sequence[T]]) -> list[tuple[int, Sequence[T]]]:
    """What is asked of each shard, in calls of bounded length."""
    return [
        (shard, group[start : start + SLICE])
        for shard, group in groups.items()
        for start in range(0, len(group), SLICE)
    ]


def _row(member: bytes, packed: bytes) -> Placed | None:
    return Placed(PackedScore(int(packed)), Member(member)) if member else None


def _placed(reply: Sequence[bytes]) -> list[Placed]:
    """The rows in a reply of ZRANGE WITHSCORES, or of rb1_after."""
    return [
        Placed(PackedScore(int(float(packed))), Member(member))
        for member, packed in zip(*[iter(reply)] * 2, strict=True)
    ]
