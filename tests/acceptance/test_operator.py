"""The operator's verbs on a running stack: what `seed` makes is spread, ranked and written down, all of it exactly."""

import json
import random
from typing import Any
from urllib.request import urlopen

import psycopg2
import pytest
from running_stack import RunningStack

pytestmark = pytest.mark.servers

PLAYERS, GAMES = 3_000, 15_000

# The ranking, computed from the audit alone: most points first, then who got there first, then the player's member
# (a UUID's 16 bytes, any other id's text; players.py). Time decides ties by the second, as a month's board counts it.
RANKING = """
    WITH points AS (
        SELECT user_id, sum(value) AS points FROM games WHERE board = 'global' GROUP BY user_id
    ), reached AS (
        SELECT user_id, points, min(floor(extract(epoch FROM received_at))) AS at
        FROM points JOIN games USING (user_id)
        WHERE board = 'global' AND points_after = points
        GROUP BY user_id, points
    ), members AS (
        SELECT user_id, points, at, CASE
            WHEN user_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){2}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'
            THEN decode(replace(user_id, '-', ''), 'hex')
            ELSE convert_to(user_id, 'UTF8') END AS member
        FROM reached
    )
    SELECT user_id, points, row_number() OVER (ORDER BY points DESC, at, member) FROM members
"""


def get(stack: RunningStack, path: str) -> Any:
    with urlopen(f"{stack.api_url}/api/v1{path}", timeout=10) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def seeded(stack: RunningStack) -> int:
    """How many games were there before; the seed's come on top."""
    with psycopg2.connect(stack.dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM games")
        before = cursor.fetchone()[0]
    done = stack.command("seed", "--players", str(PLAYERS), "--games", str(GAMES), timeout_s=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(before)


def test_every_game_is_in_the_audit_once(stack: RunningStack, seeded: int) -> None:
    with psycopg2.connect(stack.dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*), count(DISTINCT (user_id, match_id)) FROM games WHERE match_id LIKE 'seed-%'")
        assert cursor.fetchone() == (GAMES, GAMES)


def test_rows_spread_over_all_shards_and_primaries(stack: RunningStack, seeded: int) -> None:
    shards = json.loads(stack.command("shards", "--json").stdout)
    assert len(shards) == 16
    assert all(shard["rows"] > 0 for shard in shards)
    assert all(shard["strays"] == shard["leaving"] == 0 for shard in shards)
    nodes = json.loads(stack.command("status", "--json").stdout)["redis"]
    primaries = {f"127.0.0.1:{node['port']}" for node in nodes if node["slots"]}
    assert {shard["node"] for shard in shards} == primaries


def test_ranks_equal_those_computed_from_the_audit(stack: RunningStack, seeded: int) -> None:
    with psycopg2.connect(stack.dsn) as connection, connection.cursor() as cursor:
        cursor.execute(RANKING)
        ranking = cursor.fetchall()
    for offset in range(0, len(ranking), 100):
        page = get(stack, f"/scores?limit=100&offset={offset}")
        assert page["total_players"] == len(ranking)
        assert [(row["user_id"], row["score"], row["rank"]) for row in page["entries"]] == [
            (player, int(points), rank) for player, points, rank in ranking[offset : offset + 100]
        ]
    for player, points, rank in random.sample(ranking, 200):
        standing = get(stack, f"/scores/{player}")
        assert (standing["score"], standing["rank"]) == (points, rank)


def test_verify_finds_no_difference(stack: RunningStack, seeded: int) -> None:
    done = stack.command("verify", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["agrees"] is True


def test_verify_finds_a_planted_difference(stack: RunningStack, seeded: int) -> None:
    """A check that cannot fail is none: one game is hidden from the audit, and put back."""
    change = "UPDATE games SET value = value + %s WHERE (board, user_id, match_id) = ('global', %s, %s)"
    with psycopg2.connect(stack.dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT user_id, match_id FROM games WHERE match_id LIKE 'seed-%' LIMIT 1")
        one = cursor.fetchone()
        assert one
        cursor.execute(change, (1, *one))
        assert cursor.rowcount == 1
        connection.commit()
        done = stack.command("verify", "--json")
        cursor.execute(change, (-1, *one))
    assert done.returncode == 1
    assert json.loads(done.stdout)["different"] == 1


def test_a_new_map_is_applied_while_the_board_is_in_use(stack: RunningStack, seeded: int) -> None:
    before = get(stack, "/scores?limit=100")["entries"]
    done = stack.command("rebalance", "--cuts", "20,40,80,160", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["left"] == 0
    assert get(stack, "/scores?limit=100")["entries"] == before
    assert json.loads(stack.command("verify", "--json").stdout)["agrees"] is True


def test_verbs_say_what_is_wrong(stack: RunningStack) -> None:
    for words, told in [
        (("shards", "--board", "nope"), "no board 'nope'"),
        (("shards", "--period", "2026-13"), "is no month"),
        (("rebalance", "--cuts", "ten"), "whole numbers"),
        (("keys", "revoke", "nobody"), "no key 'nobody'"),
    ]:
        done = stack.command(*words)
        assert done.returncode == 1
        assert told in done.stderr
        assert "Traceback" not in done.stderr
