"""The command `rangeboard`. What goes wrong in front of a person is one red sentence, and exit code 1.

The stack's own commands are here, the operator's in modules that are imported when they are asked for: all together
take a second, and nobody wants to wait that long for `status`.
"""

import signal
import time
from importlib import import_module
from pathlib import Path
from types import FrameType

import click
import msgspec
from rich.console import Console

from cli.errors import StackError
from cli.following import follow
from cli.options import as_json_option, data_dir_option, settings_of_command
from cli.preparation import PRIMARIES, REPLICAS, Wishes, prepare
from cli.presentation import banner, reporter, show_status
from cli.stack import Stack
from cli.state import DataDirectory

#: Commands of other modules: where each is defined.
ELSEWHERE = {
    "archive": "cli.lifecycle",
    "boards": "cli.operate",
    "demo": "cli.operate",
    "keys": "cli.operate",
    "migrate": "cli.operate",
    "plan": "cli.plan",
    "rebalance": "cli.operate",
    "rebuild": "cli.lifecycle",
    "scrub": "cli.scrub",
    "seed": "cli.operate",
    "shards": "cli.operate",
    "verify": "cli.lifecycle",
}


class _Commands(click.Group):
    """The commands of this module and those elsewhere."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (module := ELSEWHERE.get(cmd_name)) is None:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(module), cmd_name)
        return command


@click.group(cls=_Commands)
@click.version_option(package_name="rangeboard")
def main() -> None:
    """A real-time leaderboard, sharded by score range over a Redis Cluster."""


@main.command()
@data_dir_option
@click.option("--detach", is_flag=True, help="Return once it is ready, and leave it running.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the API.  [default: 8080]")
@click.option(
    "--primaries", type=click.IntRange(1, 100), help=f"Primaries of the Redis Cluster.  [default: {PRIMARIES}]"
)
@click.option("--replicas", type=click.IntRange(0, 5), help=f"Replicas of each primary.  [default: {REPLICAS}]")
@click.option("--shards", type=click.IntRange(1, 4096), help="Shards of a new period.  [default: 16]")
@click.option("--api-workers", type=click.IntRange(1, 64), help="Worker processes of the API.  [default: 2]")
def up(data_dir: Path, detach: bool, **asked: int | None) -> None:
    """Start the whole stack: Redis Cluster, broker, PostgreSQL, workers, beat and API.

    In the foreground it shows what all processes say; Ctrl-C stops everything. Data stay in the data directory.
    """
    settings = settings_of_command("up")
    console = Console()
    directory = DataDirectory(data_dir)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` asks to be left alone
            signal.signal(number, _interrupt)
    began = time.monotonic()
    try:
        directory.make()
        with directory.lock():
            stack, notes = prepare(directory, Wishes(**asked), settings)
            for note in notes:
                console.print(note, style="yellow")
            stack.start(reporter(console))
    except OSError as error:
        raise StackError(f"The stack cannot start: {error.filename or data_dir}: {error.strerror or error}.") from error
    console.print(banner(stack, time.monotonic() - began, detached=detach))
    if not detach:
        follow(stack, console)


@main.command()
@data_dir_option
@click.option("--remove-data", is_flag=True, help="Delete the data directory as well.")
def down(data_dir: Path, remove_data: bool) -> None:
    """Stop the stack, and whatever a crash of it left behind."""
    stack = Stack.existing(DataDirectory(data_dir), settings_of_command("down"))
    if stack is None:
        click.echo(f"There is no stack in {data_dir}.")
        return
    ran = stack.supervisor.answers()
    hunted = stack.stop()
    if hunted:
        click.secho(f"Ended {hunted} processes that nobody supervised.", fg="yellow")
    click.echo("Stopped." if ran or hunted else "It was not running.")
    if remove_data:
        stack.remove()
        click.echo(f"Removed {stack.directory.path}.")


@main.command()
@data_dir_option
@as_json_option
def status(data_dir: Path, as_json: bool) -> None:
    """Show what runs, where, and whether it is ready."""
    found = Stack.running(DataDirectory(data_dir), settings_of_command("status")).status()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
    else:
        show_status(found, Console())


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
