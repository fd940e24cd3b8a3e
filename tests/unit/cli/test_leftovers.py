"""Exactly the processes of one data directory are ended, however they were orphaned."""

import os
import signal
import subprocess
import sys

import pytest

from cli import leftovers
from cli.supervisor import MARK


@pytest.fixture
def sleepers(tmp_path):
    """Three processes: one of the data directory, one of another, one without a mark."""
    marks = [{MARK: str(tmp_path)}, {MARK: str(tmp_path / "other")}, {}]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"],
            env={**os.environ, **mark},
            stdout=subprocess.PIPE,
        )
        for mark in marks
    ]
    for process in running:
        process.stdout.readline()
    yield running
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def test_only_the_processes_of_this_directory_are_found(tmp_path, sleepers):
    assert [process.pid for process in leftovers.find(tmp_path, tmp_path / "postgres")] == [sleepers[0].pid]


def test_they_are_ended_and_nobody_else(tmp_path, sleepers):
    assert leftovers.end(tmp_path, tmp_path / "postgres", deadline_s=5) == 1
    assert sleepers[0].wait(5) == -signal.SIGTERM
    assert [process.poll() for process in sleepers[1:]] == [None, None]
    assert leftovers.end(tmp_path, tmp_path / "postgres", deadline_s=5) == 0


def test_one_that_does_not_listen_is_killed(tmp_path):
    deaf = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)",
        ],
        env={**os.environ, MARK: str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    with deaf:
        deaf.stdout.readline()
        leftovers.end(tmp_path, tmp_path / "postgres", deadline_s=0.3)
        assert deaf.wait(5) == -signal.SIGKILL
