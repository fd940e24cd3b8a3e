"""Metrics: the page lists all of them, units are in their names, and a pool's processes leave no files behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from api import metrics as _api  # noqa: F401
from k8s.reconciler import metrics as _reconciler  # noqa: F401
from sharding import leaderboard as _leaderboard  # noqa: F401
from workers import metrics as _workers  # noqa: F401

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "metrics.md").read_text()
UNITS = (
    "seconds",
    "submissions",
    "entries",
    "calls",
    "waits",
    "moves",
    "events",
    "rows",
    "players",
    "listeners",
    "repairs",
    "nodes",
)


def registered() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Name as Prometheus shows it: type, labels, help."""
    found = {}
    for metric in REGISTRY._collector_to_names:
        name = getattr(metric, "_name", "")
        if name.startswith("rangeboard_"):
            kind = type(metric).__name__.lower()
            shown = name + "_total" if kind == "counter" else name
            found[shown] = (kind, tuple(metric._labelnames), metric._documentation)
    return found


def listed() -> dict[str, tuple[str, tuple[str, ...], str]]:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*?) \|", PAGE, re.MULTILINE)
    return {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), words) for name, kind, labels, words in rows}


def test_the_page_lists_what_is_counted() -> None:
    assert listed() == registered()


def test_units_are_in_the_names() -> None:
    """But for states, which have none."""
    states = {"rangeboard_board_generation", "rangeboard_reconciler_leading", "rangeboard_reconciler_formed"}
    countable = {
        "rangeboard_scrubbed_total",
        "rangeboard_reconciler_actions_total",
        "rangeboard_reconciler_failures_total",
    }
    for name in registered().keys() - states - countable:
        assert name.removesuffix("_total").rpartition("_")[2] in UNITS, name


@pytest.mark.parametrize("generations", [1, 5])
def test_processes_that_follow_each_other_count_on_in_the_same_files(tmp_path: Path, generations: int) -> None:
    """Celery replaces its processes: however often it does, the files stay the same, and no count is lost."""
    script = """
import sys
from billiard.pool import Pool
from runtime.metrics import everybodys
from workers import metrics

def work(_):
    metrics.repaired_rows.labels("global").inc()
    metrics.shared.moves_finished.inc()

if __name__ == "__main__":
    with Pool(1, maxtasksperchild=2) as pool:
        for asked in range(int(sys.argv[1])):
            pool.apply(work, (asked,))
    counted = {sample.name: sample.value for metric in everybodys().collect() for sample in metric.samples
               if sample.labels in ({"board": "global"}, {"outcome": "finished"})}
    print(counted["rangeboard_repaired_rows_total"], counted["rangeboard_moves_total"])
"""
    file = tmp_path / "pool.py"
    file.write_text(script)
    folder = tmp_path / "metrics"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(file), str(2 * generations)],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{2 * generations}.0"] * 2
    counted_by = {path.name.removeprefix("counter_") for path in folder.glob("counter*")}
    assert len(counted_by) <= 3, "the parent, before it knew that it is one and after; and one place"
    assert "child-0.db" in counted_by
