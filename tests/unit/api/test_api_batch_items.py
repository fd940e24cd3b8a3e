"""What is said of each item of a batch, and of a batch for which there is no room."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import schemas
from api.batches import BatchAnswers, _decoded
from api.boards import BoardRules
from api.requests import Call
from api.schemas import BatchQuery
from api.scores import Admission
from records.boards import Board
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.errors import Overloaded
from sharding.submissions import RankMode, Result, Status, Submission

strict = msgspec.json.Decoder(schemas.NewScore)
match_ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=140) | st.text(
    st.characters(min_codepoint=0x1F, max_codepoint=0x80), min_size=120, max_size=130
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.just("ann") | st.integers(),
        "score": st.integers(-(2**65), 2**65) | st.booleans() | st.none(),
        "match_id": match_ids | st.none() | st.integers(),
        "board": st.just("global"),
        "played_at": st.sampled_from(["2026-11-23T10:00:00Z", "2026-11-23", 7]),
        "points": st.just(1),
    },
)


def said_of(decode: Any, item: bytes) -> Any:
    try:
        body = decode(item)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return type(error), str(error)
    return {name: getattr(body, name) for name in schemas.NewScore.__struct_fields__}


@given(fields.map(json.dumps) | match_ids.map(lambda text: json.dumps({"user_id": "a", "score": 1, "match_id": text})))
def test_an_item_is_taken_and_refused_like_a_single_submission_in_the_same_words(text: str) -> None:
    assert said_of(_decoded, text.encode()) == said_of(strict.decode, text.encode())


@pytest.mark.parametrize("item", [b"", b"{", b"\xff", b'{"user_id": "\xff"}', b"7", b"null", b"[" * 100_000])
def test_what_is_no_submission_is_refused_in_the_same_words(item: bytes) -> None:
    def said(decode: Any) -> Any:
        try:
            return said_of(decode, item)
        except RecursionError:
            return RecursionError

    assert said(_decoded) == said(strict.decode)


class Leaderboard:
    """One that has no room for some boards, and applies whatever is for others."""

    def __init__(self, *full: str) -> None:
        self._full = full
        self.applied: list[str] = []

    def submit(
        self, name: BoardPeriod, submissions: Sequence[Submission], _: Deadline, *, rank: RankMode
    ) -> list[Result]:
        assert rank is RankMode.NONE
        if name.board in self._full:
            raise Overloaded
        self.applied += [submission.match_id for submission in submissions]
        return [Result(Status.APPLIED, submission.value) for submission in submissions]


def submit(leaderboard: Leaderboard, *items: dict[str, Any]) -> schemas.BatchSubmitted:
    rules = BoardRules(lambda name: Board(name, created_at=datetime.now(UTC)))
    answers = BatchAnswers(leaderboard, lambda: Admission(rules, timedelta()))  # type: ignore[arg-type]
    return answers.submit(
        Call("request", Deadline.after(60), BatchQuery(), [msgspec.json.encode(one) for one in items])
    )


def item(match: str, board: str = "global", score: Any = 1) -> dict[str, Any]:
    return {"user_id": "ann", "score": score, "match_id": match, "board": board}


def test_one_bad_item_among_good_ones_is_its_own_result() -> None:
    leaderboard = Leaderboard()
    answer = submit(leaderboard, item("m1"), item("m\t2"), item("m3", score=True), item("m4", score=4))
    assert (answer.applied, answer.refused) == (2, 2)
    assert isinstance(answer.results, list)
    assert [result.status for result in answer.results] == ["applied", "refused", "refused", "applied"]
    assert leaderboard.applied == ["m1", "m4"]


def test_a_batch_for_which_there_is_no_room_is_refused_as_a_whole() -> None:
    """The client is told to come again (503), and not for each item by itself."""
    leaderboard = Leaderboard("global")
    with pytest.raises(Overloaded):
        submit(leaderboard, item("m1"), item("m2"), item("m\t3"))
    assert leaderboard.applied == []


def test_what_has_room_on_one_board_counts_where_another_has_none() -> None:
    leaderboard = Leaderboard("daily")
    answer = submit(leaderboard, item("m1"), item("m2", "daily"), item("m3"))
    assert (answer.applied, answer.refused, answer.unknown) == (2, 1, 0)
    assert leaderboard.applied == ["m1", "m3"]
