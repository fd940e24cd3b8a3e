"""Where the time goes: CPU of a stack's parts while something is measured.

What is submitted has cost its last microsecond only when it is in PostgreSQL. So the workers, PostgreSQL and the nodes
count until the outboxes are empty, the API until its last answer.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from waiting import wait_until

from cli.stack import Stack
from loadtest.processes import cpu_seconds, parts_of, spent
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, period_at

_DRAIN_S = 300.0
_STEP_S = 30.0
_NOTABLE_US, _EXACT_BELOW_US = 0.05, 100.0
#: Parts of a stack by the name of their processes, in the order of a submission's way; together what is beside it.
_PARTS = {
    "api": "API",
    "redis primaries": "primaries",
    "redis replicas": "replicas",
    "worker": "worker",
    "postgres": "PostgreSQL",
}
_BESIDE = "rest"
#: Who drains, where the draining is part of what is measured.
_DRAIN = {"worker": "drain's worker", "postgres": "drain's PostgreSQL"}
#: What the plan of capacity is about: submissions a second at the peak, and the cores of a small machine.
_PEAK, _CORES = 250_000, 2


@contextmanager
def cpu_spent(stack: Stack, drained_by: Leaderboard | None = None) -> Iterator[dict[str, float]]:
    """CPU seconds that the parts of the stack spend inside the block; `drained_by`: and until its board is drained."""
    names = _PARTS if drained_by is None else _PARTS | _DRAIN
    taken = dict.fromkeys((*names.values(), _BESIDE), 0.0)
    parts = parts_of(stack.status())
    before = cpu_seconds(parts)
    yield taken
    seconds = spent(before, cpu_seconds(parts))
    if drained_by is not None:
        _wait_until_drained(drained_by)
        seconds = spent(before, cpu_seconds(parts)) | {"api": seconds["api"]}
    for part, its in seconds.items():
        taken[names.get(part, _BESIDE)] += its


def each(taken: Mapping[str, float], units: int) -> dict[str, float]:
    """Microseconds a unit."""
    return {name: seconds / units * 1e6 for name, seconds in taken.items()}


def told(cpu_us: Mapping[str, float]) -> str:
    """Microseconds by part; what the drain's parts take is told together, too."""
    notable = {name: us for name, us in cpu_us.items() if us >= _NOTABLE_US}
    words = [f"{name} {_short(us)}" for name, us in notable.items() if name not in (*_DRAIN.values(), _BESIDE)]
    if drain := {_PARTS[part]: notable[name] for part, name in _DRAIN.items() if name in notable}:
        parts = " + ".join(f"{name} {_short(us)}" for name, us in drain.items())
        words.append(f"drain {_short(sum(drain.values()))} ({parts})")
    words += [f"{name} {_short(us)}" for name, us in notable.items() if name == _BESIDE]
    return ", ".join(words)


def _short(us: float) -> str:
    return f"{us:.1f}" if us < _EXACT_BELOW_US else f"{us:,.0f}"


def distance(cpu_us: Mapping[str, float]) -> str:
    """How far it is to the peak, in a sentence."""
    all_us = sum(cpu_us.values())
    return (
        f"A submission in a batch takes {all_us:.1f} µs of CPU on all parts ({told(cpu_us)}), the load generator not"
        f" counted: {_CORES} cores give {_CORES * 1e6 / all_us:,.0f} submissions/s at that cost, and {_PEAK:,}/s take"
        f" {_PEAK * all_us / 1e6:.1f} such cores."
    )


def _wait_until_drained(leaderboard: Leaderboard) -> None:
    name = BoardPeriod("global", period_at(PeriodKind.MONTH, datetime.now(UTC)).name)

    def is_drained() -> bool:
        shard_map = leaderboard.maps.current(name, Deadline.after(_STEP_S))
        keys = [shard_map.keys(shard) for shard in shard_map.shards()]
        return not any(leaderboard.outbox.lengths(keys, Deadline.after(_STEP_S)))

    wait_until(is_drained, _DRAIN_S, "the outboxes are empty")
