"""A load generator that is not the bottleneck: raw requests over many kept-alive connections, in one thread.

Closed loop: each connection sends its next request when the last one is answered, so it finds the most that a server
does, not what a crowd would feel (that is open_load.py's). A request here costs a tenth of what the servers under test
need for theirs.
"""

import itertools
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_READ = 65_536


@dataclass
class Measured:
    """What a run saw. Latencies are seconds, one a request, in the order of the answers."""

    seconds: float = 0.0
    failed: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """The latency that this share of requests did not exceed."""
        return quantile(self.latencies, share)


def quantile(values: list[float], share: float) -> float:
    """What this share of the values did not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(eq=False)
class Connection:
    """A connection with at most one request under way. `since`: when that began to count, on the run's clock."""

    socket: socket.socket
    since: float = 0.0
    answer: bytes = b""

    def send(self, request: bytes, since: float) -> None:
        self.answer = b""
        self.since = since
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """Read what has come; the status once the answer is there whole."""
        part = self.socket.recv(_READ)
        if not part:
            raise ConnectionError("the server closed a connection")
        self.answer += part
        return _status_if_whole(self.answer)


@contextmanager
def connected(url: str, connections: int, poll: selectors.BaseSelector) -> Iterator[list[Connection]]:
    """So many connections, each known to `poll` with itself as data."""
    address = urlsplit(url)
    with ExitStack() as stack:
        made = []
        for _ in range(connections):
            link = socket.create_connection((address.hostname or "", address.port or 80), timeout=10)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one = Connection(stack.enter_context(link))
            poll.register(link, selectors.EVENT_READ, one)
            made.append(one)
        yield made


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def post(path: str, key: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def run(url: str, requests: Iterator[bytes], *, connections: int, seconds: float, most: int | None = None) -> Measured:
    """Send requests for so long, or until so many are answered, over so many connections."""
    measured = Measured()
    coming = itertools.islice(requests, most)
    with selectors.DefaultSelector() as poll, connected(url, connections, poll) as links:
        start = time.perf_counter()
        for one, request in zip(links, coming, strict=False):
            one.send(request, time.perf_counter())
        while (now := time.perf_counter()) - start < seconds and (most is None or len(measured.latencies) < most):
            for key, _ in poll.select(0.1):
                one = key.data
                status = one.receive()
                if status is None:
                    continue
                measured.latencies.append(time.perf_counter() - one.since)
                measured.failed += not 200 <= status < 300
                if (request := next(coming, None)) is not None:
                    one.send(request, time.perf_counter())
        measured.seconds = now - start
    return measured


def _status_if_whole(answer: bytes) -> int | None:
    """The status of an answer that has arrived whole."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = answer[:end].lower()
    at = head.index(b"content-length:") + len(b"content-length:")
    length = int(head[at:].split(b"\r\n", 1)[0])
    return int(answer[9:12]) if len(answer) >= end + 4 + length else None
