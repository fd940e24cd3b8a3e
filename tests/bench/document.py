"""docs/benchmarks.md: each table and picture is written between two marks that name it."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def machine() -> str:
    """When and on what it was measured."""
    today, python = datetime.now(UTC).date(), platform.python_version()
    return f"{today}, {os.cpu_count()} cores ({platform.machine()}), Python {python}."


def write(
    part: str,
    how: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    page: Path = PAGE,
    below: Sequence[str] = (),
) -> None:
    """Put a table, and what is said above and below it, between its marks. ValueError if the page has no such marks."""
    begin, end = f"<!-- {part} -->\n", f"<!-- end of {part} -->"
    text = page.read_text()
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{page} has no marks for {part!r}")
    lines = [how, "", *("| " + " | ".join(row) + " |" for row in [headings, ["---"] * len(headings), *rows])]
    for sentence in below:
        lines += ["", sentence]
    page.write_text("\n".join([before + begin, *lines, "", end]) + after)
