"""Changing a board's map while it is in use: reads stay exact, writes stay open.

The order makes it safe. First the shards' ranges widen to what they were and what they will be, so that nobody who
writes by the old map or by the new one makes a stray. Then the map is published. Then the ranges narrow, which makes
strays of all rows that have to move, and the strays move in bulk through the handoff. Reads count rows wherever they
are, and the sweeper moves whatever this leaves behind.

Every step may be repeated, by anybody, at any time later: what is left to do follows from the published map and the
heads. So a run that dies is resumed by starting it again.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import structlog

from runtime.deadlines import Deadline
from sharding.directory import Entry, entry_at
from sharding.errors import LeaderboardError
from sharding.functions import MOVE_SLICE, Functions, ShardCall, is_to_be_combed, strays
from sharding.handoff.mover import Leaving, Mover, leaving
from sharding.maps import Maps
from sharding.players import Member
from sharding.reader import Reader
from sharding.scores import PackedScore
from sharding.shard_map import NOTHING, ShardMap

log = structlog.get_logger()

#: Players of one shard that are brought home together: one call a step.
BATCH = MOVE_SLICE
#: A rate that leaves most of a small machine to those who play.
GENTLE_PER_S = 5_000
#: Of players that may be moved in a second, so many at once: a rate is kept evenly.
_ROUND_S = 0.2
#: Rounds at the same time, each of its own shards.
_LANES = 5
#: Of each shard in a round of the sweep, and its rounds: those who play meanwhile hardly notice, and one who looks in
#: vain for strays by their hash has an end.
_SWEPT_AT_ONCE = 25
_ROUNDS_OF_A_SWEEP = 20
_STEP_S = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the strays are: how many have moved, and how many were seen that still have to."""

    moved: int
    left: int


@dataclass(slots=True)
class _Round:
    """What a round did: how many moved, and which shards are to be combed further."""

    moved: int = 0
    combing: Sequence[int] = ()


class Rebalancer:
    """Applies a new version of a map."""

    def __init__(self, functions: Functions, maps: Maps, mover: Mover, reader: Reader) -> None:
        self._functions = functions
        self._maps = maps
        self._mover = mover
        self._reader = reader

    def switch(self, wanted: ShardMap) -> ShardMap:
        """Make `wanted` the published map, with every shard ready for it; the map that is published then.

        ShardLost, and nothing is changed, if a shard's data are gone.
        """
        before = self._maps.published(wanted.name, Deadline.after(_STEP_S))
        self._maps.must_be_there(before, Deadline.after(_STEP_S))
        if before.version < wanted.version:
            widened = {
                shard: wanted.bounds(shard).hull(old)
                if (old := before.bounds(shard)) != NOTHING
                else wanted.bounds(shard)
                for shard in wanted.shards()
            }
            self._maps.open_shards(wanted, widened, 0, Deadline.after(_STEP_S))
            before = self._maps.replace(wanted, Deadline.after(_STEP_S))
        bounds = {shard: before.bounds(shard) for shard in before.shards()}
        self._maps.open_shards(before, bounds, 1, Deadline.after(_STEP_S))
        return before

    def move_strays(
        self, shard_map: ShardMap, deadline: Deadline, *, players_per_s: float, report: Callable[[Progress], None]
    ) -> Progress:
        """Bring all strays home, at no more than this rate; `report` hears of every round.

        Returns when none is left, when none can be moved, or at the deadline. A shard that cannot be asked is passed
        over until it can.
        """
        start, moved, left = time.monotonic(), 0, self._left(shard_map)

        def count_round(players: int) -> float:
            """How long to wait before the next round."""
            nonlocal moved
            moved += players
            report(Progress(moved, max(left - moved, 0)))
            return moved / players_per_s - (time.monotonic() - start)

        most = max(1, min(BATCH, int(players_per_s * _ROUND_S / len(list(shard_map.shards())))))
        while True:
            before = moved
            self._pass(shard_map, most, deadline, count_round)
            remaining = self._left(shard_map)
            if moved == before or remaining == 0 or deadline.passed:
                return Progress(moved, remaining)
            left = moved + remaining

    def _pass(self, shard_map: ShardMap, most: int, deadline: Deadline, count_round: Callable[[int], float]) -> None:
        """Rounds in lanes, each of its own shards, until each lane has found nothing more.

        No lane waits for another, so the nodes work on the steps of one while this process prepares those of the next.
        """
        shards = list(shard_map.shards())
        lanes = [lane for number in range(_LANES) if (lane := shards[number::_LANES])]

        def one_round(lane: Sequence[int], pause_s: float) -> _Round:
            if pause_s > 0:
                time.sleep(min(pause_s, deadline.remaining()))
            return self._move_round(shard_map, lane, most, deadline)

        with ThreadPoolExecutor(len(lanes)) as pool:
            rounds: dict[Future[_Round], list[int]] = {pool.submit(one_round, lane, 0.0): lane for lane in lanes}
            while rounds:
                for ended in wait(rounds, return_when=FIRST_COMPLETED).done:
                    lane, done = rounds.pop(ended), ended.result()
                    pause_s = count_round(done.moved)
                    if (done.moved or done.combing) and not deadline.passed:
                        rounds[pool.submit(one_round, lane, pause_s)] = lane

    def sweep(self, shard_map: ShardMap, deadline: Deadline) -> int:
        """Finish moves that somebody began, and bring strays home, a bounded number of each shard's; how many moved.

        A shard that cannot be asked is passed over, and logged.
        """
        swept = 0
        for _ in range(_ROUNDS_OF_A_SWEEP):
            done = self._move_round(shard_map, list(shard_map.shards()), _SWEPT_AT_ONCE, deadline)
            swept += done.moved
            if deadline.passed or not (done.moved or done.combing):
                break
        return swept

    def _move_round(self, shard_map: ShardMap, shards: Sequence[int], most: int, deadline: Deadline) -> _Round:
        """Move so many strays of each of some shards: one call a step and pair of shards, and all pairs at once."""
        done = _Round()
        begun: dict[Member, Leaving] = {}
        rows: dict[Member, tuple[Entry, PackedScore]] = {}
        to_comb = self._list(shard_map, "rb1_strays", shards, (most,), deadline, begun, rows)
        done.combing = self._list(shard_map, "rb1_comb", to_comb, (), deadline, begun, rows)
        done.moved = len(self._mover.complete(shard_map, begun, deadline))
        done.moved += len(self._mover.move(shard_map, rows, deadline))
        return done

    def _list(
        self,
        shard_map: ShardMap,
        function: str,
        shards: Sequence[int],
        args: tuple[int, ...],
        deadline: Deadline,
        begun: dict[Member, Leaving],
        rows: dict[Member, tuple[Entry, PackedScore]],
    ) -> list[int]:
        """Ask shards for players who have to leave; the shards that are to be combed for more."""
        calls = [ShardCall(shard_map.keys(shard), function, args) for shard in shards]
        combing = []
        for shard, answer in zip(
            shards, self._functions.on_shards(calls, shard_map.retry_window_ms, deadline), strict=True
        ):
            if answer.error is not None:
                log.warning("strays_not_listed", board=str(shard_map.name), shard=shard, reason=answer.error.detail)
                continue
            for member, epoch, packed, payload in strays(answer.reply):
                if payload:
                    begun[member] = leaving(shard, payload)
                else:
                    rows[member] = (entry_at(shard, epoch), PackedScore(packed))
            if is_to_be_combed(answer.reply):
                combing.append(shard)
        return combing

    def _left(self, shard_map: ShardMap) -> int:
        try:
            shapes = self._reader.shapes(shard_map, Deadline.after(_STEP_S))
        except LeaderboardError:
            return -1
        return sum(shape.better + shape.worse for shape in shapes)
