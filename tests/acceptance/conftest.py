"""One whole stack for the session, started and stopped by the command as a person would."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.ports import free_ports

START_S = 120


@dataclass(frozen=True)
class RunningStack:
    """A ready stack; `status` is what `rangeboard status --json` says."""

    data_dir: Path
    status: dict[str, Any]

    @property
    def api_url(self) -> str:
        return str(self.status["api_url"])

    @property
    def api_key(self) -> str:
        return str(self.status["api_key"])

    @property
    def dsn(self) -> str:
        return str(self.status["postgres_dsn"])

    def command(self, *words: str, timeout_s: float = START_S) -> "subprocess.CompletedProcess[str]":
        """Run a verb of `rangeboard` on this stack."""
        return rangeboard(*words, data_dir=self.data_dir, timeout_s=timeout_s)


def rangeboard(*words: str, data_dir: Path, timeout_s: float) -> "subprocess.CompletedProcess[str]":
    line = [str(Path(sys.executable).parent / "rangeboard"), *words, "--data-dir", str(data_dir)]
    return subprocess.run(
        line, capture_output=True, text=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL
    )


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    data_dir = tmp_path_factory.mktemp("stack") / "data"
    port = str(free_ports(1)[0])
    up = rangeboard("up", "--detach", "--port", port, data_dir=data_dir, timeout_s=START_S)
    assert up.returncode == 0, up.stdout + up.stderr
    try:
        status = rangeboard("status", "--json", data_dir=data_dir, timeout_s=30)
        yield RunningStack(data_dir, json.loads(status.stdout))
    finally:
        down = rangeboard("down", "--remove-data", data_dir=data_dir, timeout_s=START_S)
        assert down.returncode == 0, down.stdout + down.stderr
