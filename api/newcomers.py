"""Players whom a board does not know yet: the one question for which a submission waits for PostgreSQL.

It is asked for all newcomers of a call at once, and others' submissions may be in the same call. So it is answered soon
or not at all: when PostgreSQL is away, newcomers are refused for a moment (nothing changed, they may try again), and
nobody else notices.
"""

import time
from collections.abc import Callable, Collection, Sequence

from api.patience import in_background
from records.errors import RecordsError
from sharding.boards import Board
from sharding.errors import Unavailable
from sharding.players import PlayerId

_PATIENCE_S = 2.0
_PAUSE_S = 2.0

Ask = Callable[[Board, Sequence[PlayerId]], Collection[PlayerId]]


class Newcomers:
    """Which newcomers may join a board."""

    def __init__(self, ask: Ask, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`ask` asks PostgreSQL which of these players exist, or makes them exist."""
        self._ask = ask
        self._clock = clock
        self._pause_until = float("-inf")

    def admitted(self, board: Board, ids: Sequence[PlayerId]) -> Collection[PlayerId]:
        """Those of these players who may join. Unavailable if nobody can tell now."""
        if self._clock() >= self._pause_until:
            try:
                return in_background(lambda: self._ask(board, ids)).result(_PATIENCE_S)
            except (TimeoutError, RecordsError) as error:
                if isinstance(error, RecordsError) and not error.retryable:
                    raise
                self._pause_until = self._clock() + _PAUSE_S
        raise Unavailable("players who are new to the board cannot be looked up now; try again")
