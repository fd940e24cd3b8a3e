"""The closed-loop generator: what was sent is answered for, and what was applied is read from the answers."""

import time
from itertools import repeat

import pytest
from answering import OK, REFUSED, answering
from bench import load

SUBMIT = load.post("/api/v1/scores:batch?results=summary", "key", b"[]")


def told(body: bytes) -> bytes:
    """An answer with this body."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def test_it_ends_with_its_requests_and_has_all_their_answers() -> None:
    with answering(lambda number: REFUSED if number == 3 else OK) as url:
        seen = load.run(url, repeat(load.get("/"), 50), connections=4, seconds=60)
    assert (len(seen.latencies), seen.failed) == (50, 1)
    assert seen.complaint == REFUSED
    assert seen.seconds < 30


def test_when_time_is_up_it_waits_for_what_it_has_sent() -> None:
    def slow(_: int) -> bytes:
        time.sleep(1)  # a service that answers when the time has long been up
        return OK

    with answering(slow) as url:
        seen = load.run(url, repeat(load.get("/")), connections=3, seconds=0.05)
    assert (len(seen.latencies), seen.failed) == (3, 0)


def test_who_is_never_answered_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_GRACE_S", 1.0)
    with answering(lambda number: OK if number else b"HTTP/1.1 200 OK\r\n") as url:
        seen = load.run(url, repeat(load.get("/"), 2), connections=2, seconds=0.1)
    assert (len(seen.latencies), seen.failed) == (1, 1)


@pytest.mark.parametrize(
    ("body", "applied"), [(b'{"applied":true}', 1), (b'{"applied":false}', 0), (b'{"applied":7}', 7)]
)
def test_what_was_applied_is_what_the_answers_say(body: bytes, applied: int) -> None:
    with answering(lambda _: told(body)) as url:
        seen = load.run(url, repeat(SUBMIT, 3), connections=1, seconds=60)
    assert seen.applied == 3 * applied


def test_an_answer_to_a_read_applies_nothing() -> None:
    with answering(lambda _: told(b'{"applied":7}')) as url:
        seen = load.run(url, repeat(load.get("/api/v1/scores"), 3), connections=1, seconds=60)
    assert seen.applied == 0
