"""Answers are believed when they say what became of a submission, and only then."""

import json

import pytest

from loadtest.answers import Told, told_batch, told_single, wrong_with_read
from loadtest.ledger import Answer


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (200, body(applied=True, durable=True, score=3), Told(Answer.ACKNOWLEDGED, durable=True)),
        (200, body(applied=True, durable=False), Told(Answer.ACKNOWLEDGED, durable=False)),
        (200, body(applied=True), Told(Answer.ACKNOWLEDGED)),
        (200, body(applied=False, durable=True), Told(Answer.DUPLICATE, durable=True)),
        (422, body(outcome="not_applied", title="Out of bounds"), Told(Answer.REFUSED, reason="422 Out of bounds")),
        (503, body(outcome="not_applied", title="Busy"), Told(Answer.REFUSED, reason="503 Busy")),
        (503, body(outcome="unknown", title="No answer"), Told(Answer.UNKNOWN, reason="503 No answer")),
    ],
)
def test_what_an_answer_says_counts(status: int, content: bytes, told: Told) -> None:
    assert told_single(status, content) == told


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (0, b""),
        (200, b"<html>"),
        (200, body(score=3)),
        (200, body(applied="yes")),
        (404, b"not found"),
        (500, body(outcome="perhaps")),
        (502, b"<html>Bad gateway"),
        (503, b""),
    ],
)
def test_anything_else_leaves_it_unknown(status: int, content: bytes) -> None:
    told = told_single(status, content)
    assert told.answer is Answer.UNKNOWN
    assert told.reason
    assert [one.answer for one in told_batch(status, content, 3)] == [Answer.UNKNOWN] * 3


def test_a_batch_is_told_item_by_item() -> None:
    results = [
        {"status": "applied", "score": 1},
        {"status": "duplicate", "durable": False},
        {"status": "refused", "reason": "no such player"},
        {"status": "unknown", "reason": "no answer"},
    ]
    assert told_batch(200, body(results=results, durable=True), 4) == [
        Told(Answer.ACKNOWLEDGED, durable=True),
        Told(Answer.DUPLICATE, durable=False),
        Told(Answer.REFUSED, durable=True, reason="no such player"),
        Told(Answer.UNKNOWN, durable=True, reason="no answer"),
    ]


def test_a_batch_that_was_refused_as_a_whole_was_refused_throughout() -> None:
    told = told_batch(413, body(outcome="not_applied", title="Too large"), 2)
    assert told == [Told(Answer.REFUSED, reason="413 Too large")] * 2


def test_a_batch_with_too_few_results_is_believed_in_nothing() -> None:
    told = told_batch(200, body(results=[{"status": "applied"}]), 2)
    assert [one.answer for one in told] == [Answer.UNKNOWN] * 2


def entries(*rows: tuple[int, str, bool]) -> bytes:
    return body(entries=[{"rank": rank, "user_id": who, "is_current_user": me} for rank, who, me in rows])


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("rank", body(user_id="ada", rank=1)),
        ("top", entries((1, "bob", False), (2, "ada", False))),
        ("neighbours", entries((7, "bob", False), (8, "ada", True))),
        ("lookup", entries((7, "bob", False), (900, "ada", False), (900, "eve", False))),
    ],
)
def test_a_read_that_is_in_order(kind: str, content: bytes) -> None:
    assert wrong_with_read(kind, 200, content, "ada") == ""


def test_nobody_is_at_the_top_of_an_empty_board() -> None:
    assert wrong_with_read("top", 200, entries()) == ""


def test_a_top_may_be_a_moment_older_than_the_first_row() -> None:
    assert wrong_with_read("top", 200, entries(), "ada") == ""


@pytest.mark.parametrize(
    ("kind", "status", "content"),
    [
        ("rank", 404, body(outcome="not_applied", title="Not on the board")),
        ("rank", 200, body(user_id="bob", rank=1)),
        ("rank", 200, body(user_id="ada", rank=0)),
        ("rank", 200, b"[]"),
        ("neighbours", 200, entries()),
        ("top", 200, entries((0, "ada", False))),
        ("top", 200, entries((2, "ada", False), (1, "bob", False))),
        ("top", 200, entries((1, "ada", False), (1, "bob", False))),
        ("neighbours", 200, entries((7, "bob", False))),
        ("neighbours", 200, entries((7, "ada", True), (8, "bob", True))),
        ("lookup", 503, b""),
        ("lookup", 200, entries((9, "bob", False), (7, "ada", False))),
        ("top", 0, b""),
    ],
)
def test_a_read_that_is_not(kind: str, status: int, content: bytes) -> None:
    """Also one that does not know a player whose submission was acknowledged."""
    assert wrong_with_read(kind, status, content, "ada")
