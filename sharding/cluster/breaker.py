"""A circuit breaker for one Redis node.

A node that failed several times in a row is not asked again for a while: callers fail at once instead of each waiting
for its own timeout. After that while one caller, the prober, is let through; its success closes the breaker, its
failure opens it again.
"""

from dataclasses import dataclass

FAILURES_TO_OPEN = 3
OPEN_FOR_S = 0.5


@dataclass(slots=True)
class Breaker:
    """Time is given in seconds of any monotonic clock."""

    failures: int = 0
    probe_at: float = 0.0

    def allows(self, now: float) -> bool:
        """Whether a caller may ask the node now; if the breaker is open, that caller is the prober."""
        if self.failures < FAILURES_TO_OPEN:
            return True
        if now < self.probe_at:
            return False
        self.probe_at = now + OPEN_FOR_S
        return True

    def succeeded(self) -> None:
        """The node answered."""
        self.failures = 0

    def failed(self, now: float) -> None:
        """The node did not answer."""
        self.failures += 1
        self.probe_at = now + OPEN_FOR_S

    @property
    def is_open(self) -> bool:
        """Whether the node is taken to be down."""
        return self.failures >= FAILURES_TO_OPEN
