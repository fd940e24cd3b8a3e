"""Strays that wait for company: a process brings home together whom its submissions took out of range.

A move is four round trips, each with a fence, for one player or for a thousand. One submission in dozens makes a
stray, at the start of a month one in three, so a process that moved each by itself would do little else. A stray counts
wherever it is: its submissions go on, reads put it in its place (reader.py). So nobody waits for a move: strays gather
for a moment, and then go through the steps together.

What waits here is nowhere else, and need not be. A process that dies leaves strays in their shards, where the sweeper
finds them, as it does those for whom there was no room here.
"""

import threading
from collections.abc import Mapping
from itertools import islice

import structlog

from runtime import metrics
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.directory import Entry
from sharding.handoff.mover import Mover
from sharding.players import Member
from sharding.scores import PackedScore
from sharding.shard_map import ShardMap

log = structlog.get_logger()

#: The longer, the more company; and the more rows that reads have to put in their places.
_GATHERED_FOR_S = 0.25
_MOST_WAITING = 10_000
_MOST_TOGETHER = 1_000
_MOST_HOPS = 10
_DEADLINE_S = 10.0

Strays = dict[Member, tuple[Entry, PackedScore]]
_Board = tuple[BoardPeriod, int]


class StrayQueue:
    """The strays that one process knows of. Safe to use from many threads or greenlets."""

    def __init__(self, mover: Mover) -> None:
        self._mover = mover
        self._waiting: dict[_Board, Strays] = {}
        self._maps: dict[_Board, ShardMap] = {}
        self._count = 0
        self._lock = threading.Lock()
        self._moving = threading.Lock()
        self._closed = threading.Event()
        self._has_driver = False

    def take(self, shard_map: ShardMap, strays: Mapping[Member, tuple[Entry, PackedScore]]) -> None:
        """Bring these home soon, so far as there is room: where they were seen, and under which packed score."""
        board = (shard_map.name, shard_map.generation)
        with self._lock:
            room = _MOST_WAITING - self._count
            waiting = self._waiting.setdefault(board, {})
            before = len(waiting)
            waiting.update(islice(strays.items(), max(0, room)))
            self._count += len(waiting) - before
            known = self._maps.get(board)
            if known is None or known.version < shard_map.version:
                self._maps[board] = shard_map
            if self._has_driver or self._closed.is_set():
                return
            self._has_driver = True
        threading.Thread(target=self._drive, name="strays", daemon=True).start()

    def bring_home(self, deadline: Deadline) -> None:
        """Move all who wait, now; when this returns, nobody is on the way. Whom it cannot move, the sweeper will."""
        if not self._moving.acquire(timeout=deadline.remaining()):
            return
        try:
            with self._lock:
                waiting, self._waiting = self._waiting, {}
                maps, self._maps = self._maps, {}
                metrics.strays_waiting.set(self._count)
                self._count = 0
            for board, strays in waiting.items():
                each = iter(strays.items())
                while some := dict(islice(each, _MOST_TOGETHER)):
                    self._move_home(maps[board], some, deadline)
        finally:
            self._moving.release()

    def _move_home(self, shard_map: ShardMap, strays: Strays, deadline: Deadline) -> None:
        for _ in range(_MOST_HOPS):
            moved = self._mover.move(shard_map, strays, deadline)
            # Submissions may have counted before the departure, and led further than the one that was seen.
            strays = {
                member: (to.entry, to.packed) for member, to in moved.items() if to.is_stray and to.packed is not None
            }
            if not strays:
                return

    def close(self) -> None:
        """Bring home who waits, if that can be done at once, and take nobody any more."""
        self._closed.set()
        self.bring_home(Deadline.after(1))

    def _drive(self) -> None:
        """Bring strays home as long as some come."""
        try:
            while not self._closed.wait(_GATHERED_FOR_S):
                with self._lock:
                    if not self._count:
                        self._has_driver = False
                        return
                self.bring_home(Deadline.after(_DEADLINE_S))
        except BaseException:
            with self._lock:
                self._has_driver = False
            raise
