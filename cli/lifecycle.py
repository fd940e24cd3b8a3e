"""The operator's verbs for what happens to a board besides play: close it, rebuild it, compare it with its audit log.

They take long: each shows how far it is on standard error, and may be interrupted and run again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from cli.errors import StackError
from cli.operate import Target, bar_of, board_option, period_option, show, working_on
from cli.options import as_json_option, data_dir_option
from records.engine import connect
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from workers.archive import Archive
from workers.rebuild import Rebuild, Rebuilt
from workers.verify import Verdict
from workers.verify import verify as compare

_CONNECTIONS = 4
_DEADLINE_S = 10.0


@contextmanager
def _target(data_dir: Path, process: str) -> Iterator[Target]:
    """What a long job works on: with a connection for its lease besides those for its work."""
    with working_on(data_dir, process) as target:
        engine = connect(
            target.settings.postgres_dsn,
            pool_size=_CONNECTIONS,
            application_name=f"rangeboard-{process}",
            statement_timeout_ms=0,
        )
        try:
            yield Target(target.settings, engine, target.leaderboard)
        finally:
            engine.dispose()


@click.command()
@data_dir_option
@board_option
@period_option
@click.option("--due", is_flag=True, help="Archive every period that is over and is not archived, of all boards.")
@as_json_option
def archive(data_dir: Path, board: str, period: str | None, due: bool, as_json: bool) -> None:
    """Store the final ranking of a period that is over. The workers do it by themselves; again, it does nothing."""
    if due == (period is not None):
        raise StackError("Name a --period that is over, or ask for all that are --due.")
    now = datetime.now(UTC)
    with _target(data_dir, "archive") as target, bar_of("players") as report:
        job = Archive(target.leaderboard, target.engine, target.settings)
        names = job.due(now) if due else [target.board_period(board, period)]
        closed = [(name, job.close(name, now, report)) for name in names]
    told = [
        {"board": name.board, "period": name.period, **(asdict(one) if one else {"busy": True})} for name, one in closed
    ]
    lines = [
        f"{name}: somebody else is archiving it now"
        if one is None
        else f"{name}: {one.players:,} players{' (archived before)' if one.already else ''}"
        for name, one in closed
    ]
    show(told, as_json=as_json, table="\n".join(lines) or "Nothing is due.")


@click.command()
@data_dir_option
@board_option
@period_option
@click.option("--shard", type=click.IntRange(0), help="Only this shard, whose keys are lost, while the others serve.")
@click.option("--dry-run", is_flag=True, help="Tell what would come back, and change nothing.")
@click.option("--force", is_flag=True, help="Rebuild a board in use: it takes no submissions meanwhile.")
@as_json_option
def rebuild(
    data_dir: Path, board: str, period: str | None, shard: int | None, dry_run: bool, force: bool, as_json: bool
) -> None:
    """Make a board anew from the audit log: points, ranks, ties. Run it again if it was interrupted."""
    with _target(data_dir, "rebuild") as target, bar_of("players") as report:
        name = target.board_period(board, period)
        job = Rebuild(target.leaderboard, target.engine, name)
        if dry_run:
            done = job.plan() if shard is None else job.plan_shard(shard)
        elif shard is not None:
            done = job.shard(shard, report)
        else:
            done = job.whole(report, force=force)
    show(asdict(done) | {"dry_run": dry_run}, as_json=as_json, table=_rebuilt(name, done, dry_run=dry_run))


def _rebuilt(name: BoardPeriod, done: Rebuilt, *, dry_run: bool) -> str:
    what = f"{name}" if done.shard is None else f"shard {done.shard} of {name}"
    would = "would come back" if dry_run else "are back"
    return f"{what}: {done.players:,} players {would}, generation {done.generation}, map version {done.version}."


@click.command()
@data_dir_option
@board_option
@period_option
@click.option("--repair", is_flag=True, help="Set rows that differ to what the audit log says.")
@as_json_option
def verify(data_dir: Path, board: str, period: str | None, repair: bool, as_json: bool) -> None:
    """Compare every player's points in Redis with the audit log. Exit code 1 if they differ and were not repaired."""
    with _target(data_dir, "verify") as target, bar_of("players") as report:
        shard_map = target.current_map(board, period)
        rows = target.leaderboard.lifecycle.count(shard_map, Deadline.after(_DEADLINE_S))
        compared = 0

        def progress(count: int) -> None:
            nonlocal compared
            compared += count
            report(compared, rows)

        verdict = compare(target.leaderboard, target.engine, shard_map, progress, repair=repair)
    show(asdict(verdict) | {"agrees": verdict.agrees}, as_json=as_json, table=_told(verdict, shard_map.name))
    if not verdict.agrees:
        raise SystemExit(1)


def _told(verdict: Verdict, name: BoardPeriod) -> str:
    if not verdict.different and verdict.agrees:
        return f"[green]No difference[/]: {verdict.rows_in_redis:,} players, the same points in Redis and in the audit."
    lines = [
        f"[red]{verdict.different:,} players differ[/], {verdict.repaired:,} repaired",
        f"{verdict.rows_in_redis:,} rows in Redis, {verdict.players_in_audit:,} players in the audit",
    ]
    lines += [f"  {item.player}: Redis {item.in_redis}, audit {item.in_audit}" for item in verdict.differences[:20]]
    if verdict.players_in_audit != verdict.rows_in_redis and verdict.different == verdict.repaired:
        lines.append(
            "Everybody's points agree: players began to play or moved meanwhile, or one has rows in two shards:"
            f" run [bold]rangeboard scrub --board {name.board} --period {name.period}[/], which takes away the older,"
            " and verify again."
        )
    return "\n".join(lines)
