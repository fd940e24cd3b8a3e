"""Exact reads: held to a sorted list in memory, wherever the rows happen to be."""

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID

import msgspec
import pytest

from cli.servers import ServerSet
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod, Operator
from sharding.cluster.client import Call
from sharding.directory import Entry
from sharding.errors import NotOnBoard, Unavailable
from sharding.functions import ShardCall, departures, pairs, read_tombstone, step_call
from sharding.leaderboard import Leaderboard, RankMode, Row, Submission
from sharding.merge import Placed
from sharding.periods import PeriodKind
from sharding.players import Member, PlayerId, member_of, parse_player_id, player_of
from sharding.scores import Order, PackedScore, pack, points_of
from sharding.shard_map import ShardMap

pytestmark = pytest.mark.servers

OpenBoard = Callable[..., ShardMap]


def soon() -> Deadline:
    return Deadline.after(10)


class Filled:
    """A board whose rows were put straight into the shards, and the list that they are in order."""

    def __init__(self, leaderboard: Leaderboard, shard_map: ShardMap) -> None:
        self.leaderboard = leaderboard
        self.shard_map = shard_map
        self.placed: list[Placed] = []
        self._shards: dict[Member, int] = {}

    @property
    def name(self) -> BoardPeriod:
        return self.shard_map.name

    def put(self, rows: dict[PlayerId, PackedScore], shard: int | None = None) -> None:
        """Rows where they belong, or all of them in one shard, which makes strays of those that do not."""
        homes = {
            member_of(player): (self.shard_map.shard_for(packed, member_of(player)) if shard is None else shard, packed)
            for player, packed in rows.items()
        }
        calls = []
        for member, (at, packed) in homes.items():
            keys = self.shard_map.keys(at)
            calls.append(Call(keys.slot, ("ZADD", keys.rows, packed, member)))
        assert [answer.error for answer in self.leaderboard.client.execute(calls, soon()) if answer.error] == []
        entries = {member: Entry(at, 1) for member, (at, _) in homes.items()}
        assert self.leaderboard.directory.point(self.shard_map, entries, soon()).entries == entries
        self.placed = sorted(self.placed + [Placed(packed, member) for member, (_, packed) in homes.items()])

    @property
    def rows(self) -> list[Row]:
        """What the whole board is."""
        order = self.shard_map.board.order
        return [
            Row(rank, player_of(member), points_of(packed, order))
            for rank, (packed, member) in enumerate(self.placed, start=1)
        ]

    def boundaries(self) -> list[int]:
        """The offsets at which something changes: ends, borders of ranges, borders of ties, and those beside them."""
        interesting = {0, len(self.placed)}
        for at in range(1, len(self.placed)):
            before, after = self.placed[at - 1], self.placed[at]
            if self.shard_map.range_at(before.packed) != self.shard_map.range_at(after.packed):
                interesting.add(at)
        ties = [at for at in range(1, len(self.placed)) if self.placed[at - 1].packed == self.placed[at].packed]
        interesting.update(ties[:: max(1, len(ties) // 5)])
        return sorted({max(0, at + beside) for at in interesting for beside in (-1, 0, 1)})


def some_players(count: int) -> list[PlayerId]:
    """UUIDs and names in a mixture; their order is that of the members, not of what one sees."""
    chance = random.Random(count)
    names = [f"{chance.choice('AZaz09._:-')}{number}" for number in range(count // 2)]
    uuids = [str(UUID(int=chance.getrandbits(128), version=4)) for _ in range(count - count // 2)]
    return [parse_player_id(text) for text in names + uuids]


def scores_with_ties(players: list[PlayerId], points: range, order: Order) -> dict[PlayerId, PackedScore]:
    """Few points and fewer times, so that whole packed scores are equal."""
    chance = random.Random(7)
    return {player: pack(chance.choice(points), chance.choice([0, 0, 5]), order) for player in players}


@pytest.fixture(
    params=["at rest", "ascending", "below zero", "split", "split ascending", "strays", "split strays", "all in one"],
)
def filled(request: pytest.FixtureRequest, leaderboard: Leaderboard, open_board: OpenBoard) -> Filled:
    kind = request.param
    order = Order.ASC if "ascending" in kind else Order.DESC
    points = range(-9, 12) if kind == "below zero" else range(5, 26)
    cuts = [-4, 0, 4] if kind == "below zero" else [10, 20]
    shard_map = open_board(cuts, splits=3 if "split" in kind else 1, order=order)
    board = Filled(leaderboard, shard_map)
    scores = scores_with_ties(some_players(90), points, order)
    if kind == "all in one":
        board.put(scores, shard=2)
    elif "strays" in kind:
        chance = random.Random(3)
        for player, packed in scores.items():
            board.put({player: packed}, shard=chance.choice([None, *shard_map.shards()]))
    else:
        board.put(scores)
    return board


# -- held to a list


def test_pages_are_slices_of_the_whole(filled: Filled) -> None:
    whole = filled.rows
    for offset in filled.boundaries():
        for limit in (3, 40):
            page = filled.leaderboard.top(filled.name, offset, limit, soon())
            assert (page.rows, page.total) == (whole[offset : offset + limit], len(whole)), (offset, limit)
    assert filled.leaderboard.top(filled.name, 0, 1000, soon()).rows == whole


def test_everybody_has_the_rank_that_the_pages_say(filled: Filled) -> None:
    for row in filled.rows:
        standing = filled.leaderboard.standing(filled.name, row.player, soon())
        assert (standing.row, standing.total) == (row, len(filled.rows))


def test_those_around_are_a_window_clamped_at_both_ends(filled: Filled) -> None:
    whole = filled.rows
    chosen = {0, 1, 3, 4, len(whole) // 2, len(whole) - 5, len(whole) - 4, len(whole) - 2, len(whole) - 1}
    for at in sorted(chosen | set(filled.boundaries()[3:-3:4])):
        for each_side in (0, 1, 4):
            page = filled.leaderboard.surrounding(filled.name, whole[at].player, each_side, soon())
            start = max(0, min(at - each_side, len(whole) - (2 * each_side + 1)))
            assert page.rows == whole[start : start + 2 * each_side + 1], (at, each_side)
    page = filled.leaderboard.surrounding(filled.name, whole[7].player, 500, soon())
    assert page.rows == whole, "a board smaller than the window is shown whole"


def test_beyond_the_end_there_is_nothing_but_the_total(filled: Filled) -> None:
    for offset in (len(filled.rows), len(filled.rows) + 1, 10**9):
        page = filled.leaderboard.top(filled.name, offset, 10, soon())
        assert (page.rows, page.total) == ([], len(filled.rows))


def test_a_player_who_is_not_on_the_board_is_not_found(filled: Filled) -> None:
    with pytest.raises(NotOnBoard) as refused:
        filled.leaderboard.standing(filled.name, PlayerId("nobody"), soon())
    assert refused.value.field == "user_id"
    with pytest.raises(NotOnBoard):
        filled.leaderboard.surrounding(filled.name, PlayerId("nobody"), 3, soon())


def test_many_players_are_found_at_once(filled: Filled) -> None:
    whole = [row.player for row in filled.rows]
    found = filled.leaderboard.reader.find_many(filled.shard_map, [*whole, PlayerId("nobody")], soon())
    assert {player: row.packed for player, row in found.items()} == {
        player_of(member): packed for packed, member in filled.placed
    }


def test_the_board_at_a_glance_and_its_shards_agree(filled: Filled) -> None:
    stats = filled.leaderboard.stats(filled.name, soon())
    assert (stats.total, stats.top) == (len(filled.rows), filled.rows[0])
    views = filled.leaderboard.shards(filled.name, soon())
    assert sum(view.rows for view in views) == len(filled.rows)
    in_range = all(
        filled.shard_map.range_at(packed) == filled.shard_map.range_of(shard)
        for shard in filled.shard_map.shards()
        for packed in (row.packed for row in rows_of(filled.leaderboard, filled.shard_map, shard))
    )
    assert (sum(view.strays for view in views) == 0) == in_range


# -- small boards


def test_an_empty_board(leaderboard: Leaderboard, open_board: OpenBoard) -> None:
    shard_map = open_board()
    page = leaderboard.top(shard_map.name, 0, 10, soon())
    assert (page.rows, page.total) == ([], 0)
    with pytest.raises(NotOnBoard):
        leaderboard.standing(shard_map.name, PlayerId("ann"), soon())
    stats = leaderboard.stats(shard_map.name, soon())
    assert (stats.total, stats.points_sum, stats.top) == (0, 0, None)


@pytest.mark.parametrize("splits", [1, 3])
def test_a_board_of_one(leaderboard: Leaderboard, open_board: OpenBoard, splits: int) -> None:
    board = Filled(leaderboard, open_board(splits=splits))
    board.put({PlayerId("ann"): pack(15, 3, Order.DESC)})
    (row,) = board.rows
    assert leaderboard.top(board.name, 0, 10, soon()).rows == [row]
    assert leaderboard.top(board.name, 1, 10, soon()).rows == []
    assert leaderboard.surrounding(board.name, row.player, 5, soon()).rows == [row]
    standing = leaderboard.standing(board.name, row.player, soon())
    assert (standing.row, standing.total, standing.percentile) == (row, 1, 100.0)


def test_the_percentile_is_the_share_of_those_who_rank_no_better(
    leaderboard: Leaderboard, open_board: OpenBoard
) -> None:
    board = Filled(leaderboard, open_board())
    board.put({PlayerId(f"p{number}"): pack(number, 0, Order.DESC) for number in range(1, 9)})
    percentiles = [leaderboard.standing(board.name, row.player, soon()).percentile for row in board.rows]
    assert percentiles == [100.0, 87.5, 75.0, 62.5, 50.0, 37.5, 25.0, 12.5]


# -- ties


def test_ten_minutes_of_a_board_that_never_starts_anew(leaderboard: Leaderboard, open_board: OpenBoard) -> None:
    """Its tie-break unit is so long that real submissions are equal in all but the player's id, in every shard."""
    shard_map = open_board([10], splits=3, kind=PeriodKind.FOREVER)
    players = some_players(60)
    for player in players:
        submission = Submission(player, 3, "first")
        (result,) = leaderboard.submit(shard_map.name, [submission], soon(), rank=RankMode.NONE)
        assert result.points == 3
    placed = [row for shard in shard_map.shards() for row in rows_of(leaderboard, shard_map, shard)]
    assert len({row.packed for row in placed}) <= 2, "the clock may have ticked once"
    board = Filled(leaderboard, shard_map)
    board.placed = sorted(placed)
    assert {row.player for row in board.rows} == set(players)
    for offset in range(0, 61, 7):
        assert leaderboard.top(board.name, offset, 5, soon()).rows == board.rows[offset : offset + 5]
    for row in board.rows:
        assert leaderboard.standing(board.name, row.player, soon()).row == row


@pytest.fixture
def english_servers(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerSet]:
    """A node that sorts text as people do: what it does on most machines that people sit at."""
    home = tmp_path_factory.mktemp("english")
    compiler = shutil.which("localedef")
    if compiler is None or subprocess.call([compiler, "-i", "en_US", "-f", "UTF-8", home / "en_US.UTF-8"]):
        pytest.skip("this machine cannot make a locale")
    monkeypatch.setenv("LOCPATH", str(home))
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    with ServerSet(home / "servers", primaries=1, replicas=0) as servers:
        yield servers


def test_the_language_of_a_server_does_not_order_players(english_servers: ServerSet, open_board: OpenBoard) -> None:
    """Sorted sets order members by their bytes; a comparison of strings in Lua would go by the locale."""
    leaderboard = Leaderboard.connect(english_servers.settings, known_players=lambda _, players: players)
    try:
        board = Filled(leaderboard, leaderboard.maps.publish(open_board([10], splits=2), soon()))
        board.put({parse_player_id(text): pack(15, 0, Order.DESC) for text in ("Zoe", "ann", "Bob", "_x", "a-b", "aa")})
        assert leaderboard.top(board.name, 0, 10, soon()).rows == board.rows
        ranks = [leaderboard.standing(board.name, row.player, soon()).row for row in board.rows]
        assert ranks == board.rows
    finally:
        leaderboard.close()


# -- real submissions


@pytest.mark.parametrize("rules", [{}, {"order": Order.ASC, "operator": Operator.SET}, {"splits": 3}])
def test_after_many_submissions_all_reads_agree(
    leaderboard: Leaderboard, open_board: OpenBoard, rules: dict[str, object]
) -> None:
    """Rows come and go over the borders of ranges; what is read is what is in the shards."""
    shard_map = open_board([10, 20, 30], **rules)
    chance = random.Random(11)
    players = some_players(30)
    for number in range(12):
        batch = [Submission(player, chance.randrange(-3, 9), f"m{number}") for player in players]
        chance.shuffle(batch)
        results = leaderboard.submit(shard_map.name, batch, soon(), rank=RankMode.NONE)
        assert {result.status for result in results} == {"applied"}
    leaderboard.strays.bring_home(soon())
    board = Filled(leaderboard, shard_map)
    board.placed = sorted(row for shard in shard_map.shards() for row in rows_of(leaderboard, shard_map, shard))
    assert {row.player for row in board.rows} == set(players)
    assert leaderboard.top(board.name, 0, 100, soon()).rows == board.rows
    for row in board.rows:
        assert leaderboard.standing(board.name, row.player, soon()).row == row
        unchanged = Submission(row.player, row.points if "operator" in rules else 0, "again")
        (result,) = leaderboard.submit(board.name, [unchanged], soon(), rank=RankMode.EXACT)
        assert (result.points, result.rank) == (row.points, row.rank), "a write tells the same rank"
    assert all(view.strays == view.leaving == 0 for view in leaderboard.shards(board.name, soon()))


def test_reads_while_the_board_is_written(leaderboard: Leaderboard, open_board: OpenBoard) -> None:
    """No page shows worse before better, nor lacks who stands still, and a settled one has everybody once."""
    shard_map = open_board([50, 100])
    players = [PlayerId(f"p{number}") for number in range(40)]
    still = {PlayerId("first"): 10**6, PlayerId("second"): 10**6 - 1, PlayerId("last"): 0}
    first = [Submission(player, 1, "m") for player in players]
    first += [Submission(player, points, "m") for player, points in still.items()]
    leaderboard.submit(shard_map.name, first, soon(), rank=RankMode.NONE)

    def write(thread: int) -> None:
        chance = random.Random(thread)
        for number in range(60):
            submission = Submission(chance.choice(players), chance.randrange(1, 9), f"t{thread}-{number}")
            leaderboard.submit(shard_map.name, [submission], soon(), rank=RankMode.RECENT)

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, thread) for thread in range(4)]
        while not all(writer.done() for writer in writers):
            page = leaderboard.top(shard_map.name, 0, 100, soon())
            points = [row.points for row in page.rows]
            assert points == sorted(points, reverse=True)
            assert [row.player for row in page.rows[:2]] == ["first", "second"]
            assert page.rows[-1].player == "last"
            if page.settled:
                assert {row.player for row in page.rows} == {*players, *still}
                assert len(page.rows) == page.total == 43
            deep = leaderboard.top(shard_map.name, 5, 10, soon())
            points = [row.points for row in deep.rows]
            assert (len(points), points) == (10, sorted(points, reverse=True))
            assert not deep.settled or len({row.player for row in deep.rows}) == 10
            around = leaderboard.surrounding(shard_map.name, players[0], 3, soon())
            assert players[0] in {row.player for row in around.rows}
            points = [row.points for row in around.rows]
            assert (len(points), points) == (7, sorted(points, reverse=True))
        for writer in writers:
            writer.result()
    leaderboard.strays.bring_home(soon())
    board = Filled(leaderboard, shard_map)
    board.placed = sorted(row for shard in shard_map.shards() for row in rows_of(leaderboard, shard_map, shard))
    assert leaderboard.top(shard_map.name, 0, 100, soon()).rows == board.rows


# -- players on the move


def rows_of(leaderboard: Leaderboard, shard_map: ShardMap, shard: int) -> list[Placed]:
    """The rows of a shard, read without the reader."""
    keys = shard_map.keys(shard)
    answer = leaderboard.client.execute_one(Call(keys.slot, ("ZRANGE", keys.rows, 0, -1, "WITHSCORES")), soon())
    assert answer.error is None
    flat = iter(answer.reply)
    return [Placed(PackedScore(int(float(packed))), Member(member)) for member, packed in zip(flat, flat, strict=True)]


def depart(board: Filled, player: PlayerId, source: int, target: int, epoch: int = 1) -> None:
    """Begin a move and die."""
    call = step_call(board.shard_map.keys(source), "rb1_depart", [member_of(player), epoch, target])
    functions = board.leaderboard.functions
    (answer,) = functions.on_shards([call], board.shard_map.retry_window_ms, soon(), fence=True)
    assert answer.error is None
    assert [code for code, _ in departures(answer.reply)] == [1]


@pytest.fixture
def departed(leaderboard: Leaderboard, open_board: OpenBoard) -> Filled:
    """ann, the first, has left the middle shard and arrived nowhere; bob and cid are at home behind her."""
    board = Filled(leaderboard, open_board([10, 20]))
    board.put({PlayerId("bob"): pack(15, 0, Order.DESC), PlayerId("cid"): pack(5, 0, Order.DESC)})
    board.put({PlayerId("ann"): pack(25, 0, Order.DESC)}, shard=1)
    depart(board, PlayerId("ann"), source=1, target=0)
    assert [len(rows_of(leaderboard, board.shard_map, shard)) for shard in range(3)] == [0, 1, 1]
    return board


@pytest.mark.parametrize("read", ["standing", "surrounding", "find_many"])
def test_a_reader_finishes_the_move_of_the_player_it_looks_for(departed: Filled, read: str) -> None:
    ann, shard_map, leaderboard = PlayerId("ann"), departed.shard_map, departed.leaderboard
    if read == "standing":
        assert leaderboard.standing(departed.name, ann, soon()).row == Row(1, ann, 25)
    elif read == "surrounding":
        assert leaderboard.surrounding(departed.name, ann, 1, soon()).rows == departed.rows
    else:
        assert leaderboard.reader.find_many(shard_map, [ann], soon())[ann].shard == 0
    assert [row.member for row in rows_of(leaderboard, shard_map, 0)] == [b"ann"]
    assert [view.leaving for view in leaderboard.shards(departed.name, soon())] == [0, 0, 0]
    entry = leaderboard.directory.locate(shard_map, [Member(b"ann")], soon(), fresh=True).of(Member(b"ann"))
    assert entry == Entry(0, 2)
    left = ShardCall(shard_map.keys(1), "rb1_find", (0, b"ann"))
    (answer,) = leaderboard.functions.on_shards([left], shard_map.retry_window_ms, soon())
    ((code, tombstone),) = pairs(answer.reply)
    assert (code, read_tombstone(tombstone)) == (4, (0, 2))


def test_a_reader_with_an_old_memory_follows_the_player(departed: Filled, servers: ServerSet) -> None:
    """Another process remembers the shard that the player has left; the tombstone there tells the way."""
    other = Leaderboard.connect(servers.settings, known_players=lambda _, players: players)
    try:
        other.directory.learn(departed.shard_map, {Member(b"ann"): Entry(1, 1)})
        departed.leaderboard.standing(departed.name, PlayerId("ann"), soon())  # finishes the move
        assert other.standing(departed.name, PlayerId("ann"), soon()).row == Row(1, PlayerId("ann"), 25)
        remembered = other.directory.locate(departed.shard_map, [Member(b"ann")], soon())
        assert remembered.of(Member(b"ann")) == Entry(0, 2)
        other.directory.learn(departed.shard_map, {Member(b"bob"): Entry(2, 7)})  # wrong, and no tombstone there
        assert other.standing(departed.name, PlayerId("bob"), soon()).row.rank == 2
    finally:
        other.close()


@contextmanager
def paused_replicas(leaderboard: Leaderboard, servers: ServerSet) -> Iterator[None]:
    primaries = {int(address.rpartition(":")[2]) for address in leaderboard.client.primaries()}
    pids = [servers.pids[name] for name, port in servers.ports.items() if port not in primaries]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_move_that_cannot_be_finished_now_is_no_absence(departed: Filled, servers: ServerSet) -> None:
    """The player is on the board. To say `not found` because a shard is in trouble would be a wrong answer."""
    # sooner than anybody takes the silent ones for dead
    hasty = msgspec.structs.replace(servers.settings, ack_timeout_ms=300)
    other = Leaderboard.connect(hasty, known_players=lambda _, players: players)
    try:
        with paused_replicas(departed.leaderboard, servers), pytest.raises(Unavailable):
            other.standing(departed.name, PlayerId("ann"), Deadline.after(5))
    finally:
        other.close()
    assert departed.leaderboard.standing(departed.name, PlayerId("ann"), soon()).row.rank == 1


def test_others_count_a_player_who_is_on_the_move(departed: Filled) -> None:
    """A writer that died after the first step takes a player out of all shards; nobody behind may gain by that."""
    assert departed.leaderboard.standing(departed.name, PlayerId("bob"), soon()).row.rank == 2
    assert departed.leaderboard.top(departed.name, 0, 10, soon()).rows == departed.rows


# -- maps that change


def test_a_reader_with_an_old_map_reads_the_whole_board(
    leaderboard: Leaderboard, open_board: OpenBoard, servers: ServerSet
) -> None:
    """Another process has changed the map a moment ago: rows are in shards that this one has never heard of."""
    board = Filled(leaderboard, open_board([10, 20]))
    board.put({PlayerId(f"p{number}"): pack(number, 0, Order.DESC) for number in range(40)})
    assert leaderboard.top(board.name, 0, 100, soon()).rows == board.rows
    other = Leaderboard.connect(servers.settings, known_players=lambda _, players: players)
    try:
        cuts = [PackedScore(pack(points, 0, Order.DESC)) for points in (35, 30, 25, 15, 5)]
        wanted = other.rebalancer.switch(board.shard_map.recut(cuts))
        progress = other.rebalancer.move_strays(wanted, soon(), players_per_s=10_000, report=lambda _: None)
        assert progress.left == 0
        assert [len(rows_of(other, wanted, shard)) > 0 for shard in wanted.shards()] == [True] * 6
    finally:
        other.close()
    assert leaderboard.standing(board.name, PlayerId("p1"), soon()).row == board.rows[-2]
    assert leaderboard.top(board.name, 0, 100, soon()).rows == board.rows
