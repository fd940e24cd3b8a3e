"""Exact reads over all shards of a board.

`rank = 1 + sum over shards of the rows ahead`: exact wherever rows happen to be, one parallel round trip. Pages are
found by counting, never by reading from the top: at rest the counts say which places of which shards hold the page.
While rows lie outside of their shard's range (a move is under way), or where a range is split by player hash, the
page's first packed score is found by halving the interval of all packed scores with counts: 52 rounds at most,
whatever the offset.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from runtime.deadlines import Deadline
from sharding.cluster.client import Call
from sharding.directory import Directory, Entry
from sharding.errors import NotOnBoard, ShardUnavailable
from sharding.functions import LIVE, SLICE, Code, Functions, Shape, ShardCall, pairs, read_tombstone
from sharding.handoff.mover import Mover, leaving
from sharding.merge import Placed, Span, first_rows, spans
from sharding.players import Member, PlayerId, member_of, player_of
from sharding.scores import HIGHEST, LOWEST, PackedScore, points_of
from sharding.shard_map import ShardMap

_MOST_HOPS = 10
_MOST_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Row:
    """A player on the board; ranks begin at 1."""

    rank: int
    player: PlayerId
    points: int


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive rows, the number of players on the board, and when that was so (milliseconds since 1970)."""

    rows: list[Row]
    total: int
    as_of_ms: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A player's row and the number of players on the board."""

    row: Row
    total: int

    @property
    def percentile(self) -> float:
        """The share of players, in per cent, who rank no better than this one: the first has 100."""
        return round(100.0 * (self.total - self.row.rank + 1) / self.total, 4) if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """A row and the shard it was found in."""

    shard: int
    packed: PackedScore


class Reader:
    """Reads of tops and ranks. One per process; safe to use from many threads or greenlets."""

    def __init__(self, functions: Functions, directory: Directory, mover: Mover) -> None:
        self._functions = functions
        self._directory = directory
        self._mover = mover

    # -- one player

    def find(self, shard_map: ShardMap, player: PlayerId, deadline: Deadline) -> Found:
        """The player's row; a move it is in the middle of is finished first. NotOnBoard if there is none."""
        member = member_of(player)
        entry = self._directory.locate(shard_map, [member], deadline).of(member)
        looked_up = False
        for _ in range(_MOST_HOPS):
            if entry is None:
                break
            call = ShardCall(shard_map.keys(entry.shard), "rb1_find", (0, member))
            answer = self._functions.on_shards([call], shard_map.retry_window_ms, deadline)[0]
            if answer.error is not None:
                raise answer.error
            code, detail = next(pairs(answer.reply))
            if code == LIVE:
                return Found(entry.shard, PackedScore(int(detail)))
            if code == Code.LEAVING:
                moved = self._mover.complete(shard_map, {member: leaving(entry.shard, detail)}, deadline)
                if member not in moved:
                    raise ShardUnavailable("the player is on the move; try again")
                entry = moved[member].entry
            elif code == Code.GONE:
                entry = Entry(*read_tombstone(detail))
                self._directory.learn(shard_map, {member: entry})
            elif looked_up:
                break
            else:
                looked_up = True
                entry = self._directory.locate(shard_map, [member], deadline, fresh=True).of(member)
        else:
            raise ShardUnavailable("the player is on the move; try again")
        raise NotOnBoard(f"{player} has no score on {shard_map.name}", field="user_id")

    def find_many(self, shard_map: ShardMap, players: Sequence[PlayerId], deadline: Deadline) -> dict[PlayerId, Found]:
        """The rows of those players who have one, at one call a shard; who is in motion is looked for singly."""
        members = {member_of(player): player for player in players}
        located = self._directory.locate(shard_map, members, deadline)
        if located.failed:
            raise next(iter(located.failed.values()))
        groups: dict[int, list[Member]] = defaultdict(list)
        for member, entry in located.entries.items():
            groups[entry.shard].append(member)
        slices = [
            (shard, group[start : start + SLICE])
            for shard, group in groups.items()
            for start in range(0, len(group), SLICE)
        ]
        calls = [ShardCall(shard_map.keys(shard), "rb1_find", (0, *group)) for shard, group in slices]
        answers = self._functions.on_shards(calls, shard_map.retry_window_ms, deadline)
        found: dict[PlayerId, Found] = {}
        for (shard, group), answer in zip(slices, answers, strict=True):
            if answer.error is not None:
                raise answer.error
            for member, (code, detail) in zip(group, pairs(answer.reply), strict=True):
                if code == LIVE:
                    found[members[member]] = Found(shard, PackedScore(int(detail)))
                else:
                    with suppress(NotOnBoard):
                        found[members[member]] = self.find(shard_map, members[member], deadline)
        return found

    def standing(self, shard_map: ShardMap, player: PlayerId, deadline: Deadline) -> Standing:
        """The player's exact rank."""
        found = self.find(shard_map, player, deadline)
        rank = 1 + self.ahead(shard_map, Placed(found.packed, member_of(player)), deadline)
        total = sum(shape.rows for shape in self.shapes(shard_map, deadline))
        return Standing(Row(rank, player, points_of(found.packed, shard_map.board.order)), max(total, rank))

    def ahead(
        self, shard_map: ShardMap, placed: Placed, deadline: Deadline, shards: Sequence[int] | None = None
    ) -> int:
        """How many rows rank before a place in the ranking, in these shards (default: all)."""
        return sum(self._ahead_by_shard(shard_map, placed, deadline, shards))

    def _ahead_by_shard(
        self, shard_map: ShardMap, placed: Placed, deadline: Deadline, shards: Sequence[int] | None = None
    ) -> list[int]:
        calls = []
        for shard in shards if shards is not None else shard_map.shards():
            keys = shard_map.keys(shard)
            calls.append(Call(keys.slot, ("FCALL_RO", "rb1_ahead", 1, keys.rows, placed.packed, placed.member)))
        return [reply[0] for reply in self._replies(calls, deadline)]

    def surrounding(self, shard_map: ShardMap, player: PlayerId, each_side: int, deadline: Deadline) -> Page:
        """The player and those around, always a full window where the board has enough players."""
        for _ in range(_MOST_ATTEMPTS):
            found = self.find(shard_map, player, deadline)
            ahead = self.ahead(shard_map, Placed(found.packed, member_of(player)), deadline)
            total = sum(shape.rows for shape in self.shapes(shard_map, deadline))
            length = 2 * each_side + 1
            page = self.page(shard_map, max(0, min(ahead - each_side, total - length)), length, deadline)
            if any(row.player == player for row in page.rows):
                return page
        # The ranking moved under every attempt: that is a shard's trouble, not an answer.
        raise ShardUnavailable("the ranking changes too fast around this player; try again")

    # -- pages

    def page(self, shard_map: ShardMap, offset: int, limit: int, deadline: Deadline) -> Page:
        """The rows of ranks offset+1 .. offset+limit."""
        shapes = dict(zip(shard_map.shards(), self.shapes(shard_map, deadline), strict=True))
        as_of_ms = int(time.time() * 1000)
        total = sum(shape.rows for shape in shapes.values())
        placed: list[Placed] = []
        if offset < total:
            at_rest = all(shape.better == shape.worse == 0 for shape in shapes.values())
            sizes = [sum(shapes[shard].rows for shard in part.shards) for part in shard_map.ranges]
            wanted = spans(sizes, offset, limit)
            if at_rest and all(
                span.skipped == 0 or len(shard_map.ranges[span.range_at].shards) == 1 for span in wanted
            ):
                placed = self._at_rest(shard_map, wanted, deadline)
            else:
                placed = self._in_motion(shard_map, offset, limit, deadline)
        order = shard_map.board.order
        rows = [
            Row(offset + 1 + index, player_of(member), points_of(packed, order))
            for index, (packed, member) in enumerate(placed)
        ]
        return Page(rows, total, as_of_ms)

    def _at_rest(self, shard_map: ShardMap, wanted: Sequence[Span], deadline: Deadline) -> list[Placed]:
        """Every row lies in its range: places are taken from the ranges in turn."""
        calls: list[Call] = []
        for span in wanted:
            for shard in shard_map.ranges[span.range_at].shards:
                keys = shard_map.keys(shard)
                stop = span.skipped + span.taken - 1
                calls.append(Call(keys.slot, ("ZRANGE", keys.rows, span.skipped, stop, "WITHSCORES")))
        replies = iter(self._replies(calls, deadline))
        placed: list[Placed] = []
        for span in wanted:
            rankings = [_placed(next(replies)) for _ in shard_map.ranges[span.range_at].shards]
            placed += first_rows(rankings, span.taken)
        return placed

    def _in_motion(self, shard_map: ShardMap, offset: int, limit: int, deadline: Deadline) -> list[Placed]:
        """Rows may lie anywhere: find by halving the last packed score with at most `offset` rows ahead of it."""
        low, high, ahead = LOWEST, HIGHEST, 0
        while high - low > 1 and offset > 0:
            middle = PackedScore((low + high) // 2)
            count = self.ahead(shard_map, Placed(middle, Member(b"")), deadline)
            if count <= offset:
                low, ahead = middle, count
            else:
                high = middle
            if ahead == offset:
                break
        skip = offset - ahead
        calls = []
        for shard in shard_map.shards():
            keys = shard_map.keys(shard)
            window = ("BYSCORE", "LIMIT", 0, skip + limit, "WITHSCORES")
            calls.append(Call(keys.slot, ("ZRANGE", keys.rows, low, "+inf", *window)))
        return first_rows([_placed(reply) for reply in self._replies(calls, deadline)], limit, skip)

    # -- counts

    def shapes(self, shard_map: ShardMap, deadline: Deadline) -> list[Shape]:
        """How the rows of each shard lie, in the order of `shard_map.shards()`."""
        calls = []
        for shard in shard_map.shards():
            keys = shard_map.keys(shard)
            calls.append(Call(keys.slot, ("FCALL_RO", "rb1_shape", 2, keys.rows, keys.head)))
        return [Shape(*reply) for reply in self._replies(calls, deadline)]

    def _replies(self, calls: Sequence[Call], deadline: Deadline) -> list[list[Any]]:
        """The replies to reads. A shard that does not answer fails the whole read: no rank is ever made up."""
        replies = []
        for answer in self._functions.on_keys(calls, deadline):
            if answer.error is not None:
                raise answer.error
            replies.append(answer.reply)
        return replies


def _placed(reply: Sequence[bytes]) -> list[Placed]:
    """The rows in a reply of ZRANGE WITHSCORES."""
    return [
        Placed(PackedScore(int(float(packed))), Member(member))
        for member, packed in zip(*[iter(reply)] * 2, strict=True)
    ]
