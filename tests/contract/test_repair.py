"""`verify` tells every difference and no other; `--repair` makes the board what the audit log says, while it plays."""

import random
import threading
from dataclasses import replace

import pytest
from played_boards import OpenBoard, Played, rows_of, soon

from sharding.errors import NotOnBoard
from sharding.functions import ApplyMode, Asked, Code, May, apply_call, effects
from sharding.leaderboard import Submission
from sharding.players import PlayerId, member_of
from workers.rebuild import Rebuild
from workers.verify import Difference, Verdict, verify

pytestmark = pytest.mark.servers


def compare(board: Played, *, repair: bool = False) -> Verdict:
    board.leaderboard.strays.bring_home(soon())
    return verify(board.leaderboard, board.engine, board.now(), lambda _: None, repair=repair)


def shard_of(board: Played, player: str) -> int:
    return board.leaderboard.reader.find(board.now(), PlayerId(player), soon()).shard


def spoil(board: Played, player: str, points: int) -> None:
    """Set a row behind everybody's back."""
    board.on_shard(shard_of(board, player), "ZADD", "@rows", -points * 2**22, player)


@pytest.mark.parametrize("rules", [{}, {"operator": "best"}, {"operator": "set"}], ids=str)
def test_spoilt_missing_and_made_up_rows_are_told_and_repaired(open_one: OpenBoard, rules: dict[str, str]) -> None:
    """Each is a difference; repaired, the ranking is what a rebuild makes of the audit log, and a record is kept."""
    board = open_one(**rules)
    board.play(300, 1_500)
    board.drain()
    before = board.ranking()
    points = {player: -(packed >> 22) for player, packed in before}
    spoil(board, "player-000001", 7_777)
    board.on_shard(shard_of(board, "player-000002"), "ZREM", "@rows", "player-000002")
    board.on_shard(0, "ZADD", "@rows", -500 * 2**22, "intruder")
    expected = {
        Difference(PlayerId("player-000001"), 7_777, points["player-000001"]),
        Difference(PlayerId("player-000002"), None, points["player-000002"]),
        Difference(PlayerId("intruder"), 500, None),
    }
    for _ in range(2):
        told = compare(board)
        assert not told.agrees
        assert set(told.differences) == expected
    mended = compare(board, repair=True)
    assert mended.agrees
    assert set(mended.differences) == {replace(difference, repaired=True) for difference in expected}
    assert compare(board) == Verdict(300, 300, 0, 0, [])
    assert board.ranking() == before
    board.drain()
    records = rows_of(
        board.engine, "SELECT user_id FROM games WHERE board = :b AND kind = 'repair'", b=board.name.board
    )
    assert {player for (player,) in records} == {"player-000001", "player-000002", "intruder"}
    assert compare(board).agrees, "a record of a repair counts in no fold"
    board.destroy()
    Rebuild(board.leaderboard, board.engine, board.name).whole(lambda _done, _of: None)
    assert board.ranking() == before


@pytest.mark.parametrize("moved", [False, True])
def test_a_row_that_no_submission_made_is_taken_away(open_one: OpenBoard, moved: bool) -> None:
    """A player whose audit rows are gone, moved or not: the row goes, and play begins anew."""
    board = open_one(cuts=[10])
    board.play(20, 60)
    board.win("ghost", 3, "m1")
    board.win("ghost", 30 if moved else 1, "m2")
    board.drain()
    with board.engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM games WHERE board = '{board.name.board}' AND user_id = 'ghost'")
    told = compare(board)
    assert told.differences == [Difference(PlayerId("ghost"), 33 if moved else 4, None)]
    mended = compare(board, repair=True)
    assert (mended.repaired, mended.agrees) == (1, True)
    with pytest.raises(NotOnBoard):
        board.points("ghost")
    assert board.win("ghost", 40, "m3") == "applied"
    board.leaderboard.strays.bring_home(soon())
    assert board.points("ghost") == 40
    # Who claimed the player's place before all this, and goes on now, is sent on: his shard had the row.
    late = Submission(PlayerId("ghost"), 1, "m4")
    asked = [Asked(member_of(late.player), late.value, late.event(), late.note(), may=May.CREATE)]
    shard_map = board.shard_map
    call = apply_call(shard_map.keys(1), asked, outbox_limit=10**6, mode=ApplyMode.PLAIN)
    answer = board.leaderboard.functions.on_shards([call], shard_map.retry_window_ms, soon())[0]
    assert next(effects(answer.reply)).code == Code.GONE
    assert compare(board).agrees


def test_who_is_afloat_while_the_rows_are_counted_is_no_difference(
    open_one: OpenBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a player is in no shard for a moment. Rows too many are told at once: they do not go away."""
    board = open_one()
    board.play(20, 40)
    lifecycle = board.leaderboard.lifecycle
    count, missing = lifecycle.count, iter([1, 1, 2, 1])
    monkeypatch.setattr(lifecycle, "count", lambda *given: count(*given) - next(missing, 0))
    assert compare(board) == Verdict(20, 20, 0, 0, [])
    counted: list[int] = []
    monkeypatch.setattr(lifecycle, "count", lambda *given: counted.append(count(*given)) or counted[-1] + 1)
    assert compare(board) == Verdict(20, 21, 0, 0, [])
    assert len(counted) == 2


def test_a_healthy_board_has_no_difference_while_it_plays(open_one: OpenBoard) -> None:
    """What is submitted meanwhile is told from a difference, and a repair touches nothing of it."""
    board = open_one()
    board.play(300, 900)
    board.drain()
    spoil(board, "player-000007", 9_000)
    ended = threading.Event()
    played: list[int] = []

    def go_on() -> None:
        rng = random.Random(3)
        number = 0
        while not ended.is_set():
            number += 1
            some = [
                Submission(PlayerId(f"player-{rng.randrange(10, 300):06d}"), rng.randint(1, 9), f"live-{number}-{n}")
                for n in range(20)
            ]
            played.append(len([status for status in board.submit(some) if status == "applied"]))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        verdicts = [compare(board, repair=True) for _ in range(3)]
    finally:
        ended.set()
        thread.join()
    assert sum(played) > 0
    assert sum(verdict.repaired for verdict in verdicts) == 1, "the spoilt one, and nobody who played"
    assert compare(board).agrees
    total = rows_of(
        board.engine,
        "SELECT count(*) FROM games WHERE board = :b AND kind = 'submission'",
        b=board.name.board,
    )
    assert total == [(900 + sum(played),)]
