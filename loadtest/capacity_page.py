"""Keeps the tables of `docs/capacity.md` what the model says: `make capacity` writes them, a test compares them.

The page's words are written by hand and name no result; each table stands between two comments, the first of which
names it.
"""

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from loadtest.capacity import Assumptions, Plan, Step, plan
from loadtest.costs import measured
from loadtest.formulas import number

SMALL, LARGE = 5_000_000, 500_000_000
TARGET = 1.4  # rows and directory beside a bare sorted set, at a million players and more

_TABLE = re.compile(r"(?<=<!-- table: )(\w+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
_COMPARED = (
    ("submissions_per_s", "textbook_submissions_per_s"),
    ("peak_submissions_per_s", "textbook_peak_per_s"),
    ("peak_reads_per_s", None),
    ("memory_gb", "textbook_memory_gb"),
    ("primaries_for_memory", None),
    ("primaries_for_cpu", None),
    ("nodes", None),
    ("cluster_memory_gb", None),
    ("shards", None),
    ("directory_buckets", None),
    ("api_pods", None),
    ("worker_pods", None),
    ("rows_per_day", None),
    ("rows_per_month", None),
    ("storage_tb", None),
)


def renewed(page: str) -> str:
    """The page with its tables made anew. KeyError for a table that nobody knows."""
    return _TABLE.sub(lambda found: f"{found[1]}{found[2]}\n{_TABLES[found[1]]()}\n\n", page)


def _beside_the_textbook() -> str:
    small, large, batched = plan(SMALL), plan(LARGE), plan(LARGE, assumptions=Assumptions(batch_share=1))
    rows = []
    for key, textbook in _COMPARED:
        step = _step(small, key)
        theirs = [number(of[textbook]) if textbook else "" for of in (small, large)]
        ours = [number(of[key]) for of in (small, large, batched)]
        rows.append((f"{step.what} ({step.unit})", theirs[0], ours[0], theirs[1], *ours[1:]))
    head = ("", "5 M: textbook", "5 M", "500 M: textbook", "500 M", "500 M, all in batches")
    return _markdown(head, rows)


def _notes() -> str:
    return "\n".join(f"- {note}" for note in plan(LARGE).notes) or "Nothing."


def _arithmetic(players: int) -> str:
    steps = plan(players).steps
    rows = [(step.part, step.what, f"{number(step.value)} {step.unit}", f"`{step.arithmetic}`") for step in steps]
    return _markdown(("part", "what", "needs", "arithmetic"), rows)


def _memory() -> str:
    boards = measured().memory
    kinds = sorted({kind for board in boards for kind in board.by_kind})
    rows: list[tuple[str, ...]] = [
        (kind, *(number(board.by_kind.get(kind, 0.0)) for board in boards)) for kind in kinds
    ]
    rows.append(("all keys", *(number(sum(board.by_kind.values())) for board in boards)))
    rows.append(("growth of `used_memory`", *(number(board.told) for board in boards)))
    rows.append(("bare sorted sets of the same members", *(number(board.bare) for board in boards)))
    rows.append((f"rows + directory beside bare (target ≤ {TARGET})", *(f"{board.ratio:.2f}" for board in boards)))
    return _markdown(("bytes a player", *(f"{board.players:,} players" for board in boards)), rows)


def _inputs(*kinds: str) -> str:
    rows = [(f"`{one.name}`", number(one.value), one.words) for one in plan(SMALL).inputs if one.kind in kinds]
    return _markdown(("input", "value", "in words"), rows)


def _source() -> str:
    known = measured()
    return f"Measured on {known.on}, on {known.machine}, by {known.how}."


def _step(of: Plan, key: str) -> Step:
    return next(step for step in of.steps if step.key == key)


def _markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


_TABLES: dict[str, Callable[[], str]] = {
    "textbook": _beside_the_textbook,
    "notes": _notes,
    "small": lambda: _arithmetic(SMALL),
    "large": lambda: _arithmetic(LARGE),
    "memory": _memory,
    "costs": lambda: _inputs("cost"),
    "assumptions": lambda: _inputs("workload", "assumption"),
    "source": _source,
}


def main() -> None:
    """Renew the page that is named."""
    page = Path(sys.argv[1])
    page.write_text(renewed(page.read_text()))


if __name__ == "__main__":
    main()
