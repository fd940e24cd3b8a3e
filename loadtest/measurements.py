"""What a process measured, second by second, in a form that several processes' results can be added up in.

Two clocks for every request: *latency* from the time it was due, which is what the open loop is for, and *service* from
the time it was sent, which shows how much of that the request spent waiting for a free connection.
"""

from collections.abc import Iterable

import msgspec

from loadtest.histogram import Histogram

#: Different reasons that are told apart; the rest is "other", so that no answer can fill the memory.
_MOST_REASONS = 30
_LONGEST_REASON = 80


class Second(msgspec.Struct):
    """The requests of one kind that were due in one second."""

    answered: int = 0  # as documented for what was sent
    failed: int = 0
    latency: Histogram = msgspec.field(default_factory=Histogram)


class Kind(msgspec.Struct):
    """The requests of one kind: by second since the load began, with the reasons of failures."""

    seconds: dict[int, Second] = msgspec.field(default_factory=dict)
    service: Histogram = msgspec.field(default_factory=Histogram)
    reasons: dict[str, int] = msgspec.field(default_factory=dict)

    def blame(self, reason: str, count: int = 1) -> None:
        """Count a failure's reason."""
        if reason not in self.reasons and len(self.reasons) >= _MOST_REASONS:
            reason = "other"
        self.reasons[reason] = self.reasons.get(reason, 0) + count

    @property
    def answered(self) -> int:
        """Requests that were answered as documented."""
        return sum(second.answered for second in self.seconds.values())

    @property
    def failed(self) -> int:
        """Requests that were not."""
        return sum(second.failed for second in self.seconds.values())

    @property
    def latency(self) -> Histogram:
        """All latencies."""
        return latency_of([self])


class Measurements(msgspec.Struct):
    """What one process saw, or several together.

    `due`: requests that the schedule held; `unsent`: of these, not sent by the end because every connection was busy or
    the ledger full. `late`: how late the generator itself woke up for requests that a connection was free for.
    """

    kinds: dict[str, Kind] = msgspec.field(default_factory=dict)
    due: int = 0
    unsent: int = 0
    late: Histogram = msgspec.field(default_factory=Histogram)
    cpu_s: float = 0.0  # of the generator's processes
    wall_s: float = 0.0
    processes: int = 1
    notes: list[str] = msgspec.field(default_factory=list)

    def record(self, kind: str, due_at: float, sent_at: float, done_at: float, failure: str = "") -> None:
        """Count one request; times are seconds since the load began, `failure` says in a few words what was wrong."""
        of_kind = self.kinds.setdefault(kind, Kind())
        second = of_kind.seconds.setdefault(int(due_at), Second())
        second.latency.record(done_at - due_at)
        of_kind.service.record(done_at - sent_at)
        if failure:
            second.failed += 1
            of_kind.blame(failure[:_LONGEST_REASON])
        else:
            second.answered += 1

    def add(self, other: "Measurements") -> None:
        """Count everything that another process counted in the same time."""
        for name, kind in other.kinds.items():
            mine = self.kinds.setdefault(name, Kind())
            for at, second in kind.seconds.items():
                my_second = mine.seconds.setdefault(at, Second())
                my_second.answered += second.answered
                my_second.failed += second.failed
                my_second.latency.add(second.latency)
            mine.service.add(kind.service)
            for reason, count in kind.reasons.items():
                mine.blame(reason, count)
        self.due += other.due
        self.unsent += other.unsent
        self.late.add(other.late)
        self.cpu_s += other.cpu_s
        self.wall_s = max(self.wall_s, other.wall_s)
        self.processes += other.processes
        self.notes += [note for note in other.notes if note not in self.notes]

    @property
    def requests(self) -> int:
        """Requests that were sent."""
        return sum(kind.answered + kind.failed for kind in self.kinds.values())

    @property
    def failed(self) -> int:
        """Requests that were not answered as documented."""
        return sum(kind.failed for kind in self.kinds.values())


def latency_of(kinds: Iterable[Kind], at: int | None = None) -> Histogram:
    """The latencies of these kinds together, of one second or of all."""
    whole = Histogram()
    for kind in kinds:
        for second in kind.seconds.values() if at is None else filter(None, [kind.seconds.get(at)]):
            whole.add(second.latency)
    return whole


def together(parts: Iterable[Measurements]) -> Measurements:
    """The measurements of several processes as one; ValueError if there are none."""
    whole: Measurements | None = None
    for part in parts:
        if whole is None:
            whole = part
        else:
            whole.add(part)
    if whole is None:
        raise ValueError("no process measured anything")
    return whole
