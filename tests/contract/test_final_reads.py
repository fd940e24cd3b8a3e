"""A month reads the same through the API, out of Redis while its keys are there, then out of its archive."""

import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest
from flask.testing import FlaskClient
from played_boards import Played, open_played, rows_of
from sqlalchemy import Engine
from waiting import wait_until

from api.app import create_app
from cli.servers import ServerSet
from records import api_keys, archives, players
from runtime.settings import Settings
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, period_at
from workers.archive import Archive

pytestmark = pytest.mark.servers

BASE = "/api/v1"
#: what may differ: when it was read, who says so, and a cursor's signature
OF_THE_READING = {"as_of", "final", "cursor"}


@pytest.fixture(scope="module")
def settings(servers: ServerSet, database: Engine) -> Settings:
    [(name,)] = rows_of(database, "SELECT current_database()")
    return msgspec.structs.replace(servers.settings, postgres_dsn=servers.postgres.dsn(name), top_cache_ms=0)


class Api:
    """A process of the API without sockets; `forget` makes it one that has just started."""

    def __init__(self, settings: Settings, database: Engine) -> None:
        _, self._key = api_keys.create(database, "tests", ["admin"])
        self._settings = settings
        self.forget()

    def forget(self) -> None:
        self._client: FlaskClient = create_app(self._settings).test_client()

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        given = urlencode({name: value for name, value in query.items() if value is not None})
        return self.follow(f"{BASE}{path}?{given}", method=method, json=body)

    def follow(self, address: str, **more: Any) -> Any:
        return self._client.open(address, headers={"Authorization": f"Bearer {self._key}"}, **more)


@pytest.fixture(scope="module")
def api(settings: Settings, database: Engine) -> Api:
    return Api(settings, database)


class Past:
    """A board of the last month, archived, and what one asks of it."""

    def __init__(self, board: Played, api: Api) -> None:
        self.board = board
        self._api = api

    def ask(self, path: str, body: Any = None, **query: Any) -> Any:
        method = "GET" if body is None else "POST"
        named = {"board": self.board.name.board, "month": self.board.name.period, **query}
        return self._api.call(method, path, body, **named)

    def read(self, path: str, body: Any = None, **query: Any) -> Any:
        answer = self.ask(path, body, **query)
        assert answer.status_code == 200, answer.json
        return answer.json

    def everybody(self) -> list[tuple[str, int]]:
        """Players and points, in rank order, by cursor."""
        pages = [self.read("/scores", limit=100)]
        while cursor := pages[-1].get("cursor"):
            pages.append(self.read("/scores", limit=100, cursor=cursor))
        return [(entry["user_id"], entry["score"]) for page in pages for entry in page["entries"]]

    def history(self, player: str) -> Any:
        answer = self._api.call("GET", f"/scores/{player}/history", board=self.board.name.board)
        assert answer.status_code == 200
        return answer.json["entries"]

    def close(self) -> None:
        archive = Archive(self.board.leaderboard, self.board.engine, Settings())
        assert archive.close(self.board.name, datetime.now(UTC), lambda _done, _of: None) is not None

    def lose_keys(self) -> None:
        self.board.destroy()
        self._api.forget()


@pytest.fixture(params=["desc", "asc"])
def past(request: pytest.FixtureRequest, leaderboard: Leaderboard, database: Engine, api: Api) -> Past:
    """Few different points, so that many are equal."""
    # not the last month, which takes late submissions for a while
    over = period_at(PeriodKind.MONTH, datetime.now(UTC).replace(day=1) - timedelta(days=40))
    board = open_played(leaderboard, database, period=over, order=request.param, cuts=(5, 12, 20))
    board.play(250, 500, most=9)
    made = Past(board, api)
    made.close()
    return made


QUERIES: dict[str, tuple[str, dict[str, Any]]] = {
    "the top": ("/scores", {}),
    "a page": ("/scores", {"offset": 37, "limit": 20}),
    "the end": ("/scores", {"offset": 245, "limit": 20}),
    "beyond the end": ("/scores", {"offset": 10**9, "limit": 5}),
    "equal ranks": ("/scores", {"offset": 20, "limit": 60, "rank_style": "competition"}),
    "dense ranks": ("/scores", {"offset": 3, "limit": 60, "rank_style": "dense"}),
    "scores": ("/scores", {"min_score": 6, "max_score": 12, "offset": 2, "limit": 9}),
    "scores from": ("/scores", {"min_score": 9, "limit": 100}),
    "scores up to": ("/scores", {"max_score": 4, "limit": 3}),
    "no such scores": ("/scores", {"min_score": 100_000, "max_score": 2**62}),
    "around": ("/scores/around", {"score": 8, "limit": 7}),
    "around the best": ("/scores/around", {"score": 2**40, "limit": 4}),
    "around the worst": ("/scores/around", {"score": -(2**40)}),
    "stats": ("/stats", {}),
}


def of_players(some: list[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    asked: dict[str, tuple[str, dict[str, Any]]] = {}
    for player in some:
        asked[f"standing of {player}"] = (f"/scores/{player}", {})
        asked[f"equal rank of {player}"] = (f"/scores/{player}", {"rank_style": "competition"})
        asked[f"around {player}"] = (f"/scores/{player}/surrounding", {"offset": 3})
    return asked


def that_matter(answer: dict[str, Any]) -> bytes:
    return msgspec.json.encode({name: value for name, value in answer.items() if name not in OF_THE_READING})


def test_reads_are_the_same_byte_for_byte(past: Past) -> None:
    """Pages, ranks in all styles, those around players and scores, score ranges, lookups, statistics."""
    ranking = [player for player, _ in past.board.ranking()]
    some = [ranking[0], ranking[-1], *random.Random(3).sample(ranking, 10)]
    asked = QUERIES | of_players(some)
    wanted = {"user_ids": [*some, "nobody"]}
    before = {what: past.read(path, **query) for what, (path, query) in asked.items()}
    looked_up = past.read("/scores/lookup", wanted)
    past.lose_keys()
    for what, (path, query) in asked.items():
        after = past.read(path, **query)
        assert that_matter(after) == that_matter(before[what]), what
        assert "final" not in before[what]
        assert after["final"] is True
    again = past.read("/scores/lookup", wanted)
    assert that_matter(again) == that_matter(looked_up)
    assert (again["final"], again["not_found"]) == (True, ["nobody"])
    whole = archives.final(past.board.engine, past.board.name.board, past.board.name.period)
    assert whole is not None
    closed_at = datetime.fromisoformat(past.read("/scores")["as_of"])
    assert abs(closed_at - whole.changed_at) < timedelta(milliseconds=1)


def test_who_is_hidden_since_is_left_out_and_the_others_close_up(past: Past, database: Engine) -> None:
    """At once, in every read; the ranks are those of the ranking without them. Shown again, all is as before."""
    past.lose_keys()
    everybody = past.everybody()
    hidden = {everybody[index][0] for index in (0, 7, 8, 30, 120, 249)}
    before = past.history(everybody[31][0])
    for player in hidden:
        players.register_missing(database, [player])
        players.update(database, player, {"hidden": True})
    try:
        left = [(player, score) for player, score in everybody if player not in hidden]
        assert past.everybody() == left
        for offset in (0, 5, 20, 115, 240):
            page = past.read("/scores", offset=offset, limit=10)
            assert [(one["user_id"], one["score"]) for one in page["entries"]] == left[offset : offset + 10]
            assert [one["rank"] for one in page["entries"]] == list(
                range(offset + 1, offset + 1 + len(page["entries"]))
            )
            assert page["total_players"] == len(left)
        for place in (0, 6, 7, 26, 117, 243):
            player, score = left[place]
            standing = past.read(f"/scores/{player}")
            assert (standing["rank"], standing["score"], standing["total_players"]) == (place + 1, score, len(left))
            equal = past.read(f"/scores/{player}", rank_style="competition")["rank"]
            assert equal == 1 + [points for _, points in left].index(score)
            around = past.read(f"/scores/{player}/surrounding", offset=2)["entries"]
            assert [one["user_id"] for one in around if one["is_current_user"]] == [player]
            assert len(around) == 5
        for player in hidden:
            assert past.ask(f"/scores/{player}").status_code == 404
            assert past.ask(f"/scores/{player}/surrounding").status_code == 404
            assert past.history(player) == []
        looked_up = past.read("/scores/lookup", {"user_ids": [left[40][0], *hidden]})
        assert ([one["rank"] for one in looked_up["entries"]], set(looked_up["not_found"])) == ([41], hidden)
        stats = past.read("/stats")
        assert (stats["total_players"], stats["top_score"]) == (len(left), left[0][1])
        assert stats["average_score"] == round(sum(score for _, score in left) / len(left), 2)
        between = past.read("/scores", min_score=6, max_score=12, limit=100)
        assert between["matching_players"] == sum(6 <= score <= 12 for _, score in left)
        [entry] = past.history(everybody[31][0])
        assert (entry["rank"], entry["total_players"]) == (28, len(left))
    finally:
        for player in hidden:
            players.update(database, player, {"hidden": False})
    assert past.everybody() == everybody
    assert past.history(everybody[31][0]) == before


def test_cursors_lead_through_all_of_it(past: Past) -> None:
    """One that was given out before the keys were gone leads on to the same rows; a forged one is refused."""
    ranking = [player for player, _ in past.board.ranking()]
    early = past.read("/scores", limit=30)["cursor"]
    past.lose_keys()
    page = past.read("/scores", limit=30, cursor=early)
    seen = ranking[:30]
    while True:
        seen += [entry["user_id"] for entry in page["entries"]]
        assert [entry["rank"] for entry in page["entries"]] == list(
            range(len(seen) - len(page["entries"]) + 1, len(seen) + 1)
        )
        if "cursor" not in page:
            break
        page = past.read("/scores", limit=30, cursor=page["cursor"])
    assert seen == ranking
    refused = past.ask("/scores", cursor=early[:-2] + "xx")
    assert (refused.status_code, refused.json["errors"][0]["field"]) == (400, "cursor")


def test_what_is_not_there_is_said_to_be_that(past: Past, api: Api) -> None:
    past.lose_keys()
    assert past.ask("/scores/nobody").status_code == 404
    assert past.ask("/scores/nobody/surrounding").status_code == 404
    never = past.ask("/scores", month="2019-05")
    assert (never.status_code, never.json["errors"][0]["field"]) == (404, "month")
    assert past.ask("/scores", month="2019-13").status_code == 400
    assert past.ask("/scores", limit=101).status_code == 400
    far = past.ask("/scores/player-000001", rank_style="dense")
    assert far.status_code == 200


def test_a_closed_month_takes_no_submissions(past: Past, api: Api) -> None:
    """Whether its keys are there or not; the refusal names the month that is open."""
    now = datetime.now(UTC)
    body = {
        "user_id": "player-000001",
        "score": 1,
        "board": past.board.name.board,
        "played_at": f"{past.board.shard_map.period.start + timedelta(days=3):%Y-%m-%dT%H:%M:%SZ}",
    }
    for keys_are_there in (True, False):
        if not keys_are_there:
            past.lose_keys()
        refused = api.call("POST", "/scores", body)
        assert refused.status_code == 422
        assert refused.json["errors"][0]["field"] == "played_at"
        assert f"{now:%Y-%m}" in refused.json["detail"]


def test_a_postgres_that_hangs_makes_it_503_in_time(past: Past, settings: Settings, database: Engine) -> None:
    """Within the request's own deadline, and it says when to come again."""
    past.lose_keys()
    hasty = Api(msgspec.structs.replace(settings, request_deadline_ms=700), database)
    asked = {"board": past.board.name.board, "month": past.board.name.period}

    def served() -> Any:
        answer = hasty.call("GET", "/scores", **asked)
        return answer if answer.status_code == 200 else None

    known = wait_until(served)
    with database.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE leaderboard_snapshots IN ACCESS EXCLUSIVE MODE")
        for path in ("/scores", "/scores/around?score=1", "/scores/player-000001", "/scores/player-000001/history"):
            began = time.monotonic()
            plain, _, query = path.partition("?")
            answer = hasty.call("GET", plain, **asked if "history" not in path else {"board": asked["board"]},
                                **dict([query.split("=")] if query else []))  # fmt: skip
            assert time.monotonic() - began < 2.5
            assert (answer.status_code, answer.json["outcome"]) == (503, "not_applied")
            assert int(answer.headers["Retry-After"]) >= 1
    assert wait_until(served).json["entries"] == known.json["entries"]


def test_a_players_past_is_paged(leaderboard: Leaderboard, database: Engine, api: Api) -> None:
    """The latest period first, whether the keys are there or not, since nobody asks for them."""
    board, expected = None, []
    for back in range(6, 1, -1):  # yesterday may still take late submissions
        day = period_at(PeriodKind.DAY, datetime.now(UTC) - timedelta(days=back))
        board = open_played(leaderboard, database, same_as=board, period=day, period_kind="day")
        board.play(10 + back, 40, seed=back)
        Past(board, api).close()
        rank = 1 + [player for player, _ in board.ranking()].index("player-000003")
        expected.insert(0, (day.name, rank, board.points("player-000003"), 10 + back))
    assert board is not None
    name, path = board.name.board, "/scores/player-000003/history"
    pages = [api.call("GET", path, board=name, limit=2).json]
    while following := pages[-1].get("next"):
        pages.append(api.follow(following).json)
    assert [len(page["entries"]) for page in pages] == [2, 2, 1]
    entries = [entry for page in pages for entry in page["entries"]]
    told = [(entry["period"], entry["rank"], entry["score"], entry["total_players"]) for entry in entries]
    assert told == expected
    assert all(0 < entry["percentile"] <= 100 for entry in entries)
    assert api.call("GET", "/scores/nobody/history", board=name).json["entries"] == []

    pages = [api.call("GET", f"/boards/{name}/periods", limit=2).json]
    while following := pages[-1].get("next"):
        pages.append(api.follow(following).json)
    assert [len(page["periods"]) for page in pages] == [2, 2, 1]
    periods = [(period["period"], period["total_players"]) for page in pages for period in page["periods"]]
    assert periods == [(day, players_then) for day, _, _, players_then in expected]


def test_a_period_is_told_once_it_is_final(leaderboard: Leaderboard, database: Engine, api: Api) -> None:
    # not the last month, which takes late submissions for a while
    over = period_at(PeriodKind.MONTH, datetime.now(UTC).replace(day=1) - timedelta(days=40))
    board = open_played(leaderboard, database, period=over)
    board.play(7, 20)
    address = f"/boards/{board.name.board}/periods"
    assert api.call("GET", address).json == {"board": board.name.board, "periods": []}
    Past(board, api).close()
    [told] = api.call("GET", address).json["periods"]
    assert (told["month"], told["total_players"]) == (over.name, 7)
    board.destroy()
    api.forget()
    final = api.call("GET", "/scores", board=board.name.board, month=told["month"]).json
    assert final["final"]
    assert datetime.fromisoformat(told["closed_at"]) - datetime.fromisoformat(final["as_of"]) < timedelta(seconds=1)


@pytest.mark.parametrize(
    ("board", "query", "status", "field"),
    [
        ("global", {"before": "2026-13"}, 400, "before"),
        ("global", {"limit": 101}, 400, "limit"),
        ("nowhere", {}, 404, "board"),
        ("No Where", {}, 400, "board"),
    ],
)
def test_periods_that_cannot_be_told(api: Api, board: str, query: dict[str, Any], status: int, field: str) -> None:
    refused = api.call("GET", f"/boards/{quote(board)}/periods", **query)
    assert (refused.status_code, refused.json["errors"][0]["field"]) == (status, field)


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({"before": "2026-13"}, 400, "before"),
        ({"limit": 0}, 400, "limit"),
        ({"limit": 101}, 400, "limit"),
        ({"offset": 3}, 400, "offset"),
        ({"board": "nowhere"}, 404, "board"),
        ({"board": "No Where"}, 400, "board"),
    ],
)
def test_a_past_that_cannot_be_told(api: Api, query: dict[str, Any], status: int, field: str) -> None:
    refused = api.call("GET", "/scores/somebody/history", **query)
    assert (refused.status_code, refused.json["errors"][0]["field"]) == (status, field)
