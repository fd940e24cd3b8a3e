"""Clients that send slowly, stop, go away or come all at once: each is bounded, those who still listen are answered,
and nothing was applied that was not said to be.
"""

import json
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import redis
from played_boards import Played, open_played, rows_of
from served_api import served
from sqlalchemy import Engine
from waiting import wait_until

from cli.servers import ServerSet
from records import api_keys
from sharding.leaderboard import Leaderboard

pytestmark = pytest.mark.servers

#: half a second for a wait, one for a body, one for the head of a request; two may wait for a call
CONFIGURATION = """
import api.server
import sharding.leaderboard

api.server.SOCKET_TIMEOUT_S, api.server.BODY_TIMEOUT_S, keepalive = 0.5, 1.0, 1
sharding.leaderboard._MOST_WAITING, sharding.leaderboard._MOST_WAITING_IN_BATCHES = 2, 6
"""
ENOUGH_S = 10.0


class Server:
    """The API at a port, with a board on which everybody may play."""

    def __init__(self, port: int, key: str, board: Played) -> None:
        self.board = board
        self._port = port
        self._key = key

    def score(self, match: str, player: str = "ann") -> dict[str, Any]:
        return {"user_id": player, "score": 1, "match_id": match, "board": self.board.name.board}

    def call(self, path: str, body: Any) -> tuple[int, dict[str, str], Any]:
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=30)) as connection:
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            connection.request("POST", f"/api/v1/{path}", json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), json.loads(answer.read())

    @contextmanager
    def begun(self, path: str, sent: bytes, length: int) -> Iterator[socket.socket]:
        """A client that has sent the head of a request, and of its body what is given."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=30) as client:
            client.sendall(
                f"POST /api/v1/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()
                + sent
            )
            yield client


@pytest.fixture(scope="module")
def server(
    servers: ServerSet, leaderboard: Leaderboard, database: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    [(name,)] = rows_of(database, "SELECT current_database()")
    settings = msgspec.structs.replace(
        servers.settings, postgres_dsn=servers.postgres.dsn(name), request_deadline_ms=20_000
    )
    _, key = api_keys.create(database, "tests", ["admin"])
    board = open_played(leaderboard, database, registration="open")
    with served(settings, tmp_path_factory.mktemp("served"), CONFIGURATION) as (_, port, _):
        made = Server(port, key, board)
        assert made.call("scores", made.score("before"))[0] == 200
        yield made


def _answer(client: socket.socket) -> bytes:
    """Everything until the server closes."""
    return b"".join(iter(lambda: client.recv(65_536), b""))


def test_a_body_that_stops_is_answered_and_not_applied(server: Server) -> None:
    score = server.score(uuid4().hex)
    body = json.dumps(score).encode()
    with server.begun("scores", body[:-1], len(body)) as client:
        answer = _answer(client)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"outcome":"not_applied"' in answer
    assert server.call("scores", score)[2]["applied"]


def test_an_answer_comes_in_one_piece(server: Server) -> None:
    """Head and body together, on a connection that stays open; an answer without a body at once as well."""
    body = json.dumps(server.score(uuid4().hex)).encode()
    head = f"POST /api/v1/scores HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server._key}\r\n".encode()
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server._port), timeout=30) as client:
        for _ in range(20):
            client.sendall(head + b"\r\n" + body)
            answer = client.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"}")
        client.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert client.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert client.recv(65_536).endswith(b"}")
        client.sendall(b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = client.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", ["scores", "scores:batch"])
def test_a_body_that_comes_bit_by_bit_has_no_more_time_than_another(server: Server, path: str) -> None:
    """Each byte comes well before anybody would give up waiting for it. Others are served meanwhile."""
    began = time.monotonic()
    others: list[Future[tuple[int, dict[str, str], Any]]] = []
    with ThreadPoolExecutor(1) as pool, server.begun(path, b"[", 1_000_000) as client:
        client.settimeout(0.1)
        answer = b""
        while not answer and time.monotonic() - began < ENOUGH_S:
            client.sendall(b" ")
            try:
                answer = client.recv(65_536)
            except TimeoutError:
                others.append(pool.submit(server.call, "scores", server.score(uuid4().hex)))
        served = sum(other.done() for other in others)
    assert served > 0, "others are served meanwhile"
    assert {other.result()[0] for other in others} == {200}
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert 0.9 < time.monotonic() - began < ENOUGH_S


def test_a_head_that_does_not_end_is_not_waited_for(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server._port), timeout=30) as client:
        client.sendall(b"POST /api/v1/scores HTTP/1.1\r\nHost: x\r\n")
        began = time.monotonic()
        assert _answer(client) == b""
        assert time.monotonic() - began < ENOUGH_S


@pytest.mark.parametrize("abruptly", [False, True])
def test_who_goes_away_in_the_middle_has_changed_nothing(server: Server, abruptly: bool) -> None:
    scores = [server.score(f"{uuid4().hex}") for _ in range(3)]
    body = json.dumps(scores).encode()
    with server.begun("scores:batch", body[:-1], len(body)) as client:
        if abruptly:  # a reset instead of an end
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert server.call("scores:batch", scores)[2]["applied"] == 3


def test_who_does_not_wait_for_the_answer_gets_it_when_asking_again(server: Server) -> None:
    """The whole batch was applied although nobody listened, and once: the second time everything is there already."""
    player = f"gone-{uuid4().hex}"
    scores = [server.score(f"gone-{number}", player) for number in range(1_000)]
    body = json.dumps(scores).encode()
    with server.begun("scores:batch", body, len(body)):
        pass
    wait_until(lambda: _points(server, player) == 1_000)
    again = server.call("scores:batch", scores)[2]
    assert (again["applied"], again["duplicates"]) == (0, 1_000)


def _points(server: Server, player: str) -> int:
    with closing(HTTPConnection("127.0.0.1", server._port, timeout=30)) as connection:
        connection.request("GET", f"/api/v1/scores/{player}?board={server.board.name.board}")
        answer = connection.getresponse()
        found = json.loads(answer.read())
        return int(found["score"]) if answer.status == 200 else 0


@pytest.mark.parametrize(("path", "size"), [("scores", 1), ("scores:batch", 3)])
def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(
    server: Server, servers: ServerSet, path: str, size: int
) -> None:
    """One call is in flight, two requests wait for the next, and the others need not wait to be told.

    A batch is refused as a whole, and nothing of it is applied.
    """
    run = uuid4().hex
    scores = [[server.score(f"{run}-{number}-{index}") for index in range(size)] for number in range(10)]
    bodies = [one if path == "scores:batch" else one[0] for one in scores]
    with ThreadPoolExecutor(len(bodies)) as pool, _no_writes(servers) as resume:
        calls = [pool.submit(server.call, path, body) for body in bodies]
        wait_until(lambda: sum(call.done() for call in calls) == 7)
        resume()
        answers = [call.result(30) for call in calls]
    refused = [(headers, problem) for status, headers, problem in answers if status == 503]
    assert len(refused) == 7
    assert all(int(headers["Retry-After"]) >= 1 for headers, _ in refused)
    assert {problem["outcome"] for _, problem in refused} == {"not_applied"}
    assert sorted(status for status, *_ in answers) == [200] * 3 + [503] * 7
    for body, (status, *_) in zip(bodies, answers, strict=True):
        again = server.call(path, body)
        assert (again[0], int(again[2]["applied"])) == (200, size if status == 503 else 0)


@contextmanager
def _no_writes(servers: ServerSet) -> Iterator[Any]:
    """No node takes a write until the block ends, or what it yields is called."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(closing(redis.Redis(port=port))) for port in servers.ports.values()]
        primaries = [node for node in nodes if node.role()[0] == b"master"]

        def resume() -> None:
            for node in primaries:
                node.client_unpause()

        stack.callback(resume)
        for node in primaries:
            node.client_pause(60_000, all=False)
        yield resume
