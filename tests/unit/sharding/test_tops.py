"""What a process shows of a top, and for how long: its age counts from when its reading began."""

import threading
from concurrent.futures import ThreadPoolExecutor

from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.players import PlayerId
from sharding.reader import Page, Row
from sharding.tops import Tops

NAME = BoardPeriod("sprint", "2026-11")
FRESH_MS = 100


def soon() -> Deadline:
    return Deadline.after(10)


class Board:
    """A ranking that a reading takes at its beginning, and brings when it may."""

    def __init__(self) -> None:
        self.players = ["ann", "bob"]
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Event()
        self.may_end.set()
        self.readings = 0

    def read(self, _name: BoardPeriod, _deadline: Deadline) -> Page:
        self.readings += 1
        rows = [Row(rank, PlayerId(player), 1) for rank, player in enumerate(self.players, start=1)]
        self.begun.release()
        assert self.may_end.wait(10)
        return Page(rows, len(rows), 0)


def shown(page: Page) -> list[str]:
    return [row.player for row in page.rows]


def test_a_top_is_read_once_for_as_long_as_it_is_fresh() -> None:
    board = Board()
    tops = Tops(board.read, fresh_ms=60_000)
    assert tops.page(NAME, soon()) is tops.page(NAME, soon())
    assert board.readings == 1


def test_no_process_shows_a_top_from_before_once_it_is_outlived() -> None:
    board = Board()
    mine, others = Tops(board.read, fresh_ms=FRESH_MS), Tops(board.read, fresh_ms=FRESH_MS)
    assert shown(others.page(NAME, soon())) == ["ann", "bob"]
    board.players = ["bob"]
    mine.outlive()
    assert shown(others.page(NAME, soon())) == ["bob"]


def test_a_reading_that_began_before_and_ends_after_it_is_shown_to_nobody_who_asks_then() -> None:
    board = Board()
    tops = Tops(board.read, fresh_ms=FRESH_MS)
    board.may_end.clear()
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(tops.page, NAME, soon())
        assert board.begun.acquire(timeout=10)
        board.players = ["bob"]
        tops.outlive()
        late = pool.submit(tops.page, NAME, soon())
        board.may_end.set()
        assert shown(early.result(10)) == ["ann", "bob"], "asked for before"
        assert shown(late.result(10)) == ["bob"]
    assert shown(tops.page(NAME, soon())) == ["bob"]
