"""Failpoints: named places at which a process can be made to die, so that what it leaves behind can be looked at.

A crash-safe sequence of steps is only believed once somebody has crashed between every two of them. Killing at random
moments seldom hits the short ones; a failpoint hits the one it names. The setting `RANGEBOARD_FAILPOINTS` lists them:

    handoff.departed=kill@0.05,handoff.arrive=raise

`kill` is SIGKILL to this very process: no handler, no `finally`, nothing flushed. `raise` raises FailpointReached, for
tests within one process. `@` gives the probability, of every time the point is reached; without it, it is 1. Where none
is set, as in any serving process, a point costs a function call and the test of an empty dict.
"""

import os
import random
import signal
from dataclasses import dataclass

_ACTIONS = ("kill", "raise")

#: Every point in the code, in the order of its work.
NAMES = (
    "write.claimed",
    *(f"handoff.{point}" for point in ("begun", "departed", "arrived", "pointed", "finished")),
    *(f"drain.{point}" for point in ("stored", "compensated")),
    *(f"erasure.{point}" for point in ("removed", "drained")),
    *(f"archive.{point}" for point in ("frozen", "drained", "copying", "copied", "recorded")),
    *(f"rebuild.{point}" for point in ("prepared", "loaded", "recorded", "published", "shard_loaded")),
    *(f"job.{point}" for point in ("taken", "working")),
)


class FailpointReached(Exception):
    """A failpoint that was set to `raise` was reached; the message is its name."""


@dataclass(frozen=True, slots=True)
class _Act:
    action: str
    probability: float


_armed: dict[str, _Act] = {}


def arm(text: str) -> None:
    """Set the failpoints of this process; an empty text takes them all away. ValueError if it is of another form."""
    acts = dict(_parse(part) for part in text.split(",") if part.strip())
    _armed.clear()
    _armed.update(acts)


def trouble(text: str) -> str:
    """What is wrong with a setting: its form, or a name that no point has; empty if nothing is."""
    try:
        names = [_parse(part)[0] for part in text.split(",") if part.strip()]
    except ValueError as error:
        return str(error)
    unknown = [name for name in names if name not in NAMES]
    return f"there is no point {unknown[0]!r}; the points are {', '.join(NAMES)}" if unknown else ""


def reach(name: str) -> None:
    """The process is at this point."""
    if _armed and (act := _armed.get(name)) is not None and random.random() < act.probability:  # noqa: S311
        if act.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise FailpointReached(name)


def _parse(part: str) -> tuple[str, _Act]:
    name, _, what = part.strip().partition("=")
    action, _, probability = what.partition("@")
    if not name or action not in _ACTIONS:
        raise ValueError(f"a failpoint is written name=kill or name=raise, with @probability at will, not {part!r}")
    try:
        return name, _Act(action, float(probability or 1))
    except ValueError:
        raise ValueError(f"the probability of a failpoint is a number, not {probability!r}") from None
