"""Questions to PostgreSQL that nobody has to wait for to the end.

A PostgreSQL that hangs answers nothing for seconds. Whoever has something else to show asks in the background, waits
as long as a healthy server may take, and goes on without the answer.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

#: For those who have an older answer: more than a healthy PostgreSQL needs, little enough to wait for twice.
PATIENCE_S = 0.4


def in_background(ask: Callable[[], T]) -> "Future[T]":
    """Ask, and give the answer to whoever still waits for it."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            answer = ask()
        except BaseException as error:  # noqa: BLE001  # it is the waiting one's, whatever it is
            future.set_exception(error)
        else:
            future.set_result(answer)

    threading.Thread(target=run, daemon=True).start()
    return future
