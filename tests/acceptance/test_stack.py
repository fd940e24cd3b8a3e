"""`rangeboard up`, `status` and `down` as a person uses them: ready means ready, nothing is lost, nothing stays behind.

Everything goes through the command and HTTP. A test that breaks something waits for what is promised, with a deadline.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import wait_until

from cli import leftovers
from cli.ports import free_ports, is_free
from cli.state import DataDirectory

pytestmark = pytest.mark.servers

READY_S = 15.0  # what `up` promises on an idle machine; the tests allow for a busy one
PATIENCE_S = 60.0


class Command:
    """The command `rangeboard` on one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.port = free_ports(1)[0]

    def run(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            self._line(*words),
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return done

    def up(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return self.run("up", "--detach", "--port", str(self.port), *words, check=check)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return found

    def in_foreground(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self._line("up", "--port", str(self.port), *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def processes(self) -> list[psutil.Process]:
        state = DataDirectory(self.data_dir).load()
        return leftovers.find(self.data_dir, state.home.directory / "data") if state else []

    def _line(self, verb: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "cli.main", verb, "--data-dir", str(self.data_dir), *words]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A stack of the default shape, running; a test that stops it starts it again."""
    command = Command(tmp_path_factory.mktemp("stack") / "data")
    try:
        command.up()
        yield command
    finally:
        command.run("down", "--remove-data", check=False)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Command]:
    """A data directory for a small stack of its own, not started."""
    command = Command(tmp_path / "data")
    try:
        yield command
    finally:
        command.run("down", "--remove-data", check=False)


SMALL = ("--primaries", "1", "--replicas", "0", "--api-workers", "1")


def call(status: dict[str, Any], method: str, path: str, body: object = None) -> tuple[int, Any]:
    request = urllib.request.Request(
        status["api_url"] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {status['api_key']}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None


def points(status: dict[str, Any], player: str) -> int | None:
    code, answer = call(status, "GET", f"/api/v1/scores/{player}")
    return answer["score"] if code == 200 else None


def win(status: dict[str, Any], player: str, match: str) -> int:
    """Register the player, count one win, and return the points; the same match again changes nothing."""
    code, _ = call(status, "POST", "/api/v1/users", {"user_id": player, "username": player})
    assert code in {200, 201, 409}
    code, answer = call(status, "POST", "/api/v1/scores", {"user_id": player, "score": 1, "match_id": match})
    assert code == 200
    score: int = answer["score"]
    return score


def still_running(processes: list[psutil.Process]) -> list[str]:
    """What of them is alive; the dead that nobody has buried yet are not."""
    alive = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(f"{process.pid} {process.status()} {process.cmdline()}")
    return alive


def healthy(command: Command) -> bool:
    """Three primaries own every slot, each has its replica, every process runs, and the API is ready."""
    status = command.status()
    roles = [node["role"] for node in status["redis"]]
    return (
        sorted(roles) == ["primary"] * 3 + ["replica"] * 3
        and sum(node["slots"] for node in status["redis"]) == 16384
        and set(status["processes"].values()) == {"running"}
        and status["ready"]
    )


def test_up_returns_once_it_is_ready(command):
    code, _ = call(command.status(), "GET", "/readyz")
    assert code == 200


def test_status_tells_a_script_everything(command):
    status = command.status()
    assert status["ready"] is True
    assert status["api_url"] == f"http://127.0.0.1:{command.port}"
    assert status["data_dir"] == str(command.data_dir)
    assert {"metrics_url", "broker_url", "postgres_dsn", "api_key"} <= set(status)
    assert [set(node) >= {"port", "role", "pid", "slots"} for node in status["redis"]] == [True] * 6
    expected = {
        *(f"redis-{place}" for place in range(1, 7)),
        "broker",
        "postgres",
        "worker",
        "beat",
        "api",
        "supervisord",
    }
    assert set(status["pids"]) == expected
    assert all(psutil.pid_exists(pid) for pid in status["pids"].values())
    wait_until(lambda: healthy(command), PATIENCE_S, "everything answers")


def test_status_tells_a_person_the_same(command):
    shown = command.run("status").stdout
    assert "redis-6" in shown
    assert "ready" in shown
    assert "\x1b" not in shown, "colours are for terminals"


def test_the_key_is_for_its_owner_only(command):
    assert (command.data_dir / "stack.json").stat().st_mode & 0o077 == 0


def test_a_second_up_says_that_it_runs_and_where(command):
    refused = command.up(check=False)
    assert refused.returncode == 1
    assert refused.stderr == f"{command.data_dir} is running already at http://127.0.0.1:{command.port}.\n"


def test_a_killed_primary_is_replaced_restarted_and_has_lost_nothing(command):
    status = command.status()
    win(status, "faithful", "before")
    victim = next(node for node in status["redis"] if node["role"] == "primary")
    os.kill(victim["pid"], signal.SIGKILL)
    place = status["redis"].index(victim)
    wait_until(lambda: command.status()["redis"][place]["pid"] != victim["pid"], PATIENCE_S, "it is restarted")
    wait_until(lambda: healthy(command), PATIENCE_S, "the cluster is whole again")
    restarted = next(node for node in command.status()["redis"] if node["name"] == victim["name"])
    assert restarted["role"] == "replica", "it must not come back as a primary before its replica has taken over"
    assert points(status, "faithful") == 1
    assert win(status, "faithful", "before") == 1
    assert win(status, "faithful", "after") == 2


@pytest.mark.parametrize("name", ["worker", "beat", "api", "postgres", "broker"])
def test_whatever_is_killed_is_restarted(command, name):
    pid = command.status()["pids"][name]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: command.status()["pids"].get(name, pid) != pid, PATIENCE_S, f"{name} is restarted")
    wait_until(lambda: healthy(command), PATIENCE_S, "everything runs again")


def test_down_leaves_no_process_and_up_brings_the_data_back(command):
    win(command.status(), "patient", "m1")
    before = command.status()
    everybody = command.processes()
    assert len(everybody) > len(before["pids"])
    command.run("down")
    assert command.processes() == []
    assert still_running(everybody) == []
    assert all(is_free(node["port"]) for node in before["redis"])
    command.up()
    after = command.status()
    assert points(after, "patient") == 1
    assert after["api_key"] == before["api_key"]
    assert [node["port"] for node in after["redis"]] == [node["port"] for node in before["redis"]]


def test_everything_killed_at_once_starts_again_with_its_data(command):
    """Also where PostgreSQL's pid has gone to somebody else of the same account meanwhile."""
    status = command.status()
    win(status, "survivor", "m1")
    for process in command.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    state = DataDirectory(command.data_dir).load()
    assert state is not None
    lock = state.home.directory / "data" / "postmaster.pid"
    lines = lock.read_text().splitlines()
    with subprocess.Popen(["sleep", "600"], user=lock.stat().st_uid) as somebody:
        lock.write_text("\n".join([str(somebody.pid), *lines[1:]]) + "\n")
        began = time.monotonic()
        command.up()
        somebody.kill()
    assert time.monotonic() - began < 2 * READY_S
    assert call(command.status(), "GET", "/readyz")[0] == 200
    wait_until(lambda: healthy(command), PATIENCE_S, "everything answers")
    assert points(status, "survivor") == 1


def test_down_ends_what_a_killed_supervisor_left_behind(command):
    psutil.Process(command.status()["pids"]["supervisord"]).kill()
    orphans = command.processes()
    assert len(orphans) > 10
    assert command.run("status", check=False).returncode == 1
    assert "processes that nobody supervised" in command.run("down").stdout
    assert still_running(orphans) == []
    command.up()


def test_a_node_whose_port_was_taken_comes_back_at_another(command):
    command.run("down")
    state = DataDirectory(command.data_dir).load()
    assert state is not None
    port = state.ports["redis-1"]
    somebody = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: not is_free(port), PATIENCE_S, "the port is taken")
        said = command.up().stdout
    finally:
        somebody.kill()
        somebody.wait()
    assert f"port {port} of redis-1 is in use by somebody else" in said
    assert call(command.status(), "GET", "/readyz")[0] == 200
    wait_until(lambda: healthy(command), PATIENCE_S, "everything answers")
    assert points(command.status(), "survivor") == 1


def test_in_the_foreground_a_crash_is_shown_and_ctrl_c_stops_everything(small):
    with small.in_foreground(*SMALL) as up:
        assert up.stdout is not None
        shown = read_until(up, "to stop")
        assert small.status()["api_key"] in shown
        os.kill(small.status()["pids"]["beat"], signal.SIGKILL)
        read_until(up, "beat died: terminated by SIGKILL; it is being restarted")
        read_until(up, "beat started, pid")
        everybody = small.processes()
        up.send_signal(signal.SIGINT)
        assert "Stopped." in up.stdout.read()
        assert up.wait(PATIENCE_S) == 0
    assert everybody
    assert still_running(everybody) == []


def test_ctrl_c_while_it_starts_leaves_nothing(small):
    with small.in_foreground(*SMALL) as up:
        read_until(up, "supervisor running")
        everybody = small.processes()
        up.send_signal(signal.SIGINT)
        assert up.wait(PATIENCE_S) == 1
    assert everybody
    assert still_running(everybody) == []
    assert small.processes() == []


def test_a_supervisor_killed_under_it_ends_the_foreground_with_a_sentence(small):
    with small.in_foreground(*SMALL) as up:
        assert up.stdout is not None
        read_until(up, "to stop")
        everybody = small.processes()
        psutil.Process(small.status()["pids"]["supervisord"]).kill()
        assert "The process supervisor died, and everything was stopped" in up.stdout.read()
        assert up.wait(PATIENCE_S) == 1
    assert still_running(everybody) == []


def test_down_in_another_terminal_ends_the_foreground_in_good_order(small):
    with small.in_foreground(*SMALL) as up:
        assert up.stdout is not None
        read_until(up, "to stop")
        small.run("down")
        assert "Stopped." in up.stdout.read()
        assert up.wait(PATIENCE_S) == 0


def test_a_path_of_any_length_and_spelling_will_do(tmp_path):
    command = Command(tmp_path / 'it\'s #1 "quoted" 100% ;x' / ("long" * 20))
    try:
        command.up(*SMALL)
        assert command.status()["ready"]
    finally:
        command.run("down", "--remove-data")
    assert not command.data_dir.exists()


def test_a_server_that_cannot_start_is_named_with_its_last_words(small):
    small.data_dir.mkdir()
    liar = small.data_dir.with_name("liar")
    liar.write_text("#!/bin/sh\necho no such luck\nexit 3\n")
    liar.chmod(0o755)
    os.environ["RANGEBOARD_REDIS_SERVER"] = str(liar)
    try:
        refused = small.up(*SMALL, check=False)
    finally:
        del os.environ["RANGEBOARD_REDIS_SERVER"]
    assert refused.returncode == 1
    assert "redis-1 did not start: no such luck" in refused.stderr
    assert small.processes() == []


def test_down_without_a_stack_says_so(tmp_path):
    nothing = Command(tmp_path / "data")
    assert "There is no stack" in nothing.run("down").stdout
    assert nothing.run("status", check=False).stderr.startswith("Nothing runs in")


def read_until(process: "subprocess.Popen[str]", words: str) -> str:
    """What it says up to the line with these words; the test's time limit ends a wait in vain."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it ended without saying {words!r}: {said}")
