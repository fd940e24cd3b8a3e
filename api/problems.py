"""Every answer that is not a success, as a problem document (RFC 9457).

The error classes already say what went wrong, to which field, and whether a write may have happened. Here one table
adds the HTTP status, and nothing else decides it: a class without a line takes that of the class it derives from.
What is in no line at all is a defect of ours. It is answered with 500 and no more than the request id, under which
the log has the rest.

What PostgreSQL's driver says names hosts and users, so clients are told the class of such an error and not its words.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from records import errors as records_errors
from records import jobs
from sharding import errors as sharding_errors
from sharding.errors import LeaderboardError, Outcome

MEDIA_TYPE = "application/problem+json"


class RequestError(Exception):
    """The request cannot be served as it is. The docstring of a class is its title."""

    def __init__(self, detail: str = "", *, field: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        self.detail = detail
        self.field = field
        self.headers = headers or {}
        super().__init__(detail)


class Malformed(RequestError):
    """The request does not have the documented form."""


class Unauthorized(RequestError):
    """An API key is needed."""


class Forbidden(RequestError):
    """The API key does not allow this."""


class NotFound(RequestError):
    """There is nothing at this address."""


class MethodNotAllowed(RequestError):
    """The address does not take this method."""


class RequestTimeout(RequestError):
    """The request did not arrive in time."""


class TooLarge(RequestError):
    """The request body is too large."""


class UnsupportedMediaType(RequestError):
    """The request body is of another media type than the one that is taken."""


class InternalError(RequestError):
    """Something went wrong here that should not; the log has it under this request id."""


#: The status of each error, and of those that derive from it.
STATUSES: dict[type[Exception], HTTPStatus] = {
    Malformed: HTTPStatus.BAD_REQUEST,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    MethodNotAllowed: HTTPStatus.METHOD_NOT_ALLOWED,
    RequestTimeout: HTTPStatus.REQUEST_TIMEOUT,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    InternalError: HTTPStatus.INTERNAL_SERVER_ERROR,
    sharding_errors.InvalidValue: HTTPStatus.BAD_REQUEST,
    sharding_errors.OutOfBounds: HTTPStatus.UNPROCESSABLE_ENTITY,
    sharding_errors.TooManySubmissions: HTTPStatus.TOO_MANY_REQUESTS,
    sharding_errors.UnknownPlayer: HTTPStatus.NOT_FOUND,
    sharding_errors.NotOnBoard: HTTPStatus.NOT_FOUND,
    sharding_errors.UnknownBoard: HTTPStatus.NOT_FOUND,
    sharding_errors.MatchConflict: HTTPStatus.CONFLICT,
    sharding_errors.NotNow: HTTPStatus.CONFLICT,
    sharding_errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    records_errors.RecordsUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    records_errors.WrongSchema: HTTPStatus.SERVICE_UNAVAILABLE,
    records_errors.Conflict: HTTPStatus.CONFLICT,
    records_errors.InvalidRecord: HTTPStatus.BAD_REQUEST,
    jobs.JobUnderWay: HTTPStatus.CONFLICT,
    jobs.TooManyJobs: HTTPStatus.SERVICE_UNAVAILABLE,
}

_DISCREET = (records_errors.RecordsUnavailable, records_errors.WrongSchema, records_errors.InvalidRecord)
_RETRY_AFTER_S = 1
_WORD_START = re.compile(r"(?<!^)(?=[A-Z])")


class FieldProblem(msgspec.Struct, frozen=True):
    """What is wrong with one field of the request: a member of the body, or a query parameter."""

    field: str
    detail: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong. `outcome` says whether a write may have happened all the same."""

    type: str
    title: str
    status: int
    detail: str
    outcome: str
    request_id: str
    errors: list[FieldProblem] = []


def known(error: BaseException) -> bool:
    """Whether the table has this error; one that it has not is a defect."""
    return status_of(type(error)) is not None


def problem_of(error: Exception, request_id: str, *, wrote: bool = False) -> tuple[Problem, dict[str, str]]:
    """The document that answers an error, and the headers that go with it.

    `wrote`: the request was one that changes something, so after a defect nobody can say whether it did.
    """
    status = status_of(type(error))
    if status is None:
        outcome = Outcome.UNKNOWN if wrote else Outcome.NOT_APPLIED
        error, status = InternalError(), HTTPStatus.INTERNAL_SERVER_ERROR
    else:
        outcome = error.outcome if isinstance(error, LeaderboardError) else Outcome.NOT_APPLIED
    title = _title(type(error))
    detail = "" if isinstance(error, _DISCREET) and status is HTTPStatus.SERVICE_UNAVAILABLE else _detail(error)
    field = getattr(error, "field", None)
    problem = Problem(
        type=_type(type(error)),
        title=title,
        status=status.value,
        detail=detail or title,
        outcome=outcome.value,
        request_id=request_id,
        errors=[FieldProblem(field, detail or title)] if field else [],
    )
    return problem, _headers(error, status)


def status_of(kind: type[BaseException]) -> HTTPStatus | None:
    """The status that the table gives a class of errors; None if it has none."""
    return next((STATUSES[base] for base in kind.__mro__ if base in STATUSES), None)


def _headers(error: Exception, status: HTTPStatus) -> dict[str, str]:
    if isinstance(error, jobs.JobUnderWay) and error.job_id:
        return {"Location": f"/api/v1/admin/jobs/{error.job_id}"}
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        return {"Retry-After": str(getattr(error, "retry_after_s", _RETRY_AFTER_S))}
    return dict(error.headers) if isinstance(error, RequestError) else {}


def _detail(error: Any) -> str:
    return str(error.detail)


def _title(kind: type[Exception]) -> str:
    return (kind.__doc__ or kind.__name__).strip().partition("\n")[0].partition("; `")[0].rstrip(".")


def _type(kind: type[Exception]) -> str:
    return type_of(kind.__name__)


def type_of(name: str) -> str:
    """The name of a class of errors that does not change, for programs: `urn:rangeboard:problem:match-conflict`."""
    return "urn:rangeboard:problem:" + _WORD_START.sub("-", name).lower()
