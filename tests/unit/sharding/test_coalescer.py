"""Group commit: in order, bounded, and nobody is stranded by somebody else's crash, deadline or interruption."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pytest
from waiting import wait_until

from runtime.deadlines import Deadline
from sharding.coalescer import Coalescer
from sharding.errors import LeaderboardError, Outcome, Overloaded, ShardOutcomeUnknown, ShardUnavailable
from sharding.players import PlayerId
from sharding.submissions import Status, Submission
from sharding.writer import Written

LONG_S = 20.0
T = TypeVar("T")


def numbered(number: int, player: str = "ann") -> Submission:
    return Submission(PlayerId(player), number, f"m{number}")


def applied(submissions: Sequence[Submission]) -> list[Written]:
    return [Written(Status.APPLIED, submission.value) for submission in submissions]


def alone(coalescer: Coalescer, submission: Submission, deadline: Deadline) -> Written:
    [written] = coalescer.submit([submission], deadline)
    return written


class Gate:
    """A write that goes on only when let through, and what it was asked to write, in numbers."""

    def __init__(self, write: Callable[[Sequence[Submission]], Sequence[Written]] = applied) -> None:
        self.calls: list[list[int]] = []
        self.deadlines: list[Deadline] = []
        self._write = write
        self._permits = threading.Semaphore(0)

    def __call__(self, submissions: Sequence[Submission], deadline: Deadline) -> Sequence[Written]:
        self.calls.append([submission.value for submission in submissions])
        self.deadlines.append(deadline)
        assert self._permits.acquire(timeout=LONG_S)
        return self._write(submissions)

    def let_through(self, calls: int = 1) -> None:
        self._permits.release(calls)


class Office:
    """A coalescer behind a gate, with submitters that arrive one after the other."""

    def __init__(self, pool: ThreadPoolExecutor, gate: Gate, most_waiting: int = 100, most_together: int = 500) -> None:
        self.gate = gate
        self.coalescer = Coalescer(gate, most_together=most_together, most_waiting=most_waiting)
        self._pool = pool

    @property
    def waiting(self) -> int:
        return self.coalescer.waiting

    def submit(self, number: int, deadline: Deadline | None = None) -> "Future[Written]":
        """Submit in another thread; on return it is in a call or in the queue."""
        return self._arrive(lambda: alone(self.coalescer, numbered(number), deadline or Deadline.after(LONG_S)))

    def submit_batch(self, numbers: Sequence[int], deadline: Deadline | None = None) -> "Future[list[Written]]":
        """The same, of many in one request."""
        batch = [numbered(number) for number in numbers]
        return self._arrive(lambda: self.coalescer.submit(batch, deadline or Deadline.after(LONG_S)))

    def _arrive(self, submit: Callable[[], T]) -> "Future[T]":
        waiting, calls = self.waiting, len(self.gate.calls)
        future = self._pool.submit(submit)
        wait_until(lambda: self.waiting > waiting or len(self.gate.calls) > calls or future.done())
        return future

    def assert_at_rest(self) -> None:
        assert self.waiting == 0
        self.gate.let_through()
        assert alone(self.coalescer, numbered(999), Deadline.after(LONG_S)).points == 999
        assert self.gate.calls[-1] == [999], "the next one finds nobody in the lead and leaves at once"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as executor:
        yield executor


# -- together


def test_alone_it_leaves_at_once(pool: ThreadPoolExecutor) -> None:
    office = Office(pool, Gate())
    office.assert_at_rest()
    assert office.gate.calls == [[999]]


def test_those_who_come_while_a_call_is_in_flight_leave_together_in_order(pool: ThreadPoolExecutor) -> None:
    office = Office(pool, Gate())
    futures = [office.submit(number) for number in range(11)]
    assert office.gate.calls == [[0]]
    office.gate.let_through(2)
    assert [future.result().points for future in futures] == list(range(11)), "everybody gets their own answer"
    assert office.gate.calls == [[0], list(range(1, 11))]
    office.assert_at_rest()


def test_a_call_carries_so_many_and_no_more(pool: ThreadPoolExecutor) -> None:
    office = Office(pool, Gate(), most_together=4)
    futures = [office.submit(number) for number in range(10)]
    office.gate.let_through(4)
    assert [future.result().points for future in futures] == list(range(10))
    assert office.gate.calls == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]
    office.assert_at_rest()


def test_a_full_queue_refuses_and_changes_nothing(pool: ThreadPoolExecutor) -> None:
    office = Office(pool, Gate(), most_waiting=3)
    futures = [office.submit(number) for number in range(4)]  # one in flight, three waiting
    with pytest.raises(Overloaded) as refused:
        alone(office.coalescer, numbered(4), Deadline.after(LONG_S))
    assert refused.value.outcome is Outcome.NOT_APPLIED
    office.gate.let_through(2)
    assert [future.result().points for future in futures] == [0, 1, 2, 3]
    assert office.gate.calls == [[0], [1, 2, 3]]
    office.assert_at_rest()


# -- batches


def points_of(batch: "Future[list[Written]]") -> list[int | None]:
    return [written.points for written in batch.result(LONG_S)]


def test_batches_leave_together_and_each_gets_its_own_results_in_order(pool: ThreadPoolExecutor) -> None:
    office = Office(pool, Gate())
    first, alone, second = office.submit_batch([1, 2, 3]), office.submit(4), office.submit_batch([5, 6])
    office.gate.let_through(2)
    assert (points_of(first), points_of(second), alone.result().points) == ([1, 2, 3], [5, 6], 4)
    assert office.gate.calls == [[1, 2, 3], [4, 5, 6]]
    office.assert_at_rest()


def test_a_batch_of_nothing_is_answered_by_nothing(pool: ThreadPoolExecutor) -> None:
    office = Office(pool, Gate())
    assert office.coalescer.submit([], Deadline.after(LONG_S)) == []
    office.assert_at_rest()


def test_a_large_batch_leaves_in_parts_and_others_have_a_turn_in_between(pool: ThreadPoolExecutor) -> None:
    office = Office(pool, Gate(), most_together=4)
    large = office.submit_batch(range(1, 11))
    small, single = office.submit_batch([21, 22]), office.submit(31)
    office.gate.let_through(4)
    assert (points_of(large), points_of(small), single.result().points) == (list(range(1, 11)), [21, 22], 31)
    assert office.gate.calls == [[1, 2, 3, 4], [5, 6, 7, 8], [21, 22, 31, 9], [10]]
    office.assert_at_rest()


def test_a_full_queue_refuses_a_batch_as_a_whole(pool: ThreadPoolExecutor) -> None:
    """The bound counts submissions, and what does not fit is not begun."""
    office = Office(pool, Gate(), most_waiting=5)
    flying, waiting = office.submit(0), office.submit_batch([1, 2, 3, 4])
    with pytest.raises(Overloaded) as refused:
        office.coalescer.submit([numbered(5), numbered(6)], Deadline.after(LONG_S))
    assert refused.value.outcome is Outcome.NOT_APPLIED
    fits = office.submit(7)
    office.gate.let_through(2)
    assert (flying.result().points, points_of(waiting), fits.result().points) == (0, [1, 2, 3, 4], 7)
    assert office.gate.calls == [[0], [1, 2, 3, 4, 7]]
    office.assert_at_rest()


def test_a_batch_larger_than_the_queue_is_taken_where_nobody_waits(pool: ThreadPoolExecutor) -> None:
    office = Office(pool, Gate(), most_waiting=2, most_together=2)
    large = office.submit_batch([1, 2, 3, 4, 5])
    with pytest.raises(Overloaded):
        alone(office.coalescer, numbered(6), Deadline.after(LONG_S))
    office.gate.let_through(3)
    assert points_of(large) == [1, 2, 3, 4, 5]
    office.assert_at_rest()


def test_of_a_batch_that_runs_out_of_time_each_is_told_what_became_of_it(pool: ThreadPoolExecutor) -> None:
    """Those that left in time are applied, and those that did not are not, and never sent afterwards."""
    office = Office(pool, Gate(), most_together=2)
    deadline = Deadline.after(1)
    batch = office.submit_batch([1, 2, 3, 4], deadline)
    wait_until(lambda: deadline.passed)
    office.gate.let_through()
    assert [written.status for written in batch.result(LONG_S)] == [Status.APPLIED] * 2 + [Status.REFUSED] * 2
    assert all(w.error is not None and w.error.outcome is Outcome.NOT_APPLIED for w in batch.result()[2:])
    assert office.gate.calls == [[1, 2]]
    office.assert_at_rest()


def test_a_batch_that_is_out_of_time_in_anothers_call_is_unknown(pool: ThreadPoolExecutor) -> None:
    office = Office(pool, Gate())
    first = office.submit(0)
    hasty, patient = office.submit_batch([1, 2], Deadline.after(1)), office.submit_batch([3, 4])
    office.gate.let_through()
    assert first.result().points == 0
    assert [written.status for written in hasty.result(LONG_S)] == [Status.UNKNOWN] * 2
    office.gate.let_through()
    assert points_of(patient) == [3, 4]
    assert office.gate.calls == [[0], [1, 2, 3, 4]]
    office.assert_at_rest()


def test_a_crash_costs_a_batch_only_the_part_that_was_in_the_call(pool: ThreadPoolExecutor) -> None:
    """Somebody else's crash: what was in that call is unknown, and the rest is written."""
    crashes = iter([False, True])

    def write(submissions: Sequence[Submission]) -> Sequence[Written]:
        if next(crashes, False):
            raise RuntimeError
        return applied(submissions)

    office = Office(pool, Gate(write), most_together=3)
    first = office.submit(0)
    leader = office.submit(1, Deadline.after(2 * LONG_S))
    batch = office.submit_batch([2, 3, 4, 5])
    office.gate.let_through(3)
    assert first.result().points == 0
    assert isinstance(leader.exception(LONG_S), RuntimeError)
    assert [written.status for written in batch.result(LONG_S)] == [Status.UNKNOWN] * 2 + [Status.APPLIED] * 2
    assert office.gate.calls == [[0], [1, 2, 3], [4, 5]]
    office.assert_at_rest()


# -- crashes


class Crash(BaseException):
    """What a worker's timeout raises: no Exception."""


@pytest.mark.parametrize("kind", [RuntimeError, Crash])
def test_a_crash_in_the_lead_strands_nobody(pool: ThreadPoolExecutor, kind: type[BaseException]) -> None:
    """It goes to the leader; those in the same call learn that their outcome is unknown; the next are served."""
    crashes = iter([False, True])

    def write(submissions: Sequence[Submission]) -> Sequence[Written]:
        if next(crashes, False):
            raise kind
        return applied(submissions)

    office = Office(pool, Gate(write))
    first, together = office.submit(0), [office.submit(number) for number in (1, 2, 3)]
    office.gate.let_through()
    assert first.result().points == 0
    wait_until(lambda: len(office.gate.calls) == 2)
    later = [office.submit(number) for number in (4, 5)]
    office.gate.let_through(2)
    outcomes = [future.exception() or future.result().status for future in together]
    assert [type(outcome) for outcome in outcomes].count(kind) == 1
    assert outcomes.count(Status.UNKNOWN) == 2
    assert [future.result().points for future in later] == [4, 5]
    office.assert_at_rest()


@pytest.mark.parametrize("error", [ShardUnavailable, ShardOutcomeUnknown])
def test_a_definite_error_is_definite_for_all(pool: ThreadPoolExecutor, error: type[LeaderboardError]) -> None:
    """The map cannot be read, say: nothing was sent, and nobody need wonder."""
    fails = iter([False, True])

    def write(submissions: Sequence[Submission]) -> Sequence[Written]:
        if next(fails, False):
            raise error
        return applied(submissions)

    office = Office(pool, Gate(write))
    first, together = office.submit(0), [office.submit(number) for number in (1, 2, 3)]
    office.gate.let_through(2)
    assert first.result().points == 0
    told = [future.exception() or future.result().error for future in together]
    assert [type(one) for one in told] == [error] * 3
    office.assert_at_rest()


def test_an_interrupted_waiter_leaves_the_queue_and_hands_on_the_lead(pool: ThreadPoolExecutor) -> None:
    """A greenlet's timeout or a signal may end the wait at any moment; the lead must not go to somebody who is gone."""

    def interrupt(*_: object) -> None:
        raise Crash

    office = Office(pool, Gate())
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        first = office.submit(0)

        def interrupt_me_and_go_on() -> "Future[Written]":
            wait_until(lambda: office.waiting == 1)
            behind = office.submit(2)
            os.kill(os.getpid(), signal.SIGUSR1)
            return behind

        helper = pool.submit(interrupt_me_and_go_on)
        with pytest.raises(Crash):
            alone(office.coalescer, numbered(1), Deadline.after(LONG_S))
    finally:
        signal.signal(signal.SIGUSR1, before)
    office.gate.let_through(2)
    assert first.result().points == 0
    assert helper.result().result().points == 2
    assert office.gate.calls == [[0], [2]]
    office.assert_at_rest()


# -- deadlines


def test_out_of_time_in_the_queue_means_not_applied(pool: ThreadPoolExecutor) -> None:
    office = Office(pool, Gate())
    first = office.submit(0)
    late = alone(office.coalescer, numbered(1), Deadline.after(0.05))
    assert late.status is Status.REFUSED
    assert late.error is not None
    assert late.error.outcome is Outcome.NOT_APPLIED
    office.gate.let_through()
    assert first.result().points == 0
    assert office.gate.calls == [[0]], "and so it was: it is never sent afterwards"
    office.assert_at_rest()


def test_out_of_time_in_a_call_means_unknown(pool: ThreadPoolExecutor) -> None:
    office = Office(pool, Gate())
    first = office.submit(0)
    hasty = office.submit(1, Deadline.after(1))
    patient = office.submit(2)
    office.gate.let_through()
    assert first.result().points == 0
    assert hasty.result().status is Status.UNKNOWN
    office.gate.let_through()
    assert patient.result().points == 2
    assert office.gate.calls == [[0], [1, 2]]
    office.assert_at_rest()


@pytest.mark.parametrize("hasty_first", [True, False])
def test_nobody_is_cut_short_by_another_ones_deadline(pool: ThreadPoolExecutor, hasty_first: bool) -> None:
    """A call has the time of the most patient in it: under load the eldest has next to none left."""
    office = Office(pool, Gate())
    first = office.submit(0)
    deadlines = [Deadline.after(2), Deadline.after(LONG_S)]
    if not hasty_first:
        deadlines.reverse()
    futures = [office.submit(1, deadlines[0]), office.submit(2, deadlines[1])]
    office.gate.let_through(2)
    assert [future.result().points for future in (first, *futures)] == [0, 1, 2]
    assert office.gate.calls == [[0], [1, 2]], "in the order of arrival all the same"
    assert office.gate.deadlines[1] == max(deadlines, key=lambda deadline: deadline.at)


def test_without_any_time_nothing_is_sent(pool: ThreadPoolExecutor) -> None:
    office = Office(pool, Gate())
    assert alone(office.coalescer, numbered(0), Deadline.after(0)).status is Status.REFUSED
    assert office.gate.calls == []
    office.assert_at_rest()


def test_everybody_out_of_time_leaves_nothing_behind(pool: ThreadPoolExecutor) -> None:
    office = Office(pool, Gate())
    first = office.submit(0)
    late = [office.submit(number, Deadline.after(0.05)) for number in range(1, 20)]
    assert {future.result().status for future in late} == {Status.REFUSED}
    office.gate.let_through()
    assert first.result().points == 0
    office.assert_at_rest()


# -- all of it at once


@pytest.mark.parametrize(("size", "most_together"), [(1, 500), (3, 500), (3, 7)])
def test_many_threads_lose_neither_wake_ups_nor_order(pool: ThreadPoolExecutor, size: int, most_together: int) -> None:
    """Some calls crash, some submitters have no time: every one is answered, and truly."""
    written: list[Submission] = []
    crashing = random.Random(1)

    def write(submissions: Sequence[Submission], deadline: Deadline) -> Sequence[Written]:
        time.sleep(crashing.random() * 0.002)
        if crashing.random() < 0.05:
            raise RuntimeError
        written.extend(submissions)
        return applied(submissions)

    coalescer = Coalescer(write, most_together=most_together, most_waiting=20 * size)

    def submit_many(thread: int) -> list[tuple[int, str]]:
        patience = random.Random(thread)
        outcomes = []
        for first in range(0, 150, size):
            seconds = LONG_S if patience.random() < 0.9 else patience.random() * 0.002
            numbers = range(first, first + size)
            batch = [numbered(number, f"p{thread}") for number in numbers]
            try:
                told = [one.status.value for one in coalescer.submit(batch, Deadline.after(seconds))]
            except (RuntimeError, Overloaded) as error:
                told = [type(error).__name__] * size
            outcomes += zip(numbers, told, strict=True)
        return outcomes

    began = time.monotonic()
    told = {f"p{thread}": outcomes for thread, outcomes in enumerate(pool.map(submit_many, range(24)))}
    assert time.monotonic() - began < LONG_S, "nobody slept through a wake-up until the deadline"
    done = [(submission.player, submission.value) for submission in written]
    assert len(set(done)) == len(done)
    for player, outcomes in told.items():
        mine = [number for who, number in done if who == player]
        assert mine == sorted(mine), "one player's submissions stay in order"
        by_outcome: dict[str, set[int]] = {}
        for number, outcome in outcomes:
            by_outcome.setdefault(outcome, set()).add(number)
        assert by_outcome.get("applied", set()) <= set(mine)
        assert not by_outcome.get("refused", set()) & set(mine)
        assert not by_outcome.get("Overloaded", set()) & set(mine)
        # A crash may come to the leader of a batch of which a part was written before.
        assert size > 1 or not by_outcome.get("RuntimeError", set()) & set(mine)
    assert {outcome for outcomes in told.values() for _, outcome in outcomes} >= {
        "applied",
        "RuntimeError",
        "Overloaded",
    }
    assert not coalescer._queue
    assert not coalescer._has_leader
