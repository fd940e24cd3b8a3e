"""CPU time of the service's parts: of the right processes, each counted once."""

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from loadtest.processes import cpu_seconds, parts_of, spent

BURN = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
#: A parent that does nothing, over a child that computes.
FAMILY = f"import os, subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {BURN!r}])\nchild.wait()"


@pytest.fixture
def family() -> Iterator[subprocess.Popen[str]]:
    parent = subprocess.Popen([sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    parent.stdout.readline()
    yield parent
    parent.communicate("\n", timeout=30)


def test_a_process_counts_with_its_children(family: subprocess.Popen[str]) -> None:
    assert cpu_seconds({"api": [family.pid]})["api"] >= 0.25


def test_a_child_that_is_a_part_of_its_own_is_not_its_parents(family: subprocess.Popen[str]) -> None:
    """As under a supervisor, which is everybody's parent."""
    (child,) = psutil.Process(family.pid).children()
    seconds = cpu_seconds({"supervisor": [family.pid], "api": [child.pid]})
    assert seconds["api"] >= 0.25
    assert seconds["supervisor"] < 0.25


def test_a_process_that_is_gone_counts_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    seconds = cpu_seconds({"api": [gone.pid], "me": [os.getpid()]})
    assert seconds["api"] == 0
    assert seconds["me"] > 0


def test_a_restarted_part_counts_from_its_restart() -> None:
    assert spent({"api": 10.0, "worker": 5.0}, {"api": 12.5, "worker": 1.0}) == {"api": 2.5, "worker": 1.0}


def test_the_parts_of_a_stack_are_read_from_its_status() -> None:
    status = {
        "redis": [{"pid": 1, "role": "primary"}, {"pid": 2, "role": "replica"}, {"pid": 3, "role": "primary"}],
        "pids": {"redis-1": 1, "redis-2": 2, "redis-3": 3, "api": 9, "worker": None},
    }
    assert parts_of(status) == {"redis primaries": [1, 3], "redis replicas": [2], "api": [9]}
    assert parts_of({"ready": True}) == {}
