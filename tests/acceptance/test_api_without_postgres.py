"""While PostgreSQL hangs, which is worse than being gone, players go on playing and looking at their ranks."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection

import psutil
import pytest
from api_calls import BASE, Answer, Api, RunningStack, audited, rows
from waiting import wait_until

pytestmark = pytest.mark.servers

SCORES = f"{BASE}/scores"
#: What a request may take while PostgreSQL hangs; the deadline of all requests is 3 s.
SOON_S = 2.5


@pytest.fixture
def api(stack: RunningStack) -> Api:
    return Api(stack)


@contextmanager
def _hanging(pid: int) -> Iterator[None]:
    postgres = psutil.Process(pid)
    family = [postgres]
    postgres.suspend()  # from now on it makes no more of them
    try:
        family += postgres.children(recursive=True)
        for process in family[1:]:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def _soon(call: Callable[..., Answer], *args: object, **options: object) -> Answer:
    started = time.monotonic()
    answer = call(*args, **options)
    assert time.monotonic() - started < SOON_S
    return answer


def test_players_go_on_and_nothing_is_lost(api: Api, stack: RunningStack) -> None:
    known, unseen, newcomer = api.players(3)
    _warm_every_process(api, known)
    api.submit(unseen, 5)
    with _hanging(stack.status["pids"]["postgres"]):
        matches = [f"m{number}" for number in range(40)]
        for match in matches:
            answer = _soon(api.submit, known, 1, more={"match_id": match})
            assert (answer.status, answer.json["applied"]) == (200, True)

        standing = _soon(api.get, f"{SCORES}/{unseen}")
        assert (standing.status, standing.json["score"]) == (200, 5)
        assert (standing.json["display_name"], standing.json["names"]) == (None, "unavailable")
        assert _soon(api.get, SCORES).status == 200

        refused = api.submit(newcomer, 1, more={"match_id": "first"})
        assert (refused.status, refused.json["outcome"]) == (503, "not_applied")
        assert int(refused.headers["Retry-After"]) >= 1

        ready = _soon(api.get, "/readyz")
        assert (ready.status, ready.json["status"]) == (200, "degraded")
        assert ready.json["dependencies"]["postgresql"] != "ok"
        assert _soon(api.get, "/livez").status == 200

    wait_until(lambda: api.get("/readyz").json["status"] == "ready")
    wait_until(lambda: api.submit(newcomer, 1, more={"match_id": "first"}).status == 200)
    wait_until(lambda: audited(stack), seconds=60)
    kept = rows(stack, "SELECT match_id FROM games WHERE user_id = %s AND match_id LIKE 'm%%'", known)
    assert sorted(match for (match,) in kept) == sorted(matches)
    assert wait_until(lambda: api.get(f"{SCORES}/{unseen}").json["display_name"])


def _warm_every_process(api: Api, player: str) -> None:
    """Let every process have seen the key, the board and the page; connections spread over them."""
    connections: list[HTTPConnection] = [api.connect() for _ in range(16)]
    for connection in connections:
        connection.connect()
    for connection in connections:
        assert api.submit(player, connection=connection).status == 200
        assert api.get(SCORES, connection=connection).status == 200
        connection.close()
