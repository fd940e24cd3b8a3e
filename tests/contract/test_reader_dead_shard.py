"""A node is gone and nobody takes over: reads that need it say so, or say what their answer lacks."""

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.problems import problem_of
from cli.servers import ServerSet
from runtime.deadlines import Deadline
from sharding.boards import Board
from sharding.cluster.formation import Library
from sharding.errors import ShardUnavailable
from sharding.functions import LIBRARY_NAME, library_code
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.periods import PeriodKind, period_at
from sharding.players import PlayerId
from sharding.scores import Order
from sharding.shard_map import ShardMap, cut_after, ranges_cut_at

pytestmark = pytest.mark.servers

PLAYERS = [PlayerId(f"player-{number}") for number in range(60)]


def soon() -> Deadline:
    return Deadline.after(5)


@pytest.fixture(scope="module")
def half_dead(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Leaderboard, ShardMap, set[int]]]:
    """A board on three primaries without replicas, one of which was killed; the shards that it had.

    Of two, the other would soon refuse everything: alone it cannot know that it is not cut off from the majority.
    """
    home: Path = tmp_path_factory.mktemp("half")
    with ServerSet(home, primaries=3, replicas=0, library=Library(LIBRARY_NAME, library_code())) as servers:
        leaderboard = Leaderboard.connect(servers.settings, known_players=lambda _, players: players)
        board = Board("half", PeriodKind.MONTH)
        shard_map = ShardMap(
            board=board,
            period=period_at(board.kind, datetime.now(UTC)),
            generation=1,
            version=1,
            ranges=ranges_cut_at(sorted(cut_after(points, Order.DESC) for points in range(10, 60, 10))),
            retry_window_ms=3_600_000,
            partitions=8,
            buckets=64,
        )
        leaderboard.maps.publish(shard_map, soon())
        submissions = [Submission(player, number, "m") for number, player in enumerate(PLAYERS)]
        leaderboard.submit(shard_map.name, submissions, soon(), rank=RankMode.NONE)
        assert leaderboard.top(shard_map.name, 0, 1, soon()).total == 60
        address = leaderboard.client.owner(shard_map.keys(0).slot)
        assert address is not None
        # Not the node that has the map: that one answers for the board as a whole.
        victim = next(
            name
            for name, port in servers.ports.items()
            if name.startswith("redis") and not address.endswith(f":{port}")
        )
        dead = {
            shard
            for shard in shard_map.shards()
            if str(leaderboard.client.owner(shard_map.keys(shard).slot)).endswith(f":{servers.ports[victim]}")
        }
        assert 0 < len(dead) < 6
        servers.kill(victim)
        yield leaderboard, shard_map, dead
        leaderboard.close()


def found_in(shard_map: ShardMap, dead: set[int]) -> dict[PlayerId, int]:
    """Players of the shards that are there, with their points: the number in the name."""
    homes = {player: 5 - min(points // 10, 5) for points, player in enumerate(PLAYERS)}
    return {player: points for points, player in enumerate(PLAYERS) if homes[player] not in dead}


@pytest.mark.parametrize("read", ["top", "standing", "surrounding", "stats", "around", "between", "standings"])
def test_a_read_that_needs_the_dead_shard_is_unavailable(
    half_dead: tuple[Leaderboard, ShardMap, set[int]], read: str
) -> None:
    leaderboard, shard_map, dead = half_dead
    name, there = shard_map.name, next(iter(found_in(shard_map, dead)))
    calls = {
        "top": lambda: leaderboard.top(name, 0, 10, soon()),
        "standing": lambda: leaderboard.standing(name, there, soon()),
        "surrounding": lambda: leaderboard.surrounding(name, there, 3, soon()),
        "stats": lambda: leaderboard.stats(name, soon()),
        "around": lambda: leaderboard.around_score(name, 30, 5, soon()),
        "between": lambda: leaderboard.between(name, 10, 20, 0, 5, soon()),
        "standings": lambda: leaderboard.standings(name, [there], soon()),
    }
    began = time.monotonic()
    with pytest.raises(ShardUnavailable) as refused:
        calls[read]()
    assert time.monotonic() - began < 6
    problem, headers = problem_of(refused.value, "r")
    assert (problem.status, headers) == (503, {"Retry-After": "1"})


def test_a_partial_answer_is_labelled_and_right_for_what_it_has(
    half_dead: tuple[Leaderboard, ShardMap, set[int]],
) -> None:
    leaderboard, shard_map, dead = half_dead
    there = found_in(shard_map, dead)
    ranking = sorted(there, key=lambda player: -there[player])
    for offset, limit in ((0, 100), (3, 7), (len(there), 5)):
        page = leaderboard.top(shard_map.name, offset, limit, soon(), partial=True)
        assert set(page.missing) == dead
        assert page.total == len(there)
        assert [row.player for row in page.rows] == ranking[offset : offset + limit]
        assert [row.rank for row in page.rows] == list(range(offset + 1, offset + 1 + len(page.rows)))


def test_a_partial_rank_is_labelled_and_a_player_of_the_dead_shard_has_none(
    half_dead: tuple[Leaderboard, ShardMap, set[int]],
) -> None:
    leaderboard, shard_map, dead = half_dead
    there = found_in(shard_map, dead)
    ranking = sorted(there, key=lambda player: -there[player])
    told = 0
    for player in PLAYERS[::7]:
        with suppress(ShardUnavailable):  # the player is on the board, so it is never `NotOnBoard`
            standing = leaderboard.standing(shard_map.name, player, soon(), partial=True)
            told += 1
            assert set(standing.missing) == dead
            assert standing.row.rank == ranking.index(player) + 1
            assert standing.total == len(there)
    assert told > 0
