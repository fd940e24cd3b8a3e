"""What a submission takes at a given share of capacity, counted from when it was due.

Capacity is what a closed loop reaches, before and after; the loads between are shares of what it was before. On a
machine that others use too it changes from minute to minute, which is why loads are shares, and why both are told.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench import load, measures, open_load
from bench.measures import Bench
from bench.open_load import OpenMeasured
from loadtest.plots import Axis, Line, line_chart, standalone

SHARES = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
#: Those that are promised, and so measured for longer: until so many requests were sent, a few of which are beyond each
#: quantile, but for so long at the most.
TOLD = (50, 80)
_LONGER = 3
_QUANTILES = (0.5, 0.99, 0.999)
REQUESTS, _LONGEST_S = 3_000, 240.0
#: A generator whose p99 of being late is more than this part of the answers' p99 is no longer out of the picture.
_NOTABLY_LATE = 0.1


@dataclass(frozen=True)
class Kind:
    """What is sent. `file`: its name in that of the picture. `closed`: connections that reach capacity, with `ready`
    requests made beforehand for each second. `most`: connections over which an open loop may send.
    """

    name: str
    file: str
    requests: Callable[[Bench], Iterator[bytes]]
    submissions: int
    closed: int
    ready: int
    most: int


SINGLE = Kind(
    "single submissions",
    "single",
    measures.single_requests,
    1,
    closed=measures.CONNECTIONS,
    ready=measures.REQUESTS_PER_S,
    most=256,
)
BATCHED = Kind(
    "batches of 500",
    "batches",
    measures.batch_requests,
    measures.BATCH,
    closed=measures.BATCH_CONNECTIONS,
    ready=measures.BATCHES_PER_S,
    most=64,
)
KINDS = (SINGLE, BATCHED)


@dataclass(frozen=True)
class Curve:
    """What was seen of one kind. Capacity is in requests a second, before and after; loads are in percent of before.

    `requests`: that those loads were to have which are told.
    """

    kind: Kind
    capacity: tuple[float, float]
    at: dict[int, OpenMeasured]
    requests: int


def measure(
    bench: Bench, kind: Kind, console: Console, shares: Sequence[int] = SHARES, requests: int = REQUESTS
) -> Curve:
    """Capacity, then every load, the lightest first, then capacity again."""
    before = _capacity(bench, kind)
    at = {}
    for share in track(shares, f"Latency of {kind.name}", console=console):
        per_s, seconds = before * share / 100, bench.seconds
        if share in TOLD:
            seconds = min(_LONGEST_S, max(_LONGER * seconds, requests / per_s))
        due = list(open_load.arrivals(per_s, seconds, random.Random(share)))
        seen = open_load.run(bench.url, kind.requests(bench), due, connections=kind.most)
        answered = len(seen.latencies) - seen.failed
        assert seen.applied == kind.submissions * answered, f"{seen.applied:,} applied in {answered:,} requests"
        at[share] = seen
    return Curve(kind, (before, _capacity(bench, kind)), at, requests)


def _capacity(bench: Bench, kind: Kind) -> float:
    ready = list(itertools.islice(kind.requests(bench), int(kind.ready * bench.seconds)))
    reached = load.run(bench.url, iter(ready), connections=kind.closed, seconds=bench.seconds)
    measures.require_applied(reached, kind.submissions)
    return reached.per_s


HEADINGS = ("what", "load", "requests", "p50 ms", "p99 ms", "p99.9 ms", "longest ms", "failed", "sent late, p99 ms")


def rows(curve: Curve, shares: Sequence[int] = TOLD) -> list[tuple[str, ...]]:
    """The table's rows: one a load."""
    return [(curve.kind.name, f"{share} %", *_figures(curve.at[share])) for share in shares]


def _figures(seen: OpenMeasured) -> tuple[str, ...]:
    requests = len(seen.latencies)
    p50, p99, p999 = (_ms(seen.quantile(share)) if _enough(seen, share) else "too few" for share in _QUANTILES)
    late = _ms(seen.late_p99) + (" (notable)" if seen.late_p99 > _NOTABLY_LATE * seen.quantile(0.99) else "")
    return f"{requests:,}", p50, p99, p999, _ms(max(seen.latencies)), f"{seen.failed:,}", late


def _enough(seen: OpenMeasured, share: float) -> bool:
    """Whether a quantile is one: of fewer requests it would be the longest under another name."""
    requests = len(seen.latencies)
    return int(share * requests) < requests - 1


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}"


def how(curve: Curve) -> str:
    """How the figures came about, in a sentence."""
    before, after = (per_s * curve.kind.submissions for per_s in curve.capacity)
    busy = max(seen.busy for seen in curve.at.values())
    return (
        f"Capacity for {curve.kind.name}, over {curve.kind.closed} connections: {before:,.0f} submissions/s before,"
        f" {after:,.0f} after. Each load of the table went on until some {curve.requests:,} requests were sent, at most"
        f" {_LONGEST_S:g} s. The generator used {busy:.2f} of a core at the most."
    )


def table(curves: Sequence[Curve]) -> Table:
    """Every load, for a person."""
    shown = Table(*HEADINGS, title="Latency from when a request was due", caption="\n".join(map(how, curves)))
    for curve in curves:
        for row in rows(curve, list(curve.at)):
            shown.add_row(*row)
    return shown


def picture(curve: Curve) -> str:
    """Latency against load, as an SVG file."""
    lines = []
    for share in _QUANTILES:
        shown = ((percent, seen) for percent, seen in curve.at.items() if _enough(seen, share))
        points = [(float(percent), 1000 * seen.quantile(share)) for percent, seen in shown]
        lines.append(Line(f"p{100 * share:g}", points))
    ticks = [(float(percent), f"{percent} %") for percent in curve.at]
    title = f"Latency of {curve.kind.name}"
    chart = line_chart(title, lines, Axis(f"load, of capacity, {curve.kind.name}", ticks=ticks), Axis("ms", log=True))
    return standalone(chart)
