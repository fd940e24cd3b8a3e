"""What a crowd feels at a given load: requests leave when they are due, whether or not others have been answered.

Open loop: arrivals are random (Poisson) and fixed beforehand, and a latency counts from the moment that its request was
due. So a server that stalls is charged for all who would have come meanwhile, also for those who had to wait for a free
connection; a closed loop would not have sent them (coordinated omission).

A generator that is late itself would charge the server for that. How late it sends, once a request is due and a
connection free, is measured. Arrivals are random, so what they see is what any moment sees: answers are noticed as late
as requests are sent.
"""

import random
import selectors
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench.load import Connection, Measured, connected, quantile

#: What the last requests have to be answered.
_GRACE_S = 10.0


@dataclass
class OpenMeasured(Measured):
    """`late`: seconds from when a request could have left until it did, one a request. Unanswered requests count as
    failed, and with the time that was waited for them.
    """

    late: list[float] = field(default_factory=list)

    @property
    def late_p99(self) -> float:
        return quantile(self.late, 0.99)


def arrivals(per_s: float, seconds: float, rng: random.Random) -> Iterator[float]:
    """When requests are due, in seconds from the start."""
    at = rng.expovariate(per_s)
    while at < seconds:
        yield at
        at += rng.expovariate(per_s)


def run(url: str, requests: Iterator[bytes], due: Sequence[float], *, connections: int) -> OpenMeasured:
    """Send a request at each of these times (seconds from now, ascending), over so many connections."""
    measured = OpenMeasured()
    ready = [next(requests) for _ in due]  # made beforehand: that takes time too
    # select() waits to the microsecond, epoll to the millisecond
    with selectors.SelectSelector() as poll, connected(url, connections, poll) as links:
        coming, waiting, unsent = deque(due), deque[float](), deque(ready)
        free = deque((one, 0.0) for one in links)
        busy: set[Connection] = set()
        start, cpu = time.perf_counter(), time.process_time()
        while (coming or waiting or busy) and (now := time.perf_counter() - start) < due[-1] + _GRACE_S:
            while coming and coming[0] <= now:
                waiting.append(coming.popleft())
            while waiting and free:
                (one, freed), since = free.popleft(), waiting.popleft()
                measured.late.append(time.perf_counter() - start - max(since, freed))
                one.send(unsent.popleft(), since)
                busy.add(one)
            until = coming[0] if coming and free else now + 0.1
            for key, _ in poll.select(max(0.0, until - (time.perf_counter() - start))):
                one = key.data
                status = one.receive()
                if status is not None:
                    answered = time.perf_counter() - start
                    measured.count(one, status, answered - one.since)
                    busy.remove(one)
                    free.append((one, answered))
        measured.seconds = time.perf_counter() - start
        measured.cpu_s = time.process_time() - cpu
    unanswered = [*waiting, *(one.since for one in busy)]
    measured.latencies += [measured.seconds - since for since in unanswered]
    measured.failed += len(unanswered)
    return measured
