"""What can be wrong before a start is one sentence that says what to do; nothing is started."""

import contextlib
import re
import shutil
import socket
import subprocess
import sys

import msgspec
import pytest

from cli import ports, preparation
from cli.errors import StackError
from cli.ports import BUS_OFFSET, free_ports, is_free, reserve
from cli.preparation import Wishes, checked_ports, prepare
from cli.stack import Stack
from cli.state import DataDirectory
from runtime.settings import Settings


@pytest.fixture
def directory(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    yield directory
    if stack := Stack.existing(directory, Settings()):
        stack.end_leftovers()
        stack.remove()


@pytest.fixture
def port():
    return free_ports(1)[0]


@contextlib.contextmanager
def somebody_on(port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        yield


def prepared(directory, port, **asked):
    return prepare(directory, Wishes(port=port, **asked), Settings())


def test_a_new_stack_gets_a_port_for_everything(directory, port):
    stack, notes = prepared(directory, port, primaries=2, replicas=1)
    ports = stack.state.ports
    assert set(ports) == {
        "redis-1",
        "redis-2",
        "redis-3",
        "redis-4",
        "broker",
        "postgres",
        "api",
        "metrics",
        "worker-metrics",
    }
    assert len(set(ports.values())) == len(ports)
    assert ports["api"] == port
    assert notes == []


def test_what_was_chosen_once_stays(directory, port):
    first, _ = prepared(directory, port, primaries=1, replicas=0)
    again, _ = prepared(directory, port)
    assert msgspec.structs.replace(again.state, socket=first.state.socket) == first.state


def test_a_port_that_somebody_took_meanwhile_is_chosen_anew(directory, port):
    first, _ = prepared(directory, port, primaries=1, replicas=0)
    with somebody_on(first.state.ports["redis-1"]):
        again, notes = prepared(directory, port)
    assert again.state.ports["redis-1"] != first.state.ports["redis-1"]
    assert re.fullmatch(r"port \d+ of redis-1 is in use by somebody else; it moves to \d+", notes[0])


def test_a_nodes_bus_port_counts_as_its_port():
    taken = free_ports(1)[0]
    with somebody_on(taken + BUS_OFFSET):
        checked, notes = checked_ports({"redis-1": taken, "broker": taken})
    assert checked["redis-1"] != taken
    assert checked["broker"] == taken
    assert len(notes) == 1


def test_a_busy_port_of_the_api_names_the_option(directory, port):
    with somebody_on(port), pytest.raises(StackError, match=f"Port {port} is in use: choose another with --port"):
        prepared(directory, port)


def test_a_missing_server_names_the_variable(directory, port):
    with pytest.raises(StackError, match="RANGEBOARD_REDIS_SERVER names /nowhere/redis-server"):
        prepare(directory, Wishes(port=port), Settings(redis_server="/nowhere/redis-server"))


def test_another_shape_is_refused(directory, port):
    prepared(directory, port, primaries=1, replicas=0)
    with pytest.raises(StackError, match="holds a cluster with --primaries 1"):
        prepared(directory, port, primaries=3)


def test_a_full_disk_is_said_before_anything_is_written(directory, port, monkeypatch):
    monkeypatch.setattr(preparation, "DISK_BYTES", shutil.disk_usage(directory.path.parent).free * 2)
    with pytest.raises(StackError, match="MB are needed: make room"):
        prepared(directory, port)
    assert directory.load() is None


def test_free_ports_are_free_with_their_bus_port_and_below_the_ephemeral_ones():
    found = free_ports(20)
    assert len(set(found)) == 20
    for port in found:
        assert port + BUS_OFFSET < 32_768
        assert is_free(port)
        assert is_free(port + BUS_OFFSET)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is reserved")
def test_no_two_living_processes_choose_the_same_port(monkeypatch):
    """Though nobody listens there yet."""
    other = "import sys; from cli.ports import free_ports; print(*free_ports(20), flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", other], **pipes) as process:
        theirs = {int(port) for port in process.stdout.readline().split()}
        theirs_first = sorted(range(ports.FIRST, ports.LAST), key=lambda port: port not in theirs)
        monkeypatch.setattr(ports.random, "sample", lambda *_: theirs_first)
        assert len(theirs) == 20
        assert theirs.isdisjoint(free_ports(20))
        assert not any(reserve(port) for port in theirs)
        process.communicate()
    assert set(free_ports(20)) == theirs
    assert all(reserve(port) for port in theirs), "what is reserved already is this process's own"


def test_more_ports_than_there_are_is_a_sentence():
    with pytest.raises(StackError, match="free ports are needed"):
        free_ports(100_000)
