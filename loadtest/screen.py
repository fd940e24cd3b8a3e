"""The result of a run in the terminal."""

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from loadtest.ledger import Answer
from loadtest.result import PERCENTILES, Result, milliseconds
from loadtest.verdict import Outcome


def show(result: Result, console: Console) -> None:
    """Print it."""
    passed = result.judgement.outcome is Outcome.PASSED
    headline = Text("passed" if passed else result.judgement.outcome.name.lower().replace("_", " "))
    console.print(_latencies(result))
    if result.measured.failed:
        console.print(_failures(result))
    if result.cpu_s:
        console.print(_cpu(result))
    console.print(
        Panel(
            Group(_books(result), _criteria(result), Text(result.judgement.why, "green" if passed else "bold red")),
            title=headline,
            border_style="green" if passed else "red",
            expand=False,
        )
    )


def _latencies(result: Result) -> Table:
    rates = f"{result.requests_per_s:,.0f} requests/s, {result.submissions_per_s:,.0f} submissions/s"
    table = Table(title=f"{rates}; latency in ms, from when a request was due")
    table.add_column("")
    for heading in ("requests", "failed", *(f"p{percent:g}" for percent in PERCENTILES), "longest"):
        table.add_column(heading, justify="right")
    for name, kind in result.kinds():
        failed = Text(f"{kind.failed:,}", "red" if kind.failed else "green")
        figures = [f"{value:,.1f}" for value in milliseconds(kind)]
        table.add_row(name, f"{kind.answered + kind.failed:,}", failed, *figures)
    return table


def _failures(result: Result) -> Table:
    table = Table(title="failed requests")
    for heading in ("kind", "reason", "requests"):
        table.add_column(heading, justify="right" if heading == "requests" else "left")
    for name, kind in result.kinds():
        for reason, count in sorted(kind.reasons.items(), key=lambda item: -item[1]):
            table.add_row(name, Text(reason, "red"), f"{count:,}")
    return table


def _cpu(result: Result) -> Table:
    table = Table(title="where the time went")
    for heading in ("part", "cores busy", "µs CPU / request"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for part, cost in sorted(result.cpu_us_per_request().items(), key=lambda item: -item[1]):
        table.add_row(part, f"{result.cpu_s[part] / result.measured.wall_s:.2f}", f"{cost:,.0f}")
    return table


def _books(result: Result) -> RenderableType:
    books = result.books
    answers = ", ".join(f"{books.answers[answer]:,} {answer.name.lower()}" for answer in Answer)
    text = f"{books.sent:,} submissions sent for {books.matches:,} matches of {books.players:,} players: {answers}"
    if books.not_durable:
        text += f"\n{books.not_durable:,} of the acknowledged ones only by a primary"
    if books.rows is None:
        text += "\nwithout the audit log: points only, a weaker proof (give --dsn)"
    else:
        text += f"\n{books.rows:,} rows in the audit log, {books.unknown_counted:,} of them for unknown ones"
    return Text(f"{text}\nthe books were settled {result.settled_s:.1f} s after the load", "dim")


def _criteria(result: Result) -> Table:
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "left", "right", "left"):
        table.add_column(justify=justify)
    for criterion in result.judgement.criteria:
        mark = Text("✓", "green") if criterion.held else Text("✗", "bold red")
        table.add_row(mark, criterion.name, criterion.figure, Text(criterion.limit, "dim"))
    for finding in result.books.examples:
        where = f"{finding.player} {finding.match_id}".strip()
        table.add_row(Text("✗", "red"), Text(finding.anomaly.value, "red"), where, finding.detail)
    return table
