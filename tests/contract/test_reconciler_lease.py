"""The lease: at most one reconciler believes to hold it, whatever the clocks show and whoever stops for how long."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from kubernetes.client import ApiException, CoordinationV1Api
from kubernetes_api import KubernetesApi

from k8s.reconciler.leases import Lease

DURATION_S = 15


class Clock:
    """A machine's monotonic clock: it starts anywhere, and its machine may stop."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with closing(KubernetesApi()) as running:
        yield running


class Candidate:
    def __init__(self, api: KubernetesApi, identity: str, clock: Clock) -> None:
        self.clock = clock
        self.lease = Lease(
            CoordinationV1Api(api.client()),
            namespace="rangeboard",
            name="reconciler",
            identity=identity,
            duration_s=DURATION_S,
            clock=clock,
        )


@pytest.fixture
def one(api: KubernetesApi) -> Candidate:
    return Candidate(api, "one", Clock(1_000_000))


@pytest.fixture
def other(api: KubernetesApi) -> Candidate:
    return Candidate(api, "other", Clock(3))


def spec(api: KubernetesApi) -> dict[str, object]:
    found: dict[str, object] = api.leases["reconciler"]["spec"]
    return found


def pass_time(seconds: float, *candidates: Candidate) -> None:
    for candidate in candidates:
        candidate.clock.now += seconds


def test_who_comes_first_holds_it(api, one, other):
    assert not one.lease.held
    assert one.lease.hold()
    assert not other.lease.hold()
    assert (one.lease.held, other.lease.held) == (True, False)
    assert spec(api)["holderIdentity"] == "one"
    assert spec(api)["leaseDurationSeconds"] == DURATION_S


def test_a_holder_that_renews_keeps_it_for_ever(api, one, other):
    for _ in range(20):
        assert one.lease.hold()
        assert not other.lease.hold()
        pass_time(DURATION_S / 2, one, other)
    assert spec(api)["leaseTransitions"] == 1, "from nobody to one"


def test_a_fresh_lease_is_not_renewed_at_every_look(api, one):
    one.lease.hold()
    asked = len(api.requests)
    pass_time(DURATION_S / 4, one)
    assert one.lease.hold()
    assert len(api.requests) == asked


def test_a_dead_holder_is_succeeded_after_the_whole_duration(api, one, other):
    one.lease.hold()
    pass_time(DURATION_S - 1, one, other)
    assert not other.lease.hold(), "it has seen the lease for no time at all"
    pass_time(DURATION_S - 1, one, other)
    assert not other.lease.hold()
    pass_time(2, one, other)
    assert other.lease.hold()
    assert spec(api)["holderIdentity"] == "other"


def test_a_holder_that_was_stopped_knows_that_its_time_is_over(one, other):
    one.lease.hold()
    other.lease.hold()
    pass_time(DURATION_S + 1, one, other)
    assert other.lease.hold()
    assert not one.lease.held
    assert not one.lease.hold()


def test_the_holder_is_never_surer_than_the_others(one, other):
    """Time by time: whenever the other may take it, the one has stopped believing."""
    one.lease.hold()
    for _ in range(DURATION_S * 4):
        pass_time(0.5, one, other)
        if other.lease.hold():
            assert not one.lease.held
            return
        assert not other.lease.held
    raise AssertionError("nobody took over")


def test_of_two_that_write_at_once_one_is_refused(api, one, other):
    """Both have read that it is free; the API lets only the first of them write."""
    one.lease.hold()
    one.lease.release()
    read = CoordinationV1Api(api.client()).read_namespaced_lease

    def read_and_be_overtaken(*args: object, **kwargs: object) -> object:
        found = read(*args, **kwargs)
        assert other.lease.hold()
        return found

    one.lease._api.read_namespaced_lease = read_and_be_overtaken
    assert not one.lease.hold()
    assert (one.lease.held, other.lease.held) == (False, True)


def test_who_gives_it_back_lets_the_other_take_it_at_once(api, one, other):
    one.lease.hold()
    assert not other.lease.hold()
    one.lease.release()
    assert not one.lease.held
    assert other.lease.hold()


def test_who_does_not_hold_it_gives_nothing_back(api, one, other):
    one.lease.hold()
    other.lease.release()
    assert spec(api)["holderIdentity"] == "one"


def test_while_the_api_is_away_the_holder_acts_until_its_time_is_over(api, one):
    one.lease.hold()
    api.down = True
    pass_time(DURATION_S / 2, one)
    with pytest.raises(ApiException):
        one.lease.hold()
    assert one.lease.held
    pass_time(DURATION_S / 2, one)
    assert not one.lease.held
