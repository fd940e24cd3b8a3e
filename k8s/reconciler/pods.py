"""The pods of the Redis StatefulSet: which there should be, and where those that exist are.

A pod keeps its name and its volume, and changes its address each time it is scheduled. So nodes are counted by name:
one whose pod is missing, waits for a machine or has just been evicted is a node that does not answer, not one less. The
plan depends on it, since a node that is silent might own the slots that nobody else claims.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kubernetes.client import CoreV1Api, V1Pod

from sharding.cluster.executor import observe
from sharding.cluster.formation import Node

REQUEST_TIMEOUT_S = 5.0
"""The longest wait for one answer of the Kubernetes API."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that exists or should; `ip` is None while it cannot be reached."""

    name: str
    ip: str | None = None


class Pods:
    """The pods of one StatefulSet."""

    def __init__(self, api: CoreV1Api, *, namespace: str, statefulset: str, selector: str) -> None:
        """`selector` is the label selector that finds them, such as `app.kubernetes.io/component=redis`."""
        self._api = api
        self._namespace = namespace
        self._statefulset = statefulset
        self._selector = selector

    def at_least(self, size: int) -> list[Pod]:
        """The pods by their ordinals, `size` of them or more, whether they exist or not.

        Raises as the API client does.
        """
        found = self._api.list_namespaced_pod(
            self._namespace, label_selector=self._selector, _request_timeout=REQUEST_TIMEOUT_S
        )
        return by_ordinal(map(_pod, found.items), self._statefulset, size)


def by_ordinal(found: Iterable[Pod], statefulset: str, size: int) -> list[Pod]:
    """The pods of the StatefulSet in the order of their ordinals, with those that should exist and do not."""
    pods = {place: Pod(f"{statefulset}-{place}") for place in range(size)}
    for pod in found:
        owner, _, ordinal = pod.name.rpartition("-")
        if owner == statefulset and ordinal.isdecimal():
            pods[int(ordinal)] = pod
    return [pods[place] for place in sorted(pods)]


def look(pods: Sequence[Pod], port: int) -> list[Node]:
    """What the Redis node of each pod says; a pod without an address is a node that does not answer."""
    answers = iter(observe(f"{pod.ip}:{port}" for pod in pods if pod.ip))
    return [next(answers) if pod.ip else Node(pod.name) for pod in pods]


def _pod(pod: V1Pod) -> Pod:
    assert pod.metadata is not None
    assert pod.metadata.name is not None, "the API names every pod"
    # An evicted pod keeps the address that it had, which may be another pod's by now.
    if pod.status is None or pod.status.phase != "Running":
        return Pod(pod.metadata.name)
    return Pod(pod.metadata.name, pod.status.pod_ip)
