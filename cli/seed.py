"""`rangeboard seed`: players and games for volume, through the same write path as the API's.

Zeal is heavy-tailed, as among real players: most play a few matches, a few play hundreds. With the default settings
their points lie where a new period's ranges are cut. Every run is new: its match ids carry a token of their own.
"""

import random
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate, islice
from uuid import UUID

from sqlalchemy import Engine

from records import players
from records.players import NewPlayer
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.periods import PeriodKind, period_at
from sharding.players import PlayerId
from sharding.submissions import Status

_PLAYERS_AT_ONCE = 5_000
_GAMES_AT_ONCE = 2_000
_BATCH_DEADLINE_S = 30.0
_DRAIN_DEADLINE_S = 600.0
_MOST_TRIES = 5
_ZEAL_SIGMA = 0.9
_LEAST_POINTS, _MOST_POINTS = 5, 40

#: Told how much of which step is done: `progress("games", 2_000)`.
Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Seeded:
    """What a run did, and how long submitting took."""

    players: int
    games: int
    seconds: float


def seed(
    engine: Engine,
    leaderboard: Leaderboard,
    how_many: int,
    games: int,
    progress: Progress,
    *,
    rng: random.Random,
    scale: int = 1,
) -> Seeded:
    """Make players, let them win games on the global board, and wait until the audit log has every game.

    A win is worth 5 to 40 points, times `scale`.
    """
    ids = _make_players(engine, how_many, progress, rng)
    name = BoardPeriod("global", period_at(PeriodKind.MONTH, datetime.now(UTC)).name)
    start = time.monotonic()
    wins = _wins(ids, games, scale, rng)
    while batch := list(islice(wins, _GAMES_AT_ONCE)):
        _submit(leaderboard, name, batch)
        progress("games", len(batch))
    seconds = time.monotonic() - start
    _wait_for_audit(leaderboard, name, progress)
    return Seeded(len(ids), games, seconds)


def _make_players(engine: Engine, how_many: int, progress: Progress, rng: random.Random) -> list[PlayerId]:
    ids: list[PlayerId] = []
    while len(ids) < how_many:
        chunk = [
            NewPlayer(username=f"player-{identity[:13]}", display_name=f"Player {identity[:6]}", id=identity)
            for identity in (str(UUID(int=rng.getrandbits(128), version=4)) for _ in range(_PLAYERS_AT_ONCE))
        ][: how_many - len(ids)]
        players.create_many(engine, chunk)
        ids += [PlayerId(player.id) for player in chunk if player.id]
        progress("players", len(chunk))
    return ids


def _wins(ids: list[PlayerId], games: int, scale: int, rng: random.Random) -> Iterator[Submission]:
    zeal = list(accumulate(rng.lognormvariate(0, _ZEAL_SIGMA) for _ in ids))
    run = secrets.token_hex(4)
    for number, player in enumerate(rng.choices(ids, cum_weights=zeal, k=games)):
        yield Submission(player, scale * rng.randint(_LEAST_POINTS, _MOST_POINTS), f"seed-{run}-{number}")


def _submit(leaderboard: Leaderboard, name: BoardPeriod, batch: list[Submission]) -> None:
    """Submit until every game counts; a retry of one that does already is recognised."""
    for attempt in range(_MOST_TRIES):
        results = leaderboard.submit(name, batch, Deadline.after(_BATCH_DEADLINE_S), rank=RankMode.NONE)
        failed = [
            (submission, result.error)
            for submission, result in zip(batch, results, strict=True)
            if result.status in {Status.REFUSED, Status.UNKNOWN}
        ]
        if not failed:
            return
        batch = [submission for submission, _ in failed]
        error = failed[0][1]
        if error is not None and (not error.retryable or attempt == _MOST_TRIES - 1):
            raise error
        time.sleep(getattr(error, "retry_after_s", 1))


def _wait_for_audit(leaderboard: Leaderboard, name: BoardPeriod, progress: Progress) -> None:
    """Return once the drain has emptied every outbox."""
    deadline = Deadline.after(_DRAIN_DEADLINE_S)
    shard_map = leaderboard.maps.current(name, deadline)
    keys = [shard_map.keys(shard) for shard in shard_map.shards()]
    while (waiting := sum(leaderboard.outbox.lengths(keys, Deadline.after(5)))) and not deadline.passed:
        progress("audit entries waiting", waiting)
        time.sleep(0.2)
