"""Deadlines: one moment, however often it is asked about."""

import time

from runtime.deadlines import Deadline


def test_a_deadline_ahead_has_time_left() -> None:
    deadline = Deadline.after(60)
    assert not deadline.passed
    assert 59 < deadline.remaining() <= 60


def test_time_left_only_shrinks() -> None:
    deadline = Deadline.after(60)
    left = [deadline.remaining() for _ in range(100)]
    assert left == sorted(left, reverse=True)


def test_a_deadline_behind_has_none_and_never_less() -> None:
    for deadline in (Deadline.after(0), Deadline.after(-5), Deadline(at=time.monotonic())):
        assert deadline.passed
        assert deadline.remaining() == 0.0


def test_it_is_a_moment_of_the_monotonic_clock() -> None:
    """Every part of a request waits for the same one; a change of the wall clock moves none of them."""
    before = time.monotonic()
    deadline = Deadline.after(1)
    assert before + 1 <= deadline.at <= time.monotonic() + 1
    assert deadline == Deadline(deadline.at)
