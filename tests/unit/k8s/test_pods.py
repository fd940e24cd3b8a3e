"""Pods are counted by name: one that is missing is a node that does not answer."""

from k8s.reconciler.loop import LONGEST_PAUSE_S, pause_after, size_of
from k8s.reconciler.pods import Pod, by_ordinal
from sharding.cluster.formation import Shape


def test_pods_come_in_the_order_of_their_ordinals():
    found = [Pod(f"redis-{place}", f"10.0.0.{place}") for place in (10, 2, 0, 1)]
    assert [pod.name for pod in by_ordinal(found, "redis", 3)] == ["redis-0", "redis-1", "redis-2", "redis-10"]


def test_pods_that_should_exist_and_do_not_have_no_address():
    assert by_ordinal([Pod("redis-1", "10.0.0.1")], "redis", 3) == [
        Pod("redis-0"),
        Pod("redis-1", "10.0.0.1"),
        Pod("redis-2"),
    ]


def test_pods_of_others_are_none_of_ours():
    found = [Pod("redis-proxy-0", "10.0.0.1"), Pod("redis-x", "10.0.0.2"), Pod("redis", "10.0.0.3")]
    assert by_ordinal(found, "redis", 1) == [Pod("redis-0")]


def test_a_statefulset_may_have_a_hyphen_in_its_name():
    assert by_ordinal([Pod("redis-proxy-0", "10.0.0.1")], "redis-proxy", 1) == [Pod("redis-proxy-0", "10.0.0.1")]


def test_a_shape_takes_its_primaries_and_their_replicas():
    assert size_of(Shape(primaries=6, replicas=2)) == 18


def test_pauses_double_up_to_a_limit():
    assert [pause_after(failures, 2.0) for failures in (1, 2, 3, 4, 1000)] == [4.0, 8.0, 16.0, 30.0, LONGEST_PAUSE_S]
