"""Removed and hidden players in everything that is made of a board: its audit, its rebuilding, its final ranking."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import pytest
from played_boards import OpenBoard, Played, rows_of, soon
from sqlalchemy import Engine

from records import audit, players
from records.players import NewPlayer
from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.errors import NotOnBoard, PeriodClosed, UnknownPlayer
from sharding.functions import departures, step_call
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.players import PlayerId, member_of
from sharding.shard_map import cut_after
from sharding.submissions import removal_of
from workers.archive import Archive
from workers.players import settle_visibility
from workers.rebuild import Rebuild
from workers.scrub import scrub
from workers.verify import Verdict, verify

pytestmark = pytest.mark.servers

RULES = [
    {"operator": "add"},
    {"operator": "best", "order": "asc"},
    {"operator": "set"},
]


@pytest.fixture(autouse=True)
def _nobody_hidden(database: Engine) -> Iterator[None]:
    yield
    with database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM users")
        connection.exec_driver_sql("DELETE FROM visibility_changes")


def remove(board: Played, player: str, name: str = "r") -> int | None:
    return board.leaderboard.remove(board.name, removal_of(PlayerId(player), name), soon()).points


def hide(board: Played, *names: str, hidden: bool = True) -> None:
    """As the API does: the player first, then the board."""
    for name in names:
        players.register_missing(board.engine, [name])
        players.update(board.engine, name, {"hidden": hidden})
    board.leaderboard.hide(board.name, {PlayerId(name): hidden for name in names}, soon())


def compare(board: Played) -> Verdict:
    board.leaderboard.strays.bring_home(soon())
    return verify(board.leaderboard, board.engine, board.now(), lambda _: None)


def number(index: int) -> str:
    return f"player-{index:06d}"


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules["operator"])
def test_a_removed_player_begins_at_nothing_and_the_audit_says_the_same(
    open_one: OpenBoard, rules: dict[str, str]
) -> None:
    """Redis, the fold of the audit, and what a rebuild makes of it: points, order, and the matches that are known."""
    board = open_one(**rules)
    board.play(200, 900)
    for index in range(60):
        before = board.points(number(index))
        assert remove(board, number(index)) == before
        with pytest.raises(NotOnBoard):
            board.points(number(index))
    for index in range(30):
        assert board.win(number(index), 7 + index % 3, "afterwards") == "applied"
        assert board.points(number(index)) == 7 + index % 3
    for index in range(10):
        assert remove(board, number(index), "again") == 7 + index % 3
    told = compare(board)
    assert (told.agrees, told.different, told.players_in_audit) == (True, 0, 160)
    totals = audit.totals(board.engine, board.name.board, board.name.period)
    stats = board.leaderboard.stats(board.name, soon())
    assert (totals.players, totals.points, totals.games) == (stats.total, stats.points_sum, stats.submissions)
    removals = "SELECT count(*), bool_and(points_after = 0) FROM games WHERE board = :b AND kind = 'removal'"
    assert rows_of(board.engine, removals, b=board.name.board) == [(70, True)]

    ranking = board.ranking()
    Rebuild(board.leaderboard, board.engine, board.name).whole(lambda _done, _of: None, force=True)
    assert board.ranking() == ranking
    assert board.leaderboard.stats(board.name, soon()) == stats
    assert compare(board).agrees
    for index in (3, 20, 40):
        assert board.win(number(index), 7 + index % 3, "afterwards") == ("applied" if index == 40 else "duplicate")
    with pytest.raises(NotOnBoard):
        remove(board, number(3), "a third time")


def test_a_match_from_before_the_removal_does_not_count_again(open_one: OpenBoard) -> None:
    """Neither at once nor after a rebuild; and its answer says that there are no points."""
    board = open_one()
    board.win("ann", 5, "m1")
    remove(board, "ann")
    for _ in range(2):
        (result,) = board.leaderboard.submit(
            board.name, [Submission(PlayerId("ann"), 5, "m1")], soon(), rank=RankMode.EXACT
        )
        assert (result.status, result.points, result.rank) == ("duplicate", None, None)
        board.drain()
        Rebuild(board.leaderboard, board.engine, board.name).whole(lambda _done, _of: None, force=True)
    assert board.win("ann", 3, "m2") == "applied"
    assert board.points("ann") == 3


def test_the_same_removal_twice_removes_once(open_one: OpenBoard) -> None:
    """A removal whose answer was lost may be sent again, also after the player has come back."""
    board = open_one()
    board.win("ann", 5, "m1")
    assert remove(board, "ann", "r1") == 5
    assert remove(board, "ann", "r1") is None
    with pytest.raises(NotOnBoard):
        remove(board, "ann", "r2")
    board.win("ann", 30, "m2")
    assert remove(board, "ann", "r1") is None
    assert board.points("ann") == 30
    assert compare(board).agrees


def test_a_player_who_is_on_the_move_is_moved_first_and_then_removed(open_one: OpenBoard) -> None:
    board = open_one(cuts=[20])
    board.win("ann", 5, "m1")
    wider = board.leaderboard.rebalancer.switch(board.shard_map.recut([cut_after(1, board.shard_map.board.order)]))
    member = member_of(PlayerId("ann"))
    source = board.leaderboard.directory.locate(wider, [member], soon(), fresh=True).entries[member]
    target = wider.shard_for(-5 << 22, member)
    call = step_call(wider.keys(source.shard), "rb1_depart", [member, source.epoch, target])
    (answer,) = board.leaderboard.functions.on_shards([call], wider.retry_window_ms, soon(), fence=True)
    assert [code for code, _ in departures(answer.reply)] == [1]
    assert remove(board, "ann") == 5
    assert board.leaderboard.stats(board.name, soon()).total == 0
    assert board.win("ann", 4, "m2") == "applied"
    assert (board.points("ann"), compare(board).agrees) == (4, True)


def test_the_scrub_finds_nothing_wrong_with_removed_and_hidden_players(open_one: OpenBoard) -> None:
    """Marks are as good as rows: no repair, and the directory leads to them."""
    board = open_one()
    board.play(200, 600)
    for index in range(20):
        remove(board, number(index))
    hide(board, *map(number, range(20, 40)))
    repairs = scrub(board.leaderboard, board.engine, board.now(), soon(), players_per_s=1e6, settle_s=0.1)
    assert repairs is not None
    assert (repairs.total, repairs.missing, repairs.rows, repairs.entries) == (0, 0, 200, 200)


def test_hidden_players_are_in_no_read_and_keep_their_points(open_one: OpenBoard) -> None:
    """Through submissions and moves, rebuilding and repair; shown again, they are where their points belong."""
    board = open_one()
    board.play(300, 900)
    full = board.ranking()
    secret = [number(index) for index in range(0, 300, 7)]
    hide(board, *secret)
    shown = [row for row in full if row[0] not in secret]
    assert board.ranking() == shown
    assert board.leaderboard.stats(board.name, soon()).total == len(shown)
    (result,) = board.leaderboard.submit(
        board.name, [Submission(PlayerId(secret[0]), 500, "far")], soon(), rank=RankMode.EXACT
    )
    assert (result.status, result.rank, result.rank_is) == ("applied", None, RankMode.NONE)
    assert (board.ranking(), compare(board).agrees) == (shown, True)
    Rebuild(board.leaderboard, board.engine, board.name).whole(lambda _done, _of: None, force=True)
    assert (board.ranking(), compare(board).agrees) == (shown, True)
    hide(board, *secret, hidden=False)
    ranking = board.ranking()
    assert ranking[0][0] == secret[0]
    assert sorted(row for row in ranking if row[0] != secret[0]) == sorted(row for row in full if row[0] != secret[0])
    assert compare(board).agrees


def test_a_row_that_begins_is_hidden_if_its_player_is(open_one: OpenBoard, leaderboard: Leaderboard) -> None:
    """Also one that begins anew after a removal; and who is no player any more begins nothing."""
    board = open_one()
    known = {PlayerId("ann"), PlayerId("bob")}
    other = Leaderboard(
        Settings(),
        leaderboard.client,
        lambda _, ids: [player for player in ids if player in known],
        lambda ids: {PlayerId("ann")} & set(ids),
    )

    def win(player: str, match: str) -> object:
        (result,) = other.submit(board.name, [Submission(PlayerId(player), 5, match)], soon(), rank=RankMode.NONE)
        return result.error or result.points

    assert (win("ann", "m1"), win("bob", "m1")) == (5, 5)
    assert [player for player, _ in board.ranking()] == ["bob"]
    remove(board, "ann")
    remove(board, "bob")
    assert (win("ann", "m2"), win("bob", "m2")) == (5, 5)
    assert [player for player, _ in board.ranking()] == ["bob"]
    remove(board, "bob", "once more")
    known.clear()
    assert isinstance(win("bob", "m3"), UnknownPlayer)
    assert board.ranking() == []


def test_the_final_ranking_has_no_hidden_and_no_removed_players(open_one: OpenBoard) -> None:
    """Ranks without gap; and afterwards nobody is removed or hidden any more."""
    board = open_one()
    board.play(400, 1_200)
    hide(board, *(number(index) for index in range(0, 400, 9)))
    for index in range(0, 400, 11):
        assert remove(board, number(index)) is not None
    expected = [(rank, player) for rank, (player, _) in enumerate(board.ranking(), start=1)]
    end = board.shard_map.period.end
    assert end is not None
    closed = Archive(board.leaderboard, board.engine, Settings()).close(
        board.name, end + timedelta(minutes=15), lambda _done, _of: None
    )
    assert closed is not None
    stored = "SELECT rank, user_id FROM leaderboard_snapshots WHERE board = :b ORDER BY rank"
    assert rows_of(board.engine, stored, b=board.name.board) == expected
    assert closed.players == len(expected)
    with pytest.raises(PeriodClosed):
        remove(board, expected[0][1], "late")
    with pytest.raises(PeriodClosed):
        board.leaderboard.hide(board.name, {PlayerId(expected[0][1]): True}, soon())


def test_who_was_hidden_while_nobody_could_tell_the_board_is_hidden_by_the_workers(open_one: OpenBoard) -> None:
    """The wish is kept with the player; and it is held to until it is older than any request."""
    board = open_one()
    board.play(20, 40)
    players.register_missing(board.engine, [number(1)])
    players.update(board.engine, number(1), {"hidden": True})
    assert number(1) in dict(board.ranking())
    now = board.shard_map.period.start + timedelta(hours=1)
    assert settle_visibility(board.leaderboard, board.engine, now) >= 1
    assert number(1) not in dict(board.ranking())
    board.leaderboard.hide(board.name, {PlayerId(number(1)): False}, soon())  # by somebody who had looked before
    settle_visibility(board.leaderboard, board.engine, now, settled_s=0)
    assert number(1) not in dict(board.ranking())
    assert players.visibility_changed(board.engine, most=10) == {}


def test_who_is_shown_again_while_the_workers_hide_them_stays_shown(
    open_one: OpenBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API shows the player at once, and the worker that had read the older wish comes after that."""
    board = open_one()
    board.play(20, 40)
    players.register_missing(board.engine, [number(1)])
    players.update(board.engine, number(1), {"hidden": True})
    carry_out = board.leaderboard.hide_everywhere
    asked: list[bool | None] = []

    def late(names: Sequence[BoardPeriod], wanted: Mapping[PlayerId, bool], deadline: Deadline) -> None:
        if not asked:
            players.update(board.engine, number(1), {"hidden": False})
            board.leaderboard.hide(board.name, {PlayerId(number(1)): False}, soon())
        asked.append(wanted.get(PlayerId(number(1))))
        carry_out(names, wanted, deadline)

    monkeypatch.setattr(board.leaderboard, "hide_everywhere", late)
    settle_visibility(board.leaderboard, board.engine, board.shard_map.period.start + timedelta(hours=1))
    assert asked == [True, False]
    assert number(1) in dict(board.ranking())


def test_hidden_players_are_found_among_many(database: Engine) -> None:
    for name in ("hid-1", "hid-2", "hid-3"):
        players.create(database, NewPlayer(username=name, id=name, hidden=name != "hid-2"))
    assert players.hidden_among(database, ["hid-1", "hid-2", "hid-3", "nobody"]) == {"hid-1", "hid-3"}
    assert players.hidden_among(database, []) == set()
