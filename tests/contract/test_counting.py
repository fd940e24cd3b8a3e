"""What goes on between a process and Redis is counted, once for a message and not for each submission in it."""

from collections.abc import Callable
from contextlib import closing

import pytest
from prometheus_client import REGISTRY

from cli.servers import ServerSet
from runtime.deadlines import Deadline
from sharding.cluster.client import Call
from sharding.handoff import queue
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.players import PlayerId
from sharding.shard_map import ShardMap

pytestmark = pytest.mark.servers


def counted(name: str, **labels: str) -> float:
    """The sum of all series of this name with these labels."""
    return sum(
        sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def submit(leaderboard: Leaderboard, shard_map: ShardMap, *submissions: tuple[str, int, str]) -> None:
    batch = [Submission(PlayerId(player), value, match) for player, value, match in submissions]
    for result in leaderboard.submit(shard_map.name, batch, Deadline.after(10), rank=RankMode.NONE):
        assert result.error is None


def test_a_submission_is_one_message_to_its_node(leaderboard: Leaderboard, open_board: Callable[..., ShardMap]) -> None:
    shard_map = open_board()
    submit(leaderboard, shard_map, ("ann", 5, "m1"))
    node = leaderboard.client.owner(shard_map.keys(shard_map.ranges[-1].shards[0]).slot)
    assert node is not None
    messages = counted("rangeboard_redis_message_seconds_count", node=node)
    joined = counted("rangeboard_coalesced_submissions_count")
    submit(leaderboard, shard_map, ("ann", 1, "m2"))
    assert counted("rangeboard_redis_message_seconds_count", node=node) == messages + 1
    assert counted("rangeboard_coalesced_submissions_count") == joined + 1
    assert counted("rangeboard_coalescer_waiting_submissions") == 0


def test_a_hundred_submissions_to_one_shard_are_one_message(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap]
) -> None:
    shard_map = open_board([1000])
    players = [f"p{number}" for number in range(100)]
    submit(leaderboard, shard_map, *((player, 1, "m1") for player in players))
    messages = counted("rangeboard_redis_message_seconds_count")
    submit(leaderboard, shard_map, *((player, 1, "m2") for player in players))
    assert counted("rangeboard_redis_message_seconds_count") == messages + 1


def test_a_hundred_strays_go_home_in_four_round_trips(
    servers: ServerSet, open_board: Callable[..., ShardMap], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "_GATHERED_FOR_S", 60.0)
    shard_map = open_board([10, 20, 30])
    players = [f"p{number}" for number in range(100)]
    with closing(Leaderboard.connect(servers.settings, known_players=lambda _, known: known)) as process:
        submit(process, shard_map, *((player, 1, "m1") for player in players))
        submit(process, shard_map, *((player, 5 + number % 30, "m2") for number, player in enumerate(players)))
        messages = counted("rangeboard_redis_message_seconds_count")
        finished = counted("rangeboard_moves_total", outcome="finished")
        process.strays.bring_home(Deadline.after(5))
        assert counted("rangeboard_moves_total", outcome="finished") > finished + 50
        nodes = len(process.client.primaries())
        assert counted("rangeboard_redis_message_seconds_count") <= messages + 4 * nodes
        assert all(view.strays == 0 for view in process.shards(shard_map.name, Deadline.after(5)))


def test_what_a_node_refuses_is_counted(leaderboard: Leaderboard, open_board: Callable[..., ShardMap]) -> None:
    shard_map = open_board()
    slot = shard_map.keys(shard_map.ranges[-1].shards[0]).slot
    node = leaderboard.client.owner(slot)
    assert node is not None
    refused = counted("rangeboard_redis_failed_calls_total", node=node, outcome="turned_away")
    answer = leaderboard.client.execute_one(Call(slot, ("NO-SUCH-COMMAND",)), Deadline.after(5))
    assert answer.error is not None
    assert counted("rangeboard_redis_failed_calls_total", node=node, outcome="turned_away") == refused + 1


def test_replicas_that_do_not_confirm_are_counted(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap]
) -> None:
    """More of them than there are."""
    shard_map = open_board()
    keys = shard_map.keys(shard_map.ranges[-1].shards[0])
    node = leaderboard.client.owner(keys.slot)
    assert node is not None
    before = counted("rangeboard_redis_unconfirmed_waits_total", node=node)
    touch = Call(keys.slot, ("HINCRBY", keys.head, "drains", 1))
    answer = leaderboard.client.execute_one(touch, Deadline.after(5), replicas=5, ack_ms=50)
    assert not answer.confirmed
    assert counted("rangeboard_redis_unconfirmed_waits_total", node=node) == before + 1


def test_a_player_who_changes_shards_is_counted(leaderboard: Leaderboard, open_board: Callable[..., ShardMap]) -> None:
    shard_map = open_board([10, 20])
    submit(leaderboard, shard_map, ("ann", 5, "m1"))
    finished, left = (counted("rangeboard_moves_total", outcome=outcome) for outcome in ("finished", "left"))
    submit(leaderboard, shard_map, ("ann", 20, "m2"))
    leaderboard.strays.bring_home(Deadline.after(5))
    assert counted("rangeboard_moves_total", outcome="finished") == finished + 1
    assert counted("rangeboard_moves_total", outcome="left") == left
