"""A benchmark in a process of its own: the stack that it starts outlives the object that started it."""

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def lines_of(script: str) -> list[str]:
    """What the script printed; fails with what it complained of."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={
            **os.environ,
            "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'tests'}",
            "RANGEBOARD_REQUEST_DEADLINE_MS": "10000",  # a busy moment of this machine is no failed request
        },
        capture_output=True,
        text=True,
        timeout=270,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
