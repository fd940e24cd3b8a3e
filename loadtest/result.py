"""Everything a finished run has to say, for the terminal and the report to show."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from loadtest.checker import Verdict
from loadtest.measurements import Kind, Measurements, latency_of
from loadtest.scenario import Scenario
from loadtest.verdict import WRITES, Judgement

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A run that took place."""

    service: str
    started_at: datetime
    machine: str
    scenario: Scenario
    connections: int  # of each user of each process
    measured: Measurements
    books: Verdict
    judgement: Judgement
    #: CPU seconds of the service's parts while the load ran; empty where nobody gave their process ids
    cpu_s: Mapping[str, float]
    #: how long the books took to agree after the load had ended
    settled_s: float

    @property
    def requests_per_s(self) -> float:
        """Requests that were sent, a second."""
        return self.measured.requests / self.scenario.seconds

    @property
    def submissions_per_s(self) -> float:
        """Submissions that were sent, a second, those sent a second time included."""
        return self.books.sent / self.scenario.seconds

    def cpu_us_per_request(self) -> dict[str, float]:
        """CPU microseconds of each part for each request of any kind."""
        return {part: 1e6 * spent / max(1, self.measured.requests) for part, spent in self.cpu_s.items()}

    def kinds(self) -> Iterator[tuple[str, Kind]]:
        """The kinds of requests, writes first."""
        order = {name: number for number, name in enumerate(WRITES)}
        yield from sorted(self.measured.kinds.items(), key=lambda item: (order.get(item[0], len(order)), item[0]))

    def by_second(self) -> Iterator[tuple[int, dict[str, Kind]]]:
        """Each second of the load, from 0, with the kinds that had requests due in it; also one without any."""
        last = max((at for kind in self.measured.kinds.values() for at in kind.seconds), default=-1)
        for at in range(last + 1):
            yield at, {name: kind for name, kind in self.measured.kinds.items() if at in kind.seconds}


def milliseconds(kind: Kind) -> list[float]:
    """The latencies at `PERCENTILES`, then the longest, in milliseconds."""
    latency = latency_of([kind])
    return [1000 * (latency.percentile(percent) or 0.0) for percent in PERCENTILES] + [1000 * latency.longest]
