"""What a person sees of the running stack: one interleaved log, each line after the name of its process.

The processes write into files that the supervisor rotates, so that a log outlives the terminal; here they are followed.
Colours appear on a terminal only.
"""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.text import Text

from cli.errors import StackError
from cli.log_lines import Line, readable, supervision
from cli.stack import Stack

LOOK_INTERVAL_S = 0.2
COLOURS = ("cyan", "green", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta", "bright_blue")
LEVELS = {"warning": "yellow", "error": "red", "critical": "red", "debug": "dim"}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def follow(stack: Stack, console: Console) -> None:
    """Show all logs until somebody interrupts, then stop everything. `StackError` if the supervisor dies meanwhile."""
    screen = Screen(console, [*stack.log_files, "supervisor"])
    followers = {name: Follower(path) for name, path in stack.log_files.items()}
    supervisor = Follower(stack.directory.logs / "supervisord.log")
    ended, died = False, False
    try:
        while not ended:
            screen.show("supervisor", map(supervision, supervisor.lines()))
            for name, follower in followers.items():
                screen.show(name, map(readable, follower.lines()))
            ended = not stack.supervisor.answers()
            time.sleep(LOOK_INTERVAL_S)
        died = not stack.told_to_stop
    except KeyboardInterrupt:
        console.print("\nStopping …")
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # stopping ends by itself, and soon
        stack.stop()
        for follower in (supervisor, *followers.values()):
            follower.close()
    if died:
        raise StackError("The process supervisor died, and everything was stopped; the data are kept: start again.")
    console.print("Stopped.")


class Follower:
    """What is written to a log file from now on, through its rotations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._opened()
        self._rest = ""
        if self._file:
            self._file.seek(0, os.SEEK_END)

    def lines(self) -> Iterator[str]:
        """What was written since the last call; a line is given once it is whole."""
        while True:
            if self._file:
                *whole, self._rest = (self._rest + self._file.read()).split("\n")
                yield from whole
            if not self._rotated():
                return
            self.close()
            self._file = self._opened()

    def close(self) -> None:
        """Give the file back."""
        if self._file:
            self._file.close()
            self._file = None

    def _opened(self) -> IO[str] | None:
        try:
            return self._path.open(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def _rotated(self) -> bool:
        try:
            now = self._path.stat().st_ino
        except FileNotFoundError:
            return False
        return self._file is None or os.fstat(self._file.fileno()).st_ino != now


class Screen:
    """Prints lines, each after the coloured name of its process."""

    def __init__(self, console: Console, names: Iterable[str]) -> None:
        self._console = console
        names = list(names)
        self._colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
        self._width = max(map(len, names), default=0)

    def show(self, name: str, lines: Iterable[Line | None]) -> None:
        """Print lines of one process; None is passed over."""
        for line in filter(None, lines):
            text = Text(f"{name:<{self._width}} ", self._colours.get(name, "bold"))
            text.append(f"{line.time:<8} ", "dim")
            text.append(line.text, LEVELS.get(line.level, "default"))
            self._console.print(text, highlight=False, soft_wrap=True)
