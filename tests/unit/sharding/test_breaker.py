"""The breaker: opens after failures in a row, lets one prober through at a time, closes on success."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.cluster.breaker import FAILURES_TO_OPEN, OPEN_FOR_S, Breaker


def opened(at: float = 100.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(at)
    return breaker


def test_fewer_failures_leave_it_closed() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed(100.0)
        assert breaker.allows(100.0)
        assert not breaker.is_open


def test_only_failures_in_a_row_count() -> None:
    breaker = Breaker()
    for _ in range(10):
        breaker.failed(100.0)
        breaker.failed(100.0)
        breaker.succeeded()
    assert breaker.allows(100.0)


def test_an_open_breaker_refuses_everybody_for_a_while() -> None:
    breaker = opened(100.0)
    assert breaker.is_open
    assert not breaker.allows(100.0)
    assert not breaker.allows(100.0 + 0.99 * OPEN_FOR_S)


def test_after_that_it_lets_one_prober_through() -> None:
    breaker = opened(100.0)
    later = 100.0 + OPEN_FOR_S
    assert [breaker.allows(later) for _ in range(3)] == [True, False, False]
    assert breaker.is_open, "until the prober is back"


def test_a_prober_that_never_comes_back_is_followed_by_another() -> None:
    breaker = opened(100.0)
    assert breaker.allows(100.0 + OPEN_FOR_S)
    assert breaker.allows(100.0 + 2 * OPEN_FOR_S)


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = opened(100.0)
    assert breaker.allows(100.0 + OPEN_FOR_S)
    breaker.succeeded()
    assert not breaker.is_open
    assert all(breaker.allows(100.0 + OPEN_FOR_S) for _ in range(10))
    breaker.failed(101.0)
    assert breaker.allows(101.0), "failures are counted from the start"


def test_a_probe_that_fails_keeps_it_open() -> None:
    breaker = opened(100.0)
    later = 100.0 + OPEN_FOR_S
    assert breaker.allows(later)
    breaker.failed(later)
    assert not breaker.allows(later + 0.99 * OPEN_FOR_S)
    assert breaker.allows(later + OPEN_FOR_S)


@given(st.lists(st.tuples(st.sampled_from(["ask", "fail", "succeed"]), st.floats(0, 0.4)), max_size=60))
@settings(deadline=None)
def test_an_open_breaker_never_lets_two_through_within_its_time(acts: list[tuple[str, float]]) -> None:
    breaker, now, let_through = Breaker(), 0.0, float("-inf")
    for act, pause in acts:
        now += pause
        if act == "fail":
            breaker.failed(now)
        elif act == "succeed":
            breaker.succeeded()
            let_through = float("-inf")
        elif breaker.is_open and breaker.allows(now):
            assert now - let_through >= OPEN_FOR_S
            let_through = now
