"""Programs become scripts that any shell reads, whatever their paths hold."""

import subprocess
from pathlib import Path

import pytest

from cli.programs import Program
from cli.state import DataDirectory
from cli.supervisor import SOCKET_PATH_LIMIT, Supervisor, SupervisorGone, choose_socket

ODD = 'it\'s #1 "quoted" 100% $HOME ;x'


def script_of(directory, program):
    directory.make()
    directory.run.mkdir()
    return directory.path / Supervisor(directory, "/none").write_script(program)


def test_a_script_runs_its_command_in_its_folder_with_its_environment(tmp_path):
    directory = DataDirectory(tmp_path / ODD)
    program = Program("api", ("/bin/sh", "-c", 'echo "$PWD|$WHAT|$0"', ODD), tmp_path, {"WHAT": ODD})
    said = subprocess.run(["/bin/sh", script_of(directory, program)], capture_output=True, text=True, check=True)
    assert said.stdout == f"{tmp_path}|{ODD}|{ODD}\n"


@pytest.mark.parametrize(
    ("nodes_conf", "waits"),
    [
        ("aa 127.0.0.1:1@2 myself,master - 0 0 1 connected 0-16383\nbb 127.0.0.1:3@4 slave aa 0 0 1 connected\n", True),
        ("aa 127.0.0.1:1@2 myself,slave bb 0 0 1 connected\nbb 127.0.0.1:3@4 master - 0 0 1 connected\n", False),
        ("aa 127.0.0.1:1@2 myself,master - 0 0 1 connected 0-16383\n", False),
        ("aa 127.0.0.1:1@2 myself,master - 0 0 1 connected\nbb 127.0.0.1:3@4 slave cc 0 0 1 connected\n", False),
    ],
)
def test_only_a_primary_with_a_replica_waits_for_the_failover_after_a_crash(tmp_path, nodes_conf, waits):
    directory = DataDirectory(tmp_path / "data")
    (tmp_path / "nodes.conf").write_text(nodes_conf)
    script = script_of(directory, Program("redis-1", ("/bin/true",), tmp_path))
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sleep").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/slept\n')
    (tools / "sleep").chmod(0o755)
    environment = {"PATH": f"{tools}:/usr/bin:/bin"}
    subprocess.run(["/bin/sh", script], env=environment, check=True)
    assert not (tmp_path / "slept").exists(), "the first start never waits"
    subprocess.run(["/bin/sh", script], env=environment, check=True)
    assert (tmp_path / "slept").exists() == waits


def test_a_short_plain_path_holds_its_own_socket():
    directory = DataDirectory(Path("/tmp/data"))
    assert choose_socket(directory) == "/tmp/data/supervisor.sock"


@pytest.mark.parametrize("path", ["/tmp/" + "long" * 40, f"/tmp/{ODD}"])
def test_another_path_gets_a_private_folder_for_it(path):
    chosen = Path(choose_socket(DataDirectory(Path(path))))
    try:
        assert len(str(chosen)) <= SOCKET_PATH_LIMIT
        assert chosen.parent.stat().st_mode & 0o777 == 0o700
    finally:
        chosen.parent.rmdir()


def test_a_supervisor_that_is_not_there_does_not_answer(tmp_path):
    supervisor = Supervisor(DataDirectory(tmp_path), str(tmp_path / "none.sock"))
    assert not supervisor.answers()
    with pytest.raises(SupervisorGone, match="does not answer"):
        supervisor.processes()
    supervisor.shut_down(deadline_s=1)
