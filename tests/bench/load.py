"""A load generator that is not the bottleneck: raw requests over many kept-alive connections, in one thread.

Closed loop: each connection sends its next request when the last one is answered, so it finds the most that a server
does, not what a crowd would feel (that is open_load.py's). How much of a core the generator needed itself is measured
each time: where that comes near to all of it, the figure is the generator's and not the server's.
"""

import itertools
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec

_READ = 65_536
#: What the last requests have to be answered.
_GRACE_S = 30.0


@dataclass
class Measured:
    """What a run saw. Latencies are seconds, one a request, in the order of the answers.

    `applied`: submissions that the answers say were applied. `complaint`: the first answer that was none to wish for.
    `cpu_s`: of the generator.
    """

    seconds: float = 0.0
    failed: int = 0
    applied: int = 0
    complaint: bytes = b""
    cpu_s: float = 0.0
    latencies: list[float] = field(default_factory=list)

    def count(self, one: "Connection", status: int, latency: float) -> None:
        """Count an answer."""
        self.latencies.append(latency)
        if not 200 <= status < 300:
            self.failed += 1
            self.complaint = self.complaint or one.answer
        elif one.submits:
            self.applied += applied_in(one.body)

    @property
    def busy(self) -> float:
        """How much of a core the generator needed."""
        return self.cpu_s / self.seconds

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


class _Applied(msgspec.Struct):
    """An answer to submissions: one of them was applied or not, or so many of a batch."""

    applied: bool | int = 0


_applied = msgspec.json.Decoder(_Applied)


def applied_in(body: bytes) -> int:
    """How many submissions were applied, as an answer to them says."""
    return int(_applied.decode(body).applied)


@dataclass(eq=False)
class Connection:
    """A connection with at most one request under way. `since`: when that began to count, on the run's clock."""

    socket: socket.socket
    since: float = 0.0
    submits: bool = False
    answer: bytes = b""

    @property
    def body(self) -> bytes:
        """That of an answer which has arrived whole."""
        return self.answer.partition(b"\r\n\r\n")[2]

    def send(self, request: bytes, since: float) -> None:
        self.answer = b""
        self.submits = request.startswith(_SUBMITS)
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


#: How a request begins whose answer tells what was applied.
_SUBMITS = (b"POST /api/v1/scores ", b"POST /api/v1/scores:batch")


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def post(path: str, key: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def run(url: str, requests: Iterator[bytes], *, connections: int, seconds: float, most: int | None = None) -> Measured:
    """Send requests for so long, or so many, or as many as there are, over so many connections.

    What has been sent is waited for, so that nothing is left to do when it returns.
    """
    measured = Measured()
    coming = itertools.islice(requests, most)
    with selectors.DefaultSelector() as poll, connected(url, connections, poll) as links:
        cpu, start = time.process_time(), time.perf_counter()
        under_way = 0
        for one, request in zip(links, coming, strict=False):
            one.send(request, time.perf_counter())
            under_way += 1
        while under_way and (now := time.perf_counter() - start) < seconds + _GRACE_S:
            for key, _ in poll.select(0.1):
                one = key.data
                status = one.receive()
                if status is None:
                    continue
                measured.count(one, status, time.perf_counter() - one.since)
                under_way -= 1
                if now < seconds and (request := next(coming, None)) is not None:
                    one.send(request, time.perf_counter())
                    under_way += 1
        measured.seconds = time.perf_counter() - start
        measured.cpu_s = time.process_time() - cpu
    measured.failed += under_way
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
