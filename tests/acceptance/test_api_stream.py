"""Listening to the top of a running stack."""

import json
import time
from contextlib import closing
from http.client import HTTPResponse
from typing import Any

import pytest
from api_calls import BASE, Api, RunningStack

pytestmark = pytest.mark.servers

STREAM = f"{BASE}/stream?limit=2"
#: of a submission to its event: the top is read five times a second
SOON_S = 3.0


def next_top(answer: HTTPResponse) -> Any:
    """The next event; what is no event is passed over."""
    while line := answer.readline():
        if line.startswith(b"data: "):
            return json.loads(line.removeprefix(b"data: "))
    raise AssertionError("the stream has ended")


def test_events_come_while_one_plays(stack: RunningStack) -> None:
    api = Api(stack)
    [player] = api.players()
    with closing(api.connect()) as connection:
        connection.request("GET", STREAM)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
        leader = next_top(answer)["entries"]
        best = leader[0]["score"] if leader else 0
        for more in (1, 2, 3):
            began = time.monotonic()
            api.submit(player, best + 1_000 if more == 1 else 1)
            entry = next_top(answer)["entries"][0]
            assert (entry["user_id"], entry["score"]) == (player, best + 999 + more)
            assert time.monotonic() - began < SOON_S
