"""Players through HTTP: made one by one or in batches, read, listed."""

import http.client
import json
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from api_calls import BASE, Api, RunningStack
from waiting import wait_until

pytestmark = pytest.mark.servers

USERS = f"{BASE}/users"


@pytest.fixture(scope="module")
def api(stack: RunningStack) -> Api:
    return Api(stack)


def test_a_player_is_made_and_read_back(api: Api) -> None:
    name = f"Zoë {uuid4().hex[:8]}"
    made = api.post(USERS, {"username": name, "avatar_url": "https://img.example/z.png", "country": "AT"})
    assert made.status == 201
    player = made.json
    assert made.headers["Location"] == f"{USERS}/{player['user_id']}"
    created_at = datetime.fromisoformat(player["created_at"])
    assert abs(datetime.now(UTC) - created_at) < timedelta(minutes=1)
    assert player == {
        "user_id": player["user_id"],
        "username": name,
        "display_name": name,
        "avatar_url": "https://img.example/z.png",
        "country": "AT",
        "hidden": False,
        "created_at": player["created_at"],
    }
    assert api.get(made.headers["Location"]).json == player


def test_a_batch_tells_what_became_of_each(api: Api) -> None:
    [there] = api.players()
    new = f"new-{uuid4().hex}"
    answer = api.post(
        f"{USERS}:batch",
        [
            {"user_id": new, "username": new},
            {"user_id": there, "username": f"other {there}"},
            {"username": f"name of {there}"},
            {"user_id": "a b", "username": "bad id"},
            {"user_id": new, "username": new},
        ],
    )
    assert answer.status == 200
    assert [result["status"] for result in answer.json["results"]] == [
        "created",
        "exists",
        "username_taken",
        "invalid",
        "exists",
    ]
    assert answer.json["results"][3]["field"] == "user_id"
    assert (answer.json["created"], answer.json["exists"], answer.json["refused"]) == (1, 2, 2)
    assert api.get(f"{USERS}/{there}").json["username"] == f"name of {there}"


def test_ten_thousand_players_are_made_at_once(api: Api) -> None:
    mark = uuid4().hex[:12]
    users = [{"user_id": f"many-{mark}-{number}", "username": f"many {mark} {number}"} for number in range(10_000)]
    assert api.post(f"{USERS}:batch", users).json["created"] == 10_000
    assert api.post(f"{USERS}:batch", users).json["exists"] == 10_000
    assert api.submit(f"many-{mark}-9999").status == 200


def test_the_listing_comes_to_an_end_and_has_everybody_once(api: Api) -> None:
    mark = f"~{uuid4().hex[:8]}"  # sorts behind all others
    names = [f"{mark} {number}" for number in range(7)]
    api.post(f"{USERS}:batch", [{"username": name} for name in names])
    listed: list[str] = []
    path: str | None = f"{USERS}?limit=3&after={mark}"
    while path:
        page = api.get(path).json
        assert len(page["users"]) <= 3
        listed += [user["username"] for user in page["users"]]
        path = page.get("next")
    assert [name for name in listed if name.startswith(mark)] == names
    assert len(listed) == len(set(listed))


def test_players_are_found_by_how_their_name_begins(api: Api) -> None:
    mark = uuid4().hex[:8]
    api.post(f"{USERS}:batch", [{"username": f"{mark}&{number}"} for number in range(3)] + [{"username": f"x{mark}"}])
    found: list[str] = []
    path: str | None = f"{USERS}?limit=2&prefix={mark}%26"
    while path:
        page = api.get(path).json
        found += [user["username"] for user in page["users"]]
        path = page.get("next")
    assert found == [f"{mark}&{number}" for number in range(3)]


def test_the_boards_are_listed_with_their_rules(api: Api) -> None:
    [board] = [board for board in api.get(f"{BASE}/boards").json["boards"] if board["board"] == "global"]
    assert board["period"] == "month"
    assert board["current"] == f"{datetime.now(UTC):%Y-%m}"
    assert (board["operator"], board["order"], board["registration"]) == ("add", "desc", "registered")
    assert board["lowest"] < 0 < board["highest"]


def test_bounds_of_a_board_that_leave_nothing_are_refused_in_the_contracts_words(api: Api) -> None:
    refused = api.post(f"{BASE}/boards", {"board": f"b{uuid4().hex[:8]}", "lowest": 5, "highest": 4})
    assert refused.status == 400
    [error] = refused.json["errors"]
    assert error["field"] == "highest"
    assert refused.json["detail"] == "`highest` is below `lowest`"


def test_whoever_is_hidden_or_taken_off_is_in_no_top_of_any_process_that_is_asked_for_then(api: Api) -> None:
    """Each process keeps the tops that it has read; a dozen connections reach both."""
    board = f"tops-{uuid4().hex[:8]}"
    assert api.post(f"{BASE}/boards", {"board": board, "registration": "open"}).status == 201
    players = [f"{board}-{number}" for number in range(3)]
    wins = [{"user_id": player, "score": 9 - number, "board": board} for number, player in enumerate(players)]
    wait_until(lambda: api.post(f"{BASE}/scores", wins[0]).status == 200, 60, "the board's period is opened")
    assert [api.post(f"{BASE}/scores", win).status for win in wins[1:]] == [200, 200]

    def tops(connections: list[http.client.HTTPConnection]) -> list[list[str]]:
        found = []
        for connection in connections:
            connection.request(
                "GET", f"{BASE}/scores?board={board}&limit=5", headers={"Authorization": api.authorization}
            )
            answer = connection.getresponse()
            found.append([entry["user_id"] for entry in json.loads(answer.read())["entries"]])
        return found

    with ExitStack() as closing_all:
        connections = [closing_all.enter_context(closing(api.connect())) for _ in range(12)]
        for _ in range(5):
            wait_until(lambda: tops(connections) == [players] * 12, 10, "every process has read the whole top")
            assert api.call("PATCH", f"{USERS}/{players[0]}", {"hidden": True}).status == 200
            assert tops(connections) == [players[1:]] * 12
            assert api.call("PATCH", f"{USERS}/{players[0]}", {"hidden": False}).status == 200
            assert tops(connections) == [players] * 12
        assert api.call("DELETE", f"{BASE}/scores/{players[0]}?board={board}").status == 200
        assert tops(connections) == [players[1:]] * 12
