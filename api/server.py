"""gunicorn's gevent worker, with what it leaves open closed.

- A client that stops sending in the middle of a body, or stops reading, would hold its connection for ever: while a
  request is served, every wait for the socket is bounded. One that sends a byte now and then would never wait for long,
  so the whole of a body has a time by which it must be here.
- A body that was refused for its size is still on its way. What remains is read for a while, so that the client gets
  to see the answer, but not without end.
- What cannot be read as HTTP at all is refused with a problem document like everything else.
- PostgreSQL's driver waits in C and would stop the whole process. It is told to wait cooperatively, and not for ever:
  under this way of waiting the driver's own timeout for connecting has no effect, and a server that hangs cannot
  enforce the timeout of a statement.

And gunicorn sends the head of an answer, then its body: two system calls, two packets, two times that the client wakes
up. Here they go together.
"""

import errno
import socket
import time
from http import HTTPStatus
from typing import Any

import msgspec
import psycopg2
from gevent import Timeout
from gevent.socket import wait_read, wait_write
from gunicorn.http import errors
from gunicorn.workers.ggevent import GeventWorker
from psycopg2 import extensions

from api.ending import ENDING
from api.problems import MEDIA_TYPE, Problem
from api.requests import new_request_id

SOCKET_TIMEOUT_S = 30.0
BODY_TIMEOUT_S = 60.0
POSTGRES_TIMEOUT_S = 3.0
_DRAIN_S = 5.0
_DRAIN_BYTES = 64 * 1024 * 1024
_STEP_BYTES = 64 * 1024
_PARTING_S = 1.0

#: What the server says of requests it cannot read; anything else is no request of a client.
_STATUSES: dict[type[Exception], HTTPStatus] = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
    errors.ParseException: HTTPStatus.BAD_REQUEST,
}


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """A process that serves the API."""

    def patch(self) -> None:
        """Make the process cooperative, PostgreSQL's driver included."""
        super().patch()
        extensions.set_wait_callback(wait_for_postgres)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Told to end: requests may come to their end, and what would go on for ever ends now."""
        ENDING.told = True
        super().handle_exit(sig, frame)

    def handle_request(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> Any:
        """Serve one request, and make sure that the next one can be found behind it."""
        sock.settimeout(SOCKET_TIMEOUT_S)
        req.body.reader = _InTime(req.body.reader, BODY_TIMEOUT_S)
        answer = _Together(sock)
        try:
            try:
                handled = super().handle_request(listener_name, req, answer, addr)
            finally:
                answer.flush()
            if not req.body.failed and not _drained(req.body):
                raise StopIteration
        except TimeoutError as error:  # it takes nothing of its answer: gone, as if it had reset the connection
            raise ConnectionResetError(errno.ECONNRESET, "the client takes nothing") from error
        else:
            return handled
        finally:
            sock.settimeout(None)

    def handle_error(self, _req: Any, client: socket.socket, _addr: Any, exc: BaseException) -> None:
        """Answer what could not be read, or what failed outside of the application."""
        status = next((_STATUSES[base] for base in type(exc).__mro__ if base in _STATUSES), None)
        if status is None:
            self.log.exception("Error handling request")
            status = HTTPStatus.INTERNAL_SERVER_ERROR
        try:
            _part(client, _answer(status))
        except OSError:
            self.log.debug("The client did not wait for its answer")


class _Together:
    """A client's socket that keeps what is sent first, the head of an answer, until the next, or `flush`."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._began = False
        self._head = b""

    def sendall(self, data: bytes) -> None:
        """Send it, or keep it if it is the first."""
        if self._began:
            head, self._head = self._head, b""
            self._client.sendall(head + data if head else data)
        else:
            self._began, self._head = True, data

    def flush(self) -> None:
        """Send what is kept: the head of an answer that has no body."""
        if self._head:
            self.sendall(b"")

    def shutdown(self, how: int) -> None:
        """Give up an answer that went wrong; nothing of it is sent any more."""
        self._head = b""
        self._client.shutdown(how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class _InTime:
    """What a body is read from, for so many seconds; TimeoutError after that."""

    def __init__(self, reader: Any, seconds: float) -> None:
        self._reader = reader
        self._until = time.monotonic() + seconds

    def read(self, size: int) -> Any:
        """At most so many bytes; fewer at the end."""
        if getattr(self._reader, "length", None) == 0:  # most requests, most of the time: not worth a timer
            return b""
        left = self._until - time.monotonic()
        with Timeout(max(0.0, left), TimeoutError("the body takes too long")):
            return self._reader.read(size)


def _drained(body: Any) -> bool:
    """Whether the rest of a body could be read."""
    deadline = time.monotonic() + _DRAIN_S
    drained = 0
    while rest := len(body.read(_STEP_BYTES)):
        drained += rest
        if drained > _DRAIN_BYTES or time.monotonic() > deadline:
            return False
    return True


def _part(client: socket.socket, last_words: bytes) -> None:
    """Say the last words, and hear the client out for a moment: closing on unread bytes would take them back."""
    client.settimeout(_PARTING_S)
    client.sendall(last_words)
    client.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + _PARTING_S
    while client.recv(_STEP_BYTES) and time.monotonic() < deadline:
        pass


def _answer(status: HTTPStatus) -> bytes:
    request_id = new_request_id()
    problem = Problem(
        type="about:blank",
        title=status.phrase,
        status=status.value,
        detail="this cannot be read as an HTTP request" if status < 500 else status.phrase,
        outcome="not_applied" if status < 500 or status is HTTPStatus.NOT_IMPLEMENTED else "unknown",
        request_id=request_id,
    )
    body = msgspec.json.encode(problem)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Type: {MEDIA_TYPE}\r\n"
        f"X-Request-ID: {request_id}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def wait_for_postgres(connection: Any) -> None:
    """Let other greenlets run until PostgreSQL answers; OperationalError if it does not."""
    while True:
        state = connection.poll()
        if state == extensions.POLL_OK:
            return
        wait = wait_read if state == extensions.POLL_READ else wait_write
        try:
            wait(connection.fileno(), timeout=POSTGRES_TIMEOUT_S)
        except TimeoutError as error:
            raise psycopg2.OperationalError(f"PostgreSQL did not answer for {POSTGRES_TIMEOUT_S:g} s") from error
