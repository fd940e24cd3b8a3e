"""`make bench`: a stack of its own, several rounds of every measure beside its floor, medians, a table.

    PYTHONPATH=tests python -m bench --seconds 5 --rounds 3 --write
    PYTHONPATH=tests python -m bench --latency --seconds 6 --write
    PYTHONPATH=tests python -m bench --growth 10000000 --write
    PYTHONPATH=tests python -m bench --memory 1000000 10000000 --write
    PYTHONPATH=tests python -m bench --worker-memory 500000 --write

`--write` puts the tables into docs/benchmarks.md, between the marks that stand there for each, and pictures beside it.
Whatever was submitted is compared with the audit log at the end; a difference is an error.
On a machine that others use too, only ratios mean something: ours and the floor are measured right after each other.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass

import msgspec
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench import cpu, growth, latency, measures, memory, moves, upkeep, worker_memory
from bench.checks import check
from bench.document import PAGE, machine, write
from bench.measures import Bench, Pair
from bench.population import Population, settle
from bench.write_function import write_function
from cli.options import settings_of_command
from cli.temporary import temporary_stack
from records.engine import connect
from runtime.settings import Settings
from sharding.leaderboard import Leaderboard

#: A win of one point takes about one player in forty out of a shard's range then, as in the middle of a month.
_MEDIAN_POINTS = 210
#: A load generator that needed more of a core than this may itself be what was measured.
_TOO_BUSY = 0.8


@dataclass(frozen=True)
class Line:
    """A row of the table: what is measured, its unit, its floor, and the ratio to reach.

    `below`: what is said below the table, from the CPU of its parts.
    """

    what: str
    unit: str
    floor: str
    target: float
    measure: Callable[[Bench], Pair]
    below: Callable[[Mapping[str, float]], str] | None = None


LINES = [
    Line("`POST /scores`, 64 connections", "requests/s", "bare Flask route", 0.85, measures.submissions),
    Line(
        "`POST /scores:batch` of 500",
        "submissions/s",
        "pipelined `ZINCRBY`, one node",
        0.5,
        measures.batches,
        below=cpu.distance,
    ),
    Line("write function, batches of 100", "submissions/s of server time", "`ZINCRBY`", 1.3, write_function),
    Line("exact rank over 16 shards, 64 connections", "requests/s", "bare Flask route", 0.6, measures.standings),
    Line("range move", "players/s", "what is promised", 1.0, moves.range_move),
    Line(
        "`POST /scores` while a range moves gently, 8 connections",
        "requests/s",
        "just before",
        0.5,
        moves.writes_meanwhile,
    ),
    Line("top 10, 64 connections", "requests/s", "bare Flask route", 0.9, measures.tops),
    Line("audit drain", "rows/s", "`COPY` + `INSERT`", 0.6, upkeep.drain),
    Line("rebuild, 5 games a player", "games/s", "`COPY` + `INSERT`", 0.4, upkeep.rebuild),
    Line("archive", "rows/s", "`COPY` + `INSERT`", 0.4, upkeep.archive),
]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--players", type=int, default=1_000_000, help="on the board")
    ask.add_argument("--playing", type=int, default=100_000, help="of them, and known to the process; at most all")
    ask.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--workers", type=int, default=1, help="of the API, and of the floor")
    ask.add_argument("--only", default="", help="measure what has this in its name")
    ask.add_argument("--latency", action="store_true", help="only: latency at shares of capacity")
    ask.add_argument("--growth", type=int, default=0, metavar="PLAYERS", help="only: calls on a board of that size")
    ask.add_argument("--memory", type=int, nargs="+", default=[], metavar="PLAYERS", help="only: bytes a player")
    ask.add_argument("--worker-memory", type=int, default=0, metavar="PLAYERS", help="only: workers on such a board")
    ask.add_argument("--calls", type=int, default=1_000, help="of each kind, for --growth")
    ask.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    wanted = ask.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    given = settings_of_command("bench")
    if wanted.growth:
        _grow(given, wanted, console)
    elif wanted.memory:
        _weigh(given, wanted, console)
    elif wanted.worker_memory:
        _weigh_workers(given, wanted, console)
    elif wanted.latency:
        _time(given, wanted, console)
    else:
        _compare(given, wanted, console)


@contextmanager
def seeded(given: Settings, wanted: argparse.Namespace, console: Console) -> Iterator[Bench]:
    """A stack with players who have played, and the floor beside it. At the end board and audit log must agree."""
    settings = msgspec.structs.replace(given, median_points=_MEDIAN_POINTS, api_workers=wanted.workers)
    with (
        temporary_stack(settings) as stack,
        measures.floor_server(wanted.workers) as floor_url,
        closing(Leaderboard.connect(stack.settings, known_players=lambda _, players: players)) as leaderboard,
    ):
        engine = connect(stack.settings.postgres_dsn, statement_timeout_ms=0)
        console.print(f"Settling {wanted.players:,} players …")
        playing = min(wanted.playing, wanted.players)
        population = Population(wanted.players, playing, settings.median_points, settings.points_sigma)
        begun = time.monotonic()
        settle(engine, leaderboard, population)
        console.print(f"They are on the board after {time.monotonic() - begun:.0f} s.")
        players = [one.player for one in population.who_play()]
        with closing(Bench(stack, leaderboard, population, players, floor_url, wanted.seconds)) as bench:
            bench.wait_until_nodes_rest()
            measures.warm_up(bench, wanted.workers)
            yield bench
        verdict = check(leaderboard, engine)
        console.print(f"No difference between board and audit log: {verdict.rows_in_redis:,} players.")
        engine.dispose()


def _compare(given: Settings, wanted: argparse.Namespace, console: Console) -> None:
    lines = [line for line in LINES if wanted.only in line.what]
    with seeded(given, wanted, console) as bench:
        rounds = [
            [_measured(line, bench, console) for line in lines]
            for _ in track(range(wanted.rounds), "Measuring", console=console)
        ]
    results = [list(pairs) for pairs in zip(*rounds, strict=True)]
    below = _below(lines, results)
    console.print(_table(lines, results))
    for sentence in below:
        console.print(sentence)
    if wanted.write:
        how = (
            f"Medians of {wanted.rounds} rounds of {wanted.seconds:g} s, {wanted.players:,} players on the board, and"
            f" {min(wanted.playing, wanted.players):,} of them play,"
            f" {wanted.workers} API worker(s) and as many for the bare route. {machine()}"
        )
        write("figures", how, HEADINGS, _rows(lines, results), below=below)


def _measured(line: Line, bench: Bench, console: Console) -> Pair:
    begun = time.monotonic()
    pair = line.measure(bench)
    took = time.monotonic() - begun
    console.print(f"{line.what}: {pair.ours:,.0f} beside {pair.floor:,.0f} ({took:.0f} s)")
    return pair


def _time(given: Settings, wanted: argparse.Namespace, console: Console) -> None:
    kinds = [kind for kind in latency.KINDS if wanted.only in kind.name]
    with seeded(given, wanted, console) as bench:
        curves = [latency.measure(bench, kind, console) for kind in kinds]
    console.print(latency.table(curves))
    if wanted.write:
        for curve in curves:
            picture = PAGE.with_name(f"latency-{curve.kind.file}.svg")
            picture.write_text(latency.picture(curve))
            how = (
                f"![Latency of {curve.kind.name} against load]({picture.name})\n\n{latency.how(curve)}"
                f" {wanted.players:,} players on the board, {wanted.workers} API worker(s). {machine()}"
            )
            write(f"latency of {curve.kind.name}", how, latency.HEADINGS, latency.rows(curve))


def _weigh(given: Settings, wanted: argparse.Namespace, console: Console) -> None:
    boards = [memory.measure(given, players, memory.GAMES, console) for players in wanted.memory]
    console.print(memory.table(boards))
    if wanted.write:
        how = f"Primaries only, after {memory.GAMES:,} games of random players that nothing has drained. {machine()}"
        write("memory", how, memory.headings(boards), memory.rows(boards))


def _weigh_workers(given: Settings, wanted: argparse.Namespace, console: Console) -> None:
    small, large = wanted.worker_memory // 10, wanted.worker_memory
    low, high = (worker_memory.measure(given, players, console) for players in (small, large))
    rows = worker_memory.rows(small, low, large, high)
    table = Table(*worker_memory.HEADINGS, title="Memory of a worker")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if wanted.write:
        write("memory of a worker", f"Resident memory of the process. {machine()}", worker_memory.HEADINGS, rows)


def _grow(given: Settings, wanted: argparse.Namespace, console: Console) -> None:
    small, large = growth.measure(given, wanted.growth, wanted.calls, console)
    console.print(growth.table(small, large))
    if wanted.write:
        how = (
            f"One call after the other over one connection, {wanted.calls:,} of each kind: {small.players:,} players in"
            f" the first two columns, {large.players:,} in the next two, which took {large.bytes_a_player:.0f} bytes"
            f" each of the primaries' memory. {machine()}"
        )
        write("growth", how, growth.HEADINGS, growth.rows(small, large))


def _rows(lines: list[Line], results: list[list[Pair]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for line, pairs in zip(lines, results, strict=True):
        ratios = sorted(pair.ratio for pair in pairs)
        ratio = statistics.median(ratios)
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        ours, floor = statistics.median(pair.ours for pair in pairs), statistics.median(pair.floor for pair in pairs)
        p50_ms, p99_ms = (statistics.median(getattr(pair, which) for pair in pairs) for which in ("p50_ms", "p99_ms"))
        latency = f"{p50_ms:.1f} / {p99_ms:.1f}" if p50_ms else ""
        if floor_p99_ms := statistics.median(pair.floor_p99_ms for pair in pairs):
            latency += f" (p99 of the floor {floor_p99_ms:.1f})"
        rows.append(
            (
                line.what,
                f"{ours:,.0f}",
                f"{floor:,.0f}",
                f"{ratio:.2f}",
                spread,
                f"≥ {line.target}",
                latency,
                cpu.told(_cpu(pairs)),
                _driver(pairs),
            )
        )
    return rows


def _cpu(pairs: list[Pair]) -> dict[str, float]:
    """Of each part, the median of all rounds."""
    return {part: statistics.median(pair.cpu_us[part] for pair in pairs) for part in pairs[0].cpu_us}


def _driver(pairs: list[Pair]) -> str:
    most = max(pair.driver for pair in pairs)
    if not most:
        return ""
    return f"{most:.2f}" + (" (**too busy**)" if most > _TOO_BUSY else "")


def _below(lines: list[Line], results: list[list[Pair]]) -> list[str]:
    return [line.below(_cpu(pairs)) for line, pairs in zip(lines, results, strict=True) if line.below is not None]


HEADINGS = (
    "what", "ours", "floor", "ratio", "spread", "target", "p50 / p99 ms", "CPU µs each, by part",
    "generator, of a core",
)  # fmt: skip


def _table(lines: list[Line], results: list[list[Pair]]) -> Table:
    table = Table(*HEADINGS, title="Benchmarks")
    for row, line in zip(_rows(lines, results), lines, strict=True):
        reached = float(row[3]) >= line.target
        colour = "green" if reached else "yellow"
        table.add_row(*row[:3], f"[{colour}]{row[3]}[/]", *row[4:])
    return table


if __name__ == "__main__":
    main()
