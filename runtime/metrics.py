"""What every process counts on the way to Redis and between shards, for Prometheus, and how processes count together.

Where `PROMETHEUS_MULTIPROC_DIR` names a folder, each process counts into files of its own there, and whoever is asked
adds up all of them (`everybodys`). The folder has to be named before this module is imported.

Counting costs the hot path next to nothing, because it is done once for a message to a node, or once for a call that
many submissions share, and never for each of them. Labels are bounded: nodes, and a handful of outcomes.
"""

import os
from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.multiprocess import MultiProcessCollector

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

_identity: Callable[[], object] = os.getpid


def _name_of_files() -> object:
    return _identity()


if os.environ.get(DIRECTORY):  # before the first metric is made
    values.ValueClass = values.MultiProcessValue(_name_of_files)  # type: ignore[no-untyped-call]

_MESSAGE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_TOGETHER = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)

_message_seconds = Histogram(
    "rangeboard_redis_message_seconds",
    "Time of an answered message to a Redis node: all of its calls, and their WAIT",
    ["node"],
    buckets=_MESSAGE_S,
)
_failed_calls = Counter(
    "rangeboard_redis_failed_calls",
    "Calls to Redis nodes that were not answered by a reply, by why",
    ["node", "outcome"],
)
_unconfirmed = Counter(
    "rangeboard_redis_unconfirmed_waits", "WAITs for replicas of which too few confirmed in time", ["node"]
)

coalesced_submissions = Histogram(
    "rangeboard_coalesced_submissions", "Submissions that left together in one call", buckets=_TOGETHER
)
coalescer_waiting = Gauge(
    "rangeboard_coalescer_waiting_submissions",
    "Submissions that waited when the last call left",
    multiprocess_mode="livesum",
)
strays_waiting = Gauge(
    "rangeboard_strays_gathered_players",
    "Players out of their shard's range whom processes brought home together last",
    multiprocess_mode="livesum",
)
_moves = Counter(
    "rangeboard_moves", "Players on their way to another shard, by how far one attempt brought them", ["outcome"]
)
moves_finished = _moves.labels("finished")
moves_left = _moves.labels("left")


class NodeCounts:
    """What is counted of one Redis node: the time of each message, and of calls and WAITs those that did not go well.

    Why a call failed: `turned_away`, by a redirect or a refusal; `unanswered`, the connection was lost or silent;
    `not_sent`, the node counts as down. Nearly all go well, and those cost one observation a message.
    """

    __slots__ = ("_not_sent", "_seconds", "_turned_away", "_unanswered", "_unconfirmed")

    def __init__(self, address: str) -> None:
        self._seconds = _message_seconds.labels(address)
        self._turned_away = _failed_calls.labels(address, "turned_away")
        self._unanswered = _failed_calls.labels(address, "unanswered")
        self._not_sent = _failed_calls.labels(address, "not_sent")
        self._unconfirmed = _unconfirmed.labels(address)

    def answered(self, calls: int, replies: int, seconds: float) -> None:
        """A message of so many calls came back, with replies to so many of them."""
        self._seconds.observe(seconds)
        if replies < calls:
            self._turned_away.inc(calls - replies)

    def unanswered(self, calls: int) -> None:
        """A message got lost on its way there or back."""
        self._unanswered.inc(calls)

    def not_sent(self, calls: int) -> None:
        """Calls were given up, because the node counts as down."""
        self._not_sent.inc(calls)

    def unconfirmed(self) -> None:
        """A WAIT was answered, and not by enough replicas."""
        self._unconfirmed.inc()


def everybodys() -> CollectorRegistry:
    """The counts of all processes that share the folder; without one, this process's."""
    if not os.environ.get(DIRECTORY):
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def count_as(identity: Callable[[], str]) -> None:
    """From now on this process's files are named after an identity instead of its id.

    For pools that replace their processes: the next one in the same place goes on with its predecessor's files, where
    one that counted under its id would leave files behind for ever. No two processes may have one identity at a time.
    """
    global _identity  # noqa: PLW0603  # of the process, as its id is
    _identity = identity
