"""The load test on a running stack: clean books on an honest service, and every way of failing told from the others.

Thresholds of time are out of the way here: a test is not timed. What must hold is what was counted.
"""

import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pytest

from loadtest.ledger import Answer, read

pytestmark = pytest.mark.servers

UNTIMED = ("--write-p99-ms", "60000", "--read-p99-ms", "60000", "--late-p99-ms", "60000")
LIGHT = ("--dau", "100000", "--fraction", "1", *UNTIMED)


class RunningStack(Protocol):
    """What the `stack` fixture gives."""

    api_url: str
    api_key: str
    dsn: str
    status: dict[str, Any]


def load(*words: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.run", *words],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


@pytest.fixture
def status(stack: RunningStack, tmp_path: Path) -> str:
    """What `rangeboard status --json` printed, in a file."""
    path = tmp_path / "status.json"
    path.write_text(json.dumps(stack.status))
    return str(path)


def test_a_small_load_is_sent_and_the_books_agree(status: str, tmp_path: Path) -> None:
    """Two processes, game servers and players, resends and nonsense: nothing lost, nothing doubled, one report."""
    kept, report = tmp_path / "kept", tmp_path / "reports" / "load.html"
    done = load(
        *("--stack", status, *LIGHT, "--duration", "5", "--processes", "2"),
        *("--keep", str(kept), "--report", str(report)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    entries = list(read(kept.glob("*.ledger")))
    answers = {answer: sum(entry.answer is answer for entry in entries) for answer in Answer}
    assert len(list(kept.glob("*.ledger"))) == 2
    assert answers[Answer.ACKNOWLEDGED] > 100
    assert answers[Answer.UNKNOWN] == 0
    page = report.read_text()
    assert "<b>Passed.</b>" in page
    assert page.count("<svg") == 4
    assert not re.search(r"<script|<link|src=|url\(|http-equiv", page), "it needs nothing but itself"


def test_without_the_database_points_are_compared(stack: RunningStack) -> None:
    done = load("--api", stack.api_url, "--key", stack.api_key, *LIGHT, "--duration", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "weaker proof" in done.stdout


class Liar(BaseHTTPRequestHandler):
    """Passes everything on to the service, but for every twentieth submission, which it only says has counted."""

    protocol_version = "HTTP/1.1"
    service: ClassVar[str]
    submissions: ClassVar["count[int]"]

    def do_GET(self) -> None:
        self._pass_on(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/v1/scores" and next(self.submissions) % 20 == 19:
            self._answer(200, "application/json", b'{"applied": true, "durable": true}')
        else:
            self._pass_on(body)

    def _pass_on(self, body: bytes | None) -> None:
        request = urllib.request.Request(self.service + self.path, data=body, method=self.command)
        for name in ("Authorization", "Content-Type"):
            if self.headers[name]:
                request.add_header(name, self.headers[name])
        try:
            with urllib.request.urlopen(request) as answer:
                self._answer(answer.status, answer.headers["Content-Type"], answer.read())
        except urllib.error.HTTPError as refusal:
            with refusal:
                self._answer(refusal.code, refusal.headers["Content-Type"], refusal.read())

    def _answer(self, status: int, media_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""


@contextmanager
def liar_before(service: str) -> Iterator[str]:
    handler = type("LiarBefore", (Liar,), {"service": service, "submissions": count()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize("with_audit", [True, False])
def test_a_service_that_loses_acknowledged_submissions_is_caught(stack: RunningStack, with_audit: bool) -> None:
    """With the audit log each is named lost; from the points alone it still shows that something is wrong."""
    audit = ("--dsn", stack.dsn, "--settle", "2") if with_audit else ()
    with liar_before(stack.api_url) as url:
        done = load(
            *("--api", url, "--key", stack.api_key, *audit, *LIGHT),
            *("--duration", "3", "--batch-share", "0", "--failed-percent", "100"),
        )
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"✗ +lost +\d+" if with_audit else r"✗ +wrong points +\d+", done.stdout)


def test_a_load_that_cannot_be_generated_fails(status: str) -> None:
    """One connection cannot carry what half a million players send."""
    done = load(
        *("--stack", status, "--dau", "5000000", "--fraction", "1", "--players", "200", "--connections", "1"),
        *("--duration", "3", "--batch-share", "0", *UNTIMED),
    )
    assert done.returncode == 4, done.stdout + done.stderr
    assert "could not be generated" in done.stdout
    assert re.search(r"✗ +unsent", done.stdout)


def test_a_threshold_that_is_missed_fails(status: str) -> None:
    done = load("--stack", status, *LIGHT, "--write-p99-ms", "0.01", "--duration", "2")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Outside the limits (writes, p99" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --api and --key, or --stack"),
        (("--api", "http://127.0.0.1:9", "--key", "x"), "Connection refused"),
        (("--api", "API", "--key", "wrong"), "answered 401"),
        (("--api", "API", "--key", "KEY", "--fraction", "2"), "the fraction lies above 0 and up to 1"),
        (("--api", "API", "--key", "KEY", "--dsn", "postgresql://127.0.0.1:9/x"), "The audit log cannot be read"),
        (("--api", "API", "--key", "KEY", "--keep", "FULL"), "is not empty"),
        (("--api", "API", "--key", "KEY", "--report", "/dev/null/report.html"), "/dev/null"),
        (("--stack", "/dev/null"), "is the stack running?"),
    ],
)
def test_a_run_that_cannot_take_place_says_so(
    stack: RunningStack, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    """At once, in one sentence, and with an exit code of its own."""
    (tmp_path / "something").touch()
    known = {"API": stack.api_url, "KEY": stack.api_key, "FULL": str(tmp_path)}
    done = load("--duration", "1", "--dau", "1000", *(known.get(word, word) for word in words))
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stdout.replace("\n", " ")
