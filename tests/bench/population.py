"""The players of a run: who they are, how many points they have, and how a million of them get onto a board in minutes.

Each of them has a game in the audit log, received within the hour before, and the board is rebuilt from that log. So
everything is there that a month of play leaves behind: rows spread over all ranges, entries in the directory, events by
which a retry is recognised, and an audit log that adds up to the board.

A population is a recipe and no list: it yields the same players each time, so that walking through them holds none.
"""

import io
import math
import random
import secrets
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import Engine

from records import audit
from records.audit import AuditEntry
from sharding.boards import BoardPeriod
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, period_at
from sharding.players import PlayerId
from sharding.submissions import EVENT_ID_BYTES, Submission
from workers.rebuild import Rebuild

_SEED = 1
_PLAYERS_AT_ONCE = 5_000
#: Games of an outbox entry, and entries of a transaction.
_GAMES_OF_ENTRY, _ENTRIES_AT_ONCE = 1_000, 20
_LATELY_MS = 3_600_000

T = TypeVar("T")


class Inhabitant(NamedTuple):
    """A player, and the points that they begin with."""

    player: PlayerId
    points: int


@dataclass(frozen=True)
class Population:
    """So many players, of whom so many play in the run. Points are log-normal, as a new period's cuts expect them."""

    size: int
    playing: int
    median_points: int
    points_sigma: float

    def everybody(self) -> Iterator[Inhabitant]:
        """All of them; neighbours here are nobody's neighbours in rank."""
        chance = random.Random(_SEED)
        centre = math.log(self.median_points)
        for _ in range(self.size):
            player = PlayerId(str(UUID(int=chance.getrandbits(128), version=4)))
            yield Inhabitant(player, max(1, round(chance.lognormvariate(centre, self.points_sigma))))

    def who_play(self) -> Iterator[Inhabitant]:
        """Those who play: as many of every part of the board."""
        return (one for number, one in enumerate(self.everybody()) if number * self.playing % self.size < self.playing)


def settle(engine: Engine, leaderboard: Leaderboard, population: Population) -> BoardPeriod:
    """Make the players, write their games into the audit log, rebuild the current global board from it."""
    _make_players(engine, population)
    now = datetime.now(UTC)
    period = period_at(PeriodKind.MONTH, now)
    name = BoardPeriod("global", period.name)
    until_ms = int(now.timestamp() * 1000)
    entries = _games(population, name, max(period.start_ms, until_ms - _LATELY_MS), until_ms)
    for together in in_chunks(entries, _ENTRIES_AT_ONCE):
        audit.store(engine, together)
    Rebuild(leaderboard, engine, name).whole(lambda *_: None, force=True)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE) users, games")  # or PostgreSQL does so when something is measured
    return name


def _make_players(engine: Engine, population: Population) -> None:
    """Copied, and not made as the API does it, which takes ten times as long."""
    link = engine.raw_connection()
    with closing(link), link.cursor() as cursor:
        for chunk in in_chunks(population.everybody(), _PLAYERS_AT_ONCE):
            lines = (f"{player}\tplayer-{player[:13]}\tPlayer {player[:6]}\n" for player, _ in chunk)
            cursor.copy_expert("COPY users (id, username, display_name) FROM STDIN", io.StringIO("".join(lines)))
        link.commit()


def _games(population: Population, name: BoardPeriod, since_ms: int, until_ms: int) -> Iterator[AuditEntry]:
    """The first game of everybody, as the drain would have found them in outboxes."""
    run = secrets.token_hex(4)
    moments = random.Random(_SEED)
    for number, chunk in enumerate(in_chunks(population.everybody(), _GAMES_OF_ENTRY)):
        received_ms = moments.randint(since_ms, until_ms)
        games = [Submission(one.player, one.points, f"first-{run}-{number}-{index}") for index, one in enumerate(chunk)]
        items = [
            (game.player, _event_id(game), index, game.value, game.value, game.match_id, None, None, game.kind)
            for index, game in enumerate(games)
        ]
        yield AuditEntry(name.board, name.period, "add", 0, f"{received_ms}-{number}", received_ms, items)


def _event_id(game: Submission) -> int:
    return int.from_bytes(game.event()[:EVENT_ID_BYTES], "big", signed=True)


def in_chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """The values in lists of at most so many."""
    coming = iter(values)
    while chunk := list(islice(coming, size)):
        yield chunk
