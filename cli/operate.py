"""The operator's verbs: they work on the stack of a data directory, or on the servers that the settings name.

Each does its work through the functions that the API and the workers use; what is here is asking and showing.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from sqlalchemy import Engine

from cli.demo import Api, shard_table, tour
from cli.errors import StackError
from cli.options import as_json_option, data_dir_option, settings_of_command
from cli.seed import seed as seed_board
from cli.stack import Stack
from cli.state import DataDirectory
from cli.temporary import temporary_stack
from records import api_keys, migrations
from records import boards as board_records
from records.engine import connect
from records.errors import RecordsError
from runtime.deadlines import Deadline
from runtime.settings import PREFIX, Settings
from sharding.boards import BoardPeriod
from sharding.errors import LeaderboardError
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, parse_period, period_at
from sharding.rebalancing import GENTLE_PER_S
from sharding.scores import Order, PackedScore
from sharding.shard_map import ShardMap, check_cuts, cut_after
from workers import periods
from workers.recutting import recut

_DEADLINE_S = 10.0

board_option = click.option("--board", default="global", show_default=True, help="The board.")
period_option = click.option("--period", default=None, help="The period, as 2026-11.  [default: the current one]")


@dataclass(frozen=True, slots=True)
class Target:
    """What a verb works on."""

    settings: Settings
    engine: Engine
    leaderboard: Leaderboard

    def board_period(self, board: str, period: str | None) -> BoardPeriod:
        """The board's period that is asked for; it has to exist."""
        rules = board_records.get(self.engine, board)
        if rules is None:
            raise StackError(f"There is no board {board!r}; `rangeboard boards` lists them.")
        kind = PeriodKind(rules.period_kind)
        return BoardPeriod(
            board, parse_period(kind, period).name if period else period_at(kind, datetime.now(UTC)).name
        )

    def current_map(self, board: str, period: str | None) -> ShardMap:
        """The published map of that."""
        return self.leaderboard.maps.published(self.board_period(board, period), Deadline.after(_DEADLINE_S))


def target_settings(data_dir: Path, process: str) -> Settings:
    """The settings of the servers to work on: those named by the environment, else those of the running stack."""
    given = settings_of_command(process)
    if f"{PREFIX}REDIS_NODES" in os.environ:
        return given
    return Stack.running(DataDirectory(data_dir), given).settings


@contextmanager
def working_on(data_dir: Path, process: str) -> Iterator[Target]:
    """Connections to what a verb works on; what goes wrong with them is one sentence."""
    settings = target_settings(data_dir, process)
    engine = connect(
        settings.postgres_dsn, pool_size=2, application_name=f"rangeboard-{process}", statement_timeout_ms=0
    )
    leaderboard = Leaderboard.connect(settings, known_players=lambda _, players: players)
    try:
        yield Target(settings, engine, leaderboard)
    except (LeaderboardError, RecordsError) as error:
        raise StackError(str(error)) from error
    finally:
        leaderboard.close()
        engine.dispose()


def progress_bar(console: Console) -> Progress:
    """How far long work is, for a person."""
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


@contextmanager
def bar_of(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, moved by telling it how many of how many are done; none before that."""
    bar = progress_bar(Console(stderr=True))
    task: TaskID | None = None

    def report(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            bar.start()
            task = bar.add_task(name)
        bar.update(task, completed=done, total=max(done, total))

    try:
        yield report
    finally:
        if task is not None:
            bar.stop()


def show(value: Any, *, as_json: bool, table: Table | str, console: Console | None = None) -> None:
    """Print for a machine, or for a person."""
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
    else:
        (console or Console()).print(table, highlight=False)


@click.command()
@data_dir_option
def migrate(data_dir: Path) -> None:
    """Bring the database to this version's schema, and open the periods that are to be open."""
    settings = target_settings(data_dir, "migrate")
    try:
        migrations.upgrade(settings.postgres_dsn)
        periods.open_current(settings)
    except (LeaderboardError, RecordsError) as error:
        raise StackError(str(error)) from error
    click.echo("The schema is current, and every board's period is open.")


@click.command()
@data_dir_option
@click.option("--players", type=click.IntRange(1, 100_000_000), default=1_000, show_default=True)
@click.option("--games", type=click.IntRange(0, 1_000_000_000), default=10_000, show_default=True)
@click.option("--random-seed", type=int, default=None, help="Make the same players and wins again.")
@as_json_option
def seed(data_dir: Path, players: int, games: int, random_seed: int | None, as_json: bool) -> None:
    """Make players and let them win games on the global board."""
    console = Console(stderr=as_json)
    with working_on(data_dir, "seed") as target, progress_bar(console) as bar:
        tasks = {"players": bar.add_task("players", total=players), "games": bar.add_task("games", total=games)}
        waiting = bar.add_task("audit", total=None, visible=False)

        def progress(step: str, count: int) -> None:
            if step in tasks:
                bar.advance(tasks[step], count)
            else:
                bar.update(waiting, description=f"audit: {count:,} entries to store", visible=True)

        rng = random.Random(random_seed)  # noqa: S311  # luck in games, not secrets
        done = seed_board(target.engine, target.leaderboard, players, games, progress, rng=rng)
    rate = done.games / done.seconds if done.seconds else 0
    told = f"{done.players:,} players, {done.games:,} games, {rate:,.0f} games/s"
    show(asdict(done), as_json=as_json, table=told, console=console)


@click.command()
@data_dir_option
def demo(data_dir: Path) -> None:
    """The guided tour, on the stack that runs in the data directory, or on one made for it."""
    directory = DataDirectory(data_dir)
    given = settings_of_command("demo")
    existing = Stack.existing(directory, given)
    if existing is not None and existing.supervisor.answers():
        _tour(existing)
        return
    with temporary_stack(given) as stack:
        _tour(stack)


def _tour(stack: Stack) -> None:
    leaderboard = Leaderboard.connect(stack.settings, known_players=lambda _, players: players)
    name = BoardPeriod("global", period_at(PeriodKind.MONTH, datetime.now(UTC)).name)
    try:
        tour(
            Api(stack.state.api_url, stack.state.api_key),
            Console(),
            lambda: leaderboard.shards(name, Deadline.after(_DEADLINE_S)),
            rng=random.Random(),  # noqa: S311  # luck in games, not secrets
        )
    finally:
        leaderboard.close()


@click.command()
@data_dir_option
@board_option
@period_option
@as_json_option
def shards(data_dir: Path, board: str, period: str | None, as_json: bool) -> None:
    """Show how a board's players spread over shards and nodes."""
    with working_on(data_dir, "shards") as target:
        name = target.board_period(board, period)
        views = target.leaderboard.shards(name, Deadline.after(_DEADLINE_S), partial=True)
        lost_partitions = target.leaderboard.lost_partitions(name, Deadline.after(_DEADLINE_S))
    nodes: dict[str, int] = {}
    for view in views:
        nodes[view.node] = nodes.get(view.node, 0) + view.rows
    console = Console()
    show([asdict(view) for view in views], as_json=as_json, table=shard_table(views), console=console)
    if not as_json:
        spread = " · ".join(f"{node} {rows:,}" for node, rows in sorted(nodes.items()))
        console.print(f"\n{name}: {sum(nodes.values()):,} players; by node: {spread}", highlight=False)
        for view in views:
            if view.problem:
                console.print(
                    f"[red]shard {view.shard}[/] on {view.node or 'no node'}: {view.problem}", highlight=False
                )
        if lost_partitions:
            numbers = ", ".join(map(str, sorted(lost_partitions)))
            console.print(f"[red]lost partitions of the directory[/]: {numbers}", highlight=False)
            console.print(
                "  rebuild --shard takes any of the lost numbers, and brings back all partitions", highlight=False
            )


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command("create")
@data_dir_option
@click.option("--name", required=True, help="Who will use it.")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(["scores:write", "scores:read", "admin"]), required=True
)
@as_json_option
def create_key(data_dir: Path, name: str, scopes: tuple[api_keys.Scope, ...], as_json: bool) -> None:
    """Make a key. It is shown once, and kept hashed."""
    with working_on(data_dir, "keys") as target:
        key_id, secret = api_keys.create(target.engine, name, scopes)
    told = f"[bold]{secret}[/]\nid {key_id}; keep it well, it is not shown again."
    show({"id": key_id, "key": secret, "name": name, "scopes": scopes}, as_json=as_json, table=told)


@keys.command("list")
@data_dir_option
@as_json_option
def list_keys(data_dir: Path, as_json: bool) -> None:
    """List all keys; their secrets are known to nobody."""
    with working_on(data_dir, "keys") as target:
        found = api_keys.list_all(target.engine)
    table = Table(box=None, padding=(0, 2))
    for heading in ("id", "name", "scopes", "created", "revoked"):
        table.add_column(heading)
    for key in found:
        revoked = f"[red]{key.revoked_at:%Y-%m-%d %H:%M}[/]" if key.revoked_at else ""
        table.add_row(key.id, key.name, " ".join(sorted(key.scopes)), f"{key.created_at:%Y-%m-%d %H:%M}", revoked)
    show([asdict(key) for key in found], as_json=as_json, table=table)


@keys.command("revoke")
@data_dir_option
@click.argument("key_id")
def revoke_key(data_dir: Path, key_id: str) -> None:
    """Revoke a key; within seconds nobody accepts it."""
    with working_on(data_dir, "keys") as target:
        if not api_keys.revoke(target.engine, key_id):
            raise StackError(f"There is no key {key_id!r} to revoke; `rangeboard keys list` lists them.")
    click.echo(f"Revoked {key_id}.")


@click.command()
@data_dir_option
@as_json_option
def boards(data_dir: Path, as_json: bool) -> None:
    """List the boards and their rules."""
    with working_on(data_dir, "boards") as target:
        found = board_records.list_all(target.engine)
    table = Table(box=None, padding=(0, 2))
    for heading in ("board", "period", "operator", "order", "one submission", "registration"):
        table.add_column(heading)
    for board in found:
        bounds = f"{_bound(board.min_value, '-∞')} … {_bound(board.max_value, '∞')}"
        table.add_row(board.name, board.period_kind, board.operator, board.order, bounds, board.registration)
    show([asdict(board) for board in found], as_json=as_json, table=table)


def _bound(value: int | None, none: str) -> str:
    return none if value is None else f"{value:,}"


@click.command()
@data_dir_option
@board_option
@click.option("--cuts", required=True, help="Points at which ranges meet, as 10,50,200: each begins the better range.")
@click.option(
    "--players-per-s",
    type=click.IntRange(1),
    default=GENTLE_PER_S,
    show_default=True,
    help="The most to move. Play slows down with it.",
)
@as_json_option
def rebalance(data_dir: Path, board: str, cuts: str, players_per_s: int, as_json: bool) -> None:
    """Cut a board's ranges anew while it is in use, and move the players. Run it again to resume."""
    with working_on(data_dir, "rebalance") as target, bar_of("players") as report:
        current = target.current_map(board, None)
        done = recut(
            target.leaderboard,
            target.engine,
            current.name,
            _packed_cuts(cuts, current.board.order),
            report,
            players_per_s=players_per_s,
        )
    told = f"Version {done.version}: {done.moved:,} players moved, {done.left:,} left to move."
    show(asdict(done), as_json=as_json, table=told)


def _packed_cuts(text: str, order: Order) -> list[PackedScore]:
    try:
        points = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise StackError(f"--cuts takes whole numbers with commas between them, not {text!r}.") from error
    try:
        check_cuts(points)
    except LeaderboardError as error:
        raise StackError(f"--cuts: {error}.") from error
    return sorted(cut_after(value, order) for value in points)
