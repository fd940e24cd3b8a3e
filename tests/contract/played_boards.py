"""Boards that are known to both sides, Redis and PostgreSQL, and what all of their data look like: for the tests of
drain, archive, rebuild and repair.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, text

from records import boards, partitions, shard_maps
from records.boards import NewBoard
from records.periods import month_of
from runtime.deadlines import Deadline
from sharding.cluster.client import Call
from sharding.keys import GONE_WINDOW_MS, Windows
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.periods import Period, period_at
from sharding.players import PlayerId, player_of
from sharding.scores import Order
from sharding.shard_map import Range, ShardMap, cut_after, ranges_cut_at
from sharding.submissions import Status
from workers.draining import drain_now
from workers.periods import rules_of
from workers.verify import verify

_numbers = itertools.count(1)


def soon() -> Deadline:
    return Deadline.after(30)


@dataclass
class Played:
    """A board period that a test plays on."""

    leaderboard: Leaderboard
    engine: Engine
    shard_map: ShardMap

    @property
    def name(self) -> Any:
        return self.shard_map.name

    def now(self) -> ShardMap:
        """The map that is published."""
        return self.leaderboard.maps.published(self.name, soon())

    def submit(self, submissions: Sequence[Submission]) -> list[Status]:
        results = self.leaderboard.submit(self.name, submissions, soon(), rank=RankMode.NONE)
        return [result.status for result in results]

    def win(self, player: str, value: int, match_id: str) -> Status:
        return self.submit([Submission(PlayerId(player), value, match_id)])[0]

    def play(self, players: int, games: int, *, seed: int = 1, most: int = 30) -> None:
        """Random games; every player has one at least, and is home when this returns: a move that still went on would
        meet whatever the test breaks next.
        """
        rng = random.Random(seed)
        chosen = [*range(players), *(rng.randrange(players) for _ in range(games - players))]
        wins = [
            Submission(PlayerId(f"player-{number:06d}"), rng.randint(1, most), f"game-{seed}-{index}")
            for index, number in enumerate(chosen)
        ]
        for start in range(0, len(wins), 5_000):
            assert set(self.submit(wins[start : start + 5_000])) <= {Status.APPLIED, Status.DUPLICATE}
        self.leaderboard.strays.bring_home(soon())

    def drain(self) -> None:
        drain_now(self.leaderboard, self.engine, self.now(), soon())

    def ranking(self) -> list[tuple[str, int]]:
        """Everybody with their packed score, in rank order: points, ties and order. Strays are brought home first."""
        self.leaderboard.strays.bring_home(soon())
        shard_map = self.now()
        lifecycle = self.leaderboard.lifecycle
        chunks = itertools.chain.from_iterable(
            lifecycle.ranking(shard_map, index) for index in range(len(shard_map.ranges))
        )
        return [(player_of(row.member), row.packed) for chunk in chunks for row in chunk]

    def agrees(self) -> bool:
        """Whether board and audit log tell the same of everybody. Strays are brought home first."""
        self.leaderboard.strays.bring_home(soon())
        return verify(self.leaderboard, self.engine, self.now(), lambda _: None).agrees

    def points(self, player: str) -> int:
        return self.leaderboard.standing(self.name, PlayerId(player), soon()).row.points

    def on_shard(self, shard: int, *command: Any) -> Any:
        """The reply to a command on a shard's keys; `@rows` stands for the key of that name."""
        keys = self.now().keys(shard)
        named = [keys.prefix + word[1:] if isinstance(word, str) and word[:1] == "@" else word for word in command]
        answer = self.leaderboard.functions.on_keys([Call(keys.slot, tuple(named))], soon())[0]
        if answer.error:
            raise answer.error
        return answer.reply

    def destroy(self) -> None:
        """All of its data in Redis are gone."""
        shard_map = self.now()
        self.leaderboard.lifecycle.expire(shard_map, 1, soon())
        self.leaderboard.lifecycle.unpublish(shard_map, 1, soon())
        self.leaderboard.maps.forget(self.name)

    def destroy_shard(self, shard: int) -> None:
        """The keys of one shard are gone."""
        keys, window_ms = self.now().keys(shard), self.now().retry_window_ms
        window = int(datetime.now(UTC).timestamp() * 1000) // window_ms
        names = keys.for_function(Windows(window, window * window_ms // GONE_WINDOW_MS))
        self.leaderboard.functions.on_keys([Call(keys.slot, ("UNLINK", *names))], soon())

    def destroy_partition(self, partition: int) -> None:
        """The keys of one partition of the directory are gone: those in the slot of the shard with this number."""
        directory = self.now().directory
        slot, mark = directory.mark_of(partition)
        buckets = [key for its, key in map(directory.key_of, range(directory.buckets)) if its == slot]
        self.leaderboard.functions.on_keys([Call(slot, ("UNLINK", mark, *buckets))], soon())

    def destroy_slot(self, shard: int) -> None:
        """All keys of one slot are gone."""
        self.destroy_shard(shard)
        self.destroy_partition(shard)


#: Opens a board of a test's own; what `open_played` takes by name.
OpenBoard = Callable[..., Played]


def open_played(
    leaderboard: Leaderboard,
    engine: Engine,
    *,
    cuts: Iterable[int] = (20, 60, 120),
    splits: int = 1,
    period: Period | None = None,
    retry_window_ms: int = 3_600_000,
    same_as: Played | None = None,
    **rules: Any,
) -> Played:
    """A board of the test's own, open, with a map that both sides have; or another period of the `same_as`."""
    if same_as is None:
        kept = boards.create(engine, NewBoard(f"played-{next(_numbers)}-{random.randrange(10**9)}", **rules))
    else:
        found = boards.get(engine, same_as.name.board)
        assert found is not None
        kept = found
    board = rules_of(kept)
    its_period = period or period_at(board.kind, datetime.now(UTC))
    plain = ranges_cut_at(sorted(cut_after(points, Order(board.order)) for points in cuts))
    ranges = tuple(
        Range(part.low, part.high, tuple(range(index * splits, (index + 1) * splits)))
        for index, part in enumerate(plain)
    )
    shard_map = ShardMap(
        board=board, period=its_period, generation=1, version=1, ranges=ranges, retry_window_ms=retry_window_ms,
        partitions=8, buckets=64,
    )  # fmt: skip
    partitions.ensure(engine, [month_of(its_period.name)])
    shard_maps.insert_first(engine, board.name, its_period.name, shard_map.document())
    leaderboard.maps.publish(shard_map, soon())
    return Played(leaderboard, engine, shard_map)


def rows_of(engine: Engine, statement: str, **given: Any) -> list[tuple[Any, ...]]:
    with engine.begin() as connection:
        return [tuple(row) for row in connection.execute(text(statement), given)]
