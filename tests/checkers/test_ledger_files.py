"""The ledger: what was sent is in the file before it is on the wire, and the file survives its writer."""

import multiprocessing
import os
import resource
import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.ledger import Answer, DamagedLedger, Entry, Ledger, LedgerFull, header_of, read

THREE = [("ada", "m1", 5), ("ada", "m2", -(2**62)), ("player:with.all-signs_", "~ m 3 !", 2**40)]


def answers(path: Path) -> dict[str, Answer]:
    return {entry.match_id: entry.answer for entry in read([path])}


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "one"
    with Ledger(path, {"run": "r"}) as ledger:
        first, second, _ = ledger.sending(THREE)
        ledger.answered(second, Answer.DUPLICATE)
        ledger.answered(first, Answer.ACKNOWLEDGED, durable=True)
    entries = list(read([path]))
    assert [(entry.player, entry.match_id, entry.value) for entry in entries] == [THREE[1], THREE[0], THREE[2]]
    assert [(entry.answer, entry.durable) for entry in entries] == [
        (Answer.DUPLICATE, None),
        (Answer.ACKNOWLEDGED, True),
        (Answer.UNKNOWN, None),
    ]
    answered = entries[0]
    assert answered.answered_at is not None
    assert 0 < answered.sent_at <= answered.answered_at
    assert entries[2].answered_at is None
    assert header_of(path) == {"run": "r"}


def test_files_of_several_processes_are_read_as_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with Ledger(tmp_path / name) as ledger:
            ledger.answered(ledger.sending([("ada", name, 1)])[0], Answer.ACKNOWLEDGED)
    assert [entry.match_id for entry in read([tmp_path / "one", tmp_path / "two"])] == ["one", "two"]


def _write_until_killed(path: Path, told: "multiprocessing.synchronize.Event") -> None:
    ledger = Ledger(path)
    tickets = ledger.sending(THREE)
    ledger.answered(tickets[0], Answer.ACKNOWLEDGED)
    told.set()
    signal.pause()


def test_a_killed_writer_loses_nothing(tmp_path: Path) -> None:
    """No close, no flush, no goodbye: what was sent is known, what was answered too, the rest is unknown."""
    path = tmp_path / "killed"
    context = multiprocessing.get_context("spawn")
    told = context.Event()
    writer = context.Process(target=_write_until_killed, args=(path, told))
    writer.start()
    assert told.wait(30)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join(30)
    assert answers(path) == {"m1": Answer.ACKNOWLEDGED, "m2": Answer.UNKNOWN, "~ m 3 !": Answer.UNKNOWN}


def test_a_file_cut_off_anywhere_still_tells_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "whole"
    with Ledger(path) as ledger:
        header = path.stat().st_size
        for submission in THREE:
            ledger.answered(ledger.sending([submission])[0], Answer.ACKNOWLEDGED)
    content = path.read_bytes()
    cut, known = tmp_path / "cut", -1
    for size in range(header, len(content) + 1):
        cut.write_bytes(content[:size])
        entries = list(read([cut]))
        certain = sum(entry.answer is Answer.ACKNOWLEDGED for entry in entries)
        assert certain >= known
        known = certain
    assert known == len(THREE)


def test_a_full_ledger_refuses_before_anything_is_sent(tmp_path: Path) -> None:
    """And keeps room for the answers to what was sent."""
    path = tmp_path / "small"
    with Ledger(path, limit_bytes=300) as ledger:
        tickets: list[int] = []
        with suppress(LedgerFull):
            while len(tickets) < 100:
                tickets += ledger.sending([("ada", f"m{len(tickets)}", 1)])
        assert 3 < len(tickets) < 10
        for ticket in tickets:
            ledger.answered(ticket, Answer.ACKNOWLEDGED)
    assert len(answers(path)) == len(tickets)
    assert set(answers(path).values()) == {Answer.ACKNOWLEDGED}


def test_a_full_disk_refuses_too(tmp_path: Path) -> None:
    """A record that was cut off by it is passed over, and nothing comes after it."""
    path = tmp_path / "on-a-full-disk"
    with Ledger(path) as ledger:
        (ticket, *_) = ledger.sending(THREE)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
        try:
            with pytest.raises(LedgerFull, match="full"):
                ledger.sending(THREE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        with pytest.raises(LedgerFull):
            ledger.answered(ticket, Answer.ACKNOWLEDGED)
    assert [entry.answer for entry in read([path])] == [Answer.UNKNOWN] * 3


def test_a_ledger_is_never_written_over(tmp_path: Path) -> None:
    Ledger(tmp_path / "one").close()
    with pytest.raises(FileExistsError):
        Ledger(tmp_path / "one")


@pytest.mark.parametrize("content", [b"", b"RBL", b"PK\x03\x04", b"RBL1\xff\xffx", b"RBL1\x02\x00{}\x07more"])
def test_what_is_no_ledger_is_not_read_as_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "strange"
    path.write_bytes(content)
    with pytest.raises(DamagedLedger):
        list(read([path]))


def test_an_answer_to_nothing_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "one"
    with Ledger(path) as ledger:
        ledger.answered(7, Answer.ACKNOWLEDGED)
    with pytest.raises(DamagedLedger, match="was not sent"):
        list(read([path]))


def test_an_id_that_is_too_long_is_not_cut(tmp_path: Path) -> None:
    with Ledger(tmp_path / "one") as ledger, pytest.raises(ValueError, match="longer"):
        ledger.sending([("a" * 256, "m", 1)])


def test_threads_share_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    with Ledger(path) as ledger:

        def send(who: int) -> None:
            for number in range(200):
                for ticket in ledger.sending(
                    [(f"player-{who}", f"{who}-{number}", who), ("bob", f"b{who}-{number}", 1)]
                ):
                    ledger.answered(ticket, Answer.ACKNOWLEDGED)

        threads = [threading.Thread(target=send, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = list(read([path]))
    assert len(found) == len({entry.match_id for entry in found}) == 8 * 200 * 2
    assert all(entry.answer is Answer.ACKNOWLEDGED for entry in found)


ids = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=128)
submissions = st.lists(
    st.tuples(ids, ids, st.integers(-(2**63), 2**63 - 1), st.sampled_from(Answer), st.none() | st.booleans()),
    max_size=20,
)


@given(submissions)
def test_anything_that_can_be_sent_is_kept_exactly(
    tmp_path_factory: pytest.TempPathFactory, sent: list[tuple[str, str, int, Answer, bool | None]]
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "one"
    with Ledger(path) as ledger:
        tickets = ledger.sending([(player, match_id, value) for player, match_id, value, _, _ in sent])
        for ticket, (_, _, _, answer, durable) in zip(tickets, sent, strict=True):
            ledger.answered(ticket, answer, durable=durable)

    def told(entry: Entry) -> tuple[str, str, int, Answer, bool | None]:
        return entry.player, entry.match_id, entry.value, entry.answer, entry.durable

    assert [told(entry) for entry in read([path])] == sent
