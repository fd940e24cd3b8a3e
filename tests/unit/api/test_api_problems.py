"""Every error has one status, and says truthfully whether a write may have happened."""

import inspect

import pytest

from api import problems
from api.problems import STATUSES, Forbidden, Malformed, Unauthorized, known, problem_of
from records import errors as records_errors
from records.errors import Conflict, InvalidRecord, RecordsUnavailable
from sharding import errors as sharding_errors
from sharding.errors import (
    AuditBacklog,
    InvalidValue,
    LeaderboardError,
    MatchConflict,
    NotDurable,
    NotEverywhereYet,
    Outcome,
    PeriodClosed,
    ShardOutcomeUnknown,
    ShardUnavailable,
    TooManySubmissions,
    Unavailable,
    UnknownBoard,
    UnknownPlayer,
)


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [
        (Malformed("x"), 400, "not_applied"),
        (InvalidValue("x"), 400, "not_applied"),
        (InvalidRecord("x"), 400, "not_applied"),
        (Unauthorized("x"), 401, "not_applied"),
        (Forbidden("x"), 403, "not_applied"),
        (UnknownPlayer("x"), 404, "not_applied"),
        (UnknownBoard("x"), 404, "not_applied"),
        (MatchConflict("x"), 409, "not_applied"),
        (Conflict("x"), 409, "not_applied"),
        (PeriodClosed("x"), 422, "not_applied"),
        (ShardUnavailable("x"), 503, "not_applied"),
        (AuditBacklog("x"), 503, "not_applied"),
        (RecordsUnavailable("x"), 503, "not_applied"),
        (NotDurable("x"), 503, "unknown"),
        (ShardOutcomeUnknown("x"), 503, "unknown"),
        (NotEverywhereYet("x"), 503, "unknown"),
        (TooManySubmissions(), 429, "not_applied"),
    ],
)
def test_status_and_outcome(error: Exception, status: int, outcome: str) -> None:
    problem, _ = problem_of(error, "r1", wrote=True)
    assert (problem.status, problem.outcome, problem.request_id) == (status, outcome, "r1")


def test_every_error_below_has_a_status() -> None:
    """Only the roots of the trees have none: an error that nobody thought of is a defect."""
    roots = {LeaderboardError, records_errors.RecordsError}
    # Made by workers, whose job it is to have the partitions ready; no request can cause it.
    not_for_clients = {records_errors.MissingPartition}
    for module in (sharding_errors, records_errors):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__ and issubclass(kind, Exception):
                assert (problems.status_of(kind) is None) == (kind in roots | not_for_clients), kind


def test_a_retry_is_invited_exactly_where_it_can_help() -> None:
    for kind, status in STATUSES.items():
        _, headers = problem_of(kind(), "r1")
        assert ("Retry-After" in headers) == (status in {429, 503}), kind
    assert problem_of(AuditBacklog(), "r1")[1]["Retry-After"] == str(AuditBacklog.retry_after_s)


@pytest.mark.parametrize(("now_s", "wait_s"), [(7200.0, 3600), (7200.5, 3600), (10_799.2, 1), (10_700.0, 100)])
def test_who_has_too_many_submissions_is_told_when_the_next_window_begins(now_s: float, wait_s: int) -> None:
    error = TooManySubmissions.until_next(now_s, 3600.0)
    problem, headers = problem_of(error, "r1")
    assert (problem.status, problem.outcome, headers["Retry-After"]) == (429, "not_applied", str(wait_s))
    assert [told.field for told in problem.errors] == ["user_id"]


def test_the_field_is_named() -> None:
    problem, _ = problem_of(InvalidValue("too odd", field="user_id"), "r1")
    assert [(error.field, error.detail) for error in problem.errors] == [("user_id", "too odd")]


def test_a_type_is_a_name_that_stays() -> None:
    assert problem_of(MatchConflict(), "r1")[0].type == "urn:rangeboard:problem:match-conflict"
    assert problem_of(MatchConflict(), "r1")[0].title == "The match was reported before with another content"


def test_a_defect_tells_nothing_of_itself() -> None:
    problem, _ = problem_of(ZeroDivisionError("secret"), "r1")
    assert problem.status == 500
    assert "secret" not in f"{problem}"
    assert not known(ZeroDivisionError())


@pytest.mark.parametrize(("wrote", "outcome"), [(True, Outcome.UNKNOWN), (False, Outcome.NOT_APPLIED)])
def test_after_a_defect_a_write_may_have_happened(wrote: bool, outcome: Outcome) -> None:
    assert problem_of(ZeroDivisionError(), "r1", wrote=wrote)[0].outcome == outcome.value


def test_the_words_of_the_database_stay_here() -> None:
    error = RecordsUnavailable('connection to server at "10.1.2.3" failed for user "app"')
    problem, _ = problem_of(error, "r1")
    assert problem.detail == "PostgreSQL cannot be reached, or did not answer in time"


def test_a_part_of_the_tree_that_is_added_is_not_forgotten() -> None:
    class Tomorrows(Unavailable):
        """Something new."""

    assert problem_of(Tomorrows(), "r1")[0].status == 503
