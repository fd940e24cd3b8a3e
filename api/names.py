"""The people behind the ids on a page: one query for all that are not remembered.

A ranking is worth showing without names, so PostgreSQL may be away: what is remembered is used whatever its age, the
rest stays nameless, and the answer says so. After a failure nobody asks for a moment, so that a PostgreSQL which hangs
does not hold up every read. Those whose names are asked for at the same time are asked for in one query.

As in `caches.py`, what is remembered is *fresh* for a while and *aging* for as long again: used, and asked for anew in
the background. So those whom everybody looks at, the top, are never waited for. Those who are aging gather for a
moment and are asked for in one query: where many players look at their own ranks, one query each would cost as much as
all else.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from api.patience import in_background
from records.errors import RecordsError
from records.players import Player
from runtime.deadlines import Deadline
from runtime.gathering import Gathering, TooLate
from sharding.players import PlayerId

_FRESH_S = 30.0
_MOST_REMEMBERED = 100_000
_GATHERED_FOR_S = 0.2
_MOST_RENEWED = 1_000
_PATIENCE_S = 1.0
_PAUSE_S = 3.0


@dataclass(frozen=True, slots=True)
class _Remembered:
    player: Player | None
    fresh_until: float

    @property
    def old_from(self) -> float:
        """When it is too old to be used without asking."""
        return self.fresh_until + _FRESH_S


@dataclass(frozen=True, slots=True)
class Found:
    """The players that were found, by id. Not `complete`: others may have names that could not be asked for."""

    players: Mapping[PlayerId, Player]
    complete: bool


class Names:
    """The players that this process has shown lately."""

    def __init__(
        self,
        profiles: Callable[[Sequence[PlayerId]], Mapping[str, Player]],
        *,
        most: int = _MOST_REMEMBERED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`profiles` gives the players of ids, leaving out those who are not there."""
        self._profiles = profiles
        self._most = most
        self._clock = clock
        self._remembered: OrderedDict[PlayerId, _Remembered] = OrderedDict()
        self._renewing: set[PlayerId] = set()
        self._pause_until = float("-inf")
        self._lock = threading.Lock()
        self._gathering: Gathering[Sequence[PlayerId], dict[PlayerId, _Remembered]] = Gathering(self._ask_together)

    def of(self, ids: Sequence[PlayerId]) -> Found:
        """The players of these ids."""
        now = self._clock()
        remembered = {player_id: self._remembered.get(player_id) for player_id in ids}
        old = [player_id for player_id, known in remembered.items() if known is None or known.fresh_until <= now]
        wanted = [player_id for player_id in old if (known := remembered[player_id]) is None or known.old_from <= now]
        complete = True
        if wanted:
            loaded = self._load(old, now)
            complete = loaded is not None
            remembered.update({player_id: loaded[player_id] for player_id in old} if loaded else {})
        elif old:
            self._renew(old)
        players = {player_id: known.player for player_id, known in remembered.items() if known and known.player}
        return Found(players, complete or all(known is not None for known in remembered.values()))

    def forget(self, player_id: PlayerId) -> None:
        """Ask for this player anew: something about them has changed."""
        with self._lock:
            self._remembered.pop(player_id, None)

    def _renew(self, aging: Sequence[PlayerId]) -> None:
        """Ask for these players in the background soon. For whom there is no room now, whoever shows them next will."""
        with self._lock:
            gathering = bool(self._renewing)
            self._renewing.update(aging[: max(0, _MOST_RENEWED - len(self._renewing))])
        if not gathering:
            in_background(self._renew_together)

    def _renew_together(self) -> None:
        time.sleep(_GATHERED_FOR_S)
        with self._lock:
            wanted = list(self._renewing)
        try:
            self._load(wanted, self._clock())
        finally:
            with self._lock:
                self._renewing.clear()

    def _load(self, wanted: Sequence[PlayerId], now: float) -> dict[PlayerId, _Remembered] | None:
        """What PostgreSQL says; None if it cannot be asked."""
        if now < self._pause_until:
            return None
        try:
            return self._gathering.ask(wanted, Deadline.after(2 * _PATIENCE_S))
        except (TimeoutError, TooLate):
            self._pause_until = self._clock() + _PAUSE_S
        except RecordsError as error:
            if not error.retryable:
                raise
            self._pause_until = self._clock() + _PAUSE_S
        return None

    def _ask_together(
        self, wanted: Sequence[Sequence[PlayerId]], _deadline: Deadline
    ) -> Sequence[dict[PlayerId, _Remembered]]:
        together = list(dict.fromkeys(player_id for ids in wanted for player_id in ids))
        loaded = in_background(partial(self._ask, together)).result(_PATIENCE_S)
        return [loaded] * len(wanted)

    def _ask(self, wanted: Sequence[PlayerId]) -> dict[PlayerId, _Remembered]:
        players = self._profiles(wanted)
        fresh_until = self._clock() + _FRESH_S
        loaded = {player_id: _Remembered(players.get(player_id), fresh_until) for player_id in wanted}
        with self._lock:
            for player_id in wanted:
                self._remembered.pop(player_id, None)
            self._remembered.update(loaded)
            while len(self._remembered) > self._most:
                self._remembered.popitem(last=False)
        return loaded
