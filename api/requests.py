"""One request: what identifies it, when it must be answered, and what it says.

What a client sends is decoded straight into typed values; whatever has not exactly the documented form is refused with
the name of the field. Nothing is coerced, guessed or ignored: `true` is no number, `1e3` no integer, a misspelled field
an error, and a field that is there twice too, since two readers could take different ones for valid.
"""

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec

from api.problems import Malformed, RequestTimeout, TooLarge, UnsupportedMediaType
from runtime.deadlines import Deadline

Q = TypeVar("Q")
B = TypeVar("B")

JSON = "application/json"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)
_MOST_PARAMETERS = 32
_SHOWN = 64
_AT = re.compile(r" - at `\$\.?(?P<path>.*)`\Z")
_NAMED = re.compile(r"(?:Unknown|Missing required) [a-z ]+ `(?P<field>.*)`\Z", re.DOTALL)
_BROKEN_AT = re.compile(r"\(byte (?P<byte>\d+)\)\Z")
_LAST_MEMBER = re.compile(rb'"(?P<field>\w{1,64})"\s*:\s*[-\w.+]*\Z')


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """A request that is well formed."""

    request_id: str
    deadline: Deadline
    query: Q
    body: B
    idempotency_key: str | None = None


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No query parameters."""


def request_id_of(environ: Mapping[str, Any]) -> str:
    """The id under which a request is logged and audited: the caller's `X-Request-ID` if it is fit, else a new one."""
    given = environ.get("HTTP_X_REQUEST_ID")
    return given if given and _REQUEST_ID.fullmatch(given) else new_request_id()


def new_request_id() -> str:
    """An id for a request that came without one."""
    return f"{random.getrandbits(128):032x}"  # no secret, and asking the kernel for one costs more


def read_json(environ: Mapping[str, Any], most_bytes: int) -> bytes:
    """The body of a request with JSON. It is never read beyond `most_bytes`."""
    media_type = environ.get("CONTENT_TYPE", "")
    if media_type != JSON and not is_json(media_type):
        raise UnsupportedMediaType(f"send Content-Type: {JSON}, in UTF-8")
    if environ.get("HTTP_CONTENT_ENCODING", "identity") != "identity":
        raise UnsupportedMediaType("send the body without a Content-Encoding")
    return read_bytes(environ, most_bytes)


def is_json(media_type: str) -> bool:
    """Whether a Content-Type says JSON in UTF-8."""
    kind, *parameters = (part.strip().lower() for part in media_type.split(";"))
    return kind == JSON and all(part in {"charset=utf-8", 'charset="utf-8"', ""} for part in parameters)


def read_bytes(environ: Mapping[str, Any], most_bytes: int) -> bytes:
    """The body as it was sent, of whatever media type. It is never read beyond `most_bytes`."""
    declared = environ.get("CONTENT_LENGTH") or ""
    if declared and not (declared.isascii() and declared.isdigit()):
        raise Malformed("Content-Length is no number")
    length = int(declared) if declared else None
    if length is not None and length > most_bytes:
        raise TooLarge(f"at most {most_bytes} bytes")
    if length is None and not environ.get("wsgi.input_terminated"):
        length = 0
    try:
        body: bytes = environ["wsgi.input"].read(most_bytes + 1 if length is None else length)
    except TimeoutError as error:
        raise RequestTimeout("the body did not arrive in time") from error
    except Exception as error:  # each server has its own errors for a body that is cut off or badly framed
        raise Malformed("the body is cut off or badly framed") from error
    if len(body) > most_bytes:
        raise TooLarge(f"at most {most_bytes} bytes")
    if length is not None and len(body) < length:
        raise Malformed(f"the body ends after {len(body)} of {length} bytes")
    return body


def decode_json(decoder: msgspec.json.Decoder[B], body: bytes) -> B:
    """The typed value of a body; Malformed names the field that is not as documented."""
    try:
        value = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise misfit(str(error), "field") from error
    except UnicodeDecodeError as error:
        raise Malformed("the body is not UTF-8") from error
    except msgspec.DecodeError as error:
        raise _broken(str(error), body) from error
    _repetitions.decode(body.decode())
    return value


def decode_query(kind: type[Q], query_string: str) -> Q:
    """The typed query parameters; Malformed names the one that is not as documented."""
    try:
        pairs = parse_qsl(query_string, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
    except UnicodeDecodeError as error:
        raise Malformed("the query is not UTF-8") from error
    except ValueError as error:
        raise Malformed(f"at most {_MOST_PARAMETERS} query parameters") from error
    given = _unrepeated(pairs)
    try:
        query = msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise misfit(str(error), "query parameter") from error
    for name, text in given.items():  # what is not strict takes `1.0` for a number, and `null` for nothing
        value = getattr(query, name)
        if value is None:
            raise Malformed("Leave it out instead", field=name)
        if type(value) is int and not _INTEGER.fullmatch(text):
            raise Malformed("Expected an integer", field=name)
    return query


def misfit(told: str, what: str) -> Malformed:
    """What msgspec says of a value, with the field it speaks of."""
    told = told.replace("Object contains unknown field", f"Unknown {what}")
    told = told.replace("Object missing required field", f"Missing required {what}")
    at = _AT.search(told)
    path = at["path"] if at else ""
    detail = told[: at.start()] if at else told
    if named := _NAMED.search(detail):
        path = f"{path}.{named['field']}" if path else named["field"]
    return Malformed(detail[: 4 * _SHOWN], field=path[:_SHOWN] or None)


def _broken(told: str, body: bytes) -> Malformed:
    """Where a text stops being JSON: at the member before that place."""
    at = _BROKEN_AT.search(told)
    last = _LAST_MEMBER.search(body[: int(at["byte"])][-4 * _SHOWN :]) if at else None
    return Malformed(told, field=last["field"].decode("ascii", "replace") if last else None)


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed("given more than once", field=twice[:_SHOWN])
    return members


_repetitions = json.JSONDecoder(object_pairs_hook=_unrepeated)
