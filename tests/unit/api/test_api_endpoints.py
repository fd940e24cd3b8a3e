"""Every request is served in the same way, whatever the endpoint does or fails to do."""

import io
import json
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from api.auth import Keys, Scope
from api.endpoints import Endpoint, Reply, Served, serving
from api.requests import Call
from runtime.settings import Settings
from sharding.errors import NotOnBoard, ShardOutcomeUnknown


class Greeting(msgspec.Struct):
    """What is given."""

    text: str


class Asking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked."""

    name: str = "you"


def _serve(answer: Callable[..., Any], *, settings: Settings | None = None, **given: Any) -> Callable[..., Served]:
    row: dict[str, Any] = {"method": "GET", "path": "/hello", "scope": None, "query": Asking} | given
    endpoint = Endpoint(answer=answer, summary="", gives=Greeting, **row)
    return serving(endpoint, settings or Settings(), Keys(lambda _: None))


def _environ(body: bytes = b"", **given: Any) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/hello",
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": "application/json",
        "wsgi.input": io.BytesIO(body),
    } | given


def test_the_time_that_a_client_takes_to_send_is_its_own() -> None:
    def slowly(_: object, most_bytes: int) -> None:
        time.sleep(0.6)  # a client that takes longer than a request may

    def hello(call: Call[Asking, None]) -> Greeting:
        assert not call.deadline.passed
        return Greeting("hello")

    hasty = Settings(request_deadline_ms=500)
    assert _serve(hello, settings=hasty, reads=slowly)(_environ()).status == 200


def test_values_go_in_and_a_value_comes_out() -> None:
    def hello(call: Call[Asking, None], word: str) -> Greeting:
        assert 0 < call.deadline.remaining() <= 3
        return Greeting(f"{word}, {call.query.name} ({call.request_id}, {call.idempotency_key})")

    environ = _environ(QUERY_STRING="name=ann", HTTP_X_REQUEST_ID="r-1", HTTP_IDEMPOTENCY_KEY="k-1")
    served = _serve(hello)(environ, word="hello")
    assert json.loads(served.body) == {"text": "hello, ann (r-1, k-1)"}
    assert served.status == 200
    assert dict(served.headers) == {
        "Content-Type": "application/json",
        "X-Request-ID": "r-1",
        "Cache-Control": "no-store",
    }


def test_a_reply_may_say_more() -> None:
    served = _serve(lambda _: Reply(Greeting("new"), HTTPStatus.CREATED, {"Location": "/new"}))(_environ())
    assert served.status == 201
    assert ("Location", "/new") in served.headers


def test_an_error_of_the_boards_is_told_as_it_is() -> None:
    def missing(_: Any) -> Greeting:
        raise NotOnBoard("nobody here", field="user_id")

    served = _serve(missing)(_environ())
    assert served.status == 404
    assert json.loads(served.body)["errors"] == [{"field": "user_id", "detail": "nobody here"}]


@pytest.mark.parametrize(("method", "outcome"), [("GET", "not_applied"), ("POST", "unknown")])
def test_a_defect_is_logged_under_the_request_id_and_not_shown(method: str, outcome: str) -> None:
    def broken(_: Any) -> Greeting:
        raise ZeroDivisionError("a secret of ours")

    with capture_logs() as logs:
        served = _serve(broken, method=method)(_environ(HTTP_X_REQUEST_ID="r-2"))
    assert served.status == 500
    problem = json.loads(served.body)
    assert (problem["request_id"], problem["outcome"]) == ("r-2", outcome)
    assert b"secret" not in served.body
    [event] = logs
    assert (event["event"], event["request_id"], event["path"]) == ("request_failed", "r-2", "/hello")
    assert isinstance(event["exc_info"], ZeroDivisionError)


def test_what_was_foreseen_is_no_defect() -> None:
    def unknown(_: Any) -> Greeting:
        raise ShardOutcomeUnknown

    with capture_logs() as logs:
        served = _serve(unknown, method="POST")(_environ())
    assert served.status == 503
    assert json.loads(served.body)["outcome"] == "unknown"
    assert ("Retry-After", "1") in served.headers
    assert not logs


def test_nothing_is_read_for_one_who_may_not_call() -> None:
    class Unread(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            raise AssertionError("read")

    serve = _serve(lambda _: Greeting(""), method="POST", scope=Scope.WRITE, takes=Greeting)
    assert serve(_environ(b"{}", **{"wsgi.input": Unread()})).status == 401


@pytest.mark.parametrize(
    ("scope", "reads_open", "status"),
    [(Scope.READ, True, 200), (Scope.READ, False, 401), (Scope.WRITE, True, 401), (None, False, 200)],
)
def test_reads_are_open_unless_they_are_closed(scope: Scope | None, reads_open: bool, status: int) -> None:
    serve = _serve(lambda _: Greeting(""), scope=scope, settings=Settings(reads_open=reads_open))
    assert serve(_environ()).status == status
