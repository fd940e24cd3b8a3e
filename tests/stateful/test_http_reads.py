"""The HTTP API against a sorted list in memory: every read, after any sequence of writes and changes of the map.

The API itself (routes, decoding, caches, everything up to the socket) on real servers. The list knows each player's
packed score: points by the board's operator, and the time by the clock, which is the shards' own. Where that clock
ticked during a submission the board itself is asked which of the two it was.

Half of the runs begin with the period before, which takes late matches for as long as it is not closed; rolling the
period over closes it, and play goes on in the next one. For the API it is the first day of that one (`Clock`).

`READS_STEPS` and `READS_RUNS` make it long: `make reads` takes 2,000 steps.
"""

import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, ClassVar, Self
from urllib.parse import urlencode
from uuid import UUID

import pytest
from http_service import BASE, Service, http_service
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import api.boards
import api.scores
import api.users
from cli.servers import ServerSet
from runtime.deadlines import Deadline
from sharding.boards import Operator
from sharding.directory import Entry
from sharding.functions import departures, step_call
from sharding.handoff import queue
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.merge import Placed
from sharding.periods import Period, PeriodKind, following, period_at
from sharding.players import Member, PlayerId, member_of, parse_player_id
from sharding.scores import ELAPSED_SPAN, Order, PackedScore, elapsed_of, pack, points_of
from sharding.shard_map import cut_after

pytestmark = pytest.mark.servers

STEPS = int(os.environ.get("READS_STEPS", "25"))
RUNS = int(os.environ.get("READS_RUNS", "30"))
#: Then it may be closed.
MATCHES_A_PERIOD = 5


def soon() -> Deadline:
    return Deadline.after(10)


def _players(count: int) -> list[PlayerId]:
    """UUIDs and names: what one sees is not the order in which Redis has them."""
    chance = random.Random(count)
    names = [f"{chance.choice('AZaz09._:-')}{number}" for number in range(count // 2)]
    uuids = [str(UUID(int=chance.getrandbits(128), version=4)) for _ in range(count - count // 2)]
    return [parse_player_id(text) for text in names + uuids]


PLAYERS = _players(24)


@pytest.fixture(scope="module")
def service(servers: ServerSet, leaderboard: Leaderboard, postgres_dsn: str) -> Iterator[Service]:
    with http_service(servers, leaderboard, postgres_dsn, PLAYERS) as served:
        yield served


class Clock(datetime):
    """The API's: so many days behind the real one. Shards have their own, and reads of a board name its period."""

    behind: ClassVar[timedelta] = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) - cls.behind


class Reads(RuleBasedStateMachine):
    """One board, changed and read through HTTP."""

    service: ClassVar[Service]
    #: how often what happened, over all runs
    happened: ClassVar[Counter[str]]

    @initialize(
        operator=st.sampled_from(list(Operator)),
        order=st.sampled_from(list(Order)),
        kind=st.sampled_from(list(PeriodKind)),
        late=st.booleans(),
        first=st.lists(st.tuples(st.sampled_from(PLAYERS), st.integers(-6, 12)), min_size=1, max_size=24),
    )
    def open(
        self, operator: Operator, order: Order, kind: PeriodKind, late: bool, first: list[tuple[PlayerId, int]]
    ) -> None:
        now = datetime.now(UTC)
        Clock.behind = (
            (now - period_at(kind, now).start) // timedelta(days=1) * timedelta(days=1) if late else timedelta()
        )
        self.shard_map = self.service.open_board([-3, 2, 8], operator=operator, order=order, kind=kind, late=late)
        self.board, self.period = self.shard_map.board, self.shard_map.period
        #: of all players, also of hidden ones
        self.rows: dict[PlayerId, PackedScore] = {}
        self.hidden: set[PlayerId] = set()
        self.matches = itertools.count(1)
        self.reported: list[tuple[PlayerId, int, str]] = []
        self.removals: list[tuple[PlayerId, str]] = []
        #: the final ranking of the period before, once that is closed
        self.past: tuple[Period, list[tuple[int, PlayerId, int]]] | None = None
        for player, score in first:
            self.submit(player, score)

    def teardown(self) -> None:
        for player in getattr(self, "hidden", ()):
            self.service.api.call("PATCH", f"{BASE}/users/{player}", {"hidden": False})

    # -- what the list says

    @property
    def placed(self) -> list[tuple[Placed, PlayerId]]:
        shown = ((player, packed) for player, packed in self.rows.items() if player not in self.hidden)
        return sorted((Placed(packed, member_of(player)), player) for player, packed in shown)

    @property
    def ranking(self) -> list[tuple[int, PlayerId, int]]:
        """Rank, player, points."""
        return [
            (rank, player, points_of(row.packed, self.board.order))
            for rank, (row, player) in enumerate(self.placed, start=1)
        ]

    def tick(self) -> int:
        return min((int(time.time() * 1000) - self.period.start_ms) // self.period.tie_unit_ms, ELAPSED_SPAN - 1)

    def of_entries(self, answer: Any) -> list[tuple[int, PlayerId, int]]:
        assert (answer["board"], answer["rank_is"]) == (self.board.name, "exact")
        return [(entry["rank"], entry["user_id"], entry["score"]) for entry in answer["entries"]]

    def get(self, path: str, **query: Any) -> Any:
        return self.service.api.get(path, board=self.board.name, **self.when(self.period), **query)

    def when(self, period: Period) -> dict[str, str]:
        """How a query names a period."""
        return {"month" if period.kind is PeriodKind.MONTH else "period": period.name}

    def query(self) -> str:
        return urlencode({"board": self.board.name, **self.when(self.period)})

    # -- writes

    @rule(data=st.data(), count=st.integers(2, 6))
    def change(self, data: st.DataObject, count: int) -> None:
        """Several changes, of all kinds: what is read again without one tells little."""
        for _ in range(count):
            self.change_one(data)

    @rule(data=st.data())
    def change_one(self, data: st.DataObject) -> None:
        """One change. All kinds are one rule, so that every run has some of each."""
        player = data.draw(st.sampled_from(PLAYERS))
        possible: list[Callable[[], None]] = [
            *[lambda: self.submit(player, data.draw(st.integers(-6, 12)))] * 3,
            lambda: self.remove(player),
            lambda: self.hide(player, hidden=player not in self.hidden),
            lambda: self.change_ranges(
                data.draw(st.sets(st.integers(-8, 40), min_size=1, max_size=5)),
                data.draw(st.sampled_from(["all", "none", "some"])),
            ),
        ]
        if self.reported:
            possible.append(lambda: self.retry(*data.draw(st.sampled_from(self.reported))))
        if self.removals:
            possible.append(lambda: self.remove_again(*data.draw(st.sampled_from(self.removals))))
        if self.rows:
            there = data.draw(st.sampled_from(sorted(self.rows)))
            possible += [lambda: self.remove(there), lambda: self.hide(there, hidden=there not in self.hidden)]
            possible.append(lambda: self.begin_a_move_and_die(data.draw(st.integers(0, 20))))
        if self.period.end and self.period.end <= datetime.now(UTC) and len(self.reported) > MATCHES_A_PERIOD:
            possible.append(self.roll_the_period)
        self.happened["changes"] += 1
        data.draw(st.sampled_from(possible))()

    def submit(self, player: PlayerId, score: int) -> None:
        match = f"m{next(self.matches)}"
        before = self.tick()
        status, answer = self.post(player, score, match)
        after = self.tick()
        assert (status, answer["applied"]) == (200, True), answer
        self.reported.append((player, score, match))
        self.happened["submitted"] += 1
        old = self.rows.get(player)
        points = self.new_points(old, score)
        if old is None or points != points_of(old, self.board.order):
            elapsed = before
            if before != after:
                found = self.service.leaderboard.reader.find(self.shard_map, player, soon(), hidden=True)
                elapsed = elapsed_of(found.packed)
                assert before <= elapsed <= after
            self.rows[player] = pack(points, elapsed, self.board.order)
        assert answer["score"] == points
        self.check_rank(player, answer)

    def check_rank(self, player: PlayerId, answer: Any) -> None:
        """What a submission is told of its player's rank: nothing, if there is none."""
        ranks = {other: rank for rank, other, _ in self.ranking}
        assert answer["rank"] == ranks.get(player)
        assert answer["rank_is"] == ("exact" if player in ranks else "none")

    def new_points(self, old: PackedScore | None, score: int) -> int:
        if old is None or self.board.operator is Operator.SET:
            return score
        points = points_of(old, self.board.order)
        if self.board.operator is Operator.ADD:
            return points + score
        return min(points, score) if self.board.order is Order.ASC else max(points, score)

    def post(self, player: PlayerId, score: int, match: str) -> tuple[int, Any]:
        body = {"user_id": player, "score": score, "match_id": match, "board": self.board.name}
        if self.period.end is not None and self.period.end <= datetime.now(UTC):
            body["played_at"] = (self.period.end - timedelta(seconds=1)).isoformat()
        return self.service.api.call("POST", f"{BASE}/scores?rank=exact", body)

    def retry(self, player: PlayerId, score: int, match: str) -> None:
        status, answer = self.post(player, score, match)
        assert (status, answer["applied"]) == (200, False)
        row = self.rows.get(player)
        assert answer["score"] == (None if row is None else points_of(row, self.board.order))
        self.check_rank(player, answer)

    def remove(self, player: PlayerId) -> None:
        """Matches from before stay known, and the next one begins at nothing."""
        key = f"removal {next(self.matches)}"
        status, answer = self.delete(player, key)
        row = self.rows.pop(player, None)
        if row is None:
            assert status == 404
        else:
            assert (status, answer["score"]) == (200, points_of(row, self.board.order))
            self.happened["removed"] += 1
            self.removals.append((player, key))

    def remove_again(self, player: PlayerId, key: str) -> None:
        """The same removal, whatever has come since."""
        status, answer = self.delete(player, key)
        assert (status, answer["score"]) == (200, None)

    def delete(self, player: PlayerId, key: str) -> tuple[int, Any]:
        path = f"{BASE}/scores/{player}?{self.query()}"
        return self.service.api.call("DELETE", path, **{"Idempotency-Key": key})

    def hide(self, player: PlayerId, *, hidden: bool) -> None:
        status, answer = self.service.api.call("PATCH", f"{BASE}/users/{player}", {"hidden": hidden})
        assert (status, answer["hidden"]) == (200, hidden)
        if player in self.rows:
            self.happened["hidden" if hidden else "shown"] += 1
        (self.hidden.add if hidden else self.hidden.discard)(player)

    def roll_the_period(self) -> None:
        """The period before is closed for good, and another begins with nobody."""
        current = following(self.period)
        assert current is not None
        self.service.leaderboard.lifecycle.set_state(self.shard_map, "frozen", soon())
        status, answer = self.post(PLAYERS[0], 1, "too late")
        assert (status, answer["errors"][0]["field"]) == (422, "played_at")
        self.past = (self.period, self.ranking)
        self.happened[f"{self.period.kind} closed"] += 1
        self.period = current
        self.shard_map = self.service.open_period(self.board, current, [-3, 2, 8])
        self.rows, self.reported, self.removals = {}, [], []

    @precondition(lambda self: self.past is not None)
    @rule(offset=st.integers(0, 20), limit=st.integers(1, 30))
    def look_back(self, offset: int, limit: int) -> None:
        """What is final stays: nobody is removed from it any more, nor hidden."""
        assert self.past is not None
        period, ranking = self.past
        query = {"board": self.board.name, **self.when(period)}
        answer = self.service.api.get("/scores", offset=offset, limit=limit, **query)
        assert self.of_entries(answer) == ranking[offset : offset + limit]
        if ranking:
            status, answer = self.service.api.call("DELETE", f"{BASE}/scores/{ranking[0][1]}?{urlencode(query)}")
            assert (status, answer["errors"][0]["field"]) == (422, next(iter(self.when(period))))

    # -- changes of the map

    def change_ranges(self, cuts: set[int], moves: str) -> None:
        """Everything that lies in the way of an exact rank: strays, heads of two versions, a map not known yet."""
        self.happened["ranges changed"] += 1
        rebalancer = self.service.leaderboard.rebalancer
        ascending = sorted(cut_after(points, self.board.order) for points in cuts)
        self.shard_map = rebalancer.switch(self.shard_map.recut(ascending))
        if moves == "all":
            progress = rebalancer.move_strays(self.shard_map, soon(), players_per_s=10_000, report=lambda _: None)
            assert progress.left == 0
        elif moves == "some":
            self.service.leaderboard.mover.move(self.shard_map, dict(list(self.strays().items())[::2]), soon())

    def strays(self) -> dict[Member, tuple[Entry, PackedScore]]:
        """The rows outside of their shards' ranges, and the entries that they are under."""
        leaderboard = self.service.leaderboard
        rows = leaderboard.reader.find_many(self.shard_map, sorted(self.rows), soon(), hidden=True)
        astray = {
            member_of(player): row.packed
            for player, row in sorted(rows.items())
            if self.shard_map.shard_for(row.packed, member_of(player)) != row.shard
        }
        located = leaderboard.directory.locate(self.shard_map, astray, soon(), fresh=True)
        return {member: (located.entries[member], packed) for member, packed in astray.items()}

    def begin_a_move_and_die(self, number: int) -> None:
        """A player who is a stray, if there is one, leaves its shard and arrives nowhere."""
        leaderboard, strays = self.service.leaderboard, self.strays()
        if strays:
            member = list(strays)[number % len(strays)]
            entry, packed = strays[member]
            target = self.shard_map.shard_for(packed, member)
            call = step_call(self.shard_map.keys(entry.shard), "rb1_depart", [member, entry.epoch, target])
            (answer,) = leaderboard.functions.on_shards([call], 3_600_000, soon(), fence=True)
            assert answer.error is None
            assert [code for code, _ in departures(answer.reply)] == [1]
            self.happened["move begun"] += 1

    # -- reads

    @rule(offset=st.integers(0, 30), limit=st.integers(1, 30))
    def page(self, offset: int, limit: int) -> None:
        answer = self.get("/scores", offset=offset, limit=limit)
        assert self.of_entries(answer) == self.ranking[offset : offset + limit]
        count = len(self.ranking)
        assert answer["total_players"] == count
        assert ("next" in answer) == (offset + limit < count and offset < count)

    @rule(limit=st.integers(1, 9))
    def all_pages_by_cursor(self, limit: int) -> None:
        answer = self.get("/scores", limit=limit)
        seen = self.of_entries(answer)
        while "cursor" in answer:
            answer = self.get("/scores", limit=limit, cursor=answer["cursor"])
            seen += self.of_entries(answer)
        assert seen == self.ranking

    @precondition(lambda self: self.ranking)
    @rule(data=st.data(), each_side=st.integers(1, 10))
    def player(self, data: st.DataObject, each_side: int) -> None:
        ranking = self.ranking
        rank, player, points = data.draw(st.sampled_from(ranking))
        answer = self.get(f"/scores/{player}")
        told = (answer["rank"], answer["score"], answer["total_players"], answer["rank_is"])
        assert told == (rank, points, len(ranking), "exact")
        assert answer["percentile"] == pytest.approx(100 * (len(ranking) - rank + 1) / len(ranking), abs=1e-4)
        around = self.get(f"/scores/{player}/surrounding", offset=each_side)
        start = max(0, min(rank - 1 - each_side, len(ranking) - (2 * each_side + 1)))
        assert self.of_entries(around) == ranking[start : start + 2 * each_side + 1]
        assert [entry["user_id"] for entry in around["entries"] if entry["is_current_user"]] == [player]

    @rule(player=st.sampled_from(PLAYERS))
    def nobody(self, player: PlayerId) -> None:
        if player not in self.rows or player in self.hidden:
            for path in (f"/scores/{player}", f"/scores/{player}/surrounding"):
                status, _ = self.service.api.call("GET", f"{BASE}{path}?{self.query()}")
                assert status == 404

    @rule(score=st.integers(-20, 60), limit=st.integers(1, 12))
    def around_a_score(self, score: int, limit: int) -> None:
        ranking, order = self.ranking, self.board.order
        better = sum(1 for _, _, points in ranking if order.sign * points < order.sign * score)
        start = max(0, min(better - limit // 2, len(ranking) - limit))
        assert self.of_entries(self.get("/scores/around", score=score, limit=limit)) == ranking[start : start + limit]

    @rule(players=st.lists(st.sampled_from([*PLAYERS, PlayerId("nobody-at-all")]), min_size=1, max_size=40))
    def lookup(self, players: list[PlayerId]) -> None:
        path = f"{BASE}/scores/lookup?{self.query()}"
        status, answer = self.service.api.call("POST", path, {"user_ids": players})
        assert status == 200
        asked = set(players)
        assert self.of_entries(answer) == [row for row in self.ranking if row[1] in asked]
        assert [entry["position"] for entry in answer["entries"]] == list(range(1, len(answer["entries"]) + 1))
        ranked = {player for _, player, _ in self.ranking}
        assert answer["not_found"] == [player for player in dict.fromkeys(players) if player not in ranked]

    @rule(
        low=st.none() | st.integers(-20, 40),
        high=st.none() | st.integers(-20, 40),
        offset=st.integers(0, 5),
        limit=st.integers(1, 30),
    )
    def between_two_scores(self, low: int | None, high: int | None, offset: int, limit: int) -> None:
        if low is not None and high is not None and low > high:
            low, high = high, low
        if low is None and high is None:
            return
        answer = self.get("/scores", min_score=low, max_score=high, offset=offset, limit=limit)
        matching = [row for row in self.ranking if (low is None or row[2] >= low) and (high is None or row[2] <= high)]
        assert self.of_entries(answer) == matching[offset : offset + limit]
        assert answer["matching_players"] == len(matching)
        assert ("next" in answer) == (offset < len(matching) and offset + limit < len(matching))

    @rule(offset=st.integers(0, 20), limit=st.integers(1, 20), style=st.sampled_from(["competition", "dense"]))
    def styles(self, offset: int, limit: int, style: str) -> None:
        points = [points for _, _, points in self.ranking]
        distinct = list(dict.fromkeys(points))
        answer = self.get("/scores", offset=offset, limit=limit, rank_style=style)
        expected = [
            1 + (points.index(value) if style == "competition" else distinct.index(value))
            for value in points[offset : offset + limit]
        ]
        assert [entry["rank"] for entry in answer["entries"]] == expected
        for _, player, value in self.ranking[offset : offset + 1]:
            told = self.get(f"/scores/{player}", rank_style=style)["rank"]
            assert told == 1 + (points.index(value) if style == "competition" else distinct.index(value))

    @invariant()
    def stats(self) -> None:
        if not hasattr(self, "shard_map"):
            return
        self.happened["steps"] += 1
        answer = self.get("/stats")
        points = [points for _, _, points in self.ranking]
        assert answer["total_players"] == len(points)
        assert answer["top_score"] == (points[0] if points else None)
        assert answer["average_score"] == (round(sum(points) / len(points), 2) if points else None)
        assert answer["submissions"] == len(self.reported)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API's clock, which a machine may set back."""
    for module in (api.boards, api.scores, api.users):
        monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(Clock, "behind", timedelta())


@pytest.fixture
def strays_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are, until ranges change or somebody finishes their moves: reads have to put them in their places."""
    monkeypatch.setattr(queue, "_GATHERED_FOR_S", 3_600.0)


@pytest.mark.usefixtures("clock", "strays_stay")
def test_every_read_agrees_with_a_sorted_list(service: Service) -> None:
    """Submissions, retries, removals, hidden players, a period that closes, changes of ranges half done, moves broken
    off: no read ever tells another ranking."""

    class Machine(Reads):
        pass

    Machine.service = service
    Machine.happened = Counter()
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize="READS_STEPS" not in os.environ,
            database=None,
        ),
    )
    print(f"\n{RUNS} runs of {STEPS} steps: {dict(Machine.happened)}")
    assert {"submitted", "removed", "hidden", "ranges changed", "move begun"} <= Machine.happened.keys()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("operator", list(Operator))
@pytest.mark.parametrize("kind", [PeriodKind.MONTH, PeriodKind.WEEK, PeriodKind.DAY])
def test_a_period_closes_and_the_next_begins_with_nobody(
    service: Service, kind: PeriodKind, operator: Operator
) -> None:
    """The machine's own steps in a fixed order: ties, points below zero, a removal, a hidden player, two periods."""

    class Machine(Reads):
        pass

    Machine.service, Machine.happened = service, Counter()
    machine = Machine()
    machine.open(
        operator, Order.DESC, kind, late=True, first=[(player, at % 4 - 2) for at, player in enumerate(PLAYERS)]
    )
    try:
        machine.hide(PLAYERS[3], hidden=True)
        for rolled in (False, True):
            if rolled:
                machine.roll_the_period()
            for at, player in enumerate(PLAYERS[:12]):
                machine.submit(player, at % 3 - 1)
            machine.remove(PLAYERS[5])
            machine.retry(*machine.reported[0])
            machine.page(0, 30)
            machine.all_pages_by_cursor(5)
            machine.lookup([*PLAYERS, PlayerId("nobody-at-all")])
            machine.between_two_scores(-1, 1, 1, 20)
            machine.around_a_score(0, 7)
            machine.styles(2, 9, "competition")
            machine.styles(2, 9, "dense")
            machine.stats()
        assert len(machine.ranking) == 10, "of twelve one is hidden, and one is off the board"
        machine.look_back(0, 30)
        assert Machine.happened[f"{kind} closed"] == 1
    finally:
        machine.teardown()


# -- agreement


@pytest.mark.parametrize("splits", [1, 4])
def test_all_ways_to_a_rank_agree_with_thousands_of_ties(service: Service, splits: int) -> None:
    """Offsets, cursors, lookups, single players, those around: three points for 2,500 players, equal to the tick."""
    shard_map = service.open_board([0, 5], splits=splits, kind=PeriodKind.FOREVER)
    name, leaderboard, api = shard_map.name, service.leaderboard, service.api
    players = _players(2_500)
    submissions = [Submission(player, 1 + number % 3, "m") for number, player in enumerate(players)]
    results = leaderboard.submit(name, submissions, soon(), rank=RankMode.NONE)
    assert {result.status for result in results} == {"applied"}

    def rows(answer: Any) -> list[tuple[int, str, int]]:
        return [(entry["rank"], entry["user_id"], entry["score"]) for entry in answer["entries"]]

    board = name.board
    by_offset = []
    for offset in range(0, 2_500, 100):
        by_offset += rows(api.get("/scores", board=board, offset=offset, limit=100))
    points = {player: 1 + number % 3 for number, player in enumerate(players)}
    expected = sorted(players, key=lambda player: (-points[player], member_of(player)))
    if len({elapsed_of(leaderboard.reader.find(shard_map, players[at], soon()).packed) for at in (0, -1)}) == 1:
        assert [player for _, player, _ in by_offset] == expected
    assert [rank for rank, _, _ in by_offset] == list(range(1, 2_501))
    assert {player: score for _, player, score in by_offset} == points

    answer = api.get("/scores", board=board, limit=100)
    by_cursor = rows(answer)
    while "cursor" in answer:
        answer = api.get("/scores", board=board, limit=100, cursor=answer["cursor"])
        by_cursor += rows(answer)
    assert by_cursor == by_offset

    by_lookup = []
    for start in range(0, 2_500, 500):
        status, answer = api.call(
            "POST", f"{BASE}/scores/lookup?board={board}", {"user_ids": players[start : start + 500]}
        )
        assert (status, answer["not_found"]) == (200, [])
        by_lookup += rows(answer)
    assert sorted(by_lookup) == by_offset

    for at in (0, 1, 832, 833, 1_250, 1_665, 1_666, 2_498, 2_499):
        rank, player, score = by_offset[at]
        answer = api.get(f"/scores/{player}", board=board)
        assert (answer["rank"], answer["score"]) == (rank, score)
        start = max(0, min(at - 4, 2_500 - 9))
        assert rows(api.get(f"/scores/{player}/surrounding", board=board)) == by_offset[start : start + 9]
    for score in (9, 3, 2, 1, -5):
        better = sum(1 for _, _, points_there in by_offset if points_there > score)
        start = max(0, min(better - 5, 2_500 - 11))
        assert rows(api.get("/scores/around", board=board, score=score, limit=11)) == by_offset[start : start + 11]


def test_a_cursor_stays_where_it_was_whatever_comes_before_it(service: Service) -> None:
    """The page by offset repeats a row when somebody gets by; the page by cursor does not, and its ranks are new."""
    shard_map = service.open_board([10])
    board, api = shard_map.board.name, service.api
    for score, player in enumerate(PLAYERS[:8]):
        service.leaderboard.submit(shard_map.name, [Submission(player, 20 - score, "m")], soon(), rank=RankMode.NONE)
    first = api.get("/scores", board=board, limit=4)
    late = Submission(PLAYERS[9], 100, "m")
    service.leaderboard.submit(shard_map.name, [late], soon(), rank=RankMode.NONE)
    following = api.get("/scores", board=board, limit=4, cursor=first["cursor"])
    assert [entry["user_id"] for entry in following["entries"]] == PLAYERS[4:8]
    assert [entry["rank"] for entry in following["entries"]] == [6, 7, 8, 9]
    by_offset = api.get("/scores", board=board, limit=4, offset=4)["entries"]
    assert by_offset[0]["user_id"] == PLAYERS[3], "seen before"


# -- what is refused


BAD_READS = [
    ("/scores?cursor=forged", 400, "cursor"),
    ("/scores?cursor=" + "A" * 44, 400, "cursor"),
    ("/scores?cursor=x&offset=5", 400, "cursor"),
    ("/scores?cursor=x&min_score=5", 400, "cursor"),
    ("/scores?min_score=9&max_score=8", 400, "min_score"),
    ("/scores?min_score=low", 400, "min_score"),
    ("/scores?partial=yes", 400, "partial"),
    ("/scores?rank_style=olympic", 400, "rank_style"),
    ("/scores/around", 400, "score"),
    ("/scores/around?score=many", 400, "score"),
    ("/scores/around?score=1.5", 400, "score"),
    ("/scores/around?score=1&limit=101", 400, "limit"),
    ("/scores/around?score=1&limit=0", 400, "limit"),
    ("/scores/around?score=1&month=2020-13", 400, "month"),
]


@pytest.mark.parametrize(("path", "expected", "field"), BAD_READS, ids=[path for path, _, _ in BAD_READS])
def test_what_makes_no_sense_is_refused(service: Service, path: str, expected: int, field: str) -> None:
    shard_map = service.open_board([10])
    separator = "&" if "?" in path else "?"
    status, answer = service.api.call("GET", f"{BASE}{path}{separator}board={shard_map.board.name}")
    assert (status, [error["field"] for error in answer["errors"]]) == (expected, [field])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"user_ids": []}, "user_ids"),
        ({"user_ids": ["ann"] * 501}, "user_ids"),
        ({"user_ids": ["ann", "no body"]}, "user_ids[1]"),
        ({"user_ids": [7]}, "user_ids[0]"),
        ({"users": ["ann"]}, "user_ids"),
        ({}, "user_ids"),
    ],
    ids=["nobody", "501", "an odd id", "a number", "another field", "nothing"],
)
def test_a_lookup_that_makes_no_sense_is_refused(service: Service, body: Any, field: str) -> None:
    shard_map = service.open_board([10])
    status, answer = service.api.call("POST", f"{BASE}/scores/lookup?board={shard_map.board.name}", body)
    assert status == 400
    assert [error["field"] for error in answer["errors"]] in ([field], ["users"])


def test_a_cursor_of_another_board_is_refused(service: Service) -> None:
    one, other = service.open_board([10]), service.open_board([10])
    for player in PLAYERS[:3]:
        service.leaderboard.submit(one.name, [Submission(player, 1, "m")], soon(), rank=RankMode.NONE)
    cursor = service.api.get("/scores", board=one.board.name, limit=1)["cursor"]
    status, answer = service.api.call("GET", f"{BASE}/scores?board={other.board.name}&cursor={cursor}")
    assert (status, answer["errors"][0]["field"]) == (400, "cursor")


def test_beyond_any_score_lies_the_end_of_the_board(service: Service) -> None:
    shard_map = service.open_board([10])
    for score, player in enumerate(PLAYERS[:5]):
        service.leaderboard.submit(shard_map.name, [Submission(player, score, "m")], soon(), rank=RankMode.NONE)
    board, api = shard_map.board.name, service.api
    for score, ranks in ((2**63 - 1, [1, 2, 3]), (-(2**63), [3, 4, 5])):
        answer = api.get("/scores/around", board=board, score=score, limit=3)
        assert [entry["rank"] for entry in answer["entries"]] == ranks
    answer = api.get("/scores", board=board, min_score=-(2**63), max_score=2**63 - 1)
    assert answer["matching_players"] == 5


def test_dense_ranks_are_refused_where_they_would_cost_the_whole_board(service: Service) -> None:
    shard_map = service.open_board([10])
    players = _players(1_010)
    batch = [Submission(player, number, "m") for number, player in enumerate(players)]
    service.leaderboard.submit(shard_map.name, batch, soon(), rank=RankMode.NONE)
    path = f"{BASE}/scores?board={shard_map.board.name}&rank_style=dense&limit=10"
    status, answer = service.api.call("GET", f"{path}&offset=990")
    assert (status, answer["entries"][-1]["rank"]) == (200, 1_000)
    status, answer = service.api.call("GET", f"{path}&offset=991")
    assert (status, answer["errors"][0]["field"]) == (422, "rank_style")


# -- boards and names


def test_words_of_the_api_are_no_player_ids(service: Service) -> None:
    """Else `GET /scores/around` would be about a player for one client and about a score for another."""
    for word in ("around", "lookup"):
        status, answer = service.api.call("POST", f"{BASE}/users", {"user_id": word, "username": f"the {word}"})
        assert (status, answer["errors"][0]["field"]) == (400, "user_id")
        status, answer = service.api.call("POST", f"{BASE}/users:batch", [{"user_id": word, "username": word}])
        assert [result["status"] for result in answer["results"]] == ["invalid"]
        status, answer = service.api.call("POST", f"{BASE}/scores", {"user_id": word, "score": 1})
        assert (status, answer["errors"][0]["field"]) == (400, "user_id")


def test_a_board_is_made_and_its_rules_for_what_comes_are_changed(service: Service) -> None:
    rules = {"board": "made", "period": "week", "operator": "best", "order": "asc", "lowest": 5}
    status, answer = service.api.call("POST", f"{BASE}/boards", rules)
    assert status == 201
    current = period_at(PeriodKind.WEEK, datetime.now(UTC)).name
    assert answer == rules | {"current": current, "highest": None, "registration": "registered"}
    status, answer = service.api.call("POST", f"{BASE}/boards", rules)
    assert (status, answer["errors"][0]["field"]) == (409, "board")

    status, answer = service.api.call("PATCH", f"{BASE}/boards/made", {"highest": 50, "registration": "open"})
    assert (status, answer["lowest"], answer["highest"], answer["registration"]) == (200, 5, 50, "open")
    status, answer = service.api.call("PATCH", f"{BASE}/boards/made", {"lowest": None})
    assert (status, answer["lowest"], answer["highest"]) == (200, None, 50)


@pytest.mark.parametrize(
    ("method", "path", "body", "expected", "field"),
    [
        ("POST", "/boards", {"board": "No Where"}, 400, "board"),
        ("POST", "/boards", {"board": "b", "period": "year"}, 400, "period"),
        ("POST", "/boards", {"board": "b", "operator": "sum"}, 400, "operator"),
        ("POST", "/boards", {"board": "b", "lowest": 5, "highest": 4}, 400, None),
        ("POST", "/boards", {"period": "day"}, 400, "board"),
        ("PATCH", "/boards/nowhere", {"lowest": 5}, 404, "board"),
        ("PATCH", "/boards/made", {"order": "asc"}, 400, "order"),
        ("PATCH", "/boards/global", {"lowest": 10**9, "highest": 1}, 400, None),
    ],
)
def test_a_board_that_cannot_be_is_refused(
    service: Service, method: str, path: str, body: Any, expected: int, field: str | None
) -> None:
    status, answer = service.api.call(method, f"{BASE}{path}", body)
    assert status == expected, answer
    if field is not None:
        assert [error["field"] for error in answer["errors"]] == [field]


def test_the_top_that_a_process_remembers_says_how_old_it_is(service: Service, servers: ServerSet) -> None:
    """Whatever was acknowledged before `as_of` is in it; and no answer is older than the setting, plus the reading."""
    shard_map = service.open_board([10])
    leaderboard = Leaderboard.connect(servers.settings, known_players=lambda _, players: players)
    try:
        older = 0
        for number, player in enumerate(PLAYERS[:20]):
            leaderboard.submit(shard_map.name, [Submission(player, number, "m")], soon(), rank=RankMode.NONE)
            acknowledged_ms = time.time() * 1000
            page = leaderboard.recent_top(shard_map.name, soon())
            there = player in {row.player for row in page.rows}
            assert there or page.as_of_ms <= acknowledged_ms
            assert page.as_of_ms > acknowledged_ms - servers.settings.top_cache_ms - 5_000
            older += not there
        assert older > 0, "twenty reads in a row are not twenty rankings"
        deadline = soon()
        while leaderboard.recent_top(shard_map.name, soon()).total < 20:
            assert not deadline.passed
    finally:
        leaderboard.close()
