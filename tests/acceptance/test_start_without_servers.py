"""Processes that start before their servers wait for them, alive, and say what they wait for."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import wait_until

from cli.ports import free_ports


@pytest.fixture
def nobody(tmp_path: Path) -> dict[str, str]:
    """An environment whose settings name servers that are not there."""
    redis, broker, postgres, api, metrics = free_ports(5)
    return {
        **os.environ,
        "RANGEBOARD_REDIS_NODES": f"127.0.0.1:{redis}",
        "RANGEBOARD_BROKER_URL": f"redis://127.0.0.1:{broker}/0",
        "RANGEBOARD_POSTGRES_DSN": f"postgresql://nobody@127.0.0.1:{postgres}/nothing",
        "RANGEBOARD_API_PORT": str(api),
        "RANGEBOARD_METRICS_PORT": str(metrics),
        "RANGEBOARD_API_WORKERS": "1",
        "RANGEBOARD_WORKER_METRICS_PORT": "0",
        "PYTHONWARNINGS": "ignore",
    }


@contextmanager
def running(words: list[str], environment: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], env=environment, cwd=log.parent, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def asked(url: str) -> tuple[int, dict[str, object]] | None:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return None


def test_the_api_lives_and_names_what_is_away(nobody: dict[str, str], tmp_path: Path) -> None:
    words = ["gunicorn", "-c", "python:api.gunicorn_conf", "api.app:create_app()"]
    url = f"http://127.0.0.1:{nobody['RANGEBOARD_API_PORT']}"
    with running(words, nobody, tmp_path / "api.log"):
        assert wait_until(lambda: asked(f"{url}/livez"), seconds=60) == (200, {"status": "alive"})
        found = asked(f"{url}/readyz")
        assert found is not None
        status, said = found
        assert (status, said["status"]) == (503, "unavailable")
        dependencies = said["dependencies"]
        assert isinstance(dependencies, dict)
        assert dependencies.keys() == {"redis cluster", "postgresql", "board global"}
        assert "ok" not in dependencies.values()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["worker", "--concurrency", "1", "--without-gossip", "--without-mingle"], "Cannot connect to redis://"),
        (["beat", "--schedule=schedule", "--pidfile="], "Connection error"),
    ],
)
def test_workers_and_beat_try_again_and_wait_longer_each_time(
    words: list[str], said: str, nobody: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with running(["celery", "--quiet", "-A", "workers.app:app", *words], nobody, log) as process:
        wait_until(lambda: log.read_text().count(said) >= 2, seconds=60)
        assert process.poll() is None
        assert "Trying again in 2.0" in log.read_text()
        assert "Trying again in 4.0" in log.read_text()
