"""Submitting and reading back through HTTP, on the real stack."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from typing import Any
from urllib.request import urlopen
from uuid import uuid4

import pytest
from api_calls import BASE, Api, RunningStack, rows
from waiting import wait_until

pytestmark = pytest.mark.servers

SCORES = f"{BASE}/scores"
#: Far above what other tests reach, so that the players of this file are together at the top; within the bounds.
HIGH = 900_000


@pytest.fixture(scope="module")
def api(stack: RunningStack) -> Api:
    return Api(stack)


def test_a_score_is_counted_and_read_back(api: Api) -> None:
    [player] = api.players()
    first = api.submit(player, 3, more={"match_id": "m1"})
    assert first.status == 200
    assert first.headers["Content-Type"] == "application/json"
    answer = first.json
    assert answer.pop("rank") >= 1
    assert answer == {
        "user_id": player,
        "board": "global",
        "month": f"{datetime.now(UTC):%Y-%m}",
        "score": 3,
        "rank_is": "recent",
        "applied": True,
        "durable": True,
        "match_id": "m1",
    }
    assert api.submit(player, 4).json["score"] == 7
    standing = api.get(f"{SCORES}/{player}").json
    assert standing["score"] == 7
    assert standing["display_name"] == f"Player {player[-4:]}"
    assert 1 <= standing["rank"] <= standing["total_players"]
    assert 0 < standing["percentile"] <= 100


def test_a_match_without_an_id_gets_one(api: Api) -> None:
    [player] = api.players()
    ids = {api.submit(player).json["match_id"] for _ in range(3)}
    assert len(ids) == 3
    assert api.get(f"{SCORES}/{player}").json["score"] == 3


@pytest.mark.parametrize("way", ["body", "header"])
def test_the_same_match_twice_counts_once(api: Api, way: str) -> None:
    [player] = api.players()
    match = uuid4().hex
    options: dict[str, Any] = (
        {"more": {"match_id": match}} if way == "body" else {"headers": {"Idempotency-Key": match}}
    )
    answers = [api.submit(player, 5, **options).json for _ in range(3)]
    assert [answer["applied"] for answer in answers] == [True, False, False]
    assert {answer["score"] for answer in answers} == {5}
    assert {answer["match_id"] for answer in answers} == {match}


def test_the_body_names_the_match_before_the_header_does(api: Api) -> None:
    [player] = api.players()
    answer = api.submit(player, more={"match_id": "in-body"}, headers={"Idempotency-Key": "in-header"})
    assert answer.json["match_id"] == "in-body"


def test_the_same_match_at_once_from_fifty_connections_counts_once(api: Api, stack: RunningStack) -> None:
    [player] = api.players()
    start = threading.Barrier(50)

    def send(_: int) -> dict[str, Any]:
        with closing(api.connect()) as connection:
            connection.connect()
            start.wait(20)
            answer = api.submit(player, 2, more={"match_id": "final"}, connection=connection)
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json
        return found

    with ThreadPoolExecutor(max_workers=50) as pool:
        answers = list(pool.map(send, range(50)))
    assert sum(answer["applied"] for answer in answers) == 1
    assert {answer["score"] for answer in answers} == {2}
    assert api.get(f"{SCORES}/{player}").json["score"] == 2
    wait_until(lambda: rows(stack, "SELECT 1 FROM games WHERE user_id = %s", player))
    assert rows(stack, "SELECT value, match_id FROM games WHERE user_id = %s", player) == [(2, "final")]


def test_the_same_match_with_another_score_is_a_conflict(api: Api) -> None:
    [player] = api.players()
    api.submit(player, 1, more={"match_id": "m1"})
    refused = api.submit(player, 2, more={"match_id": "m1"})
    assert (refused.status, refused.fields) == (409, ["match_id"])
    assert api.get(f"{SCORES}/{player}").json["score"] == 1


def test_two_players_may_have_the_same_match(api: Api) -> None:
    players = api.players(2)
    assert [api.submit(player, more={"match_id": "duel"}).json["applied"] for player in players] == [True, True]


def test_an_id_in_capitals_is_the_same_player(api: Api) -> None:
    player = str(uuid4())
    assert api.post(f"{BASE}/users", {"user_id": player.upper(), "username": player}).json["user_id"] == player
    assert api.submit(player.upper(), 1, more={"match_id": "a"}).json["user_id"] == player
    assert api.submit(player, 1, more={"match_id": "b"}).json["score"] == 2
    assert api.get(f"{SCORES}/{player.upper()}").json["score"] == 2


@pytest.mark.parametrize(("mode", "told"), [("recent", "recent"), ("exact", "exact"), ("none", "none")])
def test_the_answer_says_which_rank_it_tells(api: Api, mode: str, told: str) -> None:
    [player] = api.players()
    answer = api.post(f"{SCORES}?rank={mode}", {"user_id": player, "score": 1}).json
    assert answer["rank_is"] == told
    assert (answer["rank"] is None) == (mode == "none")


def test_an_exact_rank_is_the_one_that_is_read(api: Api) -> None:
    for player in api.players(5):
        told = api.post(f"{SCORES}?rank=exact", {"user_id": player, "score": 10}).json["rank"]
        assert api.get(f"{SCORES}/{player}").json["rank"] == told


def test_more_points_rank_first_and_ties_go_to_who_was_there_first(api: Api) -> None:
    best, second, third, late = players = api.players(4)
    for player, score in [(third, 1), (second, 1), (best, 3), (late, 1)]:
        api.submit(player, HIGH + score)
        _next_second(api)
    ranks = {player: api.get(f"{SCORES}/{player}").json["rank"] for player in players}
    assert sorted(players, key=ranks.__getitem__) == [best, third, second, late]


def test_pages_singles_and_surroundings_tell_the_same_ranks(api: Api) -> None:
    players = api.players(12)
    for number, player in enumerate(players):
        api.submit(player, HIGH + 1_000 + number // 2)  # in pairs of equal points
    page = _top(api, 5)
    seen = {entry["user_id"]: entry for entry in page["entries"]}
    while "next" in page and not set(players) <= set(seen):
        page = api.get(page["next"]).json
        assert len(page["entries"]) <= 5
        seen.update({entry["user_id"]: entry for entry in page["entries"]})
    ranks = [entry["rank"] for entry in seen.values()]
    assert ranks == list(range(1, len(ranks) + 1))
    points = [entry["score"] for entry in seen.values()]
    assert points == sorted(points, reverse=True)
    for player in players:
        entry = seen[player]
        assert api.get(f"{SCORES}/{player}").json["rank"] == entry["rank"]
        around = api.get(f"{SCORES}/{player}/surrounding?offset=3").json["entries"]
        [own] = [one for one in around if one["is_current_user"]]
        assert (own["user_id"], own["rank"], own["score"]) == (player, entry["rank"], entry["score"])


def test_surroundings_are_full_in_the_middle_and_at_both_ends(api: Api) -> None:
    players = api.players(15)
    for number, player in enumerate(players):
        api.submit(player, HIGH + 2_000 + number)
    [last] = api.players()
    api.submit(last, -1_000_000)
    total = api.get(f"{SCORES}/{last}").json["total_players"]

    def window(player: str) -> list[int]:
        return [entry["rank"] for entry in api.get(f"{SCORES}/{player}/surrounding?offset=4").json["entries"]]

    top = _top(api, 1)["entries"][0]["user_id"]
    assert window(top) == list(range(1, 10))
    middle = api.get(f"{SCORES}/{players[5]}").json["rank"]
    assert window(players[5]) == list(range(middle - 4, middle + 5))
    assert window(last) == list(range(total - 8, total + 1))


def test_pages_carry_names(api: Api) -> None:
    [player] = api.players()
    api.submit(player, HIGH + 3_000)
    page = _top(api, 100)
    [entry] = [entry for entry in page["entries"] if entry["user_id"] == player]
    assert entry["username"] == f"name of {player}"
    assert entry["display_name"] == f"Player {player[-4:]}"
    assert entry["avatar_url"] is None
    assert "is_current_user" not in entry
    assert "names" not in page
    assert datetime.fromisoformat(page["as_of"]).tzinfo is not None


def test_a_page_beyond_the_end_is_empty_and_the_last(api: Api) -> None:
    page = api.get(f"{SCORES}?offset=999999999").json
    assert page["entries"] == []
    assert "next" not in page
    assert page["total_players"] >= 1


def test_the_next_page_is_asked_for_as_this_one_was(api: Api) -> None:
    for player in api.players(3):
        api.submit(player)
    month = f"{datetime.now(UTC):%Y-%m}"
    following = api.get(f"{SCORES}?limit=2&month={month}").json["next"]
    assert following == f"{SCORES}?limit=2&offset=2&month={month}"


def test_reads_need_no_key(api: Api) -> None:
    [player] = api.players()
    api.submit(player)
    for path in (SCORES, f"{SCORES}/{player}", f"{SCORES}/{player}/surrounding", f"{BASE}/stats", f"{BASE}/boards"):
        assert api.get(path, headers={"Authorization": None}).status == 200, path


def test_stats_count_what_was_submitted(api: Api) -> None:
    before = api.get(f"{BASE}/stats").json
    for player in api.players(4):
        api.submit(player, 10, more={"match_id": "a"})
        api.submit(player, 10, more={"match_id": "b"})
        api.submit(player, 10, more={"match_id": "b"})  # a retry is no submission
    after = api.get(f"{BASE}/stats").json
    assert after["total_players"] - before["total_players"] == 4
    assert after["submissions"] - before["submissions"] == 8
    assert after["shards"] == 16
    assert after["top_score"] == _top(api, 1)["entries"][0]["score"]
    sums = [stats["total_players"] * (stats["average_score"] or 0) for stats in (before, after)]
    assert sums[1] - sums[0] == pytest.approx(80, abs=0.01 * after["total_players"])


def test_a_request_id_reaches_the_audit(api: Api, stack: RunningStack) -> None:
    [player] = api.players()
    request_id = f"test-{uuid4()}"
    played_at = datetime.now(UTC).replace(microsecond=5000)
    answer = api.submit(
        player,
        6,
        more={"match_id": "m1", "played_at": played_at.isoformat()},
        headers={"X-Request-ID": request_id},
    )
    assert answer.headers["X-Request-ID"] == request_id
    query = "SELECT user_id, value, points_after, match_id, board, period, played_at FROM games WHERE request_id = %s"
    found = wait_until(lambda: rows(stack, query, request_id))
    assert found == [(player, 6, 6, "m1", "global", f"{played_at:%Y-%m}", played_at)]


def test_every_request_has_an_id(api: Api) -> None:
    ids = {api.get("/livez").headers["X-Request-ID"] for _ in range(5)}
    assert len(ids) == 5


def test_ready_names_every_part(api: Api, stack: RunningStack) -> None:
    answer = api.get("/readyz")
    assert answer.status == 200
    nodes = json.loads(stack.command("status", "--json").stdout)["redis"]
    primaries = {f"redis 127.0.0.1:{node['port']}" for node in nodes if node["role"] == "primary"}
    assert answer.json["status"] == "ready"
    assert set(answer.json["dependencies"]) == primaries | {"postgresql", "board global"}


def test_what_was_done_is_counted_right_over_all_processes(api: Api, stack: RunningStack) -> None:
    def counted(series: str) -> float:
        with urlopen(stack.status["metrics_url"], timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))

    series = 'rangeboard_submissions_total{status="applied"}'
    requests = 'rangeboard_http_request_seconds_count{endpoint="/api/v1/scores/<user_id>",method="GET",status="200"}'
    [player] = api.players()
    before, read_before = counted(series), counted(requests)
    for _ in range(30):  # a connection each: they spread over the processes
        api.submit(player)
        api.get(f"{SCORES}/{player}")
    assert counted(series) - before == 30
    assert counted(requests) - read_before == 30


def test_metrics_are_not_served_to_players(api: Api) -> None:
    assert api.get("/metrics").status == 404


def _top(api: Api, limit: int) -> Any:
    """The top with all in it that was acknowledged before this call: each process shows one for a moment."""
    now = datetime.now(UTC)

    def fresh() -> Any:
        page = api.get(f"{SCORES}?limit={limit}").json
        return page if datetime.fromisoformat(page["as_of"]) >= now else None

    return wait_until(fresh)


def _next_second(api: Api) -> None:
    """Wait until the clock that decides ties has moved on: it counts a month in seconds."""
    now = int(datetime.now(UTC).timestamp())
    wait_until(lambda: int(datetime.now(UTC).timestamp()) > now)
