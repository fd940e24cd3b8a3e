"""Players are changed, hidden and erased over HTTP, at once and on every open board."""

from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import pytest
from http_service import BASE, Service, http_service

from cli.servers import ServerSet
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind
from sharding.players import PlayerId

pytestmark = pytest.mark.servers

PLAYERS = [PlayerId(f"player-{number:02d}") for number in range(20)]
USERS = f"{BASE}/users"


@pytest.fixture(scope="module")
def service(servers: ServerSet, leaderboard: Leaderboard, postgres_dsn: str) -> Iterator[Service]:
    with http_service(servers, leaderboard, postgres_dsn, PLAYERS) as served:
        yield served


def submit(service: Service, board: str, player: str, score: int = 1) -> tuple[int, Any]:
    return service.api.call("POST", f"{BASE}/scores", {"user_id": player, "score": score, "board": board})


def top(service: Service, board: str) -> list[str]:
    return [entry["user_id"] for entry in service.api.get("/scores", board=board, limit=100)["entries"]]


def test_what_is_told_of_a_player_changes_and_the_rest_stays(service: Service) -> None:
    """Also where the old name was shown a moment ago."""
    board, player = service.open_board([10]).board.name, PLAYERS[0]
    submit(service, board, player)
    before = service.api.get(f"/users/{player}")
    assert service.api.get(f"/scores/{player}", board=board)["display_name"] == before["display_name"]
    changes = {"display_name": "Zoë", "avatar_url": "https://img.example/z.png", "country": "AT"}
    status, told = service.api.call("PATCH", f"{USERS}/{player}", changes)
    assert (status, told) == (200, before | changes)
    assert service.api.get(f"/scores/{player}", board=board)["display_name"] == "Zoë"
    status, told = service.api.call("PATCH", f"{USERS}/{player}", {"avatar_url": None, "country": None})
    assert (status, told) == (200, before | {"display_name": "Zoë"})
    assert service.api.call("PATCH", f"{USERS}/{player}", {}) == (200, told)
    assert service.api.call("PATCH", f"{USERS}/{player}", {"username": "zoe"})[1]["username"] == "zoe"


@pytest.mark.parametrize(
    ("body", "expected", "field"),
    [
        ({"username": "name 2"}, 409, "username"),
        ({"username": ""}, 400, "username"),
        ({"username": None}, 400, "username"),
        ({"username": "x" * 65}, 400, "username"),
        ({"display_name": " edge "}, 400, "display_name"),
        ({"display_name": "a\x00b"}, 400, "display_name"),
        ({"avatar_url": "ftp://img.example"}, 400, "avatar_url"),
        ({"country": "at"}, 400, "country"),
        ({"hidden": "yes"}, 400, "hidden"),
        ({"hidden": None}, 400, "hidden"),
        ({"points": 5}, 400, "points"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_and_changes_nothing(
    service: Service, body: dict[str, Any], expected: int, field: str
) -> None:
    before = service.api.get(f"/users/{PLAYERS[1]}")
    status, answer = service.api.call("PATCH", f"{USERS}/{PLAYERS[1]}", body)
    assert (status, [error["field"] for error in answer["errors"]]) == (expected, [field])
    assert service.api.get(f"/users/{PLAYERS[1]}") == before


@pytest.mark.parametrize(("method", "body"), [("PATCH", {"hidden": True}), ("DELETE", None), ("GET", None)])
def test_who_is_no_player_is_not_found(service: Service, method: str, body: Any) -> None:
    status, answer = service.api.call(method, f"{USERS}/nobody", body)
    assert (status, answer["errors"][0]["field"]) == (404, "user_id")


def test_a_hidden_player_leaves_every_open_board_at_once(service: Service) -> None:
    """Whatever their period; also yesterday's, while it is open; and comes back to where the points belong."""
    kinds = (PeriodKind.MONTH, PeriodKind.WEEK, PeriodKind.FOREVER)
    boards = [service.open_board([2, 5], kind=kind).board.name for kind in kinds]
    for board in boards:
        for score, player in enumerate(PLAYERS[2:8]):
            submit(service, board, player, score)
    shown = [player for player in reversed(PLAYERS[2:8]) if player != PLAYERS[5]]
    status, told = service.api.call("PATCH", f"{USERS}/{PLAYERS[5]}", {"hidden": True})
    assert (status, told["hidden"]) == (200, True)
    for board in boards:
        assert top(service, board) == shown
        assert submit(service, board, PLAYERS[5], 1)[1] | {"match_id": ""} == {
            "user_id": PLAYERS[5],
            "score": 4,
            "rank": None,
            "rank_is": "none",
            "applied": True,
            "durable": True,
            "match_id": "",
            "board": board,
        } | {
            name: value for name, value in service.api.get("/stats", board=board).items() if name in {"month", "period"}
        }
    assert service.api.call("PATCH", f"{USERS}/{PLAYERS[5]}", {"hidden": False})[0] == 200
    for board in boards:
        assert sorted(top(service, board)) == sorted(PLAYERS[2:8])


def test_who_is_hidden_before_the_first_match_of_a_period_never_shows(service: Service) -> None:
    service.api.call("PATCH", f"{USERS}/{PLAYERS[9]}", {"hidden": True})
    board = service.open_board([10]).board.name
    assert submit(service, board, PLAYERS[9], 5)[0] == 200
    assert submit(service, board, PLAYERS[10], 3)[1]["rank"] == 1
    assert top(service, board) == [PLAYERS[10]]
    service.api.call("DELETE", f"{BASE}/scores/{PLAYERS[9]}?board={board}")
    assert submit(service, board, PLAYERS[9], 7)[1]["score"] == 7
    assert top(service, board) == [PLAYERS[10]]


def test_an_erased_person_is_gone_and_begins_nothing(service: Service) -> None:
    """Off the boards with the answer; asked again, the same; and a match that comes late is a stranger's."""
    one, other = (service.open_board([10]).board.name for _ in range(2))
    for board in (one, other):
        submit(service, board, PLAYERS[11], 4)
        submit(service, board, PLAYERS[12], 2)
    status, told = service.api.call("DELETE", f"{USERS}/{PLAYERS[11]}")
    assert status == 202
    assert {name.partition(":")[0] for name in told["boards"]} == {one, other}
    assert service.api.call("GET", f"{USERS}/{PLAYERS[11]}")[0] == 404
    assert service.api.call("DELETE", f"{USERS}/{PLAYERS[11]}") == (202, {"user_id": PLAYERS[11], "boards": []})
    for board in (one, other):
        assert top(service, board) == [PLAYERS[12]]
        status, answer = submit(service, board, PLAYERS[11], 1)
        assert (status, answer["errors"][0]["field"]) == (404, "user_id")
        assert top(service, board) == [PLAYERS[12]]


# -- boards


HUGE = 2**63 - 1


@pytest.mark.parametrize(
    ("bounds", "field"),
    [
        ({"lowest": HUGE}, "lowest"),
        ({"highest": 2**30}, "highest"),
        ({"lowest": -(2**30)}, "lowest"),
        ({"lowest": 5, "highest": 4}, "highest"),
    ],
)
def test_bounds_that_no_submission_can_keep_are_refused(service: Service, bounds: dict[str, int], field: str) -> None:
    """Of a new board, and of one that is there; the widest bounds are what a submission can be."""
    name = f"bounds-{token_hex(6)}"
    status, answer = service.api.call("POST", f"{BASE}/boards", {"board": name} | bounds)
    assert (status, [error["field"] for error in answer["errors"]]) == (400, [field])
    widest = {"lowest": 1 - 2**30, "highest": 2**30 - 1}
    status, made = service.api.call("POST", f"{BASE}/boards", {"board": name} | widest)
    assert (status, made["lowest"], made["highest"]) == (201, *widest.values())
    status, answer = service.api.call("PATCH", f"{BASE}/boards/{name}", bounds)
    assert (status, [error["field"] for error in answer["errors"]]) == (400, [field])
    status, changed = service.api.call("PATCH", f"{BASE}/boards/{name}", {"lowest": None, "highest": 7})
    assert (status, changed["lowest"], changed["highest"]) == (200, None, 7)
