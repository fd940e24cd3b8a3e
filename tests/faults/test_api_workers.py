"""The API's own workers, killed (`kill -9`) at every step of a move, while players and game servers go on over HTTP.

`test_faults.py` kills processes that write as the API does, a thousand of them in its large form, and says at which
step. Here gunicorn's workers die, and Celery's where the sweep takes the same steps; gunicorn and Celery replace them.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.scenarios import HANDOFF_POINTS
from running_stack import START_S, RunningStack, rangeboard
from waiting import wait_until

from cli.ports import free_ports

pytestmark = pytest.mark.servers

#: `make faults-api` goes on for longer.
SECONDS = float(os.environ.get("API_SECONDS", "8"))
WORKERS = 2
_BOOTED = re.compile(r'"event": ?"Booting worker')
#: Thresholds are out of the way: what fails is the point of it.
_UNTIMED = ("--write-p99-ms", "1e9", "--read-p99-ms", "1e9", "--late-p99-ms", "1e9", "--failed-percent", "100")


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningStack]:
    """A stack whose processes die now and then at a step of a move."""
    data_dir = tmp_path / "data"
    harm = ",".join(f"handoff.{point}=kill@0.2" for point in HANDOFF_POINTS)
    try:
        with monkeypatch.context() as patch:
            patch.setenv("RANGEBOARD_FAILPOINTS", harm)
            up = ("up", "--detach", "--port", str(free_ports(1)[0]), "--api-workers", str(WORKERS))
            started = rangeboard(*up, data_dir=data_dir, timeout_s=START_S)
        assert started.returncode == 0, started.stdout + started.stderr
        status = rangeboard("status", "--json", data_dir=data_dir, timeout_s=START_S)
        yield RunningStack(data_dir, json.loads(status.stdout))
    finally:
        rangeboard("down", "--remove-data", data_dir=data_dir, timeout_s=START_S)


def told(stack: RunningStack, *words: str) -> Any:
    done = stack.command(*words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(SECONDS + 300)
def test_workers_killed_at_every_step_of_a_move_lose_nothing(dying: RunningStack, tmp_path: Path) -> None:
    """Every acknowledged submission counts once; strays and movers are home within five seconds; nothing to repair."""
    status = tmp_path / "status.json"
    status.write_text(json.dumps(dying.status))
    words = ("--stack", str(status), "--dau", "100000", "--fraction", "1", "--duration", f"{SECONDS:g}", *_UNTIMED)
    line = [sys.executable, "-m", "loadtest.run", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS + 200, check=False)
    # 4: connections were refused while workers came back, so that some of the load was never sent
    assert done.returncode in {0, 4}, done.stdout + done.stderr
    booted = len(_BOOTED.findall((Path(dying.status["logs"]) / "api.log").read_text()))
    print(f"{booted - WORKERS} workers of the API were killed\n{done.stdout}")
    assert booted - WORKERS >= 2

    def is_home() -> bool:
        return sum(view["strays"] + view["leaving"] for view in told(dying, "shards")) == 0

    wait_until(is_home, 5.0, "strays and movers are home")
    verdict = told(dying, "verify")
    assert verdict["agrees"], verdict
    assert verdict["rows_in_redis"] > 20

    def scrubbed() -> Any:
        """What a pass of our own repaired; the workers' own pass may be going on, which is said."""
        done = dying.command("scrub", "--json")
        assert done.returncode == 0 or "is being scrubbed already" in done.stderr, done.stdout + done.stderr
        return json.loads(done.stdout) if done.returncode == 0 else None

    repairs = wait_until(scrubbed, 60.0, "nobody else scrubs")
    assert "scrub_repaired" not in (Path(dying.status["logs"]) / "worker.log").read_text(), "nor did the workers' own"
    assert repairs["pointed"] == repairs["buried"] == repairs["restored"] == 0, repairs
