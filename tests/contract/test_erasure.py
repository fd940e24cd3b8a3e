"""A person is erased: nothing leads back, nothing that was counted changes, and a crash only makes it later."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from played_boards import OpenBoard, Played, rows_of, soon
from records_databases import scalar
from sqlalchemy import Engine

from records import audit, players, snapshots
from runtime import failpoints
from runtime.failpoints import FailpointReached
from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.errors import NotOnBoard
from sharding.periods import PeriodKind, period_at, preceding
from sharding.players import PlayerId
from workers.archive import Archive
from workers.players import erase_pending
from workers.rebuild import Rebuild

pytestmark = pytest.mark.servers

EVE = "player-000003"


@pytest.fixture(autouse=True)
def _as_it_was(database: Engine) -> Iterator[None]:
    players.register_missing(database, [EVE])
    yield
    failpoints.arm("")
    with database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM erasures; DELETE FROM users")


def erase(board: Played) -> int:
    return erase_pending(board.leaderboard, board.engine, datetime.now(UTC))


def games_of(board: Played, player: str) -> list[tuple[object, ...]]:
    wanted = "SELECT value, points_after, received_at, kind FROM games WHERE board = :b AND user_id = :p ORDER BY 3, 1"
    return rows_of(board.engine, wanted, b=board.name.board, p=player)


def pseudonym_on(board: Played) -> str:
    ((name,),) = rows_of(
        board.engine,
        "SELECT DISTINCT user_id FROM games WHERE board = :b AND user_id LIKE 'erased-%'",
        b=board.name.board,
    )
    return str(name)


def test_the_person_is_gone_and_what_was_counted_stays(open_one: OpenBoard) -> None:
    """No table names the player; the games are there, under a name that leads nowhere; board and log agree."""
    board = open_one()
    board.play(50, 200)
    board.drain()
    games = games_of(board, EVE)
    before = audit.count_games(board.engine, board.name.board, board.name.period)
    points = board.points(EVE)
    assert players.erase(board.engine, EVE)
    assert players.get(board.engine, EVE) is None
    assert erase(board) == 1
    with pytest.raises(NotOnBoard):
        board.points(EVE)
    assert games_of(board, EVE) == []
    kept = games_of(board, pseudonym_on(board))
    assert kept[:-1] == games
    assert [(value, after, kind) for value, after, _, kind in kept[-1:]] == [(-points, 0, "removal")]
    assert audit.count_games(board.engine, board.name.board, board.name.period) == before + 1
    led_back = "SELECT count(*) FROM games WHERE user_id LIKE 'erased-%' AND (match_id <> '' OR request_id IS NOT NULL)"
    assert rows_of(board.engine, led_back) == [(0,)]
    assert scalar(board.engine, "SELECT count(*) FROM erasures") == 0
    assert board.agrees()
    ranking = board.ranking()
    Rebuild(board.leaderboard, board.engine, board.name).whole(lambda _done, _of: None, force=True)
    assert board.ranking() == ranking
    assert erase(board) == 0, "a second time there is nobody"
    assert not players.erase(board.engine, EVE)


@pytest.mark.parametrize("where", ["erasure.removed", "erasure.drained"])
def test_an_erasure_that_is_killed_in_the_middle_is_taken_up_again(open_one: OpenBoard, where: str) -> None:
    board = open_one()
    board.play(20, 80)
    players.erase(board.engine, EVE)
    failpoints.arm(f"{where}=raise")
    with pytest.raises(FailpointReached):
        erase(board)
    assert players.erasures_pending(board.engine, most=10) == [EVE]
    failpoints.arm("")
    assert erase(board) == 1
    assert games_of(board, EVE) == []
    assert len([kind for *_, kind in games_of(board, pseudonym_on(board)) if kind == "removal"]) == 1
    assert board.agrees()


def test_final_ranks_stay_and_a_period_that_is_not_archived_yet_waits_for_it(open_one: OpenBoard) -> None:
    """The ranking of a closed period and its log go on to name the same players until both are final."""
    before = preceding(period_at(PeriodKind.MONTH, datetime.now(UTC) - timedelta(days=40)))
    board = open_one(period=before)
    board.play(40, 160)
    board.drain()
    expected = [(rank, points) for rank, points in enumerate((-(packed >> 22) for _, packed in board.ranking()), 1)]
    players.erase(board.engine, EVE)
    assert erase(board) == 0
    assert games_of(board, EVE) != [], "its ranking has not been archived"
    Archive(board.leaderboard, board.engine, Settings()).close(board.name, datetime.now(UTC), lambda _done, _of: None)
    folded = audit.totals(board.engine, board.name.board, board.name.period)
    assert erase(board) == 1
    name = BoardPeriod(board.name.board, board.name.period)
    assert snapshots.standing(board.engine, name.board, name.period, EVE) is None
    stored = "SELECT rank, points FROM leaderboard_snapshots WHERE board = :b ORDER BY rank"
    assert rows_of(board.engine, stored, b=name.board) == expected
    assert snapshots.standing(board.engine, name.board, name.period, pseudonym_on(board)) is not None
    assert audit.totals(board.engine, name.board, name.period) == folded


def test_who_comes_back_after_an_erasure_begins_at_nothing(open_one: OpenBoard) -> None:
    """The id may be taken again, by somebody else: nothing of what was counted before is theirs."""
    board = open_one()
    board.play(20, 80)
    players.erase(board.engine, EVE)
    assert erase(board) == 1
    players.register_missing(board.engine, [EVE])
    assert board.win(EVE, 4, "new") == "applied"
    assert board.points(EVE) == 4
    assert board.agrees()
    assert board.leaderboard.standing(board.name, PlayerId(EVE), soon()).total == 20
