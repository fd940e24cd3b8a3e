"""Bytes of a player by kind of key, beside a bare sorted set of the same members, on boards of any size.

The players are loaded as a rebuild does it. Then some of them play, while nothing is drained: only so are there recent
events, moves and waiting audit entries to measure. Those kinds are not held for every player, so their bytes an entry
say more than their share of this board.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.costs import beat_asleep
from bench.growth import filled, player
from bench.sizes import Sizes
from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.leaderboard import Leaderboard, RankMode, Submission

GAMES = 100_000
_TOGETHER = 2_000
_POINTS = 20
_STEP_S = 60.0

#: What an entry of each kind of key is, in the order of the table.
ENTRIES = {
    "rows": "a player",
    "directory": "a player",
    "epochs": "a player who has moved",
    "gone": "a move, for a day or two",
    "recent": "a player with events of the last two hours",
    "outbox": "a submission that waits for PostgreSQL",
    "head": "",
    "map": "",
}


@dataclass(frozen=True)
class Held:
    """Bytes by kind of key on a board of so many players, and how many entries those kinds had."""

    players: int
    sizes: dict[str, float]
    entries: dict[str, float]
    bare: float

    def each(self, kind: str) -> float | None:
        """Bytes of an entry; None where there are none."""
        return self.sizes[kind] / self.entries[kind] if self.entries.get(kind) else None

    @property
    def ratio(self) -> float:
        """Rows and directory beside bare sorted sets."""
        return (self.sizes["rows"] + self.sizes["directory"]) / self.bare


def measure(given: Settings, players: int, games: int, console: Console) -> Held:
    """A board of so many players, after so many games."""
    with filled(given, players, console) as (stack, leaderboard, name), beat_asleep(stack):
        _play(leaderboard, name, players, games)
        sizes = Sizes([node["port"] for node in stack.status()["redis"] if node["role"] == "primary"])
        entries = sizes.counts() | {"outbox": games}
        held = Held(players, sizes.by_kind(), entries, sizes.bare())
    console.print(table([held]))  # the next one may be larger than this machine
    return held


def _play(leaderboard: Leaderboard, name: BoardPeriod, players: int, games: int) -> None:
    chance = random.Random(players)
    for first in range(0, games, _TOGETHER):
        wins = [
            Submission(player(chance.randrange(players)), chance.randint(1, _POINTS), f"memory-{number}")
            for number in range(first, min(first + _TOGETHER, games))
        ]
        results = leaderboard.submit(name, wins, Deadline.after(_STEP_S), rank=RankMode.NONE)
        assert all(result.error is None for result in results), "a submission failed"


def headings(boards: Sequence[Held]) -> tuple[str, ...]:
    """The table's head."""
    each = (f"bytes an entry, {board.players:,} players" for board in boards)
    return "kind of key", "an entry is", *each, *(f"bytes a player, {board.players:,}" for board in boards)


def rows(boards: Sequence[Held]) -> list[tuple[str, ...]]:
    """The table's rows: every kind of key, then the sum, then what it is beside bare sorted sets."""
    lines = []
    for kind, entry in ENTRIES.items():
        each = [board.each(kind) for board in boards]
        shares = (f"{board.sizes.get(kind, 0.0) / board.players:.2f}" for board in boards)
        lines.append((kind, entry, *("" if one is None else f"{one:.1f}" for one in each), *shares))
    blank = [""] * (1 + len(boards))
    lines += [
        ("all keys", *blank, *(f"{sum(board.sizes.values()) / board.players:.2f}" for board in boards)),
        ("bare sorted sets", *blank, *(f"{board.bare / board.players:.2f}" for board in boards)),
        ("rows + directory beside bare, ≤ 1.4", *blank, *(f"{board.ratio:.2f}" for board in boards)),
    ]
    return lines


def table(boards: Sequence[Held]) -> Table:
    """The same for a person."""
    shown = Table(*headings(boards), title="Memory")
    for row in rows(boards):
        shown.add_row(*row)
    return shown
