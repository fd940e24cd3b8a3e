"""How the stack presents itself to a person: the stages of a start, the banner, the table of its processes."""

from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from cli.stack import Report, Stack


def reporter(console: Console) -> Report:
    """Prints each finished stage of a start."""

    def report(stage: str, seconds: float) -> None:
        console.print(f"[green]✓[/] {stage:<28} [dim]{seconds:5.1f} s[/]", highlight=False)

    return report


def banner(stack: Stack, seconds: float, *, detached: bool) -> Panel:
    """Where everything is, the key to it, and how to stop it."""
    state = stack.state
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    grid.add_row("API", f"[bold cyan]{state.api_url}[/]")
    grid.add_row("API key", f"[bold]{state.api_key}[/]")
    grid.add_row("metrics", state.metrics_url)
    grid.add_row("Redis Cluster", stack.settings.redis_nodes.replace(",", " "))
    grid.add_row("PostgreSQL", state.postgres_dsn)
    grid.add_row("logs", str(stack.directory.logs))
    ending = f"rangeboard down --data-dir {stack.directory.path}" if detached else "Ctrl-C"
    grid.add_row("to stop", ending)
    return Panel(grid, title=f"Rangeboard is ready after {seconds:.1f} s", border_style="green", expand=False)


def show_status(found: dict[str, Any], console: Console) -> None:
    """Print what `Stack.status` found, as a table."""
    table = Table(title="Rangeboard")
    for heading in ("process", "state", "pid", "port", "role", "slots"):
        table.add_column(heading, justify="right" if heading in {"pid", "port", "slots"} else "left")
    nodes = {node["name"]: node for node in found["redis"]}
    for name, state in found["processes"].items():
        node = nodes.get(name, {})
        colour = "green" if state == "running" else "red"
        columns = (found["pids"].get(name, ""), node.get("port", ""), node.get("role", ""), node.get("slots", ""))
        table.add_row(name, f"[{colour}]{state}[/]", *map(str, columns))
    console.print(table)
    console.print("[green]ready[/]" if found["ready"] else "[red]not ready[/]", found["api_url"], found["api_key"])
