"""The plan and the servers agree: real nodes are formed, and healed, by the same steps as simulated ones."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis
from waiting import wait_until

from cli.errors import StackError
from cli.servers import ServerSet, wait_for_redis
from sharding.cluster import executor
from sharding.cluster.executor import form, observe
from sharding.cluster.formation import FormationError, Library, Node, Plan, Shape, plan

pytestmark = pytest.mark.servers

LIBRARY = Library("answers", "#!lua name=answers\nserver.register_function('answer', function() return 42 end)")
SHAPE = Shape(primaries=3, replicas=1, library=LIBRARY)
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def formed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerSet]:
    """A cluster of its own, for these tests break it."""
    with ServerSet(tmp_path_factory.mktemp("formed"), library=LIBRARY) as servers:
        yield servers


@pytest.fixture
def addresses(formed: ServerSet) -> list[str]:
    return formed.settings.redis_nodes.split(",")


def ask(address: str) -> "redis.Redis":
    host, _, port = address.rpartition(":")
    return redis.Redis(host=host, port=int(port), decode_responses=True)


def test_the_fixed_point_is_a_whole_cluster(formed, addresses):
    def whole() -> list[Node] | None:
        nodes = observe(addresses)
        return nodes if plan(nodes, SHAPE) == Plan() else None

    nodes = wait_until(whole)
    assert nodes
    assert sorted(sum(map(len, node.slots)) for node in nodes) == [0, 0, 0, 5461, 5461, 5462]
    assert all(node.libraries == {(LIBRARY.name, LIBRARY.digest)} for node in nodes), "replicas have it by replication"


def test_functions_can_be_called_on_every_primary(formed, addresses):
    for node in observe(addresses):
        if node.slots:
            with ask(node.address) as client:
                assert client.execute_command("FCALL", "answer", 0) == 42


def test_forming_what_is_formed_does_nothing(formed, addresses, monkeypatch):
    attempted = []
    monkeypatch.setattr(executor, "attempt", attempted.append)
    began = time.monotonic()
    form(addresses, SHAPE, deadline_s=DEADLINE_S)
    assert time.monotonic() - began < DEADLINE_S / 2
    assert attempted == []


def test_a_newer_library_replaces_the_older(formed, addresses):
    newer = Library(LIBRARY.name, LIBRARY.code.replace("42", "43"))
    form(addresses, replace(SHAPE, library=newer), deadline_s=DEADLINE_S)
    with ask(next(node.address for node in observe(addresses) if node.slots)) as client:
        assert client.execute_command("FCALL", "answer", 0) == 43
    form(addresses, SHAPE, deadline_s=DEADLINE_S)


@pytest.mark.parametrize("defect", ["this is no lua", "local a = nil; a.b = 1", "local nothing = 1"])
def test_a_library_that_cannot_be_loaded_is_refused_at_once(formed, addresses, defect):
    """It does not compile, it fails while it registers its functions, or it has none."""
    broken = Library("broken", f"#!lua name=broken\n{defect}")
    began = time.monotonic()
    with pytest.raises(FormationError, match="cannot be loaded"):
        form(addresses, replace(SHAPE, library=broken), deadline_s=DEADLINE_S)
    assert time.monotonic() - began < DEADLINE_S / 2


def test_a_replica_that_lost_everything_replaces_itself(formed, addresses):
    """A new node at the old address: the cluster still waits for the one that is gone, and must not mind."""
    lost = next(node for node in observe(addresses) if node.primary_id)
    name = next(name for name, port in formed.ports.items() if lost.address.endswith(f":{port}"))
    formed.kill(name)
    shutil.rmtree(formed.directory_of(name))
    formed.directory_of(name).mkdir()
    formed.start(name)
    form(addresses, SHAPE, deadline_s=DEADLINE_S)
    found = next(node for node in observe(addresses) if node.address == lost.address)
    assert found.node_id != lost.node_id
    assert found.primary_id == lost.primary_id


def test_a_failover_is_left_as_it_is(formed, addresses):
    before = observe(addresses)
    dead = next(node for node in before if node.slots)
    heir = next(node for node in before if node.primary_id == dead.node_id)
    name = next(name for name, port in formed.ports.items() if dead.address.endswith(f":{port}"))
    formed.kill(name)
    alive = [address for address in addresses if address != dead.address]
    form(alive, replace(SHAPE, replicas=0), deadline_s=DEADLINE_S)
    formed.start(name)
    form(addresses, SHAPE, deadline_s=DEADLINE_S)
    roles = {node.address: node.primary_id for node in observe(addresses)}
    assert roles[heir.address] is None
    assert roles[dead.address] == heir.node_id


def test_a_server_outside_a_cluster_is_refused(formed):
    standalone = formed.settings.broker_url.removeprefix("redis://").removesuffix("/0")
    with pytest.raises(FormationError, match="no node of a cluster"):
        form([standalone], SHAPE, deadline_s=DEADLINE_S)


def test_what_is_missing_at_the_deadline_is_named(formed, addresses):
    with pytest.raises(FormationError, match=r"127\.0\.0\.1:1 does not answer"):
        form([*addresses, "127.0.0.1:1"], SHAPE, deadline_s=0.5)


def test_waiting_for_nodes_that_have_ended_is_in_vain():
    began = time.monotonic()
    with pytest.raises(FormationError, match="a node ended"):
        form(["127.0.0.1:1"], SHAPE, deadline_s=DEADLINE_S, alive=lambda: False)
    assert time.monotonic() - began < DEADLINE_S / 2


def test_waiting_for_a_server_that_never_comes_ends_with_a_sentence():
    with pytest.raises(StackError, match="did not start"):
        wait_for_redis(1, deadline_s=0.1)
