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
HiddenAmong = Callable[[Collection[str]], Collection[str]]


class Newcomers:
    """Which newcomers may join a board."""

    def __init__(self, ask: Ask, hidden_among: HiddenAmong, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`ask` asks PostgreSQL which of these players exist, or makes them exist; `hidden_among`, who is hidden."""
        self._ask = ask
        self._hidden_among = hidden_among
        self._clock = clock
        self._pause_until = float("-inf")

    def admitted(self, board: Board, ids: Sequence[PlayerId]) -> Collection[PlayerId]:
        """Those of these players who may join. Unavailable if nobody can tell now."""
        return self._told(lambda: self._ask(board, ids))

    def hidden(self, ids: Sequence[PlayerId]) -> Collection[PlayerId]:
        """Those of these players who are hidden. Unavailable if nobody can tell now."""
        return self._told(lambda: {PlayerId(player) for player in self._hidden_among(ids)}) if ids else ()

    def _told(self, ask: Callable[[], Collection[PlayerId]]) -> Collection[PlayerId]:
        if self._clock() >= self._pause_until:
            try:
                return in_background(ask).result(_PATIENCE_S)
            except (TimeoutError, RecordsError) as error:
                if isinstance(error, RecordsError) and not error.retryable:
                    raise
                self._pause_until = self._clock() + _PAUSE_S
        raise Unavailable("players who are new to the board cannot be looked up now; try again")
