"""What an address takes and gives, and the one way in which every request to it is served.

An endpoint is a row: method, path, form of query and body, scope, and the function that does the work. That function
takes a `Call` of decoded values (and what the path names), and returns an answer; it never sees HTTP. `serving` makes
the rest of it: request id, key, decoding, deadline, encoding, refusals, measurement. The same rows make
`/openapi.json`, so what is documented is what is served.

Everything happens in one function because it happens for every submission: Flask's hooks before and after a request
would cost as much again as the dispatch itself. It takes a WSGI environment, so nothing here depends on Flask.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

import msgspec
import structlog

from api.auth import Keys, Scope
from api.metrics import observe_request
from api.problems import MEDIA_TYPE, known, problem_of
from api.requests import JSON, Call, NoQuery, decode_json, decode_query, read_json, request_id_of
from runtime.deadlines import Deadline
from runtime.settings import Settings

BASE = "/api/v1"
_MOST_QUERIES = 256

log = structlog.get_logger()
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method at one address. `scope` is what a key must allow; None: nobody needs one."""

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    answer: Callable[..., Any]
    summary: str
    gives: type[msgspec.Struct]
    scope: Scope | None
    query: Any = NoQuery
    takes: Any = None
    #: how the body is read where it is not one JSON value
    reads: Callable[[Mapping[str, Any], int], Any] | None = None
    #: media type under which the members of the body's array may come one a line
    lines: str = ""
    #: what the body's Content-Encoding may be
    encodings: tuple[str, ...] = ()
    status: HTTPStatus = HTTPStatus.OK
    media_type: str = JSON
    #: statuses under which the same body may come
    also: tuple[HTTPStatus, ...] = ()
    #: statuses of refusals, besides those that any endpoint may give
    refuses: tuple[int, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether it may change something."""
        return self.method != "GET"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is more than a body with the endpoint's usual status."""

    body: msgspec.Struct
    status: HTTPStatus
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer that comes bit by bit, until its end or the client's. `close()` is called then, if it was begun."""

    parts: Iterator[bytes]
    media_type: str


class Served(NamedTuple):
    """What goes back to the client."""

    body: bytes | Iterator[bytes]
    status: int
    headers: list[tuple[str, str]]


def serving(endpoint: Endpoint, settings: Settings, keys: Keys) -> Callable[..., Served]:
    """The function that serves requests to the endpoint, from a WSGI environment and the words of the path."""
    read_body = endpoint.reads or _reader_of(endpoint.takes)
    deadline_s = settings.request_deadline_ms / 1000
    scope = None if endpoint.scope is Scope.READ and settings.reads_open else endpoint.scope
    needs_query = any(member.required for member in msgspec.structs.fields(endpoint.query))
    plain = None if needs_query else endpoint.query()
    # The same few queries come again and again; what they decode to is frozen.
    query_of = lru_cache(_MOST_QUERIES)(partial(decode_query, endpoint.query))

    def serve(environ: Mapping[str, Any], **path: str) -> Served:
        started = time.perf_counter()
        request_id = request_id_of(environ)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            if scope is not None:
                keys.check(environ.get("HTTP_AUTHORIZATION"), scope)
            query_string = environ.get("QUERY_STRING", "")
            query = query_of(query_string) if query_string or needs_query else plain
            body = read_body(environ, settings.max_body_bytes) if read_body is not None else None
            # Only now: the time that a client takes to send is its own.
            call = Call(request_id, Deadline.after(deadline_s), query, body, environ.get("HTTP_IDEMPOTENCY_KEY"))
            answer = endpoint.answer(call, **path)
            if isinstance(answer, Reply):
                served = _served(_encoder.encode(answer.body), answer.status, JSON, request_id, answer.headers)
            elif isinstance(answer, Streamed):
                served = _served(answer.parts, endpoint.status, answer.media_type, request_id)
            else:
                served = _served(_encoder.encode(answer), endpoint.status, JSON, request_id)
        except Exception as error:  # noqa: BLE001  # every error has an answer; `refusal` logs what is a defect
            served = refusal(error, environ, request_id, wrote=endpoint.writes)
        observe_request(endpoint.path, endpoint.method, served.status, time.perf_counter() - started)
        return served

    return serve


def _reader_of(takes: Any) -> Callable[[Mapping[str, Any], int], Any] | None:
    """Reads a body that is one JSON value of this form; None where there is no body."""
    if takes is None:
        return None
    decoder = msgspec.json.Decoder(takes)
    return lambda environ, most_bytes: decode_json(decoder, read_json(environ, most_bytes))


def refusal(error: Exception, environ: Mapping[str, Any], request_id: str, *, wrote: bool) -> Served:
    """The answer to a request that failed; a defect of ours is logged."""
    if not known(error):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        log.error("request_failed", exc_info=error, request_id=request_id, method=method, path=path)
    problem, headers = problem_of(error, request_id, wrote=wrote)
    return _served(_encoder.encode(problem), problem.status, MEDIA_TYPE, request_id, headers)


def _served(
    body: bytes | Iterator[bytes],
    status: int,
    media_type: str,
    request_id: str,
    headers: Mapping[str, str] | None = None,
) -> Served:
    sent = [("Content-Type", media_type), ("X-Request-ID", request_id), ("Cache-Control", "no-store")]
    if headers:
        sent += headers.items()
    return Served(body, status, sent)
