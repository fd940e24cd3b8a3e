"""The pages for people: files of ours only, under a policy that lets a browser run and load nothing else."""

import re
import tomllib
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path, PurePath

import pytest
from werkzeug.test import Client, TestResponse

from api import pages
from api.app import create_app
from runtime.settings import Settings

REFERENCE = re.compile(r"""(?:href|src)="([^"]*)"|\bfrom "([^"]*)"|\burl\(([^)]*)\)""")
#: Names that other hosts would be called by. The namespace of SVG is a name, and examples are not loaded.
ELSEWHERE = re.compile(r"(?:https?:)?//(?!www\.w3\.org/2000/svg|example\.com)[\w.-]+\.\w")
MARKUP_FROM_TEXT = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc")
MOST_BYTES = 32 * 1024


@pytest.fixture(scope="module")
def client() -> Client:
    """The application without its servers: the pages need none."""
    return Client(create_app(Settings()))


def ours() -> dict[str, str]:
    """The text of every file that is served, by its address."""
    suffixes = {".html", ".css", ".js", ".svg"}
    found = {
        file.name: file.read_text() for file in files(pages).iterdir() if file.name[file.name.rfind(".") :] in suffixes
    }
    named = {name: address for address, name in pages.PAGES.items()}
    return {named.get(name, f"{pages.ASSETS}/{name}"): text for name, text in found.items()}


ADDRESSES = sorted(ours())


def test_the_contracts_pages_are_there() -> None:
    assert {"/", "/admin", "/docs"} <= set(ADDRESSES)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_file_is_served_under_the_policy(client: Client, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 200
    assert answer.text == ours()[address]
    assert answer.content_type.partition(";")[0] == media_type(address)
    policy = dict(part.partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' https: data:"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_file_is_sent_once_to_a_browser_that_keeps_it(client: Client, address: str) -> None:
    first = client.get(address)
    again = client.get(address, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["Content-Security-Policy"] == pages.POLICY
    changed = client.get(address, headers={"If-None-Match": '"another"'})
    assert (changed.status_code, changed.data) == (200, first.data)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_file_is_small_and_names_nothing_elsewhere(client: Client, address: str) -> None:
    text = ours()[address]
    assert len(text.encode()) <= MOST_BYTES
    assert not ELSEWHERE.search(text)
    assert not MARKUP_FROM_TEXT.search(text)
    assert not re.search(r"\son\w+=\"|\sstyle=\"|javascript:", text), "the policy refuses it"
    for reference in references(address, text):
        assert client.get(reference).status_code == 200, reference


def test_every_file_comes_with_an_installation() -> None:
    """What pyproject.toml does not name is missing in an image, however well it works from the sources."""
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = declared["tool"]["setuptools"]["package-data"][pages.__name__]
    names = [pages.PAGES.get(address, PurePath(address).name) for address in ADDRESSES]
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in names)


def test_every_file_is_used_by_a_page(client: Client) -> None:
    used, new = set(pages.PAGES), set(pages.PAGES)
    while new:
        new = {reference for address in new for reference in references(address, ours()[address])} & set(ours()) - used
        used |= new
    assert used == set(ADDRESSES)


@pytest.mark.parametrize(
    "address", ["/pages", "/pages/", "/pages/nothing.js", "/pages/__init__.py", "/pages/../app.py", "/pages/live.html"]
)
def test_nothing_else_is_there(client: Client, address: str) -> None:
    refused(client.get(address), 404)


def test_a_page_is_only_read(client: Client) -> None:
    refused(client.post("/", data=b"x"), 405)
    assert client.head("/docs").status_code == 200


def refused(answer: TestResponse, status: int) -> None:
    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"


def references(address: str, text: str) -> list[str]:
    """The addresses in a file, without those of data that the API gives only with its servers."""
    named = [next(filter(None, found)) for found in REFERENCE.findall(text) if any(found)]
    plain = [name.partition("?")[0].partition("#")[0] for name in named]
    absolute = [f"{pages.ASSETS}/{name[2:]}" if name.startswith("./") else name for name in plain]
    assert all(name.startswith("/") for name in absolute), (address, absolute)
    return [name for name in absolute if not name.startswith("/api/")]


def media_type(address: str) -> str:
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    return types.get(address[address.rfind(".") :] if "." in address else "", "text/html")
