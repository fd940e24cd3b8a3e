"""Strays go home in company: soon, all of them, and no more of them wait than there is room for."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from runtime.deadlines import Deadline
from sharding.boards import Board
from sharding.directory import Entry
from sharding.handoff import queue
from sharding.handoff.mover import Moved
from sharding.handoff.queue import StrayQueue
from sharding.periods import PeriodKind, parse_period
from sharding.players import Member
from sharding.scores import PackedScore
from sharding.shard_map import ShardMap, ranges_cut_at

A, B = Member(b"a"), Member(b"b")


class Mover:
    """Notes who is moved together, by which version of the map; those in `further` are strays again once."""

    def __init__(self) -> None:
        self.moves: list[tuple[int, dict[Member, tuple[Entry, PackedScore]]]] = []
        self.further: dict[Member, Moved] = {}
        self.moved = threading.Event()
        self.fails = False

    def move(self, shard_map: ShardMap, strays: Mapping[Member, Any], deadline: Deadline) -> dict[Member, Moved]:
        self.moves.append((shard_map.version, dict(strays)))
        self.moved.set()
        if self.fails:
            raise RuntimeError("a defect")
        return {member: self.further.pop(member, Moved(Entry(1, 2))) for member in strays}


def map_of(version: int) -> ShardMap:
    period = parse_period(PeriodKind.MONTH, "2026-11")
    ranges = ranges_cut_at([PackedScore(0)])
    return ShardMap(Board("global"), period, 1, version, ranges, retry_window_ms=1000, partitions=2, buckets=2)


def stray(packed: int, epoch: int = 1) -> tuple[Entry, PackedScore]:
    return Entry(0, epoch), PackedScore(packed)


@contextmanager
def at_rest(mover: Mover) -> Iterator[StrayQueue]:
    """A queue that brings nobody home by itself for as long as a test takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "_GATHERED_FOR_S", 60.0)
        strays = StrayQueue(mover)  # type: ignore[arg-type]
        yield strays
        strays.close()


def test_they_go_together_and_by_the_newest_map() -> None:
    mover = Mover()
    with at_rest(mover) as strays:
        strays.take(map_of(2), {A: stray(1)})
        strays.take(map_of(3), {B: stray(2)})
        strays.take(map_of(2), {A: stray(3, epoch=4)})
        strays.bring_home(Deadline.after(1))
        assert mover.moves == [(3, {A: stray(3, epoch=4), B: stray(2)})]


def test_nobody_has_to_ask_for_it() -> None:
    mover = Mover()
    strays = StrayQueue(mover)  # type: ignore[arg-type]
    for packed in range(2):  # the second time after nobody was waiting any more
        strays.take(map_of(1), {A: stray(packed)})
        assert mover.moved.wait(10)
        mover.moved.clear()
    strays.close()
    assert [strays for _, strays in mover.moves] == [{A: stray(0)}, {A: stray(1)}]


def test_who_is_led_further_meanwhile_goes_on() -> None:
    mover = Mover()
    mover.further[A] = Moved(Entry(1, 2), is_stray=True, packed=PackedScore(9))
    with at_rest(mover) as strays:
        strays.take(map_of(1), {A: stray(1), B: stray(1)})
        strays.bring_home(Deadline.after(1))
    assert [strays for _, strays in mover.moves] == [{A: stray(1), B: stray(1)}, {A: (Entry(1, 2), PackedScore(9))}]


def test_the_queue_is_bounded_and_so_is_what_goes_together() -> None:
    mover = Mover()
    with at_rest(mover) as strays:
        for start in range(0, 20_000, 1000):
            some = {Member(number.to_bytes(4, "big")): stray(1) for number in range(start, start + 1000)}
            strays.take(map_of(1), some)
        strays.bring_home(Deadline.after(1))
    assert [len(together) for _, together in mover.moves] == [1_000] * 10


def test_closing_brings_home_who_waits() -> None:
    mover = Mover()
    with at_rest(mover) as strays:
        strays.take(map_of(1), {A: stray(1)})
        assert not mover.moves
    assert mover.moves == [(1, {A: stray(1)})]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_does_not_end_it_for_those_who_come_later() -> None:
    mover = Mover()
    mover.fails = True
    strays = StrayQueue(mover)  # type: ignore[arg-type]
    strays.take(map_of(1), {A: stray(1)})
    assert mover.moved.wait(10)
    for thread in threading.enumerate():
        if thread.name == "strays":
            thread.join(10)
    mover.moved.clear()
    mover.fails = False
    strays.take(map_of(1), {B: stray(2)})
    assert mover.moved.wait(10)
    strays.close()
