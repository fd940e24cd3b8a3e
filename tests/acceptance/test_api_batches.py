"""Many submissions in one request: each counts once, in order, and none spoils the others."""

import gzip
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from api_calls import BASE, Answer, Api, RunningStack, audited, everything, rows
from waiting import wait_until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.servers

COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}
BATCH = f"{BASE}/scores:batch"
NDJSON = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def api(stack: RunningStack) -> Api:
    return Api(stack)


def send(api: Api, items: Any, query: str = "", **headers: str | None) -> Answer:
    return api.call(
        "POST", BATCH + query, items, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def item(player: str, match: str, score: int = 1) -> dict[str, Any]:
    return {"user_id": player, "score": score, "match_id": match}


def test_results_come_in_the_order_sent(api: Api, stack: RunningStack) -> None:
    ann, bob = api.players(2)
    answer = send(api, [item(ann, "m1", 5), item(bob, "m1", 3), item(ann, "m2", 2), item(ann, "m1", 5)])
    assert answer.status == 200
    assert answer.json == {
        "applied": 3,
        "duplicates": 1,
        "refused": 0,
        "unknown": 0,
        "results": [
            {"status": "applied", "score": 5},
            {"status": "applied", "score": 3},
            {"status": "applied", "score": 7},
            {"status": "duplicate", "score": 7},
        ],
    }
    assert api.get(f"{BASE}/scores/{ann}").json["score"] == 7
    wait_until(lambda: len(rows(stack, "SELECT 1 FROM games WHERE user_id = ANY(%s)", [ann, bob])) == 3)


def test_one_bad_item_spoils_no_other(api: Api) -> None:
    [ann] = api.players()
    bad = [
        {"user_id": ann},
        {"user_id": "b@d", "score": 1},
        {"user_id": "nobody-of-that-name", "score": 1},
        {"user_id": ann, "score": 1, "points": 2},
        {"user_id": ann, "score": True},
        {"user_id": ann, "score": 10**12},
        {"user_id": ann, "score": 1, "board": "no-such-board"},
        {"user_id": ann, "score": 1, "played_at": "2020-01-01T00:00:00Z"},
        7,
        None,
        {"user_id": ann, "score": 4, "match_id": "m1"},
    ]
    answer = send(api, [item(ann, "m1"), *bad, item(ann, "m2")]).json
    assert (answer["applied"], answer["refused"], answer["unknown"]) == (2, len(bad), 0)
    assert [result["status"] for result in answer["results"]] == ["applied", *["refused"] * len(bad), "applied"]
    reasons = [result["reason"] for result in answer["results"] if result["status"] == "refused"]
    named = ["score", "user_id", "user_id", "points", "score", "score", "board", "played_at", "", "", "match_id"]
    for reason, field in zip(reasons, named, strict=True):
        assert reason.startswith(field)
    assert api.get(f"{BASE}/scores/{ann}").json["score"] == 2


@pytest.mark.parametrize("encoding", COMPRESS)
def test_lines_and_compression_mean_the_same(api: Api, encoding: str) -> None:
    [ann] = api.players()
    items = [item(ann, f"line-{number}") for number in range(50)]
    lines = b"\n".join(json.dumps(one).encode() for one in items) + b"\n"
    array = json.dumps(items).encode()
    compress = COMPRESS[encoding]
    assert send(api, lines, **NDJSON).json["applied"] == 50
    assert send(api, compress(lines), Content_Encoding=encoding, **NDJSON).json["duplicates"] == 50
    assert send(api, compress(array), Content_Encoding=encoding, **JSON).json["duplicates"] == 50


def test_a_broken_line_spoils_no_other(api: Api) -> None:
    [ann] = api.players()
    broken = b'{"user_id": \n\r\n \t' + json.dumps(item(ann, "after")).encode()
    answer = send(api, broken, **NDJSON).json
    assert [result["status"] for result in answer["results"]] == ["refused", "applied"]


def test_ten_thousand_at_once(api: Api) -> None:
    players = api.players(20)
    items = [item(players[number % 20], f"big-{number}") for number in range(10_000)]
    answer = send(api, items, "?results=summary")
    assert answer.json == {"applied": 10_000, "duplicates": 0, "refused": 0, "unknown": 0}
    assert {api.get(f"{BASE}/scores/{player}").json["score"] for player in players} == {500}


def test_what_is_refused_as_a_whole_changes_nothing(api: Api, stack: RunningStack) -> None:
    [ann] = api.players()
    one = item(ann, "m1")
    plain = json.dumps([one]).encode()
    wait_until(lambda: audited(stack))
    before = everything(stack)
    bomb = b" " * 50_000_000
    cases: list[tuple[Answer, int]] = [
        (send(api, []), 400),
        (send(api, one), 400),
        (send(api, b"[", **JSON), 400),
        (send(api, b"[" * 1_000_000, **JSON), 400),
        (send(api, b"\xff\xfe[]", **JSON), 400),
        (send(api, b"", **NDJSON), 400),
        (send(api, b" \n\r\n", **NDJSON), 400),
        (send(api, plain, Content_Type="text/csv"), 415),
        (send(api, plain, Content_Encoding="br", **JSON), 415),
        (send(api, plain, Content_Encoding="gzip, zstd", **JSON), 415),
        (send(api, [one] * 10_001), 413),
        (send(api, b"\n".join([b"1"] * 10_001), **NDJSON), 413),
        (send(api, b"[" + b"1," * 4_000_000 + b"1]", **JSON), 413),
        (send(api, b"\n" * 8_000_000, **NDJSON), 400),
        (send(api, [one], "?results=all"), 400),
        (send(api, [one], Authorization="Bearer wrong"), 401),
    ]
    for encoding, compress in COMPRESS.items():
        cases += [
            (send(api, plain, Content_Encoding=encoding, **JSON), 400),
            (send(api, b"", Content_Encoding=encoding, **JSON), 400),
            (send(api, compress(plain)[:-6], Content_Encoding=encoding, **JSON), 400),
            (send(api, 2 * compress(plain), Content_Encoding=encoding, **JSON), 400),
            (send(api, compress(bomb), Content_Encoding=encoding, **JSON), 413),
            (send(api, compress(bomb), Content_Encoding=encoding, **NDJSON), 413),
        ]
    for answer, status in cases:
        assert answer.status == status, answer.body
        assert answer.headers["Content-Type"] == "application/problem+json"
    wait_until(lambda: audited(stack))
    assert everything(stack) == before
