"""`rangeboard plan`: the capacity plan, for a person or a machine."""

import click
import msgspec
from rich.console import Console
from rich.table import Table

from cli.errors import StackError
from cli.options import as_json_option
from loadtest.capacity import Plan, assumed
from loadtest.capacity import plan as plan_for
from loadtest.formulas import number

_COLOURS = {"workload": "yellow", "assumption": "yellow", "cost": "green"}


@click.command
@click.option("--dau", type=int, required=True, help="Daily players.")
@click.option(
    "--assume",
    "assumptions",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another value for what is assumed, such as batch_share=1 or peak=3; may be repeated.",
)
@as_json_option
def plan(dau: int, assumptions: tuple[str, ...], as_json: bool) -> None:
    """What so many daily players need: API pods, Redis nodes, memory, workers, audit rows and storage.

    With the arithmetic, and with everything that it rests on: costs as they were measured (`make costs` measures
    them anew), and assumptions, which are yours to change.
    """
    try:
        workload, others = assumed(dict(_pair(text) for text in assumptions))
        found = plan_for(dau, workload=workload, assumptions=others)
    except ValueError as error:
        raise StackError(str(error)) from error
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found.as_json()), indent=2))
    else:
        _show(found, Console())


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--assume takes NAME=VALUE, such as peak=3, and not {text!r}.")
    return name.strip(), value.strip()


def _show(found: Plan, console: Console) -> None:
    steps = Table(title=f"What {found.dau:,} daily players need", box=None, title_style="bold", pad_edge=False)
    steps.add_column("")
    steps.add_column("", justify="right", no_wrap=True)
    steps.add_column("arithmetic", style="dim")
    part = ""
    for step in found.steps:
        if step.part != part:
            part = step.part
            steps.add_row()
            steps.add_row(f"[bold cyan]{part}[/]")
        steps.add_row(step.what, f"[bold]{number(step.value)}[/] {step.unit}", step.arithmetic)
    console.print(steps)
    for note in found.notes:
        console.print(f"\n[bold yellow]{note}[/]")
    console.print()
    inputs = Table(title="What it rests on", box=None, title_style="bold", pad_edge=False)
    inputs.add_column("input")
    inputs.add_column("value", justify="right")
    inputs.add_column("")
    inputs.add_column("in words")
    for one in found.inputs:
        colour = _COLOURS[one.kind]
        inputs.add_row(one.name, number(one.value), f"[{colour}]{one.kind}[/]", one.words)
    console.print(inputs)
    console.print(f"\nCosts were measured on {found.on}, on {found.machine}, by {found.how}.", style="dim")
