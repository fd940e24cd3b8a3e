"""Child processes that are cheap to kill: forked from a parent that has everything imported, before any connection.

A child that dies costs some milliseconds to replace, so a thousand kills take a minute. Each holds the one end of a
pipe, so the parent notices a death at once and waits for all children together.
"""

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Child:
    """A running child. `name` says what it does."""

    name: str
    pid: int
    alive: int
    died_of: int | None = None  # the signal, or 0 where it ended by itself

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; to one that is dead by now, nothing."""
        if self.died_of is None:
            os.kill(self.pid, number)


def fork(name: str, body: Callable[[], None]) -> Child:
    """A child that runs `body` and ends. What goes wrong in it is told on standard error, and ends it with 1."""
    read_end, write_end = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # the parent's handler is none of the child's
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.close(write_end)
        return Child(name, pid, read_end)
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.close(read_end)
        body()
    except BaseException:  # noqa: BLE001 -- the child ends here, whatever it was
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    finally:
        os._exit(0)


def wait(children: Iterable[Child], timeout_s: float) -> list[Child]:
    """Those that have died, as soon as there is one; none if the time is over."""
    pipes = {child.alive: child for child in children}
    readable, _, _ = select.select(list(pipes), [], [], timeout_s)
    dead = [pipes[pipe] for pipe in readable]
    for child in dead:
        _, status = os.waitpid(child.pid, 0)
        os.close(child.alive)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            raise AssertionError(f"{child.name} failed; standard error says why")
        child.died_of = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return dead


def end(children: Iterable[Child], timeout_s: float) -> None:
    """Ask all to end (SIGTERM), and kill those that do not in time."""
    left = list(children)
    for child in left:
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while left:
        if time.monotonic() > deadline:
            for child in left:
                child.signal(signal.SIGKILL)
            deadline += timeout_s
        dead = wait(left, 0.5)
        left = [child for child in left if child not in dead]
