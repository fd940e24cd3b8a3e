"""A load generator that is not the bottleneck: raw requests over many kept-alive connections, in one thread.

Closed loop: each connection sends its next request when the last one is answered, so it finds the most that a server
does, not what a crowd would feel. A request here costs a tenth of what the servers under test need for theirs.
"""

import selectors
import socket
import time
from collections.abc import Iterator
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
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class _Connection:
    socket: socket.socket
    sent_at: float = 0.0
    answer: bytes = b""


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def post(path: str, key: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def run(url: str, requests: Iterator[bytes], *, connections: int, seconds: float, most: int | None = None) -> Measured:
    """Send requests for so long, or until so many are answered, over so many connections."""
    address = urlsplit(url)
    measured = Measured()
    poll = selectors.DefaultSelector()
    open_connections = []
    for _ in range(connections):
        one = _Connection(socket.create_connection((address.hostname or "", address.port or 80), timeout=10))
        one.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(one.socket, selectors.EVENT_READ, one)
        open_connections.append(one)
    start = time.perf_counter()
    for one in open_connections:
        _send(one, requests)
    while (now := time.perf_counter()) - start < seconds and (most is None or len(measured.latencies) < most):
        for key, _ in poll.select(0.1):
            one = key.data
            one.answer += one.socket.recv(_READ)
            status = _status_if_whole(one.answer)
            if status is None:
                continue
            measured.latencies.append(time.perf_counter() - one.sent_at)
            measured.failed += not 200 <= status < 300
            _send(one, requests)
    measured.seconds = now - start
    for one in open_connections:
        one.socket.close()
    poll.close()
    return measured


def _send(one: _Connection, requests: Iterator[bytes]) -> None:
    one.answer = b""
    one.sent_at = time.perf_counter()
    one.socket.sendall(next(requests))


def _status_if_whole(answer: bytes) -> int | None:
    """The status of an answer that has arrived whole."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = answer[:end].lower()
    at = head.index(b"content-length:") + len(b"content-length:")
    length = int(head[at:].split(b"\r\n", 1)[0])
    return int(answer[9:12]) if len(answer) >= end + 4 + length else None
