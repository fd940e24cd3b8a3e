"""Bad input: the documented status, a problem document that names the field, and nothing changed anywhere."""

import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from api_calls import BASE, Answer, Api, RunningStack, audited, everything, rows
from waiting import wait_until

from records import api_keys
from records.engine import connect

pytestmark = pytest.mark.servers

SCORES, USERS = f"{BASE}/scores", f"{BASE}/users"
SCORE = {"user_id": "known", "score": 1}
TOO_LARGE = b'{"user_id": "known", "score": 1, "match_id": "' + b"m" * 9_000_000 + b'"}'
DOCUMENTED = {"type", "title", "status", "detail", "outcome", "request_id", "errors"}


@dataclass(frozen=True)
class Bad:
    """A request that is refused, and how."""

    name: str
    status: int
    field: str | None
    body: Any = None
    path: str = SCORES
    method: str = "POST"
    headers: dict[str, str | None] = field(default_factory=dict)


def _score(name: str, status: int, named: str | None, **changes: Any) -> Bad:
    return Bad(name, status, named, {**SCORE, **changes})


def _read(name: str, status: int, named: str | None, path: str) -> Bad:
    return Bad(name, status, named, None, path, "GET")


REFUSED = [
    # not JSON, or not this JSON
    Bad("empty body", 400, None, b""),
    Bad("malformed JSON", 400, None, b'{"user_id": "known", "score": 1'),
    Bad("not a number", 400, "score", b'{"user_id": "known", "score": NaN}'),
    Bad("not UTF-8", 400, None, b'{"user_id": "\xff", "score": 1}'),
    Bad("an array", 400, None, [SCORE]),
    Bad("nothing but null", 400, None, b"null"),
    Bad("a field twice", 400, "score", b'{"user_id": "known", "score": 1, "score": 2}'),
    Bad("a missing field", 400, "score", {"user_id": "known"}),
    _score("an unknown field", 400, "points", points=1),
    _score("the month in the body", 400, "month", month="2026-11"),
    Bad("no media type", 415, None, SCORE, headers={"Content-Type": None}),
    Bad("another media type", 415, None, SCORE, headers={"Content-Type": "text/plain"}),
    Bad("another encoding", 415, None, SCORE, headers={"Content-Encoding": "gzip"}),
    Bad("too large a body", 413, None, TOO_LARGE),
    # values
    _score("a score in quotes", 400, "score", score="1"),
    _score("a score that is true", 400, "score", score=True),
    _score("a score with a fraction", 400, "score", score=1.5),
    _score("a score beyond 64 bits", 400, "score", score=2**63),
    _score("an absurd score", 422, "score", score=10**15),
    _score("an absurd negative score", 422, "score", score=-(10**15)),
    _score("no user", 400, "user_id", user_id=None),
    _score("an empty user id", 400, "user_id", user_id=""),
    _score("a user id with a space", 400, "user_id", user_id="known player"),
    _score("a user id with a line break", 400, "user_id", user_id="known\n"),
    _score("a user id with braces", 400, "user_id", user_id="{known}"),
    _score("a user id that is long", 400, "user_id", user_id="k" * 65),
    _score("a user id in Cyrillic", 400, "user_id", user_id="кnown"),
    _score("a user id with a NUL", 400, "user_id", user_id="known\0"),
    _score("an unknown user", 404, "user_id", user_id=f"nobody-{uuid4()}"),
    _score("an empty match id", 400, "match_id", match_id=""),
    _score("a long match id", 400, "match_id", match_id="m" * 129),
    _score("a match id with a tab", 400, "match_id", match_id="m\t1"),
    Bad("an odd Idempotency-Key", 400, "Idempotency-Key", SCORE, headers={"Idempotency-Key": "m" * 129}),
    _score("an unknown board", 404, "board", board="nowhere"),
    _score("a board that cannot be", 400, "board", board="No Where"),
    # periods
    _score("a closed month", 422, "played_at", played_at="2020-01-01T00:00:00Z"),
    _score("a month to come", 422, "played_at", played_at="2099-01-01T00:00:00Z"),
    _score("a time before all times", 422, "played_at", played_at="0001-01-01T00:00:00+14:00"),
    _score("a day that does not exist", 400, "played_at", played_at="2026-02-30T00:00:00Z"),
    _score("a time without an offset", 400, "played_at", played_at="2026-11-23T00:00:00"),
    # queries
    Bad("an unknown rank", 400, "rank", SCORE, f"{SCORES}?rank=best"),
    Bad("an unknown parameter", 400, "ranks", SCORE, f"{SCORES}?ranks=exact"),
    _read("limit 0", 400, "limit", f"{SCORES}?limit=0"),
    _read("limit 101", 400, "limit", f"{SCORES}?limit=101"),
    _read("a limit that is a word", 400, "limit", f"{SCORES}?limit=ten"),
    _read("a negative offset", 400, "offset", f"{SCORES}?offset=-1"),
    _read("an offset without end", 400, "offset", f"{SCORES}?offset=1000000001"),
    _read("a parameter twice", 400, "limit", f"{SCORES}?limit=1&limit=2"),
    _read("a month that does not exist", 400, "month", f"{SCORES}?month=2026-13"),
    _read("a month without a ranking", 404, "month", f"{SCORES}?month=2020-01"),
    _read("a month to read that is to come", 404, "month", f"{SCORES}?month=2099-01"),
    _read("a period of another kind", 400, "period", f"{SCORES}?period=2026-W48"),
    _read("a board nobody made", 404, "board", f"{SCORES}?board=nowhere"),
    _read("a player who has no score", 404, "user_id", f"{SCORES}/nobody-{uuid4()}"),
    _read("a player id that cannot be", 400, "user_id", f"{SCORES}/no%20body"),
    _read("a player id that is no text", 400, "user_id", f"{SCORES}/%ff"),
    _read("nobody's surroundings", 404, "user_id", f"{SCORES}/nobody-{uuid4()}/surrounding"),
    _read("surroundings of 0", 400, "offset", f"{SCORES}/known/surrounding?offset=0"),
    _read("surroundings of 11", 400, "offset", f"{SCORES}/known/surrounding?offset=11"),
    _read("stats of a month that does not exist", 400, "month", f"{BASE}/stats?month=2026-00"),
    # players
    _read("an unknown player", 404, "user_id", f"{USERS}/nobody-{uuid4()}"),
    _read("a username that cannot be", 400, "after", f"{USERS}?after=%00"),
    Bad("a player without a name", 400, "username", {}, USERS),
    Bad("a name of blanks", 400, "username", {"username": " "}, USERS),
    Bad("a name that is long", 400, "username", {"username": "n" * 65}, USERS),
    Bad("a name with a line break", 400, "username", {"username": "a\nb"}, USERS),
    Bad("an odd player id", 400, "user_id", {"username": "n", "user_id": "a/b"}, USERS),
    Bad("an avatar that is a script", 400, "avatar_url", {"username": "n", "avatar_url": "javascript:x"}, USERS),
    Bad("a country of three letters", 400, "country", {"username": "n", "country": "AUT"}, USERS),
    Bad("a player that is there", 409, "user_id", {"username": f"n-{uuid4()}", "user_id": "known"}, USERS),
    Bad("a username that is taken", 409, "username", {"username": "known"}, USERS),
    Bad("a batch of nobody", 400, None, [], f"{USERS}:batch"),
    Bad("too many players", 400, None, [{"username": "n"}] * 10_001, f"{USERS}:batch"),
    Bad("a batch with an unknown field", 400, "[1].name", [{"username": "n"}, {"name": "n"}], f"{USERS}:batch"),
    # keys
    Bad("no key", 401, None, SCORE, headers={"Authorization": None}),
    Bad("a wrong key", 401, None, SCORE, headers={"Authorization": "Bearer rb_" + "w" * 32}),
    Bad("a key of no form", 401, None, SCORE, headers={"Authorization": "Bearer " + "x" * 3000}),
    Bad("another scheme", 401, None, SCORE, headers={"Authorization": "Basic a25vd246"}),
    Bad("a user without a key", 401, None, {"username": "n"}, USERS, headers={"Authorization": None}),
    # addresses
    _read("nowhere", 404, None, f"{BASE}/nowhere"),
    _read("a path with a slash in the id", 404, None, f"{SCORES}/a%2Fb"),
    Bad("a method that is not taken", 405, None, path=SCORES, method="DELETE"),
    Bad("a method that nobody knows", 405, None, path=SCORES, method="BREW"),
]


@pytest.fixture(scope="module")
def api(stack: RunningStack) -> Api:
    """With a player `known` who has a score."""
    api = Api(stack)
    assert api.post(USERS, {"user_id": "known", "username": "known"}).status in {201, 409}
    assert api.submit("known").status == 200
    return api


@pytest.fixture
def reader_key(stack: RunningStack) -> Iterator[str]:
    """A key that may read and no more."""
    engine = connect(stack.dsn, pool_size=1)
    key_id, secret = api_keys.create(engine, "reads only", ["scores:read"])
    yield secret
    api_keys.revoke(engine, key_id)
    engine.dispose()


@pytest.mark.parametrize("bad", REFUSED, ids=lambda bad: bad.name)
def test_a_bad_request_has_its_documented_answer(api: Api, bad: Bad) -> None:
    answer = _send(api, bad)
    assert (answer.status, answer.fields) == (bad.status, [bad.field] if bad.field else [])
    _is_problem(answer)


def test_refused_requests_change_nothing_anywhere(api: Api, stack: RunningStack) -> None:
    wait_until(lambda: audited(stack))
    before = everything(stack)
    assert len(before) > 20
    for bad in REFUSED:
        assert _send(api, bad).status == bad.status
    after = everything(stack)
    assert {key for key in before | after if before.get(key) != after.get(key)} == set()


def test_a_key_without_the_scope_is_told_which_it_lacks(api: Api, reader_key: str) -> None:
    answer = api.submit("known", headers={"Authorization": f"Bearer {reader_key}"})
    assert answer.status == 403
    assert "scores:write" in answer.json["detail"]
    assert 'scope="scores:write"' in answer.headers["WWW-Authenticate"]
    _is_problem(answer)


def test_a_revoked_key_is_refused_within_ten_seconds(api: Api, stack: RunningStack) -> None:
    engine = connect(stack.dsn, pool_size=1)
    key_id, secret = api_keys.create(engine, "for a moment", ["scores:write"])
    headers = {"Authorization": f"Bearer {secret}"}
    assert api.submit("known", headers=headers).status == 200
    assert api_keys.revoke(engine, key_id)
    engine.dispose()
    # every worker process has to notice
    refused_in_a_row = 0

    def refused_everywhere() -> bool:
        nonlocal refused_in_a_row
        refused_in_a_row = refused_in_a_row + 1 if api.submit("known", headers=headers).status == 401 else 0
        return refused_in_a_row >= 20

    wait_until(refused_everywhere, seconds=12)


def test_without_a_key_401_says_how(api: Api) -> None:
    answer = api.submit("known", headers={"Authorization": None})
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="rangeboard"'


def test_405_says_what_is_taken(api: Api) -> None:
    assert api.call("PUT", SCORES).headers["Allow"] == "GET, HEAD, POST"


def test_a_connection_goes_on_after_a_refusal(api: Api) -> None:
    with closing(api.connect()) as connection:
        for bad in REFUSED[:8]:
            answer = api.call(bad.method, bad.path, bad.body, headers=bad.headers, connection=connection)
            assert answer.status == bad.status
        answer = api.submit("known", connection=connection)
        assert answer.status == 200, answer.body


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost x\r\n\r\n", 400),
        (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ],
)
def test_what_is_not_http_is_refused_with_a_problem_too(stack: RunningStack, request_bytes: bytes, status: int) -> None:
    head, body = _raw(stack, request_bytes)
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"application/problem+json" in head
    assert f'"status":{status}'.encode() in body


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 100\r\n\r\n" + b'{"user_id": "known", "score": 1, "match_id": "%s"}',
        b"Transfer-Encoding: chunked\r\n\r\n" + b'ff\r\n{"user_id": "known", "score": 1, "match_id": "%s"}',
        b"Transfer-Encoding: chunked\r\n\r\n" + b'zz\r\n{"user_id": "known", "score": 1, "match_id": "%s"}',
    ],
)
def test_a_body_that_is_cut_off_is_refused_and_not_applied(api: Api, stack: RunningStack, body: bytes) -> None:
    match_id = uuid4().hex
    head, _ = _raw(stack, _post(stack) + body % match_id.encode())
    assert head.startswith(b"HTTP/1.1 400 ")
    assert api.submit("known", more={"match_id": match_id}).json["applied"]


def test_a_chunked_body_is_taken(api: Api, stack: RunningStack) -> None:
    body = b'{"user_id": "known", "score": 1}'
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    head, answer = _raw(stack, _post(stack) + chunked)
    assert head.startswith(b"HTTP/1.1 200 "), answer


def test_an_id_of_a_request_is_only_taken_if_it_is_fit(api: Api, stack: RunningStack) -> None:
    odd = "a b'; DROP TABLE games"
    answer = api.submit("known", headers={"X-Request-ID": odd})
    assert answer.headers["X-Request-ID"] != odd
    assert rows(stack, "SELECT count(*) FROM games WHERE request_id = %s", odd) == [(0,)]


def _send(api: Api, bad: Bad) -> Answer:
    return api.call(bad.method, bad.path, bad.body, headers=bad.headers)


def _is_problem(answer: Answer) -> None:
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json
    assert set(problem) == DOCUMENTED
    assert problem["status"] == answer.status
    assert problem["outcome"] == "not_applied"
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    assert problem["title"]
    assert problem["detail"]
    assert problem["type"].startswith("urn:rangeboard:problem:")
    assert "Traceback" not in answer.body.decode()


def _post(stack: RunningStack) -> bytes:
    return (
        f"POST {SCORES} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.api_key}\r\n"
        "Content-Type: application/json\r\n"
    ).encode()


def _raw(stack: RunningStack, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer to bytes as they are, after which the client sends nothing more."""
    address = urlsplit(stack.api_url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body
