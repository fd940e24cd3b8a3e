"""The HTTP API in this process, on real servers: routes, decoding, caches, everything up to the socket."""

import itertools
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec
from flask.testing import FlaskClient
from records_databases import empty_database

from api.app import create_app
from cli.servers import ServerSet
from records import api_keys, migrations
from records import boards as kept_boards
from records.engine import connect
from runtime.deadlines import Deadline
from sharding.boards import Board
from sharding.leaderboard import Leaderboard
from sharding.periods import Period, period_at, preceding
from sharding.players import PlayerId
from sharding.shard_map import ShardMap, cut_after, ranges_cut_at

BASE = "/api/v1"


def soon() -> Deadline:
    return Deadline.after(10)


class Api:
    """The API, called as a client would, without sockets."""

    def __init__(self, client: FlaskClient, key: str) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {key}"}

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        answer = self._client.open(path, method=method, json=body, headers=self._headers | headers)
        return answer.status_code, answer.json

    def get(self, path: str, **query: Any) -> Any:
        given = {name: value for name, value in query.items() if value is not None}
        status, answer = self.call("GET", f"{BASE}{path}?{urlencode(given)}")
        assert status == 200, answer
        return answer


class Service(msgspec.Struct):
    """What the tests of a module share: one process's API, and how to open boards and periods."""

    api: Api
    leaderboard: Leaderboard
    open_board: Callable[..., ShardMap]
    open_period: Callable[..., ShardMap]


@contextmanager
def http_service(
    servers: ServerSet, leaderboard: Leaderboard, postgres_dsn: str, players: Sequence[PlayerId]
) -> Iterator[Service]:
    """An API of these players on real servers; nothing is remembered for longer than a request."""
    with empty_database(postgres_dsn) as dsn:
        migrations.upgrade(dsn)
        engine = connect(dsn, pool_size=2)
        settings = msgspec.structs.replace(
            servers.settings,
            postgres_dsn=dsn,
            top_cache_ms=0,
            request_deadline_ms=10_000,
            late_minutes=60 * 24,
        )
        _, key = api_keys.create(engine, "tests", ["admin"])
        api = Api(create_app(settings).test_client(), key)
        users = [{"user_id": player, "username": f"name {number}"} for number, player in enumerate(players)]
        status, answer = api.call("POST", f"{BASE}/users:batch", users)
        assert (status, answer["created"]) == (200, len(players))
        mark, numbers = secrets.token_hex(4), itertools.count(1)  # every module has its own boards in one cluster

        def open_board(cuts: list[int], *, splits: int = 1, late: bool = False, **rules: Any) -> ShardMap:
            board = Board(name=f"http-{mark}-{next(numbers)}", **rules)
            kept = kept_boards.NewBoard(board.name, board.kind.value, board.operator.value, board.order.value)
            kept_boards.create(engine, kept)
            current = period_at(board.kind, datetime.now(UTC))
            return open_period(board, (late and preceding(current)) or current, cuts, splits=splits)

        def open_period(board: Board, period: Period, cuts: list[int], *, splits: int = 1) -> ShardMap:
            ascending = sorted(cut_after(points, board.order) for points in cuts)
            shards = [list(range(index * splits, (index + 1) * splits)) for index in range(len(cuts) + 1)]
            shard_map = ShardMap(
                board=board,
                period=period,
                generation=1,
                version=1,
                ranges=ranges_cut_at(ascending, shards),
                retry_window_ms=3_600_000,
                partitions=8,
                buckets=64,
            )
            return leaderboard.maps.publish(shard_map, soon())

        yield Service(api, leaderboard, open_board, open_period)
        engine.dispose()
