"""Submissions: what makes two of them the same, and what is kept of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.errors import (
    AuditBacklog,
    BoardFrozen,
    LeaderboardError,
    MatchConflict,
    NotDurable,
    Outcome,
    OutOfBounds,
    Overloaded,
    ShardOutcomeUnknown,
    ShardUnavailable,
    UnknownPlayer,
)
from sharding.players import PlayerId
from sharding.submissions import EVENT_ID_BYTES, Note, Status, Submission, failure, pack_notes, read_notes

ANN = PlayerId("ann")

#: Anything that can come in a request: msgspec lets no lone surrogate through.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)
times = st.none() | st.integers(0, 2**48)


@given(texts, st.integers(-(2**30), 2**30), times, texts, times, texts)
@settings(deadline=None)
def test_a_retry_is_known_by_match_and_value(match, value, played_at, request_id, other_time, other_request) -> None:
    """A retry may well say another time or carry another request id."""
    first = Submission(ANN, value, match, played_at, request_id)
    again = Submission(PlayerId("bob"), value, match, other_time, other_request)
    assert first.event() == again.event()
    assert len(first.event()) == EVENT_ID_BYTES + 2, "the length that the functions in Redis cut by"


@given(texts, st.integers(-1000, 1000), st.integers(1, 1000))
@settings(deadline=None)
def test_another_value_is_the_same_event_with_another_content(match: str, value: int, more: int) -> None:
    one, other = Submission(ANN, value, match).event(), Submission(ANN, value + more, match).event()
    assert one[:EVENT_ID_BYTES] == other[:EVENT_ID_BYTES]
    assert one != other


def test_other_matches_are_other_events() -> None:
    events = {Submission(ANN, 1, f"m{number}").event()[:EVENT_ID_BYTES] for number in range(50_000)}
    assert len(events) == 50_000


@given(texts, times, texts)
@settings(deadline=None)
def test_a_note_is_read_back_as_written(match: str, played_at: int | None, request_id: str) -> None:
    notes = [Note(match, played_at, request_id), Note(match, played_at, request_id, "compensation")]
    assert Note(*Submission(ANN, 1, match, played_at, request_id).note()) == notes[0]
    assert [Note(*fields) for fields in read_notes(pack_notes(notes))] == notes


@pytest.mark.parametrize(
    "error",
    [OutOfBounds, UnknownPlayer, MatchConflict, BoardFrozen, AuditBacklog, ShardUnavailable, Overloaded],
)
def test_a_definite_error_is_a_refusal(error: type[LeaderboardError]) -> None:
    result = failure(error())
    assert result.status is Status.REFUSED
    assert result.error is not None
    assert result.error.outcome is Outcome.NOT_APPLIED
    assert not result.durable


@pytest.mark.parametrize("error", [ShardOutcomeUnknown, NotDurable])
def test_any_other_error_leaves_the_outcome_unknown(error: type[LeaderboardError]) -> None:
    result = failure(error())
    assert result.status is Status.UNKNOWN
    assert isinstance(result.error, error)


def test_an_error_says_what_its_class_says_unless_told_otherwise() -> None:
    assert str(ShardUnavailable()) == ShardUnavailable.__doc__
    assert str(ShardUnavailable("gone")) == "gone"
    assert OutOfBounds("too much", field="score").field == "score"
