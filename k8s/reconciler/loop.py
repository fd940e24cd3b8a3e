"""Look, plan, take one step, look again.

One step at a time, because each changes the picture that the next one was planned on: a MEET lets nodes gossip about
others, a REPLICATE may fail over. Looking again costs milliseconds, and happens at once; only when there is nothing to
do, or every node refused, does the loop pause.

Whatever goes wrong (the API server is away, two clusters claim the same slots) is said, counted, and tried again ever
more slowly. The process ends only when it is told to.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from k8s.reconciler import metrics
from k8s.reconciler.leases import Lease
from k8s.reconciler.pods import Pods, look
from sharding.cluster.executor import LOOK_INTERVAL_S, attempt
from sharding.cluster.formation import FormationError, Node, Plan, Shape, plan

LONGEST_PAUSE_S = 30.0

log = structlog.get_logger(__name__)


def size_of(shape: Shape) -> int:
    """How many nodes a shape takes."""
    return shape.primaries * (1 + shape.replicas)


def pause_after(failures: int, interval_s: float) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(LONGEST_PAUSE_S, interval_s * 2.0 ** min(failures, 16))


class Reconciler:
    """Brings the Redis nodes in the pods of a StatefulSet into a shape, while it holds the lease."""

    def __init__(self, pods: Pods, lease: Lease, shape: Shape, *, port: int, interval_s: float) -> None:
        """`port` is the Redis port of every pod, `interval_s` the seconds between two looks at a healthy cluster."""
        self._pods = pods
        self._lease = lease
        self._shape = shape
        self._port = port
        self._interval_s = interval_s
        self._said: tuple[str, ...] | None = None  # what was waited for, as it was last logged

    def run(self, stop: threading.Event, alive: Callable[[], None] = lambda: None) -> None:
        """Reconcile until `stop` is set; `alive` is called before each look."""
        failures = 0
        while not stop.is_set():
            alive()
            try:
                pause = self.step()
                failures = 0
            except (ApiException, HTTPError, FormationError) as error:
                failures += 1
                pause = pause_after(failures, self._interval_s)
                metrics.failures.labels(type(error).__name__).inc()
                log.error("reconciliation_failed", reason=_in_short(error), again_in_s=pause)
            metrics.leading.set(self._lease.held)
            stop.wait(pause)
        self._stand_down()

    def step(self) -> float:
        """Look once and take one action, the first that is not refused; the seconds to wait until the next look."""
        if not self._lease.hold():
            self._said = None
            metrics.know_nothing()
            return self._interval_s
        nodes, wanted = self.look()
        self._report(nodes, wanted)
        for action in wanted.actions:
            if not self._lease.held:
                break
            done = attempt(action)
            metrics.actions.labels(type(action).__name__, "done" if done else "refused").inc()
            if done:
                return LOOK_INTERVAL_S
        return self._interval_s

    def look(self) -> tuple[list[Node], Plan]:
        """What is there and what it lacks. Changes nothing. Raises `FormationError`, or as the API client does."""
        pods = self._pods.at_least(size_of(self._shape))
        nodes = look(pods, self._port)
        return nodes, plan(nodes, self._shape)

    def _report(self, nodes: list[Node], wanted: Plan) -> None:
        metrics.nodes.labels("answers").set(sum(node.answers for node in nodes))
        metrics.nodes.labels("silent").set(sum(not node.answers for node in nodes))
        metrics.formed.set(wanted.done)
        if wanted.actions or wanted.waiting == self._said:
            return
        self._said = wanted.waiting
        if wanted.done:
            log.info("cluster_formed", nodes=len(nodes))
        else:
            log.info("cluster_waited_for", first=wanted.waiting[0], others=len(wanted.waiting) - 1)

    def _stand_down(self) -> None:
        try:
            self._lease.release()
        except (ApiException, HTTPError) as error:
            log.warning("lease_not_released", reason=_in_short(error))
        metrics.leading.set(False)


def touch(path: Path | None) -> Callable[[], None]:
    """A sign of life for the kubelet: the file's age is the age of the last look."""
    return path.touch if path else lambda: None


def _in_short(error: Exception) -> str:
    """The API client's message has headers and body in it, over many lines."""
    if isinstance(error, ApiException):
        return f"the Kubernetes API answers {error.status} {error.reason}"
    return str(error)
