"""`rangeboard scrub`: one pass over a board, now, and what it repaired."""

from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from cli.errors import StackError
from cli.operate import board_option, period_option, progress_bar, show, working_on
from cli.options import as_json_option, data_dir_option
from runtime.deadlines import Deadline
from sharding.scrub import Repairs
from workers.scrub import scrub as scrub_board

_COUNT_S = 10.0
_DEADLINE_S = 24 * 3600.0


@click.command()
@data_dir_option
@board_option
@period_option
@click.option("--players-per-s", type=click.IntRange(1), default=20_000, show_default=True, help="The most to look at.")
@as_json_option
def scrub(data_dir: Path, board: str, period: str | None, players_per_s: int, as_json: bool) -> None:
    """Look at every row and every directory entry of a board in use, and repair what does not fit together."""
    console = Console(stderr=True)
    with working_on(data_dir, "scrub") as target, progress_bar(console) as bar:
        shard_map = target.current_map(board, period)
        # Who has a row has an entry of the directory, but for those who claimed one and never submitted.
        count = target.leaderboard.lifecycle.count(shard_map, Deadline.after(_COUNT_S))
        rows, entries = bar.add_task("rows", total=count), bar.add_task("directory", total=count)

        def report(now: Repairs) -> None:
            bar.update(rows, completed=now.rows, total=max(count, now.rows))
            bar.update(entries, completed=now.entries, total=max(count, now.entries))

        done = scrub_board(
            target.leaderboard,
            target.engine,
            shard_map,
            Deadline.after(_DEADLINE_S),
            players_per_s=players_per_s,
            report=report,
        )
    if done is None:
        raise StackError("The board is being scrubbed already; try again in half a minute.")
    show(asdict(done) | {"repairs": done.total}, as_json=as_json, table=_told(done))


def _told(done: Repairs) -> str:
    looked = f"{done.rows:,} rows and {done.entries:,} directory entries"
    if done.passed_over:
        looked += f" ([red]{done.passed_over:,} batches could not be looked at[/]: the log says which)"
    if not done.total and not done.missing:
        return f"[green]Nothing to repair[/]: {looked}."
    return (
        f"[yellow]{done.total:,} repairs[/] in {looked}: {done.pointed:,} entries pointed to their rows, "
        f"{done.buried:,} ghosts buried, {done.restored:,} rows restored from the audit log, "
        f"{done.missing:,} entries of players without a submission."
    )
