"""What other leaderboards were found to get wrong, each as a promise of this one, over HTTP."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from http_service import BASE, Service, http_service, soon
from waiting import wait_until

from cli.servers import ServerSet
from sharding.boards import Operator
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind
from sharding.players import PlayerId
from sharding.scores import Order
from sharding.shard_map import ShardMap

pytestmark = pytest.mark.servers

PLAYERS = [PlayerId(f"player-{number:02d}") for number in range(40)]


@pytest.fixture(scope="module")
def service(servers: ServerSet, leaderboard: Leaderboard, postgres_dsn: str) -> Iterator[Service]:
    with http_service(servers, leaderboard, postgres_dsn, PLAYERS) as served:
        yield served


def submit(service: Service, board: str, player: str, score: int, **more: Any) -> tuple[int, Any]:
    body = {"user_id": player, "score": score, "board": board, **more}
    return service.api.call("POST", f"{BASE}/scores?rank=exact", body)


def test_a_write_to_a_period_that_is_over_recreates_nothing(service: Service) -> None:
    """Refused before anything is written, whether its keys are there or gone."""
    shard_map = service.open_board([10], kind=PeriodKind.DAY, late=True)
    board, leaderboard = shard_map.board.name, service.leaderboard
    assert shard_map.period.end is not None
    played_at = (shard_map.period.end - timedelta(seconds=1)).isoformat()
    assert submit(service, board, PLAYERS[0], 5, played_at=played_at)[0] == 200
    leaderboard.lifecycle.set_state(shard_map, "frozen", soon())
    status, answer = submit(service, board, PLAYERS[1], 5, played_at=played_at)
    assert (status, answer["errors"][0]["field"]) == (422, "played_at")
    leaderboard.lifecycle.expire(shard_map, 1, soon())
    leaderboard.lifecycle.unpublish(shard_map, 1, soon())
    leaderboard.maps.forget(shard_map.name)
    before = endless_keys(service, shard_map)
    status, _ = submit(service, board, PLAYERS[1], 5, played_at=played_at)
    assert status == 503
    status, answer = submit(
        service, board, PLAYERS[1], 5, played_at=(datetime.now(UTC) - timedelta(days=9)).isoformat()
    )
    assert (status, answer["errors"][0]["field"]) == (422, "played_at")
    assert (before, endless_keys(service, shard_map)) == (0, 0)


def test_a_board_that_expires_leaves_no_key_behind(service: Service) -> None:
    """Rows, epochs, directory, map: what is not gone at once has an end of its own."""
    shard_map, leaderboard = service.open_board([3, 6, 9]), service.leaderboard
    for number, player in enumerate(PLAYERS):
        submit(service, shard_map.board.name, player, number % 12)
        submit(service, shard_map.board.name, player, number % 5)
    service.api.call("DELETE", f"{BASE}/scores/{PLAYERS[7]}?board={shard_map.board.name}")
    service.api.call("PATCH", f"{BASE}/users/{PLAYERS[8]}", {"hidden": True})
    assert endless_keys(service, shard_map) > 10
    # A move that was under way would make keys anew; the API's process has moves of its own.
    wait_until(lambda: not any(view.strays + view.leaving for view in leaderboard.shards(shard_map.name, soon())))
    service.leaderboard.lifecycle.expire(shard_map, 1, soon())
    service.leaderboard.lifecycle.unpublish(shard_map, 1, soon())
    service.api.call("PATCH", f"{BASE}/users/{PLAYERS[8]}", {"hidden": False})
    assert endless_keys(service, shard_map) == 0


def endless_keys(service: Service, shard_map: ShardMap) -> int:
    """How many keys of a board period have no end."""
    script = """
        local count = 0
        for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
          if redis.call('PTTL', key) == -1 then count = count + 1 end
        end
        return count"""
    command = ("EVAL", script, 0, f"*}}{shard_map.name}:*")
    return sum(service.leaderboard.client.on_primaries(command, soon()).values())


@pytest.mark.parametrize("order", Order)
def test_points_and_tie_break_come_from_the_same_run(service: Service, order: Order) -> None:
    """On a best-of board a worse run, and an equal one, change neither; a better one changes both."""
    shard_map = service.open_board([10], kind=PeriodKind.DAY, operator=Operator.BEST, order=order)
    board, find = shard_map.board.name, service.leaderboard.reader.find
    better, worse = (7, 3) if order is Order.DESC else (3, 7)
    submit(service, board, PLAYERS[0], 5)
    first = find(shard_map, PLAYERS[0], soon()).packed
    deadline = soon()
    while _tick(shard_map) <= (first & ((1 << 22) - 1)):
        assert not deadline.passed
    for score in (worse, 5):
        assert submit(service, board, PLAYERS[0], score)[1]["score"] == 5
        assert find(shard_map, PLAYERS[0], soon()).packed == first
    assert submit(service, board, PLAYERS[0], better)[1]["score"] == better
    assert (find(shard_map, PLAYERS[0], soon()).packed & ((1 << 22) - 1)) > (first & ((1 << 22) - 1))


def _tick(shard_map: ShardMap) -> int:
    return (int(datetime.now(UTC).timestamp() * 1000) - shard_map.period.start_ms) // shard_map.period.tie_unit_ms


def test_a_window_is_full_at_both_ends_of_the_board(service: Service) -> None:
    """Around the last player, the first, and around scores that nobody has reached or fallen to."""
    shard_map = service.open_board([10, 20, 30])
    board, api = shard_map.board.name, service.api
    for number, player in enumerate(PLAYERS):
        submit(service, board, player, number)
    ranked = list(reversed(PLAYERS))
    for player, expected in ((ranked[0], ranked[:9]), (ranked[-1], ranked[-9:]), (ranked[20], ranked[16:25])):
        entries = api.get(f"/scores/{player}/surrounding", board=board, offset=4)["entries"]
        assert [entry["user_id"] for entry in entries] == expected
    for score, expected in ((10**6, ranked[:9]), (-(10**6), ranked[-9:])):
        entries = api.get("/scores/around", board=board, score=score, limit=9)["entries"]
        assert [entry["user_id"] for entry in entries] == expected


@pytest.mark.parametrize("order", Order)
def test_the_answer_to_a_submission_ranks_as_the_board_does(service: Service, order: Order) -> None:
    shard_map = service.open_board([10, 20], order=order, operator=Operator.SET)
    board = shard_map.board.name
    for number, player in enumerate(PLAYERS[:30]):
        _, told = submit(service, board, player, (number * 7) % 30)
        assert told["rank"] == service.api.get(f"/scores/{player}", board=board)["rank"]
    best = service.api.get("/scores", board=board, limit=1)["entries"][0]
    assert best["score"] == (29 if order is Order.DESC else 0)


@pytest.mark.parametrize("operator", [Operator.BEST, Operator.ADD])
def test_what_comes_at_the_same_time_is_not_lost_to_what_was_read_before(service: Service, operator: Operator) -> None:
    """Nothing is read first and written later: of forty submissions at once, all count."""
    shard_map = service.open_board([100, 400], operator=operator)
    board = shard_map.board.name
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda score: submit(service, board, PLAYERS[0], score), range(1, 41)))
    assert {status for status, _ in answers} == {200}
    expected = 40 if operator is Operator.BEST else 820
    assert service.api.get(f"/scores/{PLAYERS[0]}", board=board)["score"] == expected
    assert service.api.get("/stats", board=board)["total_players"] == 1


def test_a_cursor_is_signed_and_of_one_season(service: Service) -> None:
    """Not a letter of it may change, and another period's is refused."""
    shard_map = service.open_board([10], kind=PeriodKind.DAY)
    board, api = shard_map.board.name, service.api
    for number, player in enumerate(PLAYERS[:6]):
        submit(service, board, player, number)
    cursor = api.get("/scores", board=board, limit=2)["cursor"]
    assert len(api.get("/scores", board=board, limit=2, cursor=cursor)["entries"]) == 2
    for at in range(0, len(cursor) - 1, 5):
        forged = cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
        status, answer = api.call("GET", f"{BASE}/scores?board={board}&cursor={forged}")
        assert (status, answer["errors"][0]["field"]) == (400, "cursor")
    yesterday = (shard_map.period.start - timedelta(days=1)).date().isoformat()
    status, answer = api.call("GET", f"{BASE}/scores?board={board}&period={yesterday}&cursor={cursor}")
    assert (status, answer["errors"][0]["field"]) == (400, "cursor")


def test_pages_and_single_ranks_agree_on_ties(service: Service) -> None:
    shard_map = service.open_board([5])
    board, api = shard_map.board.name, service.api
    for number, player in enumerate(PLAYERS):
        submit(service, board, player, 4 + number % 2)
    paged = api.get("/scores", board=board, limit=100)["entries"]
    assert [entry["rank"] for entry in paged] == list(range(1, 41))
    for entry in paged:
        assert api.get(f"/scores/{entry['user_id']}", board=board)["rank"] == entry["rank"]
