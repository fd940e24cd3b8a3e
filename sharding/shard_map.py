"""The shard map: which shard holds which packed scores, for one period of one board.

An immutable, versioned value: ranges over the packed score in rank order, covering everything without gap or overlap,
each with one or more shards (more than one: the range is split by player hash, being too narrow or too hot to cut by
score). `shard_for` is pure. The map says nothing about nodes: a shard's slot follows from its number (slots.py), and
the cluster knows who owns a slot.

PostgreSQL keeps all versions (records), Redis the current one (maps.py), and every shard's head its own range and the
version, so a router with an old map is told so by the shard itself.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import exp, log
from statistics import NormalDist
from typing import Any, Self

from sharding.boards import Board, BoardPeriod, Operator
from sharding.errors import InvalidValue, OutOfBounds
from sharding.keys import DirectoryKeys, ShardKeys, directory_keys, shard_keys
from sharding.periods import Period, PeriodKind, parse_period
from sharding.players import Member, member_hash
from sharding.scores import ELAPSED_SPAN, HIGHEST, LOWEST, POINTS_LIMIT, POINTS_SPAN, Order, PackedScore, pack


@dataclass(frozen=True, slots=True)
class Range:
    """The packed scores low <= packed < high, and the shards they are split over by player hash."""

    low: PackedScore
    high: PackedScore
    shards: tuple[int, ...]

    def shard_of(self, member: Member) -> int:
        """The shard of this range that a player belongs to."""
        if len(self.shards) == 1:
            return self.shards[0]
        return self.shards[(member_hash(member) >> 16) % len(self.shards)]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one shard takes: packed scores low <= packed < high, of players of one part."""

    low: PackedScore
    high: PackedScore
    parts: int = 1
    part: int = 0

    def hull(self, other: "Bounds") -> "Bounds":
        """Bounds that take whatever one of the two takes."""
        if (self.parts, self.part) == (other.parts, other.part):
            return Bounds(min(self.low, other.low), max(self.high, other.high), self.parts, self.part)
        return Bounds(min(self.low, other.low), max(self.high, other.high))


#: What a shard takes that serves no range: nothing.
NOTHING = Bounds(HIGHEST, HIGHEST)


@dataclass(frozen=True, slots=True)
class ShardMap:
    """One version of a board period's map. Ranges stand in rank order: the first one holds the best."""

    board: Board
    period: Period
    generation: int
    version: int
    ranges: tuple[Range, ...]
    retry_window_ms: int
    partitions: int
    buckets: int
    #: shards that served a range in an earlier version and may still hold rows on their way out
    retiring: tuple[int, ...] = ()
    directory: DirectoryKeys = field(init=False, repr=False, compare=False)
    _lows: tuple[PackedScore, ...] = field(init=False, repr=False, compare=False)
    _keys: dict[int, ShardKeys] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self.ranges, self.retiring)
        name = self.name
        put = object.__setattr__
        put(self, "_lows", tuple(part.low for part in self.ranges))
        put(self, "_keys", {shard: shard_keys(name, self.generation, shard) for shard in self.shards()})
        put(self, "directory", directory_keys(name, self.generation, self.partitions, self.buckets))

    @property
    def name(self) -> BoardPeriod:
        """The board period this map is of."""
        return BoardPeriod(self.board.name, self.period.name)

    def shards(self) -> Iterator[int]:
        """All shards that may hold rows: best range first, at the end those that retire."""
        for part in self.ranges:
            yield from part.shards
        yield from self.retiring

    def range_at(self, packed: PackedScore) -> int:
        """The index of the range that holds a packed score."""
        return bisect_right(self._lows, packed) - 1

    def shard_for(self, packed: PackedScore, member: Member) -> int:
        """The shard that a player with this packed score belongs to."""
        return self.ranges[self.range_at(packed)].shard_of(member)

    def range_of(self, shard: int) -> int | None:
        """The index of the range that a shard serves; None for one that serves none in this version."""
        return next((index for index, part in enumerate(self.ranges) if shard in part.shards), None)

    def bounds(self, shard: int) -> Bounds:
        """What a shard takes in this version."""
        index = self.range_of(shard)
        if index is None:
            return NOTHING
        part = self.ranges[index]
        return Bounds(part.low, part.high, len(part.shards), part.shards.index(shard))

    def keys(self, shard: int) -> ShardKeys:
        """A shard's keys, also of one that another version uses."""
        return self._keys.get(shard) or shard_keys(self.name, self.generation, shard)

    def document(self) -> dict[str, Any]:
        """The map as JSON-ready values, for PostgreSQL and Redis."""
        board = self.board
        return {
            "board": {
                "name": board.name,
                "kind": board.kind.value,
                "operator": board.operator.value,
                "order": board.order.value,
                "lowest": board.lowest,
                "highest": board.highest,
                "open_registration": board.open_registration,
            },
            "period": self.period.name,
            "generation": self.generation,
            "version": self.version,
            "ranges": [{"low": part.low, "high": part.high, "shards": list(part.shards)} for part in self.ranges],
            "retry_window_ms": self.retry_window_ms,
            "directory": {"partitions": self.partitions, "buckets": self.buckets},
            "retiring": list(self.retiring),
        }

    def recut(self, cuts: Sequence[PackedScore]) -> Self:
        """The next version, with one shard between each two of these ascending cuts.

        Shards keep their order in the ranking, so that as few players as possible change theirs. New ones get the next
        numbers; those left over retire.
        """
        serving = [part.shards[0] for part in self.ranges]
        fresh = max(self.shards()) + 1
        wanted = len(cuts) + 1
        owners = serving[:wanted] + list(range(fresh, fresh + wanted - len(serving)))
        retiring = tuple(shard for shard in self.shards() if shard not in owners)
        ranges = ranges_cut_at(cuts, [[shard] for shard in owners])
        return replace(self, version=self.version + 1, ranges=ranges, retiring=retiring)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """The map of such a document."""
        rules = document["board"]
        kind = PeriodKind(rules["kind"])
        return cls(
            board=Board(
                name=rules["name"],
                kind=kind,
                operator=Operator(rules["operator"]),
                order=Order(rules["order"]),
                lowest=rules["lowest"],
                highest=rules["highest"],
                open_registration=rules["open_registration"],
            ),
            period=parse_period(kind, document["period"]),
            generation=document["generation"],
            version=document["version"],
            ranges=tuple(
                Range(PackedScore(part["low"]), PackedScore(part["high"]), tuple(part["shards"]))
                for part in document["ranges"]
            ),
            retry_window_ms=document["retry_window_ms"],
            partitions=document["directory"]["partitions"],
            buckets=document["directory"]["buckets"],
            retiring=tuple(document["retiring"]),
        )


def _check(ranges: Sequence[Range], retiring: Sequence[int]) -> None:
    if not ranges or ranges[0].low != LOWEST or ranges[-1].high != HIGHEST:
        raise ValueError("the ranges of a shard map cover every packed score")
    if any(part.low >= part.high for part in ranges):
        raise ValueError("a range holds at least one packed score")
    if any(upper.high != lower.low for upper, lower in pairwise(ranges)):
        raise ValueError("the ranges of a shard map neither overlap nor leave gaps")
    shards = [*(shard for part in ranges for shard in part.shards), *retiring]
    if len(set(shards)) != len(shards) or any(not part.shards for part in ranges):
        raise ValueError("every range has shards of its own")


def ranges_cut_at(cuts: Sequence[PackedScore], shards: Sequence[Sequence[int]] | None = None) -> tuple[Range, ...]:
    """The ranges between ascending cuts; one more than there are cuts. By default range i is shard i."""
    owners = shards or [[index] for index in range(len(cuts) + 1)]
    bounds = pairwise([LOWEST, *cuts, HIGHEST])
    return tuple(Range(low, high, tuple(owned)) for (low, high), owned in zip(bounds, owners, strict=True))


def expected_cuts(shards: int, median: int, sigma: float, order: Order) -> list[PackedScore]:
    """Cuts that give each shard as many players if their points are log-normal around `median`.

    A guess for a period that has no players yet. Fewer points than shards leave fewer cuts: equal ones are one, and so
    are those beyond what a board can hold.
    """
    normal = NormalDist(log(median), sigma)
    logs = (min(normal.inv_cdf(part / shards), log(POINTS_LIMIT)) for part in range(1, shards))
    most = POINTS_LIMIT - 2  # behind a cut after more there would be nothing left
    return sorted(cut_after(points, order) for points in {min(round(exp(value)), most) for value in logs})


def check_cuts(points: Sequence[int]) -> None:
    """Refuse points that are no cuts of a board: InvalidValue if they do not increase, OutOfBounds past all points."""
    for before, cut in zip([None, *points], points, strict=False):
        if before is not None and cut <= before:
            raise InvalidValue(f"cuts increase, and {cut} stands behind {before}", field="cuts")
        if not -POINTS_LIMIT < cut < POINTS_LIMIT:
            raise OutOfBounds(f"points stay within {POINTS_SPAN}", field="cuts")


def cut_after(points: int, order: Order) -> PackedScore:
    """The cut that ranks everybody with these points above it, and everybody with worse points below."""
    return PackedScore(pack(points, ELAPSED_SPAN - 1, order) + 1)
