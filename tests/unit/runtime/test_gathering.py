"""Questions asked in company: everybody gets their own answer, none older than the question, and nobody waits long."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.deadlines import Deadline
from runtime.gathering import Gathering, TooLate


def soon() -> Deadline:
    return Deadline.after(10)


class Oracle:
    """Answers with the double, once it is allowed to, and remembers who asked together."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.began = threading.Semaphore(0)
        self.may_answer = threading.Semaphore(0)

    def ask(self, about: Sequence[int], deadline: Deadline) -> list[int]:
        self.asked.append(list(about))
        self.began.release()
        assert self.may_answer.acquire(timeout=10)
        if -1 in about:
            raise ValueError("minus one")
        return [2 * number for number in about]


def waits(gathering: Gathering[int, int], count: int) -> None:
    deadline = soon()
    while len(gathering._queue) < count:
        assert not deadline.passed
        time.sleep(0.001)


def test_whoever_comes_while_a_question_is_out_leaves_in_the_next_one() -> None:
    oracle = Oracle()
    gathering = Gathering(oracle.ask)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(gathering.ask, 1, soon())
        assert oracle.began.acquire(timeout=10)
        others = [pool.submit(gathering.ask, number, soon()) for number in range(2, 12)]
        waits(gathering, 10)
        oracle.may_answer.release(2)
        assert first.result(10) == 2
        assert [other.result(10) for other in others] == [2 * number for number in range(2, 12)]
    assert oracle.asked[0] == [1]
    assert sorted(oracle.asked[1]) == list(range(2, 12)), "an answer is never older than its question"
    assert len(oracle.asked) == 2


def test_alone_nobody_waits_for_company() -> None:
    oracle = Oracle()
    oracle.may_answer.release(3)
    gathering = Gathering(oracle.ask)
    assert [gathering.ask(number, soon()) for number in (1, 2, 3)] == [2, 4, 6]
    assert oracle.asked == [[1], [2], [3]]


def test_an_error_is_told_to_all_who_asked_and_to_nobody_else() -> None:
    oracle = Oracle()
    gathering = Gathering(oracle.ask)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(gathering.ask, 1, soon())
        assert oracle.began.acquire(timeout=10)
        failing = [pool.submit(gathering.ask, number, soon()) for number in (-1, 5)]
        waits(gathering, 2)
        oracle.may_answer.release(2)
        assert first.result(10) == 2
        for asked in failing:
            with pytest.raises(ValueError, match="minus one"):
                asked.result(10)
    oracle.may_answer.release()
    assert gathering.ask(7, soon()) == 14, "the next one has a leader again"


def test_whoever_runs_out_of_time_goes_and_the_others_are_served() -> None:
    oracle = Oracle()
    gathering = Gathering(oracle.ask)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(gathering.ask, 1, soon())
        assert oracle.began.acquire(timeout=10)
        hurried = pool.submit(gathering.ask, 2, Deadline.after(0.02))
        patient = pool.submit(gathering.ask, 3, soon())
        with pytest.raises(TooLate):
            hurried.result(10)
        waits(gathering, 1)
        oracle.may_answer.release(2)
        assert (first.result(10), patient.result(10)) == (2, 6)
    assert oracle.asked == [[1], [3]]


def test_hundreds_at_once_all_get_their_own_answer() -> None:
    gathering: Gathering[int, int] = Gathering(lambda numbers, _: [number + 1 for number in numbers])
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda number: gathering.ask(number, soon()), range(2_000)))
    assert answers == list(range(1, 2_001))
