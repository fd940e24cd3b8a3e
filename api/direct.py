"""Requests that Flask need not see: those whose address names an endpoint word for word.

Problem: Flask finds an address by regular expressions, and makes a request object, a response object and two contexts
for every call. That is a third of what a bare route costs, and an endpoint's `serve` uses none of it: it takes the WSGI
environment and gives status, headers and body.

So an address that is an endpoint's, or ends in its one parameter, is looked up in a dictionary and served at once. All
others go to Flask as ever: unknown addresses, other methods, HEAD, words outside of ASCII. What is answered is the same
either way (a test asks both), so this can be taken out again by one line in app.py.
"""

import re
from collections.abc import Callable, Iterable
from functools import cache
from http import HTTPStatus
from typing import Any

from api.endpoints import Endpoint, Served
from api.metrics import Wsgi

Serve = Callable[..., Served]

_ENDS_IN_PARAMETER = re.compile(r"([^<>]*)/<(?P<name>\w+)>")


def ahead_of(app: Wsgi, endpoints: Iterable[tuple[Endpoint, Serve]]) -> Wsgi:
    """An app that serves these endpoints itself where it can, and leaves the rest to `app`."""
    plain: dict[tuple[str, str], Serve] = {}
    ending: dict[tuple[str, str], tuple[Serve, str]] = {}
    for endpoint, serve in endpoints:
        if "<" not in endpoint.path:
            plain[endpoint.method, endpoint.path] = serve
        elif match := _ENDS_IN_PARAMETER.fullmatch(endpoint.path):
            ending[endpoint.method, match[1]] = (serve, match["name"])

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        serve = plain.get((method, path))
        if serve is not None:
            return _answer(serve(environ), start_response)
        parent, _, word = path.rpartition("/")
        found = ending.get((method, parent))
        if found is not None and word and word.isascii():
            serve, name = found
            return _answer(serve(environ, **{name: word}), start_response)
        return app(environ, start_response)

    return answer


def _answer(served: Served, start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = served.body
    if not isinstance(body, bytes):
        start_response(_line(served.status), served.headers)
        return body
    start_response(_line(served.status), [*served.headers, ("Content-Length", str(len(body)))])
    return (body,)


@cache
def _line(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"
