"""Who sends what, and when: the players of a run, their zeal, and an arrival schedule that waits for nobody.

Open loop: requests arrive at random times (a Poisson process), drawn in advance, and a slow service does not make them
arrive later. A closed loop, where each simulated user waits for the answer before sending again, slows down together
with what it measures and hides the stall. So latency is counted from the time a request was meant to be sent.

Zeal is heavy-tailed, as among real players: with the spread used here the most active hundredth plays an eighth of all
matches. Players are named by hashing the run and a number, so every process knows all of them without being told.
"""

import random
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from uuid import UUID, uuid5

from loadtest.workload import Workload

_NAMESPACE = UUID("6f1d5d0e-6d0c-4c8e-9c35-9a4b1c6f7a51")
_ZEAL_SPREAD = 1.2  # of the logarithm
_MOST_POINTS = 40
#: Beyond what any board takes (2^30 points): a submission that must be refused.
ABSURD_VALUE = 2**40


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One run. The scale is one product: `dau` daily players, of whose busiest hour `fraction` is sent."""

    run: str  # a word of a-z 0-9 that no other run has
    dau: int
    fraction: float
    seconds: float
    players: int
    workload: Workload = field(default_factory=Workload)
    batch_share: float = 0.0  # of the submissions, sent in batches
    batch_size: int = 50
    resend_share: float = 0.01  # of the submissions, sent a second time: they must not count again
    absurd_share: float = 0.002  # of the submissions, with a score that must be refused
    reads: float = 1.0  # times what the workload says
    lookup: bool = False  # whether the service has it

    def __post_init__(self) -> None:
        """ValueError names what makes no sense."""
        if self.dau < 1 or self.players < 1 or self.seconds <= 0:
            raise ValueError("a run needs players, and time")
        if not 0 < self.fraction <= 1:
            raise ValueError("the fraction lies above 0 and up to 1")
        if not 0 <= self.batch_share <= 1 or not 1 <= self.batch_size <= 10_000:
            raise ValueError("the share of batches lies between 0 and 1, their size between 1 and 10,000")
        if self.reads < 0:
            raise ValueError("there cannot be less than no reads")

    @property
    def submissions_per_s(self) -> float:
        """Submissions a second, however they travel; what is sent a second time comes on top."""
        return self.workload.submissions_per_s(self.dau * self.fraction)

    @property
    def singles_per_s(self) -> float:
        """Requests a second with one submission."""
        return self.submissions_per_s * (1 - self.batch_share)

    @property
    def batches_per_s(self) -> float:
        """Requests a second with a batch of submissions."""
        return self.submissions_per_s * self.batch_share / self.batch_size

    @property
    def reads_per_s(self) -> float:
        """Reads a second."""
        return sum(self.read_rates.values())

    @property
    def read_rates(self) -> dict[str, float]:
        """Reads a second, by kind."""
        each_per_s = self.reads * self.submissions_per_s / self.workload.matches
        return {kind: each_per_s * acts for kind, acts in self.workload.reads.items() if self._offered(kind)}

    def _offered(self, kind: str) -> bool:
        return self.lookup or kind != "lookup"

    @property
    def requests(self) -> float:
        """Requests that the schedule holds, on average."""
        return (self.singles_per_s + self.batches_per_s + self.reads_per_s) * self.seconds


class Crowd:
    """The players of a run, some of them keen."""

    def __init__(self, run: str, size: int) -> None:
        self.players = [str(uuid5(_NAMESPACE, f"{run}/{number}")) for number in range(size)]
        zeal = random.Random(run)  # noqa: S311  # the same in every process, and no secret
        self._cumulative = list(accumulate(zeal.lognormvariate(0, _ZEAL_SPREAD) for _ in self.players))

    def somebody(self, rng: random.Random) -> str:
        """A player, the keen ones more often."""
        return self.players[bisect(self._cumulative, rng.random() * self._cumulative[-1], hi=len(self.players) - 1)]


def arrivals(per_s: float, seconds: float, rng: random.Random) -> Iterator[float]:
    """When requests are due, in seconds from the start, ascending: `per_s` a second on average, each independent."""
    due = rng.expovariate(per_s) if per_s > 0 else seconds
    while due < seconds:
        yield due
        due += rng.expovariate(per_s)


def points_of_match(rng: random.Random) -> int:
    """What a match is worth."""
    return rng.randint(1, _MOST_POINTS)
