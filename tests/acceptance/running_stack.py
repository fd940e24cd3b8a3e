"""A running stack, as the tests that go through it know it, and the command that made it."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
