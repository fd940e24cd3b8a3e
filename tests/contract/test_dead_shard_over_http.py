"""A shard is dead, primary and replica: over HTTP no rank is ever wrong without a label.

A read that needs the shard is refused with 503 and `Retry-After`; with `partial=ok` it is answered and says so. Writes
to the other shards go on.
"""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import redis
from flask.testing import FlaskClient

from api.app import create_app
from cli.servers import ServerSet
from records import api_keys, boards, migrations, players
from records.engine import connect
from runtime.deadlines import Deadline
from sharding.boards import Board
from sharding.cluster.formation import Library
from sharding.functions import LIBRARY_NAME, library_code
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.periods import PeriodKind, period_at
from sharding.players import PlayerId
from sharding.scores import Order
from sharding.shard_map import ShardMap, cut_after, ranges_cut_at

pytestmark = pytest.mark.servers

PLAYERS = [PlayerId(f"player-{number}") for number in range(60)]
BASE = "/api/v1"


class Broken(NamedTuple):
    """The API of a board that has lost a node, and the players that are still there, best first."""

    client: FlaskClient
    key: str
    there: list[PlayerId]
    gone: list[PlayerId]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return self.client.open(
            f"{BASE}{path}", method=method, json=body, headers={"Authorization": f"Bearer {self.key}"}
        )


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    home: Path = tmp_path_factory.mktemp("broken")
    with ServerSet(home, library=Library(LIBRARY_NAME, library_code())) as servers:
        migrations.upgrade(servers.settings.postgres_dsn)
        engine = connect(servers.settings.postgres_dsn, pool_size=2)
        _, key = api_keys.create(engine, "tests", ["admin"])
        boards.create(engine, boards.NewBoard("broken"))
        players.register_missing(engine, PLAYERS)
        settings = msgspec.structs.replace(servers.settings, top_cache_ms=0, request_deadline_ms=5_000)
        leaderboard = Leaderboard.connect(settings, known_players=lambda _, ids: ids)
        shard_map = _open(leaderboard)
        victim = _owner_of_some(leaderboard, shard_map)
        dead = {shard for shard in shard_map.shards() if leaderboard.client.owner(shard_map.keys(shard).slot) == victim}
        homes = {player: leaderboard.reader.find(shard_map, player, Deadline.after(10)).shard for player in PLAYERS}
        there = [player for player in reversed(PLAYERS) if homes[player] not in dead]
        client = create_app(settings).test_client()
        for name in _with_replicas(servers, int(victim.rpartition(":")[2])):
            servers.kill(name)
        yield Broken(client, key, there, [player for player in PLAYERS if homes[player] in dead])
        leaderboard.close()
        engine.dispose()


def _open(leaderboard: Leaderboard) -> ShardMap:
    board = Board("broken", PeriodKind.MONTH)
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
    leaderboard.maps.publish(shard_map, Deadline.after(10))
    wins = [Submission(player, points, "m") for points, player in enumerate(PLAYERS)]
    results = leaderboard.submit(shard_map.name, wins, Deadline.after(10), rank=RankMode.NONE)
    assert {result.status for result in results} == {"applied"}
    return shard_map


def _owner_of_some(leaderboard: Leaderboard, shard_map: ShardMap) -> str:
    """A node that has shards and not the map: without that nobody could say anything about the board."""
    owners = [leaderboard.client.owner(shard_map.keys(shard).slot) for shard in shard_map.shards()]
    return str(next(owner for owner in owners[1:] if owner != owners[0]))


def _with_replicas(servers: ServerSet, port: int) -> list[str]:
    """The process at a port, and those that replicate it."""
    names = []
    for name, its_port in servers.ports.items():
        with closing(redis.Redis(port=its_port)) as node:
            role = node.role()
        if its_port == port or (role[0] == b"slave" and role[2] == port):
            names.append(name)
    assert len(names) == 2
    return names


READS = [
    "/scores?limit=10",
    "/scores?limit=10&offset=30",
    "/scores?min_score=5&max_score=40",
    "/scores/around?score=30",
    "/scores/{there}",
    "/scores/{there}/surrounding",
    "/stats",
]


@pytest.mark.parametrize("read", READS)
def test_a_read_that_needs_the_dead_shard_is_refused(broken: Broken, read: str) -> None:
    path = read.format(there=broken.there[0])
    answer = broken.call("GET", f"{path}{'&' if '?' in path else '?'}board=broken")
    assert (answer.status_code, answer.headers.get("Retry-After")) == (503, "1")
    assert answer.json["outcome"] == "not_applied"


def test_a_lookup_that_needs_the_dead_shard_is_refused(broken: Broken) -> None:
    answer = broken.call("POST", "/scores/lookup?board=broken", {"user_ids": broken.there[:3]})
    assert (answer.status_code, answer.headers.get("Retry-After")) == (503, "1")


@pytest.mark.parametrize(
    ("read", "first", "count"),
    [
        ("/scores?limit=10", 0, 10),
        ("/scores?limit=100&offset=5", 5, 100),
        ("/scores?limit=7&rank_style=competition", 0, 7),
        ("/scores?limit=7&rank_style=dense", 0, 7),
    ],
)
def test_a_partial_page_is_labelled_and_right_for_what_it_has(
    broken: Broken, read: str, first: int, count: int
) -> None:
    answer = broken.call("GET", f"{read}&board=broken&partial=ok")
    assert answer.status_code == 200, answer.json
    assert (answer.json["rank_is"], answer.json["total_players"]) == ("partial", len(broken.there))
    assert answer.json["missing_shards"] > 0
    wanted = broken.there[first : first + count]
    told = [(entry["rank"], entry["user_id"]) for entry in answer.json["entries"]]
    assert told == [(rank, player) for rank, player in enumerate(wanted, start=first + 1)]


@pytest.mark.parametrize(("low", "high"), [(None, 40), (12, None), (7, 33)])
def test_a_partial_range_of_scores_is_labelled_and_right_for_what_it_has(
    broken: Broken, low: int | None, high: int | None
) -> None:
    bounds = "".join(
        f"&{name}={value}" for name, value in (("min_score", low), ("max_score", high)) if value is not None
    )
    answer = broken.call("GET", f"/scores?board=broken&limit=100&partial=ok{bounds}")
    assert answer.status_code == 200, answer.json
    points = {player: number for number, player in enumerate(PLAYERS)}
    wanted = [
        (rank, player)
        for rank, player in enumerate(broken.there, start=1)
        if (low or 0) <= points[player] <= (high if high is not None else 99)
    ]
    assert [(entry["rank"], entry["user_id"]) for entry in answer.json["entries"]] == wanted
    assert (answer.json["rank_is"], answer.json["matching_players"]) == ("partial", len(wanted))


def test_a_partial_rank_is_labelled_and_who_is_gone_has_none(broken: Broken) -> None:
    told = 0
    for player in broken.there[::5]:
        answer = broken.call("GET", f"/scores/{player}?board=broken&partial=ok")
        if answer.status_code == 200:  # else its part of the directory is dead
            told += 1
            assert (answer.json["rank"], answer.json["rank_is"]) == (broken.there.index(player) + 1, "partial")
        else:
            assert answer.status_code == 503
    assert told > 0
    for player in broken.gone[::5]:
        answer = broken.call("GET", f"/scores/{player}?board=broken&partial=ok")
        assert answer.status_code == 503, "never 404: the player is on the board"


def test_a_partial_lookup_says_whom_it_did_not_reach(broken: Broken) -> None:
    """Who is on the board, and cannot be seen now, is never among those who are not."""
    answer = broken.call("POST", "/scores/lookup?board=broken&partial=ok", {"user_ids": PLAYERS})
    assert answer.status_code == 200, answer.json
    assert (answer.json["rank_is"], answer.json["total_players"]) == ("partial", len(broken.there))
    assert answer.json["missing_shards"] > 0
    told = {entry["user_id"]: entry["rank"] for entry in answer.json["entries"]}
    assert told
    assert told == {player: rank for rank, player in enumerate(broken.there, start=1) if player in told}
    assert answer.json["not_found"] == []
    assert set(answer.json["not_reached"]) == set(PLAYERS) - told.keys()
    assert set(broken.gone) <= set(answer.json["not_reached"])


def test_partial_statistics_are_labelled_and_right_for_what_they_have(broken: Broken) -> None:
    answer = broken.call("GET", "/stats?board=broken&partial=ok")
    assert answer.status_code == 200, answer.json
    points = [PLAYERS.index(player) for player in broken.there]
    assert answer.json["missing_shards"] > 0
    assert (answer.json["total_players"], answer.json["top_score"]) == (len(points), points[0])
    assert answer.json["average_score"] == round(sum(points) / len(points), 2)


def test_removing_a_player_of_the_dead_shard_is_refused(broken: Broken) -> None:
    for player in broken.gone[:3]:
        answer = broken.call("DELETE", f"/scores/{player}?board=broken")
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)


def test_the_operator_is_told_which_shards_are_dead_and_why(broken: Broken) -> None:
    """The others are looked into as ever."""
    answer = broken.call("GET", "/admin/shards?board=broken")
    assert answer.status_code == 200, answer.json
    shards = answer.json["shards"]
    troubled = [shard for shard in shards if shard["problem"] is not None]
    assert 0 < len(troubled) < len(shards)
    assert {shard["players"] for shard in troubled} == {0}
    assert {shard["lag_seconds"] for shard in troubled} == {None}
    assert answer.json["total_players"] == len(broken.there)
    assert answer.json["lost_partitions"]


@pytest.mark.parametrize(("method", "body"), [("PATCH", {"hidden": True}), ("DELETE", None)])
def test_a_wish_that_is_kept_is_not_told_to_be_refused(broken: Broken, method: str, body: Any) -> None:
    """PostgreSQL has it, and it will be carried out: that nothing was applied would not be true."""
    player = broken.gone[0 if method == "PATCH" else 1]
    answer = broken.call(method, f"/users/{player}", body)
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
    assert (answer.json["type"], answer.json["outcome"]) == ("urn:rangeboard:problem:not-everywhere-yet", "unknown")
    kept = broken.call("GET", f"/users/{player}")
    assert kept.json["hidden"] is True if method == "PATCH" else kept.status_code == 404


def test_items_for_a_dead_shard_are_told_from_those_that_are_refused_for_good(broken: Broken) -> None:
    items = [
        {"user_id": broken.gone[2], "score": 1, "board": "broken"},
        {"user_id": broken.there[0], "score": 2**31, "board": "broken"},
        {"user_id": broken.there[0]},
    ]
    told = broken.call("POST", "/scores:batch", items).json["results"]
    assert [one["status"] for one in told] == ["refused"] * 3
    assert [one["reason"].startswith("try again: ") for one in told] == [True, False, False]
