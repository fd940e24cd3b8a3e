"""The top as events: at once, whenever it changes, to a bounded number of listeners, at one reader's cost."""

import itertools
import json
import socket
import threading
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import pytest
from flask.testing import FlaskClient
from played_boards import Played, open_played, rows_of
from served_api import served
from sqlalchemy import Engine
from waiting import wait_until
from werkzeug.test import TestResponse

from api import ending, streams
from api.app import create_app
from cli.servers import ServerSet
from runtime.settings import Settings
from sharding.leaderboard import Leaderboard, Submission
from sharding.players import PlayerId

pytestmark = pytest.mark.servers

STREAM = "/api/v1/stream"
#: little patience, and a kernel that takes little, so that a test of both is short
CONFIGURATION = """
import api.server, socket

api.server.SOCKET_TIMEOUT_S = 0.5

def when_ready(server):
    for listener in server.LISTENERS:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
"""


@pytest.fixture(scope="module")
def settings(servers: ServerSet, database: Engine) -> Settings:
    [(name,)] = rows_of(database, "SELECT current_database()")
    dsn = servers.postgres.dsn(name)
    return msgspec.structs.replace(servers.settings, postgres_dsn=dsn, top_cache_ms=100, stream_listeners=3)


@pytest.fixture
def client(settings: Settings) -> FlaskClient:
    return create_app(settings).test_client()


@pytest.fixture
def board(leaderboard: Leaderboard, database: Engine) -> Played:
    return open_played(leaderboard, database)


class Listener:
    """One who listens; leaves at the end."""

    def __init__(self, client: FlaskClient, board: Played, **query: Any) -> None:
        self._answer: TestResponse = client.get(STREAM, query_string={"board": board.name.board, **query})
        assert self._answer.status_code == 200
        assert self._answer.content_type == "text/event-stream"
        self._parts = iter(self._answer.iter_encoded())

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()

    def part(self) -> str:
        return next(self._parts).decode()

    def top(self) -> Any:
        """The next event's top; comments are passed over."""
        while not (part := self.part()).startswith(("retry: ", "event: top\n")):
            assert part.startswith(":")
        fields = dict(line.split(": ", 1) for line in part.strip().splitlines())
        assert fields["event"] == "top"
        return json.loads(fields["data"])

    def left(self) -> list[str]:
        return [part.decode() for part in self._parts]


def scores(top: Any) -> list[tuple[int, str, int]]:
    return [(entry["rank"], entry["user_id"], entry["score"]) for entry in top["entries"]]


def test_the_top_comes_at_once_and_whenever_it_changes(client: FlaskClient, board: Played) -> None:
    """In the form of `GET /scores`; what happens below it is no event."""
    for number in range(5):
        board.win(f"player-{number}", 10 + number, "first")
    with Listener(client, board, limit=3) as listener:
        first = listener.top()
        assert scores(first) == [(1, "player-4", 14), (2, "player-3", 13), (3, "player-2", 12)]
        assert (first["board"], first["total_players"], first["rank_is"]) == (board.name.board, 5, "exact")
        board.win("player-0", 1, "far below")
        board.win("player-1", 100, "to the top")
        assert scores(listener.top()) == [(1, "player-1", 111), (2, "player-4", 14), (3, "player-3", 13)]
        board.win("player-0", 200, "further")
        assert scores(listener.top())[0] == (1, "player-0", 211)


def test_many_listeners_cost_one_reader(
    client: FlaskClient, board: Played, leaderboard: Leaderboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks at the top are as many for three as for one, and end when nobody listens any more."""
    looks = []
    look = streams.StreamAnswers._look

    def counted(*given: Any) -> Any:
        looks.append(time.monotonic())
        return look(*given)

    board.win("player-1", 5, "first")
    with Listener(client, board) as one, Listener(client, board) as two, Listener(client, board, limit=1) as three:
        listeners = [one, two, three]
        assert len({json.dumps(scores(listener.top())) for listener in listeners}) == 1
        monkeypatch.setattr(streams.StreamAnswers, "_look", counted)
        began = time.monotonic()
        wait_until(lambda: len(looks) >= 8)
        assert looks[7] - began > 7 * 0.1, "one look in a tenth of a second, whoever listens"
        board.win("player-2", 7, "first")
        assert {scores(listener.top())[0] for listener in listeners} == {(1, "player-2", 7)}
    count = len(looks)
    wait_until(lambda: not _watching(), 5)
    assert len(looks) <= count + 1


def _watching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "_keep_watch" in thread.name]


def test_no_more_listen_than_may(client: FlaskClient, board: Played) -> None:
    """The next one is refused for now; a place that somebody leaves is free, also one that was never read."""
    listeners = [Listener(client, board) for _ in range(3)]
    refused = client.get(STREAM, query_string={"board": board.name.board})
    assert (refused.status_code, refused.json["outcome"]) == (503, "not_applied")
    assert int(refused.headers["Retry-After"]) >= 1
    listeners.pop().__exit__()
    client.head(STREAM, query_string={"board": board.name.board})
    with Listener(client, board) as again:
        assert again.top()["total_players"] == 0
    for listener in listeners:
        listener.__exit__()


def test_when_nothing_changes_a_comment_says_so(
    client: FlaskClient, board: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_HEARTBEAT_S", 0.2)
    with Listener(client, board) as listener:
        listener.top()
        assert listener.part() == ": nothing new\n\n"
        board.win("player-1", 5, "first")
        assert scores(listener.top()) == [(1, "player-1", 5)]


def test_streams_end_when_the_process_is_told_to(
    client: FlaskClient, board: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Listener(client, board) as listener:
        listener.top()
        monkeypatch.setattr(ending.ENDING, "told", True)
        assert listener.left() == []
        assert client.get(STREAM, query_string={"board": board.name.board}).status_code == 503


def test_a_server_that_is_told_to_end_ends_its_streams_well(settings: Settings, board: Played, tmp_path: Path) -> None:
    """To the last byte of their form, at once, and then itself; nobody is cut off."""
    with served(settings, tmp_path, CONFIGURATION) as (server, port, _):
        with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("GET", f"{STREAM}?board={board.name.board}")
            answer = connection.getresponse()
            assert answer.status == 200
            while not answer.readline().startswith(b"data: "):
                pass
            server.terminate()
            began = time.monotonic()
            answer.read()  # IncompleteRead, if it were cut off
            assert time.monotonic() - began < 5
        assert server.wait(20) == 0


def test_who_takes_nothing_is_dropped(settings: Settings, board: Played, tmp_path: Path) -> None:
    """And nothing is kept for them: what the server's kernel does not take is never made."""
    players = [f"player-with-a-long-name-so-that-the-events-are-large-{number}" for number in range(100)]
    with served(settings, tmp_path, CONFIGURATION) as (_, port, metrics_port), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(f"GET {STREAM}?board={board.name.board}&limit=100 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until(lambda: _listeners(metrics_port) == 1, 10)
        matches = itertools.count()

        def dropped() -> bool:
            match = f"m{next(matches)}"
            board.submit([Submission(PlayerId(player), 1, match) for player in players])
            return _listeners(metrics_port) == 0

        wait_until(dropped, 60)


def _listeners(metrics_port: int) -> float:
    with urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("rangeboard_stream_listeners"))


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({"limit": 0}, 400, "limit"),
        ({"limit": 101}, 400, "limit"),
        ({"month": "2026-01"}, 400, "month"),
        ({"board": "nowhere"}, 404, "board"),
    ],
)
def test_what_cannot_be_listened_to(client: FlaskClient, query: dict[str, Any], status: int, field: str) -> None:
    refused = client.get(STREAM, query_string=query)
    assert (refused.status_code, refused.json["errors"][0]["field"]) == (status, field)
