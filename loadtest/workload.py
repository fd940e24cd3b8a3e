"""What a player does in a day: the one place that turns a number of players into requests a second.

One place for it, so that a load that was measured and one that somebody plans for are the
same kind of thing. The defaults for matches, looks at the top, the peak and the month are the textbook's (System Design
Interview, volume 2); the other reads are our assumption, since the textbook has none, and stand here to be changed.
"""

from dataclasses import dataclass

DAY_S = 86_400
READS = ("rank", "neighbours", "top", "lookup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Acts of an average player per day, how much busier the busiest time is, and how many more play in a month."""

    matches: float = 10.0  # each ends in one submission; the textbook's ten games a day
    top: float = 1.0  # looks at the top ten; the textbook's one a day
    rank: float = 2.0  # looks at one's own rank; assumed
    neighbours: float = 1.0  # looks at the players around; assumed
    lookup: float = 0.5  # ranks of a list of friends; assumed
    peak: float = 5.0  # busiest second / average second; the textbook's
    monthly: float = 5.0  # players of a month / players of a day; the textbook's 25 million of 5 million

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
