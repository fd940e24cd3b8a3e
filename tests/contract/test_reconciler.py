"""The reconciler forms and heals real Redis nodes in pods that a stand-in Kubernetes API lists, whatever happens."""

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from kubernetes.client import CoordinationV1Api, CoreV1Api
from kubernetes_api import KubernetesApi
from redis_pods import LABELS, RedisPods
from waiting import wait_until

from cli.ports import free_ports
from k8s.reconciler.leases import Lease
from k8s.reconciler.loop import Reconciler
from k8s.reconciler.pods import Pod, Pods
from sharding.cluster.formation import Library, Node, Shape
from sharding.functions import LIBRARY_NAME, library_code
from sharding.slots import tag

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(sys.platform == "darwin", reason="pods need addresses of their own, as 127.0.0.0/8 on Linux"),
]

BASE = Path(__file__).parents[2] / "k8s" / "base"
SHAPE = Shape(primaries=3, replicas=1, library=Library(LIBRARY_NAME, library_code()))
SELECTOR = ",".join(f"{name}={value}" for name, value in LABELS.items())
NAMESPACE = "rangeboard"
LEASE = "rangeboard-reconciler"
DEADLINE_S = 60.0


def role() -> list[dict[str, list[str]]]:
    """What our manifests allow the reconciler."""
    documents = yaml.safe_load_all((BASE / "service-accounts.yaml").read_text())
    rules: list[dict[str, list[str]]] = next(found["rules"] for found in documents if found["kind"] == "Role")
    return rules


class Cluster:
    """Six pods, and the reconciler that looks after them."""

    def __init__(self, folder: Path, api: KubernetesApi) -> None:
        self.api = api
        self.pods = RedisPods(folder, api)
        self.reconciler = self.another("first")

    def another(self, identity: str) -> Reconciler:
        client = self.api.client()
        return Reconciler(
            Pods(CoreV1Api(client), namespace=NAMESPACE, statefulset="redis", selector=SELECTOR),
            Lease(CoordinationV1Api(client), namespace=NAMESPACE, name=LEASE, identity=identity, duration_s=15),
            SHAPE,
            port=self.pods.port,
            interval_s=0.05,
        )

    def nodes(self) -> dict[int, Node]:
        nodes, _ = self.reconciler.look()
        return {self.pods.place_of(node.address): node for node in nodes if node.answers}

    def whole(self) -> bool:
        _, wanted = self.reconciler.look()
        return wanted.done

    def settle(self, condition: Callable[[], bool] | None = None) -> dict[int, Node]:
        """Reconcile until the cluster has its shape, or the condition holds."""
        deadline = time.monotonic() + DEADLINE_S
        while not (condition or self.whole)():
            assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s, lacks {self.reconciler.look()[1]}"
            time.sleep(self.reconciler.step())
        return self.nodes()

    def primaries(self) -> list[int]:
        return [place for place, node in self.nodes().items() if node.slots]

    def replica_of(self, primary: int) -> int:
        nodes = self.nodes()
        return next(place for place, node in nodes.items() if node.primary_id == nodes[primary].node_id)


@pytest.fixture(scope="module")
def api() -> Iterator[KubernetesApi]:
    with closing(KubernetesApi(rules=role())) as running:
        yield running


@pytest.fixture(scope="module")
def pods_and_reconciler(api: KubernetesApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("pods"), api)
    try:
        yield made
    finally:
        made.pods.stop()


@pytest.fixture
def cluster(pods_and_reconciler: Cluster) -> Cluster:
    """With all its pods, and whole, whatever the test before did."""
    pods_and_reconciler.pods.start_missing(6)
    pods_and_reconciler.settle()
    return pods_and_reconciler


def assert_whole(nodes: dict[int, Node]) -> None:
    assert sorted(sum(map(len, node.slots)) for node in nodes.values()) == [0, 0, 0, 5461, 5461, 5462]
    assert len({node.primary_id for node in nodes.values() if node.primary_id}) == 3
    for node in nodes.values():
        assert (LIBRARY_NAME, SHAPE.library.digest) in node.libraries  # type: ignore[union-attr]


def test_no_slots_are_handed_out_while_a_pod_is_missing(pods_and_reconciler):
    """It might come with a volume that owns them. Needs pods that have never met: this test is the first."""
    cluster = pods_and_reconciler
    cluster.pods.start_missing(5)
    cluster.settle(lambda: "slots are handed out once every node answers" in cluster.reconciler.look()[1].waiting)
    assert "redis-5 does not answer" in cluster.reconciler.look()[1].waiting
    assert cluster.primaries() == []
    assert cluster.pods.script("ready.sh", 0).returncode != 0, "no node is ready before there is a cluster"


def test_three_primaries_with_a_replica_each_are_formed(cluster):
    nodes = cluster.nodes()
    assert_whole(nodes)
    wait_until(
        lambda: all(cluster.pods.script("ready.sh", place).returncode == 0 for place in nodes),
        DEADLINE_S,
        "all are ready",
    )


def test_clients_are_given_names_instead_of_addresses(cluster):
    with cluster.pods.client(0) as client:
        told = client.connection_pool.get_connection()
        told.send_command("CLUSTER", "SLOTS")
        named = {holder[0] for _, _, *holders in told.read_response() for holder in holders}
    assert named == {f"redis-{place}.redis.test.svc" for place in range(6)}


def test_a_pod_that_comes_back_under_another_address_is_known_again(cluster):
    before = cluster.nodes()
    place = cluster.replica_of(cluster.primaries()[0])
    cluster.pods.kill(place)
    cluster.pods.start(place)
    after = cluster.settle()
    assert {place: node.node_id for place, node in after.items()} == {p: node.node_id for p, node in before.items()}
    assert_whole(after)


def test_all_pods_at_once_under_other_addresses_are_healed_by_introducing_them(cluster):
    """Nobody knows where anybody is, and most addresses are another node's now. Rows and roles stay."""
    before = cluster.nodes()
    rows = write_rows(cluster)
    addresses = dict(cluster.pods.ips)
    for place in before:
        cluster.pods.kill(place)
    for place in before:
        cluster.pods.start(place, addresses[(place + 1) % 6])
    after = cluster.settle()
    assert {place: node.node_id for place, node in after.items()} == {p: node.node_id for p, node in before.items()}
    assert_whole(after)
    assert_kept(cluster, rows)


def test_a_replica_that_lost_its_volume_is_replaced_by_itself(cluster):
    before = cluster.nodes()
    primary = cluster.primaries()[0]
    lost = cluster.replica_of(primary)
    cluster.pods.kill(lost)
    cluster.pods.lose_volume(lost)
    cluster.pods.start(lost)
    after = cluster.settle()
    assert after[lost].node_id != before[lost].node_id
    assert after[lost].primary_id == before[primary].node_id
    assert_whole(after)


def test_a_killed_primary_comes_back_as_a_replica_and_nothing_is_lost(cluster):
    """Its pod is back at once, in place: it waits for the failover, so that it cannot undo what its replica has."""
    before = cluster.nodes()
    rows = write_rows(cluster)
    primary = cluster.primaries()[0]
    heir = cluster.replica_of(primary)
    cluster.pods.kill(primary, gone=False)
    cluster.pods.start(primary, cluster.pods.ips[primary])
    cluster.settle(lambda: cluster.whole() and heir in cluster.primaries())
    after = cluster.nodes()
    assert after[primary].primary_id == before[heir].node_id
    assert_whole(after)
    assert_kept(cluster, rows)


def test_a_primary_that_is_back_at_once_without_its_rows_takes_none_from_its_replica(cluster):
    """A container restarts in place, and its file is older, here empty: were it primary again, all would be lost."""
    before = cluster.nodes()
    rows = write_rows(cluster)
    primary = cluster.primaries()[0]
    heir = cluster.replica_of(primary)
    cluster.pods.kill(primary, gone=False)
    cluster.pods.lose_data(primary)
    cluster.pods.start(primary, cluster.pods.ips[primary])
    cluster.settle(lambda: cluster.whole() and heir in cluster.primaries())
    assert cluster.nodes()[primary].primary_id == before[heir].node_id
    assert_kept(cluster, rows)


def test_a_primary_that_is_stopped_on_purpose_hands_over_before(cluster):
    before = cluster.nodes()
    rows = write_rows(cluster)
    primary = cluster.primaries()[0]
    heir = cluster.replica_of(primary)
    done = cluster.pods.script("handover.sh", primary)
    assert done.returncode == 0, done.stderr
    assert cluster.nodes()[primary].primary_id == before[heir].node_id
    cluster.pods.kill(primary)
    assert_kept(cluster, rows)  # without it, and without a failover
    assert cluster.pods.script("handover.sh", cluster.replica_of(cluster.primaries()[1])).returncode == 0
    cluster.pods.start(primary)
    assert_whole(cluster.settle())


def test_an_api_server_that_is_away_is_waited_for(cluster):
    stop = threading.Event()
    running = threading.Thread(target=cluster.reconciler.run, args=(stop,))
    place = cluster.replica_of(cluster.primaries()[0])
    cluster.api.down = True
    running.start()
    try:
        cluster.pods.kill(place, gone=False)
        cluster.pods.lose_volume(place)
        cluster.pods.start(place, cluster.pods.ips[place])
        seen = len(cluster.api.requests)
        wait_until(lambda: len(cluster.api.requests) > seen + 3, DEADLINE_S, "it asks again")
        cluster.api.down = False
        wait_until(cluster.whole, DEADLINE_S, "it goes on where it was")
    finally:
        cluster.api.down = False
        stop.set()
        running.join(DEADLINE_S)
    assert not running.is_alive()


class Process:
    """A reconciler as it is deployed: the command, in a process of its own."""

    def __init__(self, folder: Path, cluster: Cluster, identity: str, *options: str) -> None:
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(cluster.api.kubeconfig())
        self.identity = identity
        self.heartbeat = folder / identity
        command = [
            *(sys.executable, "-m", "k8s.reconciler", "reconcile", "--namespace", NAMESPACE, "--interval", "0.1"),
            *("--port", str(cluster.pods.port), "--lease-seconds", "5", "--identity", identity, *options),
        ]
        metrics_port = free_ports(1)[0]
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "RANGEBOARD_METRICS_PORT": str(metrics_port)}
        self.metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
        self.popen = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def end(self) -> None:
        self.popen.kill()
        self.popen.communicate()


def test_of_two_reconcilers_one_acts_and_the_other_takes_over(cluster, tmp_path):
    """The first is killed while it holds the lease; the second heals what breaks afterwards."""
    cluster.api.leases.clear()
    first = Process(tmp_path, cluster, "first-process", "--heartbeat", str(tmp_path / "first"))
    both = [first]
    try:
        wait_until(lambda: holder(cluster.api) == first.identity, DEADLINE_S, "the first holds the lease")
        second = Process(tmp_path, cluster, "second-process", "--heartbeat", str(tmp_path / "second"))
        both.append(second)
        wait_until((tmp_path / "second").exists, DEADLINE_S, "the second looks on")
        assert (tmp_path / "first").exists()
        renewed = lease_version(cluster.api)
        wait_until(lambda: lease_version(cluster.api) > renewed + 1, DEADLINE_S, "the first renews it")
        assert holder(cluster.api) == first.identity
        assert gauge(second, "rangeboard_reconciler_leading") == 0

        first.end()
        place = cluster.replica_of(cluster.primaries()[0])
        cluster.pods.kill(place)
        cluster.pods.lose_volume(place)
        cluster.pods.start(place)
        wait_until(cluster.whole, DEADLINE_S, "the second heals")
        assert holder(cluster.api) == second.identity
        wait_until(lambda: gauge(second, "rangeboard_reconciler_formed") == 1, DEADLINE_S, "and says so")

        second.popen.terminate()
        assert second.popen.wait(DEADLINE_S) == 0
        assert holder(cluster.api) == "", "who is told to stop gives the lease back"
    finally:
        for process in both:
            process.end()


def test_a_dry_run_says_what_it_would_do_and_changes_nothing(cluster, tmp_path):
    place = cluster.replica_of(cluster.primaries()[0])
    cluster.pods.kill(place)
    cluster.pods.lose_volume(place)
    cluster.pods.start(place)
    wait_until(lambda: place in cluster.nodes(), DEADLINE_S, "the empty node answers")
    before = {place: (node.node_id, node.slots, node.primary_id) for place, node in cluster.nodes().items()}
    asked = len(cluster.api.requests)
    process = Process(tmp_path, cluster, "dry", "--dry-run")
    said, errors = process.popen.communicate(timeout=DEADLINE_S)
    assert process.popen.returncode == 0, errors
    assert f"would do: {cluster.pods.ips[0]}:{cluster.pods.port} meets " in said.decode()
    assert {request.verb for request in cluster.api.requests[asked:]} == {"list"}
    assert {place: (node.node_id, node.slots, node.primary_id) for place, node in cluster.nodes().items()} == before
    with cluster.pods.client(place) as client:
        assert client.cluster("INFO")["cluster_known_nodes"] == "1"
    cluster.settle()


def test_its_role_allows_what_it_does_and_no_more(cluster):
    """Each request above was decided by the Role of our manifests, and each of its permissions was needed."""
    allowed = {(verb, resource) for rule in role() for verb in rule["verbs"] for resource in rule["resources"]}
    assert {(request.verb, request.resource) for request in cluster.api.requests} == allowed


def test_pods_that_do_not_run_have_no_address():
    """An evicted pod keeps the address that it had, which may be another's by now."""
    with closing(KubernetesApi()) as api:
        api.put_pod("redis-0", "10.0.0.1", labels=LABELS)
        api.put_pod("redis-1", "10.0.0.2", labels=LABELS, phase="Failed")
        api.put_pod("redis-2", None, labels=LABELS, phase="Pending")
        api.put_pod("redis-3", "10.0.0.3", labels={"app.kubernetes.io/component": "broker"})
        pods = Pods(CoreV1Api(api.client()), namespace=NAMESPACE, statefulset="redis", selector=SELECTOR)
        assert pods.at_least(4) == [Pod("redis-0", "10.0.0.1"), Pod("redis-1"), Pod("redis-2"), Pod("redis-3")]


def holder(api: KubernetesApi) -> str:
    return str(api.leases.get(LEASE, {}).get("spec", {}).get("holderIdentity", ""))


def lease_version(api: KubernetesApi) -> int:
    return int(api.leases[LEASE]["metadata"]["resourceVersion"])


def gauge(process: Process, name: str) -> float:
    with urllib.request.urlopen(process.metrics_url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def write_rows(cluster: Cluster) -> dict[str, str]:
    """A row in every primary, and in the memory of its replica."""
    rows = {}
    for place, node in cluster.nodes().items():
        if node.slots:
            key = f"{{{tag(node.slots[0].start)}}}-{time.monotonic_ns()}"
            with cluster.pods.client(place) as client:
                client.set(key, "there")
                assert client.wait(1, 5000) == 1
            rows[key] = "there"
    return rows


def assert_kept(cluster: Cluster, rows: dict[str, str]) -> None:
    """The primaries have these rows."""
    found: dict[str, str] = {}
    for place in cluster.primaries():
        with cluster.pods.client(place) as client:
            found |= {key: client.get(key) for key in client.scan_iter()}
    assert rows.items() <= found.items()
