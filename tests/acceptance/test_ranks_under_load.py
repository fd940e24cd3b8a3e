"""Ranks read while thousands of submissions run and ranges move: each is right at some moment of its request.

`make ranks` reads ten thousand of them at 2,000 submissions a second; the suite a few hundred.
"""

import http.client
import itertools
import json
import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import pytest
from rank_bounds import Read, Win, Wrong, wrong_ranks
from running_stack import RunningStack
from waiting import wait_until

from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.errors import UnknownBoard
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, period_at
from sharding.shard_map import ShardMap, cut_after

pytestmark = pytest.mark.servers

READS = int(os.environ.get("RANKS_READS", "400"))
RATE = int(os.environ.get("RANKS_RATE", "500"))
STANDING = [f"standing-{number}" for number in range(40)]
MOVERS = [f"mover-{number}" for number in range(400)]
TOGETHER, READERS, WRITERS = 50, 3, 2
PATIENCE_S = 600.0


class Caller:
    """One kept-alive connection to the API."""

    def __init__(self, stack: RunningStack) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(stack.api_url).netloc, timeout=30)
        self._headers = {"Authorization": f"Bearer {stack.status['api_key']}", "Content-Type": "application/json"}

    def close(self) -> None:
        self._connection.close()

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        self._connection.request(method, f"/api/v1{path}", None if body is None else json.dumps(body), self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status < 300, (path, answer.status, text[:500])
        return json.loads(text)


def points_of(number: int) -> int:
    """Odd, so that no mover ever has just as many; spread over what the movers will pass."""
    return 1 + 2 * number * 5


@pytest.fixture(scope="module")
def board(stack: RunningStack) -> Iterator[tuple[str, Leaderboard, ShardMap]]:
    """A board of its own, with those who stand still on it."""
    name = f"ranks-{uuid4().hex[:8]}"
    nodes = ",".join(f"127.0.0.1:{node['port']}" for node in stack.status["redis"])
    settings = msgspec.structs.replace(Settings(), redis_nodes=nodes, ack_timeout_ms=5_000)
    leaderboard = Leaderboard.connect(settings, known_players=lambda _, players: players)
    with closing(Caller(stack)) as call, closing(leaderboard):
        call("POST", "/boards", {"board": name, "registration": "open"})
        shard_map = opened(leaderboard, BoardPeriod(name, period_at(PeriodKind.MONTH, datetime.now(UTC)).name))
        for number, player in enumerate(STANDING):
            first = {"user_id": player, "score": points_of(number), "match_id": "first", "board": name}
            call("POST", "/scores", first)
        yield name, leaderboard, shard_map


def opened(leaderboard: Leaderboard, period: BoardPeriod) -> ShardMap:
    def published() -> ShardMap | None:
        try:
            return leaderboard.maps.published(period, Deadline.after(5))
        except UnknownBoard:
            return None

    found = wait_until(published, 60, "the board's period is opened")
    assert found
    return found


@contextmanager
def beside(*works: Callable[[threading.Event], None]) -> Iterator[None]:
    """These go on while the block runs; what one of them raises is raised here."""
    over = threading.Event()
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(work, over) for work in works]
        try:
            yield
        finally:
            over.set()
        for one in running:
            one.result(60)


def test_every_rank_is_right_at_some_moment_of_its_request(
    stack: RunningStack, board: tuple[str, Leaderboard, ShardMap]
) -> None:
    name, leaderboard, shard_map = board
    wins: list[Win] = []
    reads: list[Read] = []
    #: ranks of those who stand still, as pages told them
    paged: list[Read] = []
    told: Counter[str] = Counter()

    def write(over: threading.Event) -> None:
        """At a fixed rate, whatever the answers take."""
        chance, began = random.Random(), time.monotonic()
        with closing(Caller(stack)) as call:
            for number in itertools.count():
                if over.wait(max(0.0, began + number * TOGETHER * WRITERS / RATE - time.monotonic())):
                    return
                batch = [
                    {"user_id": chance.choice(MOVERS), "score": 2, "match_id": uuid4().hex, "board": name}
                    for _ in range(TOGETHER)
                ]
                sent_at = time.monotonic()
                results = call("POST", "/scores:batch", batch)["results"]
                answered_at = time.monotonic()
                for item, result in zip(batch, results, strict=True):
                    assert result["status"] in {"applied", "unknown"}, result
                    heard_at = answered_at if result["status"] == "applied" else math.inf
                    wins.append(Win(str(item["user_id"]), 2, sent_at, heard_at))

    def read(over: threading.Event) -> None:
        chance = random.Random()
        with closing(Caller(stack)) as call:
            while not over.is_set():
                number = chance.randrange(len(STANDING))
                sent_at = time.monotonic()
                answer = call("GET", f"/scores/{STANDING[number]}?board={name}")
                told[answer["rank_is"]] += 1
                if answer["rank_is"] == "exact":
                    reads.append(Read(points_of(number), answer["rank"], sent_at, time.monotonic()))
                if chance.random() < 0.1:
                    offset, sent_at = chance.randrange(200), time.monotonic()
                    page = call("GET", f"/scores?board={name}&limit=100&offset={offset}")
                    paged.extend(check_page(page, offset, sent_at, time.monotonic()))
                    told["pages"] += 1
                    told["exact pages"] += page["rank_is"] == "exact"

    def move(over: threading.Event) -> None:
        """Ranges are cut elsewhere all the time."""
        current = shard_map
        for turn in itertools.count():
            if over.is_set():
                return
            shift = turn % 2 * 15
            cuts = [cut_after(20 + 30 * part + shift, current.board.order) for part in range(len(shard_map.ranges) - 1)]
            current = leaderboard.rebalancer.switch(current.recut(sorted(cuts)))
            left = leaderboard.rebalancer.move_strays(
                current, Deadline.after(30), players_per_s=1_000, report=lambda _: None
            )
            told["moved"] += left.moved
            told["maps"] += 1

    began = time.monotonic()
    with beside(move, *[write] * WRITERS, *[read] * READERS):
        wait_until(lambda: len(reads) >= READS, PATIENCE_S, f"{READS} reads")
    seconds = time.monotonic() - began
    print(
        f"\n{len(wins) / seconds:,.0f} submissions/s for {seconds:.0f} s, {len(reads):,} exact ranks checked;",
        dict(told),
    )
    assert wrong_ranks(wins, [*reads, *paged], map(points_of, range(len(STANDING)))) == []
    assert paged, "no exact page had anybody who stands still"
    assert told["moved"] > 0, "no player changed shards meanwhile"
    assert told["exact"] > told["recent"], "what moves now and then must not make most ranks recent"


def check_page(page: dict[str, Any], offset: int, sent_at: float, answered_at: float) -> list[Read]:
    """Sorted, as long as it should be, nobody twice; an exact one lacks nobody who stands still within its span.

    The ranks of those, for the checker.
    """
    rows = page["entries"]
    assert [row["rank"] for row in rows] == list(range(offset + 1, offset + 1 + len(rows)))
    assert len(rows) == max(0, min(100, page["total_players"] - offset))
    points = [row["score"] for row in rows]
    assert points == sorted(points, reverse=True)
    assert len({row["user_id"] for row in rows}) == len(rows)
    if page["rank_is"] != "exact" or not rows:
        return []
    still = {row["user_id"]: row for row in rows if row["user_id"] in STANDING}
    for number, player in enumerate(STANDING):
        if points[-1] <= points_of(number) <= points[0]:
            assert player in still, f"a gap where {player} stands"
            assert still[player]["score"] == points_of(number)
        else:
            assert player not in still
    return [Read(row["score"], row["rank"], sent_at, answered_at) for row in still.values()]


def test_the_check_of_pages_sees_a_gap() -> None:
    def row(rank: int, player: str, score: int) -> dict[str, Any]:
        return {"rank": rank, "user_id": player, "score": score}

    rows = [row(1, "ann", 30), row(2, STANDING[2], 21), row(3, STANDING[1], 11), row(4, STANDING[0], 1)]
    page = {"rank_is": "exact", "total_players": 4, "entries": rows}
    assert check_page(page, 0, 1.0, 2.0) == [Read(21, 2, 1.0, 2.0), Read(11, 3, 1.0, 2.0), Read(1, 4, 1.0, 2.0)]
    gap = page | {"total_players": 3, "entries": [*rows[:2], rows[3] | {"rank": 3}]}
    with pytest.raises(AssertionError, match="a gap where standing-1 stands"):
        check_page(gap, 0, 1.0, 2.0)


# -- the checker


WINS = [Win("ann", 2, 1.0, 2.0), Win("ann", 2, 3.0, 4.0), Win("bob", 4, 5.0, math.inf)]


@pytest.mark.parametrize(
    ("rank", "sent_at", "answered_at", "fits"),
    [
        (1, 0.0, 0.5, True),
        (2, 0.0, 0.5, False),  # nobody was ahead yet
        (1, 3.5, 3.6, True),  # ann's second win is under way: before it
        (2, 3.5, 3.6, True),  # or after it
        (1, 4.5, 4.6, False),  # ann is missing
        (2, 4.5, 4.6, True),
        (3, 4.5, 4.6, False),  # somebody is counted twice
        (2, 6.0, 7.0, True),  # of bob's win nobody has heard
        (3, 6.0, 7.0, True),
        (1, 6.0, 7.0, False),
    ],
)
def test_the_checker_tells_a_rank_that_no_moment_explains(
    rank: int, sent_at: float, answered_at: float, fits: bool
) -> None:
    read = Read(3, rank, sent_at, answered_at)
    assert (wrong_ranks(WINS, [read], [3, 1]) == []) == fits


def test_the_checker_says_what_the_rank_might_have_been() -> None:
    read = Read(3, 9, 3.5, 3.6)
    assert wrong_ranks(WINS, [read], [3, 5]) == [Wrong(read, 2, 3)]
