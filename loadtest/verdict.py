"""Did the run pass? The ledger first, then whether the load was there at all, then the thresholds.

A run that could not generate its load fails, and says what stood in the way: figures of a load that was not there are
worth nothing, however good they look.
"""

import math
from dataclasses import dataclass
from enum import IntEnum

from loadtest.checker import Anomaly, Verdict
from loadtest.measurements import Measurements, latency_of
from loadtest.scenario import Scenario

#: Kinds of requests that write; the others read.
WRITES = ("submit", "resend", "batch")
#: The schedule is drawn at random; beyond this many standard deviations it is not chance.
_DEVIATIONS = 6
#: Of a core: a process that computes this much of the time is late because of itself.
_BUSY = 0.9


class Outcome(IntEnum):
    """How a run ended: the exit code. 2 is left to what could not even start."""

    PASSED = 0
    LEDGER_NOT_CLEAN = 1
    THRESHOLD_MISSED = 3
    NOT_GENERATED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run must keep."""

    write_p99_ms: float = 500.0
    read_p99_ms: float = 500.0
    failed_percent: float = 0.1
    unsent_percent: float = 1.0
    late_p99_ms: float = 50.0  # of the generator itself


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing that was judged: what, whether it held, the figure, and what it should have been."""

    name: str
    held: bool
    figure: str
    limit: str
    failing: Outcome


@dataclass(frozen=True, slots=True)
class Judgement:
    """All of it. `why` is one sentence."""

    outcome: Outcome
    why: str
    criteria: tuple[Criterion, ...]


def judge(scenario: Scenario, measured: Measurements, books: Verdict, limits: Limits, processes: int) -> Judgement:
    """Judge a run that `processes` processes should have brought about."""
    criteria = (
        *_ledger(books),
        *_generation(scenario, measured, limits, processes),
        *_thresholds(measured, limits),
    )
    for outcome in (Outcome.LEDGER_NOT_CLEAN, Outcome.NOT_GENERATED, Outcome.THRESHOLD_MISSED):
        broken = [one for one in criteria if not one.held and one.failing is outcome]
        if broken:
            return Judgement(outcome, _why(outcome, broken, measured, processes), criteria)
    return Judgement(Outcome.PASSED, "The load was there, the books agree, the thresholds were kept.", criteria)


def _why(outcome: Outcome, broken: list[Criterion], measured: Measurements, processes: int) -> str:
    said = "; ".join(f"{one.name}: {one.figure}, should be {one.limit}" for one in broken)
    if outcome is Outcome.LEDGER_NOT_CLEAN:
        return f"What counts at the end is not what was sent and answered ({said})."
    if outcome is Outcome.THRESHOLD_MISSED:
        return f"Outside the limits ({said})."
    notes = "".join(f" {note}." for note in measured.notes)
    return f"The load could not be generated ({said}). {_obstacle(measured, processes)}{notes}"


def _obstacle(measured: Measurements, processes: int) -> str:
    if measured.processes < processes:
        return "A process that generates load died: --keep keeps its log."
    busy = measured.cpu_s / (measured.wall_s * measured.processes) if measured.wall_s else 0.0
    if busy > _BUSY:
        return f"The generator's processes were busy themselves ({busy:.0%} of a core each): use more of them."
    if measured.unsent:
        return (
            f"The generator had time left ({busy:.0%} of a core each): the service or the connections were the limit."
        )
    return f"The generator had little to do ({busy:.0%} of a core each): something else kept the machine's cores busy."


def _ledger(books: Verdict) -> list[Criterion]:
    found = [(anomaly.value, books.anomalies[anomaly]) for anomaly in Anomaly]
    criteria = [Criterion(name, count == 0, f"{count:,}", "0", Outcome.LEDGER_NOT_CLEAN) for name, count in found]
    return [
        *criteria,
        Criterion("submissions in the ledger", books.sent > 0, f"{books.sent:,}", "> 0", Outcome.NOT_GENERATED),
    ]


def _generation(scenario: Scenario, measured: Measurements, limits: Limits, processes: int) -> list[Criterion]:
    least = scenario.requests - _DEVIATIONS * math.sqrt(scenario.requests)
    unsent = 100 * measured.unsent / measured.due if measured.due else 100.0
    late = 1000 * (measured.late.percentile(99) or 0.0)
    return [
        Criterion(
            "generator processes",
            measured.processes == processes,
            f"{measured.processes}",
            f"{processes}",
            Outcome.NOT_GENERATED,
        ),
        Criterion(
            "requests due", measured.due >= least, f"{measured.due:,}", f"≥ {max(0, least):,.0f}", Outcome.NOT_GENERATED
        ),
        Criterion(
            "unsent",
            unsent <= limits.unsent_percent,
            f"{unsent:.2f} %",
            f"≤ {limits.unsent_percent:g} %",
            Outcome.NOT_GENERATED,
        ),
        Criterion(
            "generator late, p99",
            late <= limits.late_p99_ms,
            f"{late:.1f} ms",
            f"≤ {limits.late_p99_ms:g} ms",
            Outcome.NOT_GENERATED,
        ),
    ]


def _thresholds(measured: Measurements, limits: Limits) -> list[Criterion]:
    failed = 100 * measured.failed / measured.requests if measured.requests else 0.0
    criteria = [
        Criterion(
            "failed requests",
            failed <= limits.failed_percent,
            f"{failed:.3f} %",
            f"≤ {limits.failed_percent:g} %",
            Outcome.THRESHOLD_MISSED,
        )
    ]
    groups = (
        ("writes, p99", [kind for name, kind in measured.kinds.items() if name in WRITES], limits.write_p99_ms),
        ("reads, p99", [kind for name, kind in measured.kinds.items() if name not in WRITES], limits.read_p99_ms),
    )
    for name, kinds, limit_ms in groups:
        p99 = latency_of(kinds).percentile(99)
        if p99 is not None:
            figure = f"{1000 * p99:,.1f} ms"
            criteria.append(
                Criterion(name, 1000 * p99 <= limit_ms, figure, f"≤ {limit_ms:g} ms", Outcome.THRESHOLD_MISSED)
            )
    return criteria
