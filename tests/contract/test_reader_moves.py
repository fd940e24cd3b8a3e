"""Reads while players change shards: what is called exact is exact.

The players ahead of one who stands still are always the same ones, and all of them move from shard to shard. So the
true rank never changes, at no moment, and a rank that counts somebody twice or not at all is wrong without doubt. That
is all this proves: a read is *settled* only if it saw every player once.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cli.servers import ServerSet
from runtime.deadlines import Deadline
from sharding.boards import Operator
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.players import PlayerId
from sharding.shard_map import ShardMap

pytestmark = pytest.mark.servers

AHEAD = 100
ME = PlayerId("me")
MOVERS = [PlayerId(f"mover-{number}") for number in range(AHEAD)]


def soon() -> Deadline:
    return Deadline.after(10)


@contextmanager
def moving(servers: ServerSet, shard_map: ShardMap) -> Iterator[None]:
    """In the block, another process's players get other scores all the time, most of them in another shard."""
    over = threading.Event()
    refused: Counter[str] = Counter()

    def move() -> None:
        other = Leaderboard.connect(servers.settings, known_players=lambda _, players: players)
        chance = random.Random(3)
        try:
            for number in range(1_000_000):
                if over.is_set():
                    return
                submission = Submission(chance.choice(MOVERS), chance.randrange(100, 600), f"m{number}")
                (result,) = other.submit(shard_map.name, [submission], soon(), rank=RankMode.NONE)
                refused[result.status.value] += result.error is not None
        finally:
            other.close()

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(20)
    assert not refused.total()


@pytest.mark.parametrize("splits", [1, 2])
def test_a_settled_read_saw_every_player_once(
    servers: ServerSet, leaderboard: Leaderboard, open_board: Callable[..., ShardMap], splits: int
) -> None:
    shard_map = open_board([100, 200, 300, 400, 500], operator=Operator.SET, splits=splits)
    first = [Submission(player, 100 + number, "first") for number, player in enumerate(MOVERS)]
    leaderboard.submit(shard_map.name, [*first, Submission(ME, 50, "first")], soon(), rank=RankMode.NONE)
    settled: Counter[str] = Counter()
    deadline = Deadline.after(30)
    with moving(servers, shard_map):
        while min(settled["rank"], settled["page"], settled["deep"]) < 10:
            assert not deadline.passed, f"too few reads are settled: {settled}"
            standing = leaderboard.standing(shard_map.name, ME, soon())
            if standing.settled:
                settled["rank"] += 1
                assert (standing.row.rank, standing.total) == (AHEAD + 1, AHEAD + 1)
            page = leaderboard.top(shard_map.name, 0, 200, soon())
            points = [row.points for row in page.rows]
            assert points == sorted(points, reverse=True)
            if page.settled:
                settled["page"] += 1
                assert {row.player for row in page.rows} == {ME, *MOVERS}
                assert len(page.rows) == page.total == AHEAD + 1
            deep = leaderboard.top(shard_map.name, AHEAD - 5, 10, soon())
            if deep.settled:
                settled["deep"] += 1
                assert deep.rows[-1].player == ME
                assert len({row.player for row in deep.rows}) == len(deep.rows) == 6
