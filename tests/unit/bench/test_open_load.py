"""The open-loop generator: a stall is charged to all who would have come meanwhile, and its own lateness shows."""

import random
import time
from collections.abc import Callable
from itertools import pairwise, repeat
from pathlib import Path

import pytest
from answering import OK, REFUSED, answering
from bench import document, load, open_load

REQUEST = load.get("/")


def test_arrivals_are_as_many_as_asked_for_and_random() -> None:
    due = list(open_load.arrivals(1_000, 10, random.Random(1)))
    assert due == sorted(due)
    assert due[0] > 0
    assert due[-1] < 10
    assert len(due) == pytest.approx(10_000, rel=0.05)
    assert len({round(later - earlier, 6) for earlier, later in pairwise(due)}) > 1_000


def test_every_request_that_was_due_is_answered_for() -> None:
    due = [number / 1_000 for number in range(200)]
    with answering(lambda number: REFUSED if number % 4 == 0 else OK) as url:
        seen = open_load.run(url, repeat(REQUEST), due, connections=8)
    assert (len(seen.latencies), len(seen.late), seen.failed) == (200, 200, 50)


def test_a_stall_is_charged_to_all_who_would_have_come() -> None:
    """One connection, a stall of 0.6 s, a request due each 10 ms: sixty wait, each from when it was due."""

    def stalls_once(number: int) -> bytes:
        if number == 10:
            time.sleep(0.6)
        return OK

    due = [number / 100 for number in range(80)]
    with answering(stalls_once) as url:
        seen = open_load.run(url, repeat(REQUEST), due, connections=1)
        closed = load.run(url, repeat(REQUEST), connections=1, seconds=60, most=80)
    assert max(seen.latencies) >= 0.6
    assert sum(latency > 0.3 for latency in seen.latencies) >= 29
    assert sum(latency > 0.3 for latency in closed.latencies) == 0
    assert sum(late > 0.3 for late in seen.late) == 0, "waiting for the server is not the generator's lateness"


def test_a_late_generator_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_load.Connection, "send", _dawdling(open_load.Connection.send))
    with answering(lambda _: OK) as url:
        seen = open_load.run(url, repeat(REQUEST), [number / 1_000 for number in range(50)], connections=50)
    assert seen.late_p99 > 0.1


def _dawdling(send: Callable[..., None]) -> Callable[..., None]:
    def dawdle(*args: object) -> None:
        time.sleep(0.005)
        send(*args)

    return dawdle


def test_who_is_never_answered_counts_as_failed_with_the_time_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_load, "_GRACE_S", 0.2)
    with answering(lambda number: OK if number else b"HTTP/1.1 200 OK\r\n") as url:
        seen = open_load.run(url, repeat(REQUEST), [0.0, 0.01, 0.02], connections=1)
    assert (len(seen.latencies), seen.failed) == (3, 3)
    assert min(seen.latencies) >= 0.2


def test_a_table_stands_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- part -->\nold\n<!-- end of part -->\nafter\n")
    for _ in range(2):
        document.write("part", "How.", ("a", "b"), [("1", "2")], page)
    assert page.read_text() == (
        "before\n<!-- part -->\n\nHow.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n<!-- end of part -->\nafter\n"
    )
    document.write("part", "How.", ("a", "b"), [("1", "2")], page, below=["So far.", "And so on."])
    assert page.read_text().endswith("| 1 | 2 |\n\nSo far.\n\nAnd so on.\n\n<!-- end of part -->\nafter\n")
    with pytest.raises(ValueError, match="no marks"):
        document.write("other", "How.", (), [], page)
