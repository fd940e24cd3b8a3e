"""Calls to a running API, and what all of its data look like, for the tests that go through HTTP."""

import hashlib
import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg2
import redis
from running_stack import RunningStack

BASE = "/api/v1"
#: fields of a shard's head, and of a map, that background jobs write whether or not anybody plays
BACKGROUND = {b"drains", b"touched_ms", b"scrub"}


@dataclass(frozen=True)
class Answer:
    """A response, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def fields(self) -> list[str]:
        """The fields that a problem document names."""
        return [error["field"] for error in self.json["errors"]]


class Api:
    """A client with one connection at a time, which sends exactly what it is told to."""

    def __init__(self, stack: RunningStack) -> None:
        self.stack = stack
        self._address = urlsplit(stack.api_url)
        self.authorization: str | None = f"Bearer {stack.api_key}"

    def connect(self) -> http.client.HTTPConnection:
        assert self._address.hostname
        return http.client.HTTPConnection(self._address.hostname, self._address.port, timeout=30)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str | None] | None = None,
        connection: http.client.HTTPConnection | None = None,
    ) -> Answer:
        """`body`: bytes as they are, anything else as JSON. A header that is None is left out."""
        sent: dict[str, str | None] = {"Authorization": self.authorization}
        if body is not None:
            sent["Content-Type"] = "application/json"
        sent |= headers or {}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        used = connection or self.connect()
        try:
            used.request(method, path, data, {name: value for name, value in sent.items() if value is not None})
            answer = used.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            if connection is None:
                used.close()

    def get(self, path: str, **options: Any) -> Answer:
        return self.call("GET", path, **options)

    def post(self, path: str, body: Any, **options: Any) -> Answer:
        return self.call("POST", path, body, **options)

    def submit(self, user_id: str, score: int = 1, **options: Any) -> Answer:
        more = options.pop("more", {})
        return self.post(f"{BASE}/scores", {"user_id": user_id, "score": score, **more}, **options)

    def players(self, count: int = 1) -> list[str]:
        """So many new players' ids; names are made of them."""
        ids = [f"p-{uuid4().hex[:16]}" for _ in range(count)]
        users = [
            {"user_id": user_id, "username": f"name of {user_id}", "display_name": f"Player {user_id[-4:]}"}
            for user_id in ids
        ]
        created = self.post(f"{BASE}/users:batch", users)
        assert created.status == 200, created.body
        assert created.json["created"] == count
        return ids


def rows(stack: RunningStack, query: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of a query to PostgreSQL."""
    with closing(psycopg2.connect(stack.dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(query, values)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


def audited(stack: RunningStack) -> bool:
    """Whether every submission that was applied has its row in the audit. Shards do not count removals among them."""
    applied = sum(
        int(client.hget(key, "submissions") or 0)
        for client in primaries(stack)
        for key in client.scan_iter(match="*head", count=1000)
    )
    return bool(rows(stack, "SELECT count(*) = %s FROM games WHERE kind <> 'removal'", applied)[0][0])


def everything(stack: RunningStack) -> dict[str, str]:
    """A digest of every key in Redis and of every table in PostgreSQL; two that are equal hold the same."""
    digests = {}
    for client in primaries(stack):
        for key in client.scan_iter(count=1000):
            digests[key.decode("latin-1")] = hashlib.sha256(repr(_content(client, key)).encode()).hexdigest()
    for table in ("users", "games", "boards", "api_keys", "shard_maps", "leaderboard_snapshots", "audit_quarantine"):
        content = rows(stack, f"SELECT t::text FROM {table} t ORDER BY 1")
        digests[f"table {table}"] = hashlib.sha256(repr(content).encode()).hexdigest()
    return digests


def primaries(stack: RunningStack) -> Iterator["redis.Redis"]:
    """A client to each primary of the cluster."""
    for node in stack.status["redis"]:
        with redis.Redis(port=node["port"]) as client:
            if client.role()[0] == b"master":
                yield client


def _content(client: "redis.Redis", key: bytes) -> object:
    kind = client.type(key)
    if kind == b"zset":
        return client.zrange(key, 0, -1, withscores=True)
    if kind == b"hash":
        return sorted((field, value) for field, value in client.hgetall(key).items() if field not in BACKGROUND)
    if kind == b"set":
        return sorted(client.smembers(key))
    if kind == b"stream":  # draining trims it; only what was ever added counts
        return client.xinfo_stream(key)["entries-added"]
    assert kind in {b"string", b"none"}, kind
    return client.get(key)
