"""The result of a run as one HTML file: no scripts, no network, nothing to keep beside it.

Pure. What it shows first is the verdict; figures stand in tables under their plots, so that nobody reads them off
pixels.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape

from loadtest.ledger import Answer
from loadtest.measurements import Kind, latency_of
from loadtest.plots import STYLE, Axis, Line, bar_chart, line_chart
from loadtest.result import PERCENTILES, Result, milliseconds
from loadtest.verdict import WRITES, Outcome
from loadtest.workload import Workload

_NINES = ((0.0, "0"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %"))

_HOW_COUNTED = (
    "Counted from the time a request was due (open loop), so waiting for a free connection is part of it; the last "
    "column leaves that out."
)

_RED = 4
_MARKS = {True: '<span class="good">✓</span>', False: '<span class="bad">✗</span>'}

_STYLE = (
    STYLE
    + """body { margin:0 auto; padding:24px; max-width:1000px; background:var(--paper); color:var(--ink);
  font:15px/1.5 system-ui, sans-serif }
h1 { font-size:24px; margin:0 0 4px } h2 { font-size:17px; margin:28px 0 8px } p { margin:4px 0 }
.dim { color:var(--dim) } .good { color:var(--good) } .bad { color:var(--bad) }
.verdict { margin:16px 0; padding:12px 16px; background:var(--panel); border-left:6px solid var(--good) }
.verdict.bad { border-color:var(--bad) } .verdict, .verdict.bad { color:inherit }
.tiles { display:grid; grid-template-columns:repeat(auto-fit, minmax(136px, 1fr)); gap:12px }
.tile { background:var(--panel); padding:10px 16px }
.tile b { display:block; font-size:20px; white-space:nowrap }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums }
th, td { padding:4px 10px; text-align:right; border-bottom:1px solid var(--line) }
table + table { margin-top:16px }
th { color:var(--dim); font-weight:600 }
th:first-child, td:first-child, .words th, .words td { text-align:left; vertical-align:top }
svg { width:100%; height:auto; background:var(--panel); margin:4px 0 }
"""
)


def render(result: Result) -> str:
    """The whole page."""
    passed = result.judgement.outcome is Outcome.PASSED
    word = "Passed" if passed else result.judgement.outcome.name.capitalize().replace("_", " ")
    body = [
        "<h1>Rangeboard load test</h1>",
        _paragraph(f"{result.service} · {result.started_at:%Y-%m-%d %H:%M} UTC · run {result.scenario.run}"),
        f'<div class="verdict {"good" if passed else "bad"}"><b>{word}.</b> {escape(result.judgement.why)}</div>',
        _tiles(result),
        "<h2>Verdict</h2>",
        _criteria(result),
        "<h2>Throughput over time</h2>",
        _throughput(result),
        "<h2>Latency over time</h2>",
        _latency_over_time(result),
        "<h2>Latency percentiles</h2>",
        _paragraph(_HOW_COUNTED),
        _percentile_curves(result),
        _latencies(result),
        *_where_time_went(result),
        "<h2>Settings</h2>",
        _settings(result),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Rangeboard load test</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _tiles(result: Result) -> str:
    books = result.books
    writes = [kind for name, kind in result.kinds() if name in WRITES]
    reads = [kind for name, kind in result.kinds() if name not in WRITES]
    tiles = [
        ("submissions/s", f"{result.submissions_per_s:,.0f}"),
        ("requests/s", f"{result.requests_per_s:,.0f}"),
        ("failed requests", f"{result.measured.failed:,}"),
        ("p99 of writes", _ms(writes)),
        ("p99 of reads", _ms(reads)),
        ("anomalies", f"{sum(books.anomalies.values()):,}"),
    ]
    shown = "".join(f'<div class="tile">{name}<b>{figure}</b></div>' for name, figure in tiles)
    return f'<div class="tiles">{shown}</div>'


def _criteria(result: Result) -> str:
    books = result.books
    answers = ", ".join(f"{books.answers[answer]:,} {answer.name.lower()}" for answer in Answer)
    proof = (
        f"{books.rows:,} rows of the audit log were read, {books.unknown_counted:,} of them for unknown submissions."
        if books.rows is not None
        else "The audit log was not read: only points were compared, a weaker proof."
    )
    rows = [
        (f"{_MARKS[one.held]} {escape(one.name)}", escape(one.figure), escape(one.limit))
        for one in result.judgement.criteria
    ]
    examples = [
        (escape(finding.anomaly.value), escape(f"{finding.player} {finding.match_id}".strip()), escape(finding.detail))
        for finding in books.examples
    ]
    summary = (
        f"<p>{books.sent:,} submissions were sent for {books.matches:,} matches of {books.players:,} players: "
        f"{answers}. {proof} {books.not_durable:,} were acknowledged by a primary alone. "
        f"The books were settled {result.settled_s:.1f} s after the load.</p>"
    )
    found = _table(("anomaly", "where", "what"), examples, words=True) if examples else ""
    return summary + _table(("criterion", "found", "should be"), rows) + found


def _throughput(result: Result) -> str:
    seconds = list(result.by_second())
    answered = [(at, {name: kind.seconds[at].answered for name, kind in kinds.items()}) for at, kinds in seconds]
    failed = [(float(at), float(sum(kind.seconds[at].failed for kind in kinds.values()))) for at, kinds in seconds]
    lines = [
        Line("write requests", [(float(at), float(_sum(counts, write=True))) for at, counts in answered]),
        Line("reads", [(float(at), float(_sum(counts, write=False))) for at, counts in answered]),
        Line("failed", failed, colour=_RED),
    ]
    return line_chart("Throughput", lines, Axis("seconds"), Axis("requests/s"))


def _latency_over_time(result: Result) -> str:
    seconds = list(result.by_second())
    lines = []
    for group, write in (("writes", True), ("reads", False)):
        for percent in (50, 99):
            points = []
            for at, kinds in seconds:
                of_group = [kind for name, kind in kinds.items() if (name in WRITES) is write]
                value = latency_of(of_group, at).percentile(percent)
                if value is not None:
                    points.append((float(at), 1000 * value))
            lines.append(Line(f"{group}, p{percent}", points))
    return line_chart("Latency over time", lines, Axis("seconds"), Axis("ms", log=True))


def _percentile_curves(result: Result) -> str:
    lines = []
    for name, kind in result.kinds():
        latency = latency_of([kind])
        points = []
        for percent in (0, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99):
            value = latency.percentile(percent)
            if value is not None and latency.total * (100 - percent) >= 100:  # else it is the longest, again
                points.append((_nines(percent), 1000 * value))
        lines.append(Line(name, points))
    return line_chart("Latency percentiles", lines, Axis("percentile", ticks=_NINES), Axis("ms", log=True))


def _latencies(result: Result) -> str:
    headings = (
        "requests, ms",
        "sent",
        "failed",
        *(f"p{percent:g}" for percent in PERCENTILES),
        "longest",
        "p99 from sent",
    )
    rows = [
        (
            escape(name),
            f"{kind.answered + kind.failed:,}",
            f"{kind.failed:,}",
            *(f"{value:,.1f}" for value in milliseconds(kind)),
            f"{1000 * (kind.service.percentile(99) or 0.0):,.1f}",
        )
        for name, kind in result.kinds()
    ]
    reasons = [
        (escape(name), escape(reason), f"{count:,}")
        for name, kind in result.kinds()
        for reason, count in sorted(kind.reasons.items(), key=lambda item: -item[1])
    ]
    failures = _table(("failures", "reason", "requests"), reasons, words=True) if reasons else ""
    return _table(headings, rows) + failures


def _where_time_went(result: Result) -> Iterable[str]:
    if not result.cpu_s:
        return
    costs = sorted(result.cpu_us_per_request().items(), key=lambda item: -item[1])
    wall = result.measured.wall_s
    bars = [(part, cost, f"{cost:,.0f} µs · {result.cpu_s[part] / wall:.2f} cores") for part, cost in costs]
    yield "<h2>Where the time went</h2>"
    yield _paragraph("CPU of the parts of the service for each request of any kind, and the cores that it kept busy.")
    yield bar_chart("CPU per request", bars)


def _settings(result: Result) -> str:
    scenario, measured = result.scenario, result.measured
    generator = measured.cpu_s / measured.wall_s if measured.wall_s else 0.0
    submissions = (
        f"{scenario.submissions_per_s:,.1f}/s, {scenario.batch_share:.0%} in batches of {scenario.batch_size}; "
        f"{scenario.resend_share:.1%} sent a second time, {scenario.absurd_share:.1%} with a score to be refused"
    )
    processes = "1 process" if measured.processes == 1 else f"{measured.processes} processes"
    generated_by = (
        f"{processes} with {result.connections} connections each for writes and for reads; "
        f"{generator:.2f} cores busy; late p99 {1000 * (measured.late.percentile(99) or 0):.1f} ms"
    )
    rows = [
        ("daily players", f"{scenario.dau:,}, of whose peak a fraction of {scenario.fraction:g} was sent"),
        ("duration", f"{scenario.seconds:g} s"),
        ("players", f"{scenario.players:,} with heavy-tailed zeal"),
        ("submissions", submissions),
        ("reads", ", ".join(f"{kind} {rate:,.1f}/s" for kind, rate in scenario.read_rates.items()) or "none"),
        ("a player's day", _day(scenario.workload)),
        ("arrival", "open loop, Poisson; latency from the time a request was due"),
        ("generator", generated_by),
        ("machine", escape(result.machine)),
    ]
    return _table(("setting", "value"), rows, words=True)


def _day(workload: Workload) -> str:
    reads = ", ".join(f"{kind} {acts:g}" for kind, acts in workload.reads.items())
    return f"{workload.matches:g} matches; reads: {reads}; at the peak {workload.peak:g} times the average"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, words: bool = False) -> str:
    """Cells are HTML already."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table{' class=words' if words else ''}><tr>{head}</tr>{body}</table>"


def _paragraph(text: str) -> str:
    return f'<p class="dim">{escape(text)}</p>'


def _sum(counts: dict[str, int], *, write: bool) -> int:
    return sum(count for name, count in counts.items() if (name in WRITES) is write)


def _nines(percent: float) -> float:
    """Where a percentile stands on an axis on which each nine is as wide as the one before."""
    return -math.log10(1 - percent / 100)


def _ms(kinds: Sequence[Kind]) -> str:
    value = latency_of(kinds).percentile(99)
    if value is None:
        return "none"
    return f"{1000 * value:,.0f} ms" if value >= 1 else f"{1000 * value:,.1f} ms"
