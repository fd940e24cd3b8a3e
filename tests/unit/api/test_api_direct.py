"""What is served without Flask is what Flask would have answered."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from flask import Flask
from werkzeug.test import create_environ

from api.app import application
from api.auth import Keys
from api.endpoints import Endpoint
from api.problems import NotFound
from api.requests import Call
from runtime.settings import Settings


class Greeting(msgspec.Struct):
    """What is given."""

    text: str


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked."""

    loud: bool = False


def hello(call: Call[Named, None], name: str = "you") -> Greeting:
    if name == "nobody":
        raise NotFound(name)
    return Greeting(f"hello {name}{'!' * call.query.loud}")


def row(method: Any, path: str, said: str = "") -> Endpoint:
    answer: Callable[..., Any] = (lambda _, **given: Greeting(f"{said} {given}")) if said else hello
    return Endpoint(method=method, path=path, answer=answer, summary="", gives=Greeting, query=Named, scope=None)


@pytest.fixture(scope="module")
def app() -> Flask:
    endpoints = [
        row("GET", "/hello"),
        row("POST", "/hello", "posted"),
        row("GET", "/hello/<name>"),
        row("GET", "/hello/world", "the world"),
        row("GET", "/hello/<name>/again", "again"),
        row("POST", "/hello/lookup", "looked up"),
    ]
    return application(endpoints, Settings(), Keys(lambda _: None))


Answer = tuple[str, list[tuple[str, str]], bytes]


def asked(app: Callable[..., Iterable[bytes]], method: str, path: str) -> Answer:
    told: list[Any] = []
    environ = create_environ(path, method=method, headers={"X-Request-ID": "r-1"})
    body = b"".join(app(environ, lambda status, headers, *_: told.extend((status, sorted(headers)))))
    return (told[0].lower(), told[1], body)


REQUESTS = [
    ("GET", "/hello"),
    ("GET", "/hello?loud=true"),
    ("GET", "/hello?loud=perhaps"),
    ("POST", "/hello"),
    ("DELETE", "/hello"),
    ("HEAD", "/hello"),
    ("OPTIONS", "/hello"),
    ("GET", "/hello/"),
    ("GET", "//hello"),
    ("GET", "/hello/ann"),
    ("GET", "/hello/ann?loud=true"),
    ("GET", "/hello/a%20b"),
    ("GET", "/hello/a%2Fb"),
    ("GET", "/hello/Zo%C3%AB"),
    ("GET", "/hello/%FF"),
    ("GET", "/hello/nobody"),
    ("GET", "/hello/world"),
    ("GET", "/hello/lookup"),
    ("POST", "/hello/lookup"),
    ("POST", "/hello/ann"),
    ("GET", "/hello/ann/again"),
    ("GET", "/hello/ann/again/"),
    ("GET", "/elsewhere"),
    ("GET", "/"),
]


@pytest.mark.parametrize(("method", "path"), REQUESTS, ids=[f"{method} {path}" for method, path in REQUESTS])
def test_an_answer_is_the_one_that_flask_gives(app: Flask, method: str, path: str) -> None:
    assert asked(app.wsgi_app, method, path) == asked(lambda *given: Flask.wsgi_app(app, *given), method, path)


def test_endpoints_are_served_without_flask(app: Flask) -> None:
    """Else the comparison above would compare Flask with itself."""

    def no_flask(*_: Any) -> Any:
        raise AssertionError("it went to Flask")

    lonely = application([row("GET", "/hello"), row("GET", "/hello/<name>")], Settings(), Keys(lambda _: None))
    lonely.full_dispatch_request = no_flask  # type: ignore[method-assign]
    assert asked(lonely.wsgi_app, "GET", "/hello")[2] == b'{"text":"hello you"}'
    assert asked(lonely.wsgi_app, "GET", "/hello/ann")[2] == b'{"text":"hello ann"}'
    assert asked(app.wsgi_app, "GET", "/hello/ann")[0] == "200 ok"
