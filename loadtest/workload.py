"""What a player does in a day: the one place that turns a number of players into requests a second.

One place for it, so that a load that was measured and one that somebody plans for are the
same kind of thing. The defaults for matches, looks at the top, the peak and the month are the textbook's (System Design
Interview, volume 2); the other reads are our assumption, since the textbook has none, and stand here to be changed.
"""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

DAY_S = 86_400
READS = ("rank", "neighbours", "top", "lookup")

_Acts = Annotated[float, Meta(ge=0, le=100_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Acts of an average player per day, how much busier the busiest time is, and how many more play in a month."""

    matches: Annotated[
        float, Meta(gt=0, le=100_000, description="a day; each ends in one submission: the textbook's ten")
    ] = 10.0
    top: Annotated[_Acts, Meta(description="looks at the top ten a day: the textbook's one")] = 1.0
    rank: Annotated[_Acts, Meta(description="looks at one's own rank a day; the textbook has none")] = 2.0
    neighbours: Annotated[_Acts, Meta(description="looks at the players around a day; the textbook has none")] = 1.0
    lookup: Annotated[_Acts, Meta(description="ranks of a list of friends a day; the textbook has none")] = 0.5
    peak: Annotated[float, Meta(ge=1, le=1000, description="busiest second / average second: the textbook's")] = 5.0
    monthly: Annotated[
        float, Meta(ge=1, le=30, description="players of a month / of a day: the textbook's 25 of 5 million")
    ] = 5.0

    def submissions_per_s(self, players: float, *, peak: bool = True) -> float:
        """Submissions a second of so many daily players."""
        return self._per_s(players, self.matches, peak)

    def reads_per_s(self, players: float, *, peak: bool = True) -> float:
        """Reads a second of so many daily players, of all kinds."""
        return self._per_s(players, sum(self.reads.values()), peak)

    @property
    def reads(self) -> dict[str, float]:
        """Reads of an average player per day, by kind."""
        return {kind: getattr(self, kind) for kind in READS}

    def _per_s(self, players: float, acts: float, peak: bool) -> float:
        return players * acts / DAY_S * (self.peak if peak else 1.0)
