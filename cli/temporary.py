"""A stack for as long as a block runs: on free ports, in a folder of its own that is removed again."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from cli.ports import free_ports
from cli.preparation import Wishes, prepare
from cli.presentation import reporter
from cli.stack import Stack
from cli.state import DataDirectory
from runtime.settings import Settings


@contextmanager
def temporary_stack(given: Settings) -> Iterator[Stack]:
    """Start a stack, and stop and remove it at the end, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="rangeboard-") as folder:
        directory = DataDirectory(Path(folder) / "data")
        directory.make()
        with directory.lock():
            stack, _ = prepare(directory, Wishes(port=free_ports(1)[0]), given)
            stack.start(reporter(Console()))
        try:
            yield stack
        finally:
            stack.stop()
            stack.remove()
