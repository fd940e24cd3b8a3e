"""`python -m loadtest.run`: one load test from the first player to the verdict.

Makes the players, lets Locust send the load, waits until the audit has caught up, lets the checker compare, judges,
prints the verdict and writes one HTML report.

Exit codes: 0 passed · 1 the ledger is not clean · 2 the run could not take place · 3 a threshold was missed · 4 the
load could not be generated · 130 interrupted.
"""

import json
import os
import platform
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest import processes, screen
from loadtest.games import AuditError, Games
from loadtest.generator import GRACE_S, GeneratorError, send_load
from loadtest.ledger import DamagedLedger, read
from loadtest.report import render
from loadtest.result import Result
from loadtest.scenario import Crowd, Scenario
from loadtest.service import Service, ServiceError
from loadtest.settling import settled_books
from loadtest.verdict import Limits, Outcome, judge
from loadtest.workload import Workload

_BOARD = "global"
_LEAST_PLAYERS, _MOST_PLAYERS = 100, 20_000
_LIMITS = Limits()


class RunError(Exception):
    """The run cannot take place, in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The service under test. `dsn`: its PostgreSQL, for the checker; `parts`: its processes, if we may see them."""

    url: str
    api_key: str
    dsn: str | None = None
    parts: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is asked for on the command line, besides the target and the limits."""

    dau: int
    fraction: float
    duration: float
    players: int | None
    processes: int
    connections: int
    reads: float
    batch_share: float
    settle: float


@click.command(context_settings={"show_default": True})
@click.option("--api", "url", help="Address of the service, such as http://127.0.0.1:8080")
@click.option("--key", envvar="LOADTEST_API_KEY", show_envvar=True, help="API key with scores:write.")
@click.option("--dsn", envvar="LOADTEST_DSN", show_envvar=True, help="PostgreSQL of the service, for the checker.")
@click.option("--stack", type=click.File(), help="All of these out of `rangeboard status --json`; - reads stdin.")
@click.option("--dau", type=click.IntRange(1), default=5_000_000, help="Daily players.")
@click.option("--fraction", type=float, default=0.05, help="Of their busiest time, sent by this run.")
@click.option("--duration", type=click.FloatRange(1), default=180, help="Seconds.")
@click.option("--players", type=click.IntRange(1), help="Players to make.  [default: as many as play a day's matches]")
@click.option("--processes", type=click.IntRange(1, 64), default=1, help="Processes that generate load.")
@click.option("--connections", type=click.IntRange(1), default=32, help="Of each process, for writes and for reads.")
@click.option("--reads", type=click.FloatRange(0), default=1.0, help="Times the reads of an average player's day.")
@click.option("--batch-share", type=click.FloatRange(0, 1), default=0.5, help="Where the service takes batches.")
@click.option("--write-p99-ms", type=float, default=_LIMITS.write_p99_ms, help="Threshold.")
@click.option("--read-p99-ms", type=float, default=_LIMITS.read_p99_ms, help="Threshold.")
@click.option("--failed-percent", type=float, default=_LIMITS.failed_percent, help="Threshold.")
@click.option("--late-p99-ms", type=float, default=_LIMITS.late_p99_ms, help="Threshold for the generator itself.")
@click.option("--settle", type=float, default=60.0, help="Seconds that the audit may take to catch up.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Where to write the HTML report.")
@click.option("--keep", type=click.Path(path_type=Path), help="A new folder, for ledgers and measurements to stay in.")
def main(
    url: str | None,
    key: str | None,
    dsn: str | None,
    stack: IO[str] | None,
    report: Path | None,
    keep: Path | None,
    write_p99_ms: float,
    read_p99_ms: float,
    failed_percent: float,
    late_p99_ms: float,
    **wishes: Any,
) -> None:
    """Send the load of many players to a running service, and check afterwards that what counts is what was sent."""
    console = Console()
    limits = Limits(
        write_p99_ms=write_p99_ms, read_p99_ms=read_p99_ms, failed_percent=failed_percent, late_p99_ms=late_p99_ms
    )
    try:
        target = _target(url, key, dsn, stack)
        if report:
            report.parent.mkdir(parents=True, exist_ok=True)
            report.touch()  # better to fail before the load than after it
        with _directory(keep) as directory:
            result = run(target, Wishes(**wishes), limits, directory, console)
            screen.show(result, console)
            if report:
                report.write_text(render(result), encoding="utf-8")
                console.print(f"Report: {report}", style="cyan")
            if result.judgement.outcome is Outcome.LEDGER_NOT_CLEAN and not keep:
                console.print(f"The ledgers stay in {_kept(directory)}", style="yellow", soft_wrap=True)
    except (RunError, ServiceError, GeneratorError, AuditError, DamagedLedger, ValueError, OSError) as error:
        console.print(f"The load test cannot run: {error}", style="bold red", soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("Interrupted: no verdict.", style="yellow")
        sys.exit(130)
    sys.exit(result.judgement.outcome)


def run(target: Target, wishes: Wishes, limits: Limits, directory: Path, console: Console) -> Result:
    """One run, with its ledgers in `directory`. Raises an error that says why if it cannot take place."""
    with Service(target.url, target.api_key) as service, _progress(console) as progress:
        period = service.period()
        _same_period(period, wishes.duration + wishes.settle)
        if target.dsn:
            Games(target.dsn, _BOARD, period).close()  # better to know before the load than after it
        scenario = _scenario(service, wishes)
        crowd = Crowd(scenario.run, scenario.players)
        making = progress.add_task("players", total=scenario.players)
        service.make_players(crowd.players, scenario.run, lambda done: progress.advance(making, done))
        sending = progress.add_task("load, seconds", total=int(wishes.duration))
        started_at, before = datetime.now(UTC), processes.cpu_seconds(target.parts)
        measured = send_load(
            scenario,
            directory,
            target.url,
            target.api_key,
            processes=wishes.processes,
            connections=wishes.connections,
            elapsed=lambda seconds: progress.update(sending, completed=min(int(seconds), int(wishes.duration))),
        )
        spent = processes.spent(before, processes.cpu_seconds(target.parts))
        ended = time.monotonic()
        waiting = progress.add_task("audit rows", total=None)
        with closing(Games(target.dsn, _BOARD, period)) if target.dsn else nullcontext() as games:
            books = settled_books(
                list(read(sorted(directory.glob("*.ledger")))),
                lambda players: service.points(players, period),
                games,
                wishes.settle,
                lambda count, certain: progress.update(waiting, completed=count, total=max(count, certain)),
            )
    return Result(
        service=target.url,
        started_at=started_at,
        machine=_machine(shared=bool(target.parts)),
        scenario=scenario,
        connections=wishes.connections,
        measured=measured,
        books=books,
        judgement=judge(scenario, measured, books, limits, wishes.processes),
        cpu_s=spent,
        settled_s=time.monotonic() - ended,
    )


def _target(url: str | None, key: str | None, dsn: str | None, stack: IO[str] | None) -> Target:
    parts: Mapping[str, Sequence[int]] = {}
    if stack is not None:
        try:
            status = json.load(stack)
            parts = processes.parts_of(status)
            url, key, dsn = url or status["api_url"], key or status["api_key"], dsn or status.get("postgres_dsn")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError("--stack is not what `rangeboard status --json` prints: is the stack running?") from error
    if not url or not key:
        raise RunError("give --api and --key, or --stack")
    return Target(url=url, api_key=key, dsn=dsn, parts=parts)


def _scenario(service: Service, wishes: Wishes) -> Scenario:
    workload = Workload()
    matches = workload.submissions_per_s(wishes.dau * wishes.fraction) * wishes.duration
    return Scenario(
        run=f"load{secrets.token_hex(4)}",
        dau=wishes.dau,
        fraction=wishes.fraction,
        seconds=wishes.duration,
        # a player's day in fast motion: few enough that each plays as many matches as on a day
        players=wishes.players or min(_MOST_PLAYERS, max(_LEAST_PLAYERS, int(matches / workload.matches))),
        workload=workload,
        batch_share=wishes.batch_share if service.has("/scores:batch") else 0.0,
        reads=wishes.reads,
        lookup=service.has("/scores/lookup"),
    )


def _same_period(period: str, seconds: float) -> None:
    """RunError if a new month begins before the run is over: its points would lie on two boards."""
    end = datetime.now(UTC) + timedelta(seconds=seconds + GRACE_S)
    if f"{end:%Y-%m}" != period:
        raise RunError(f"the board of {period} ends before the run would: start it again afterwards")


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    """Where the run's files go: a folder that stays, or one that is removed."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="rangeboard-load-") as path:
            yield Path(path)
        return
    keep.mkdir(parents=True, exist_ok=True)
    if any(keep.iterdir()):
        raise RunError(f"{keep} is not empty: each run needs a folder of its own")
    yield keep


def _kept(directory: Path) -> Path:
    """A copy that outlives the run."""
    kept = Path(tempfile.mkdtemp(prefix="rangeboard-ledgers-"))
    shutil.copytree(directory, kept, dirs_exist_ok=True)
    return kept


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _machine(*, shared: bool) -> str:
    cores = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    return f"{cores}; generator and service share it" if shared else f"{cores}, for the generator"


if __name__ == "__main__":
    main()
