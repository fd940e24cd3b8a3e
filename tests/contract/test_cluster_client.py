"""The cluster client on real nodes: redirects, dead and paused nodes, deadlines, and the truth about calls that failed.

The nodes are this module's own: they are killed, paused and filled up. Every test finds them healthy (`field`).
"""

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import redis
from prometheus_client import REGISTRY
from waiting import wait_until

from cli.servers import ServerSet
from runtime.deadlines import Deadline
from sharding.cluster import client as cluster_client
from sharding.cluster.breaker import FAILURES_TO_OPEN, OPEN_FOR_S
from sharding.cluster.client import Answer, Call, ClusterClient
from sharding.cluster.executor import form, observe
from sharding.cluster.formation import Library, Shape
from sharding.errors import Outcome, ShardOutcomeUnknown, ShardUnavailable
from sharding.functions import (
    LIBRARY_NAME,
    ApplyMode,
    Asked,
    Functions,
    May,
    apply_call,
    effects,
    library_code,
    pack_list,
    pointed,
)
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.players import PlayerId, member_of
from sharding.shard_map import ShardMap
from sharding.slots import SLOTS, tag
from sharding.submissions import Result, Status

pytestmark = pytest.mark.servers

SHAPE = Shape(3, 1, Library(LIBRARY_NAME, library_code()))
#: What a call may take beyond its deadline, on a machine that has other things to do.
GRACE_S = 0.3
#: For a replica that works, on such a machine: what a busy moment must not spoil.
PATIENT_MS = 4_000


def key(slot: int, name: str) -> str:
    return f"{{{tag(slot)}}}{name}"


def call(slot: int, *words: object) -> Call:
    """A command on keys of a slot; words that begin with @ are keys."""
    named = (key(slot, word[1:]) if isinstance(word, str) and word.startswith("@") else word for word in words)
    return Call(slot, tuple(named))


def replies(answers: list[Answer]) -> list[object]:
    assert [answer.error for answer in answers if answer.error] == []
    return [answer.reply for answer in answers]


class Field:
    """The nodes under test, by the addresses that clients use."""

    def __init__(self, servers: ServerSet) -> None:
        self.servers = servers
        self.addresses = servers.settings.redis_nodes.split(",")
        self._names = {f"127.0.0.1:{port}": name for name, port in servers.ports.items()}

    def admin(self, address: str) -> redis.Redis:
        host, _, port = address.rpartition(":")
        return redis.Redis(host=host, port=int(port), socket_timeout=5)

    def ask(self, address: str, *words: object) -> object:
        with self.admin(address) as admin:
            return admin.execute_command(*words)

    def node_id(self, address: str) -> str:
        return str(self.ask(address, "CLUSTER", "MYID").decode())  # type: ignore[attr-defined]

    def primaries(self) -> dict[str, range]:
        """The primaries, and of each the longest run of slots that it owns."""
        nodes = observe(self.addresses)
        return {node.address: max(node.slots, key=len) for node in nodes if node.answers and node.slots}

    def replica_of(self, primary: str) -> str:
        node_id = self.node_id(primary)
        return next(node.address for node in observe(self.addresses) if node.answers and node.primary_id == node_id)

    def heal(self) -> None:
        """Everything runs, in the wanted shape."""
        for name in self.servers.ports:
            if name in self.servers.pids:
                os.kill(self.servers.pids[name], signal.SIGCONT)
            else:
                self.servers.start(name)
        form(self.addresses, SHAPE, deadline_s=30)

    def kill(self, address: str) -> None:
        self.servers.kill(self._names[address])

    def start(self, address: str) -> None:
        self.servers.start(self._names[address])

    @contextmanager
    def paused(self, *addresses: str) -> Iterator[None]:
        pids = [self.servers.pids[self._names[address]] for address in addresses]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def commands(self) -> Counter[str]:
        """How often each command of ours has run, over all nodes."""
        ours: Counter[str] = Counter()
        for address in self.addresses:
            with self.admin(address) as admin:
                for name, stats in admin.info("commandstats").items():
                    ours[name.removeprefix("cmdstat_").lower()] += stats["calls"]
        return ours


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with ServerSet(tmp_path_factory.mktemp("fragile"), library=SHAPE.library) as servers:
        yield Field(servers)


@pytest.fixture
def field_(nodes: Field) -> Iterator[Field]:
    yield nodes
    nodes.heal()


@pytest.fixture
def connect(field_: Field) -> Iterator[Callable[..., ClusterClient]]:
    clients: list[ClusterClient] = []

    def make(**options: object) -> ClusterClient:
        given = {"nodes": field_.addresses, "library": library_code} | options
        clients.append(ClusterClient(**given))  # type: ignore[arg-type]
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[..., ClusterClient]) -> ClusterClient:
    return connect()


def count_rounds(client: ClusterClient, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one with every round of messages that the client sends."""
    rounds: list[int] = []
    original = client._round

    def counted(exchange: object) -> None:
        rounds.append(1)
        original(exchange)  # type: ignore[arg-type]

    monkeypatch.setattr(client, "_round", counted)
    return rounds


@dataclass
class Ledger:
    """What callers were told of adding their numbers to a set, and how long that took."""

    confirmed: set[int] = field(default_factory=set)
    unconfirmed: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    #: (when it began, how many seconds it took, whether it was answered)
    took: list[tuple[float, float, bool]] = field(default_factory=list)

    def add(self, client: ClusterClient, slot: int, number: int, seconds: float, replicas: int) -> bool:
        began = time.monotonic()
        added = call(slot, "SADD", "@ledger", number)
        answer = client.execute_one(added, Deadline.after(seconds), replicas=replicas, ack_ms=PATIENT_MS)
        if answer.error is not None:
            told = self.refused if answer.error.outcome is Outcome.NOT_APPLIED else self.unknown
        else:
            told = self.confirmed if answer.confirmed else self.unconfirmed
        told.add(number)
        self.took.append((began, time.monotonic() - began, answer.error is None))
        return answer.error is None


class Traffic:
    """Threads that add numbers to a set in a slot, as fast as they are answered, until told to stop."""

    def __init__(self, client: ClusterClient, slot: int, *, threads: int, seconds: float, replicas: int = 0) -> None:
        self.ledger = Ledger()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(threads)

        def add(thread: int) -> None:
            number = thread
            while not self._stop.is_set():
                if not self.ledger.add(client, slot, number, seconds, replicas):
                    time.sleep(0.001)  # who is refused at once, again and again, would leave no time to the others
                number += threads

        self._futures = [self._pool.submit(add, thread) for thread in range(threads)]

    def answered_since(self, moment: float) -> bool:
        return any(fine and began > moment for began, _, fine in list(self.ledger.took))

    def stop(self) -> Ledger:
        self._stop.set()
        for future in self._futures:
            future.result()
        self._pool.shutdown()
        return self.ledger


def ledger_members(field_: Field, slot: int) -> set[int]:
    with fresh_client(field_) as client:
        return {
            int(member) for member in client.execute_one(call(slot, "SMEMBERS", "@ledger"), Deadline.after(10)).reply
        }


@contextmanager
def fresh_client(field_: Field) -> Iterator[ClusterClient]:
    client = ClusterClient(field_.addresses)
    try:
        yield client
    finally:
        client.close()


# -- many calls at once


def test_calls_are_answered_in_their_order_in_one_round(
    field_: Field, client: ClusterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = count_rounds(client, monkeypatch)
    slots = range(0, SLOTS, 411)
    sets = [call(slot, "SET", "@order", slot) for slot in slots]
    assert replies(client.execute(sets, Deadline.after(5))) == [b"OK"] * len(slots)
    gets = [call(slot, "GET", "@order") for slot in slots]
    assert replies(client.execute(gets, Deadline.after(5))) == [b"%d" % slot for slot in slots]
    assert len(rounds) == 2
    assert client.execute([], Deadline.after(5)) == []


def test_an_error_in_the_middle_leaves_the_others_intact(client: ClusterClient) -> None:
    slot = 100
    calls = [
        call(slot, "SET", "@text", "x"),
        call(slot, "INCR", "@text"),
        call(slot, "NO-SUCH-COMMAND", "@text"),
        call(slot, "GET", "@text"),
    ]
    first, second, third, last = client.execute(calls, Deadline.after(5), replicas=1, ack_ms=PATIENT_MS)
    assert (first.reply, last.reply) == (b"OK", b"x")
    assert first.confirmed
    assert last.confirmed
    assert second.error is not None
    assert third.error is not None
    assert replies(client.execute(calls[3:], Deadline.after(5))) == [b"x"], "the next caller gets the next reply"


# -- slots that move


@contextmanager
def moving_slot(field_: Field, slot: int, source: str, target: str, *, first: list[str]) -> Iterator[None]:
    """Migrate a slot; within, it is half way: the keys named `first` are at the target, all others at the source."""
    target_host, _, target_port = target.rpartition(":")

    def migrate(names: list[object]) -> None:
        field_.ask(source, "MIGRATE", target_host, target_port, "", 0, 5000, "KEYS", *names)

    field_.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", field_.node_id(source))
    field_.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", field_.node_id(target))
    migrate([key(slot, name) for name in first])
    yield
    while names := field_.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
        migrate(names)  # type: ignore[arg-type]
    for address in (target, source):
        field_.ask(address, "CLUSTER", "SETSLOT", slot, "NODE", field_.node_id(target))


def test_a_slot_that_has_moved_is_found_and_remembered(
    field_: Field, client: ClusterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source, slots), (target, _), _ = field_.primaries().items()
    slot = slots[10]
    assert replies(client.execute([call(slot, "SET", "@moved", 1)], Deadline.after(5))) == [b"OK"]
    with moving_slot(field_, slot, source, target, first=["moved"]):
        pass
    assert client.owner(slot) == source, "nobody told the client"
    rounds = count_rounds(client, monkeypatch)
    assert replies(client.execute([call(slot, "GET", "@moved")], Deadline.after(5))) == [b"1"]
    assert len(rounds) == 2
    assert client.owner(slot) == target
    assert replies(client.execute([call(slot, "GET", "@moved")], Deadline.after(5))) == [b"1"]
    assert len(rounds) == 3


def test_a_moved_slot_is_confirmed_by_the_replica_of_its_new_owner_only(
    field_: Field, connect: Callable[..., ClusterClient]
) -> None:
    """The WAIT behind the redirect is answered by the old owner, and says nothing of the write."""
    client = connect(node_timeout_s=0.3)
    (source, slots), (target, _), _ = field_.primaries().items()
    slot = slots[11]
    assert replies(client.execute([call(slot, "SET", "@moved", 1)], Deadline.after(5), replicas=1)) == [b"OK"]
    with moving_slot(field_, slot, source, target, first=["moved"]):
        pass
    with field_.paused(field_.replica_of(target)):
        answer = client.execute_one(call(slot, "SET", "@moved", 2), Deadline.after(2), replicas=1, ack_ms=400)
    assert not answer.confirmed


def test_a_key_is_found_on_either_side_of_a_slot_on_the_move(field_: Field, client: ClusterClient) -> None:
    """ASK holds for one call: the slot still belongs to the source."""
    (source, slots), (target, _), _ = field_.primaries().items()
    slot = slots[20]
    sets = [call(slot, "SET", "@there", "t"), call(slot, "SET", "@here", "h")]
    assert replies(client.execute(sets, Deadline.after(5))) == [b"OK"] * 2
    with moving_slot(field_, slot, source, target, first=["there"]):
        for _ in range(3):
            gets = [call(slot, "GET", f"@{name}") for name in ("here", "there", "nowhere", "here")]
            assert replies(client.execute(gets, Deadline.after(5), replicas=1)) == [b"h", b"t", None, b"h"]
        assert replies(client.execute([call(slot, "SET", "@new", "n")], Deadline.after(5))) == [b"OK"]
        assert client.owner(slot) == source
    gets = [call(slot, "GET", f"@{name}") for name in ("here", "there", "new")]
    assert replies(client.execute(gets, Deadline.after(5))) == [b"h", b"t", b"n"]


def test_keys_that_are_on_both_sides_are_waited_for(field_: Field, client: ClusterClient) -> None:
    (source, slots), (target, _), _ = field_.primaries().items()
    slot = slots[30]
    both = call(slot, "MSET", "@here", 1, "@there", 2)
    assert replies(client.execute([both], Deadline.after(5))) == [b"OK"]

    def told_to_try_again() -> bool:
        with field_.admin(source) as admin:
            return "errorstat_TRYAGAIN" in admin.info("errorstats")

    with ThreadPoolExecutor(1) as pool:
        with moving_slot(field_, slot, source, target, first=["there"]):
            answer = pool.submit(client.execute_one, call(slot, "MGET", "@here", "@there"), Deadline.after(10))
            wait_until(told_to_try_again)
            assert not answer.done()
        assert answer.result().reply == [b"1", b"2"]
    with moving_slot(field_, slot, target, source, first=["there"]):

        def is_refused() -> bool:
            """Unless its last attempt was cut off before the answer, of which nobody can tell anything."""
            answer = client.execute_one(call(slot, "MSET", "@here", 3, "@there", 4), Deadline.after(0.2))
            return isinstance(answer.error, ShardUnavailable)

        wait_until(is_refused, what="it is certain that nothing was applied")
    gets = [call(slot, "GET", "@here"), call(slot, "GET", "@there")]
    assert replies(client.execute(gets, Deadline.after(5))) == [b"1", b"2"]


def test_calls_go_on_while_a_slot_moves_to_and_fro(field_: Field, connect: Callable[..., ClusterClient]) -> None:
    """Every increment that was answered is counted, and none twice: a redirect comes before execution."""
    client = connect(node_timeout_s=5.0)
    (one, slots), (other, _), _ = field_.primaries().items()
    slot = slots[40]
    stop = threading.Event()
    counted = [0] * 6

    def increment(thread: int) -> None:
        while not stop.is_set():
            answer = client.execute_one(
                call(slot, "INCR", f"@count-{thread % 2}"), Deadline.after(10), replicas=1, ack_ms=PATIENT_MS
            )
            assert answer.error is None
            assert not answer.repeated
            counted[thread] += 1

    with ThreadPoolExecutor(6) as pool:
        counts = [pool.submit(increment, thread) for thread in range(6)]
        try:
            for source, target in [(one, other), (other, one)] * 3:
                with moving_slot(field_, slot, source, target, first=["count-0"]):
                    before = sum(counted)
                    wait_until(lambda before=before: sum(counted) > before + 10)  # type: ignore[misc]
        finally:
            stop.set()
            for count in counts:
                count.result()
    done = sum(counted)
    gets = [call(slot, "GET", f"@count-{number}") for number in range(2)]
    assert sum(int(reply) for reply in replies(client.execute(gets, Deadline.after(5)))) == done  # type: ignore[call-overload]


def test_a_slot_that_nobody_owns_is_waited_for(field_: Field, client: ClusterClient) -> None:
    address, slots = next(iter(field_.primaries().items()))
    slot = slots[50]
    assert replies(client.execute([call(slot, "SET", "@orphan", 1)], Deadline.after(5))) == [b"OK"]
    field_.ask(address, "CLUSTER", "DELSLOTS", slot)
    refused = client.execute_one(call(slot, "GET", "@orphan"), Deadline.after(0.2))
    assert isinstance(refused.error, ShardUnavailable)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.execute_one, call(slot, "SET", "@orphan", 2), Deadline.after(10))
        field_.ask(address, "CLUSTER", "ADDSLOTS", slot)
        assert answer.result().reply == b"OK"


# -- nodes that die


def test_a_killed_primary_is_followed_by_its_replica(field_: Field, connect: Callable[..., ClusterClient]) -> None:
    """Nothing confirmed is lost, nothing refused is there; the other nodes do not notice."""
    client, elsewhere = connect(node_timeout_s=1.5), connect(node_timeout_s=5.0)
    (victim, slots), (_, other_slots), _ = field_.primaries().items()
    slot, other_slot = slots[60], other_slots[60]
    traffic = Traffic(client, slot, threads=6, seconds=1.0, replicas=1)
    others = Traffic(elsewhere, other_slot, threads=2, seconds=5.0, replicas=1)
    wait_until(lambda: len(traffic.ledger.confirmed) > 100)
    field_.kill(victim)
    killed = time.monotonic()
    wait_until(lambda: traffic.answered_since(killed + 0.2))
    ledger, untouched = traffic.stop(), others.stop()

    members = ledger_members(field_, slot)
    assert ledger.confirmed - members == set()
    assert ledger.refused & members == set()
    assert ledger.refused, "some were refused while there was no primary"
    assert max(seconds for _, seconds, _ in ledger.took) < 1.0 + GRACE_S
    assert len(untouched.confirmed) == len(untouched.took), "one dead node spoils no other's calls"


def test_a_demoted_primary_passes_its_calls_on(field_: Field, client: ClusterClient) -> None:
    """After a switch of roles in good order; the WAIT of a client that has not heard of it reaches a replica."""
    primary, slots = next(iter(field_.primaries().items()))
    slot = slots[70]
    assert replies(client.execute([call(slot, "SET", "@demoted", 1)], Deadline.after(5), replicas=1)) == [b"OK"]
    replica = field_.replica_of(primary)
    field_.ask(replica, "CLUSTER", "FAILOVER")
    wait_until(lambda: field_.ask(primary, "ROLE")[0] == b"slave")  # type: ignore[index]
    assert client.owner(slot) == primary
    answer = client.execute_one(call(slot, "SET", "@demoted", 2), Deadline.after(5), replicas=1, ack_ms=PATIENT_MS)
    assert answer.error is None
    assert answer.reply == b"OK"
    assert answer.confirmed
    assert client.owner(slot) == replica


def test_all_primaries_are_those_of_now(field_: Field, client: ClusterClient) -> None:
    """A process that only looks whether everything is well learns of a failover too."""
    primary = next(iter(field_.primaries()))
    assert set(client.on_primaries(("PING",), Deadline.after(5)).values()) == {b"PONG"}
    replica = field_.replica_of(primary)
    field_.kill(primary)
    wait_until(lambda: field_.ask(replica, "ROLE")[0] == b"master")  # type: ignore[index]

    def healthy() -> bool:
        told = client.on_primaries(("PING",), Deadline.after(5))
        return replica in told and set(told.values()) == {b"PONG"}

    wait_until(healthy, 5)


def test_nodes_that_are_down_at_first_are_found_later(field_: Field, connect: Callable[..., ClusterClient]) -> None:
    seed = field_.replica_of(next(iter(field_.primaries())))
    field_.kill(seed)
    client = connect(nodes=[seed])
    began = time.monotonic()
    answer = client.execute_one(call(1, "SET", "@early", 1), Deadline.after(0.3))
    assert isinstance(answer.error, ShardUnavailable), "nothing was sent, and that is certain"
    assert time.monotonic() - began < 0.3 + GRACE_S
    assert client.primaries() == []
    field_.start(seed)
    wait_until(lambda: len(client.on_primaries(("PING",), Deadline.after(1))) == 3)
    assert replies(client.execute([call(1, "SET", "@early", 1)], Deadline.after(5))) == [b"OK"]


# -- nodes that are silent


def test_a_paused_primary_costs_nobody_more_than_the_deadline(
    field_: Field, connect: Callable[..., ClusterClient]
) -> None:
    """The breaker opens, calls fail at once, other nodes are served; it closes when the node is back."""
    client = connect(node_timeout_s=1.0)
    (paused, slots), (_, other_slots), _ = field_.primaries().items()
    slot, other_slot = slots[80], other_slots[80]
    traffic = Traffic(client, slot, threads=6, seconds=2.0)
    others = Traffic(client, other_slot, threads=2, seconds=5.0)
    wait_until(lambda: len(traffic.ledger.took) > 100)
    with field_.paused(paused):
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 3.0)
    resumed = time.monotonic()
    wait_until(lambda: traffic.answered_since(resumed), 5)
    ledger, untouched = traffic.stop(), others.stop()

    assert max(seconds for _, seconds, _ in ledger.took) < 2.0 + GRACE_S
    failed = [seconds for _, seconds, fine in ledger.took if not fine]
    assert sum(seconds < 0.05 for seconds in failed) > len(failed) / 2, "most did not have to wait"
    assert len(untouched.unconfirmed) == len(untouched.took)
    assert max(seconds for _, seconds, _ in untouched.took) < GRACE_S, "nobody else waits for the node that is silent"
    members = ledger_members(field_, slot)
    assert ledger.unconfirmed <= members
    assert ledger.refused & members == set()
    assert ledger.unknown
    for why in ("unanswered", "not_sent"):
        labels = {"node": str(paused), "outcome": why}
        assert REGISTRY.get_sample_value("rangeboard_redis_failed_calls_total", labels), why


def test_a_node_that_is_taken_to_be_down_is_tried_for_a_moment_only(
    field_: Field, connect: Callable[..., ClusterClient]
) -> None:
    """Whoever tries it would go on waiting for it while another takes its place."""
    client = connect(node_timeout_s=5.0)
    paused, slots = next(iter(field_.primaries().items()))
    slot = slots[82]
    assert replies(client.execute([call(slot, "SET", "@down", 1)], Deadline.after(5))) == [b"OK"]
    with field_.paused(paused):
        for _ in range(FAILURES_TO_OPEN):
            client._node(paused).breaker.failed(time.monotonic() - OPEN_FOR_S)
        began = time.monotonic()
        answer = client.execute_one(call(slot, "GET", "@down"), Deadline.after(5))
        took = time.monotonic() - began
    assert isinstance(answer.error, ShardUnavailable)
    assert took < 2 * GRACE_S
    wait_until(lambda: client.execute_one(call(slot, "GET", "@down"), Deadline.after(5)).reply == b"1")


@pytest.mark.parametrize("connected", [True, False])
def test_a_deadline_shorter_than_the_nodes_timeout_is_kept(
    field_: Field, connect: Callable[..., ClusterClient], connected: bool
) -> None:
    """Also where the connection has to be made first: a paused process still accepts it."""
    client = connect(node_timeout_s=5.0)
    paused, slots = next(iter(field_.primaries().items()))
    slot = slots[81]
    if connected:
        assert replies(client.execute([call(slot, "SET", "@slow", 1)], Deadline.after(5))) == [b"OK"]
    else:
        address = next(address for address in field_.primaries() if address != paused)
        client = connect(nodes=[address], node_timeout_s=5.0)
        assert client.owner(slot) == paused
    with field_.paused(paused):
        began = time.monotonic()
        answer = client.execute_one(call(slot, "SET", "@slow", 2), Deadline.after(0.3))
        took = time.monotonic() - began
    assert took < 0.3 + GRACE_S
    assert isinstance(answer.error, ShardOutcomeUnknown)


def test_learning_the_topology_from_silent_nodes_keeps_the_deadline(
    field_: Field, connect: Callable[..., ClusterClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the one who asks, and for those who wait for what it learns."""
    for patience in ("_LEARN_FOR_S", "_TOPOLOGY_TIMEOUT_S"):
        monkeypatch.setattr(cluster_client, patience, 5.0)
    client = connect()
    began = time.monotonic()

    def ask(number: int) -> tuple[Answer, float]:
        answer = client.execute_one(call(number, "SET", "@lost", 1), Deadline.after(0.3))
        return answer, time.monotonic() - began

    with field_.paused(*field_.addresses[:5]), ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert max(took for _, took in answers) < 0.3 + GRACE_S
    assert {type(answer.error) for answer, _ in answers} <= {ShardUnavailable, ShardOutcomeUnknown}


def test_callers_in_a_hurry_do_not_close_a_healthy_node_to_others(
    field_: Field, connect: Callable[..., ClusterClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their deadlines pass while the node is at work; that says nothing about the node."""
    monkeypatch.setattr(cluster_client, "_SILENT_S", 1.0)
    client = connect()
    address, slots = next(iter(field_.primaries().items()))
    slot = slots[82]
    assert replies(client.execute([call(slot, "SET", "@busy", 1)], Deadline.after(5))) == [b"OK"]
    for _ in range(10):
        hasty = client.execute_one(call(slot, "BLPOP", "@empty", 1), Deadline.after(0.1))
        assert isinstance(hasty.error, ShardOutcomeUnknown)
    assert not client._node(address).breaker.is_open
    assert replies(client.execute([call(slot, "GET", "@busy")], Deadline.after(5))) == [b"1"]


def test_a_deadline_that_has_passed_sends_nothing(field_: Field, client: ClusterClient) -> None:
    assert replies(client.execute([call(5, "SET", "@late", 1)], Deadline.after(5))) == [b"OK"]
    before = field_.commands()["set"]
    answer = client.execute_one(call(5, "SET", "@late", 2), Deadline.after(0))
    assert isinstance(answer.error, ShardUnavailable)
    assert field_.commands()["set"] == before


def test_a_timeout_never_hands_a_reply_to_the_next_caller(field_: Field, connect: Callable[..., ClusterClient]) -> None:
    client = connect(node_timeout_s=0.05, connections=3)
    address, slots = next(iter(field_.primaries().items()))
    slot = slots[90]
    names = [f"@own-{number}" for number in range(8)]
    sets = [call(slot, "SET", name, name[1:]) for name in names]
    assert replies(client.execute(sets, Deadline.after(5))) == [b"OK"] * len(names)
    stop = threading.Event()
    answered, failed = [0] * 6, [0] * 6

    def read_own(thread: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            wanted = [names[(thread + turn + index) % len(names)] for index in range(3)]
            answers = client.execute([call(slot, "GET", name) for name in wanted], Deadline.after(0.1))
            for name, answer in zip(wanted, answers, strict=True):
                if answer.error is None:
                    assert answer.reply == name[1:].encode()
                told = answered if answer.error is None else failed
                told[thread] += 1

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read_own, thread) for thread in range(6)]
        try:
            for _ in range(4):
                with field_.paused(address):
                    time.sleep(0.12)  # the harm itself: a pause longer than the node's timeout
                time.sleep(0.1)  # and a while without one, in which late replies come
            before = sum(answered)
            wait_until(lambda: sum(answered) > before + 100)
        finally:
            stop.set()
            for reader in readers:
                reader.result()
    assert sum(failed) > 0
    gets = [call(slot, "GET", name) for name in names]
    assert replies(client.execute(gets, Deadline.after(5))) == [name[1:].encode() for name in names]


class Interrupted(BaseException):
    """What a worker's timeout raises in the middle of a call."""


def test_an_interrupted_call_leaves_no_connection_behind(field_: Field, connect: Callable[..., ClusterClient]) -> None:
    """Neither one that is in use for ever, nor one with a reply in it that somebody else would read."""
    client = connect(connections=1, node_timeout_s=5.0)
    owned = sorted(field_.primaries().items())
    slots = [slots[100] for _, slots in owned]
    sets = [call(slot, "SET", "@mine", slot) for slot in slots]
    assert replies(client.execute(sets, Deadline.after(5))) == [b"OK"] * 3

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with field_.paused(owned[0][0]):
            timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR1])
            timer.start()
            with pytest.raises(Interrupted):
                client.execute([call(slot, "GET", "@other") for slot in slots], Deadline.after(5))
            timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    gets = [call(slot, "GET", "@mine") for slot in slots]
    assert replies(client.execute(gets, Deadline.after(2))) == [b"%d" % slot for slot in slots]


# -- replicas


def test_confirmed_means_that_a_replica_has_it(field_: Field, connect: Callable[..., ClusterClient]) -> None:
    client = connect(node_timeout_s=0.2)
    primary, slots = next(iter(field_.primaries().items()))
    slot = slots[110]
    write = call(slot, "INCR", "@kept")
    assert client.execute_one(write, Deadline.after(5), replicas=1, ack_ms=PATIENT_MS).confirmed
    assert not client.execute_one(write, Deadline.after(5)).confirmed, "nobody asked"
    with field_.paused(field_.replica_of(primary)):
        for _ in range(4):
            answer = client.execute_one(write, Deadline.after(5), replicas=1, ack_ms=250)
            assert answer.error is None
            assert not answer.confirmed
        assert not client._node(primary).breaker.is_open, "a slow replica is no fault of the primary"
    assert client.execute_one(write, Deadline.after(5), replicas=1, ack_ms=5000).confirmed
    assert not client.execute_one(write, Deadline.after(5), replicas=2, ack_ms=50).confirmed, "there is but one"


def test_waiting_for_a_replica_keeps_the_deadline(field_: Field, client: ClusterClient) -> None:
    primary, slots = next(iter(field_.primaries().items()))
    write = call(slots[111], "SET", "@kept", 1)
    with field_.paused(field_.replica_of(primary)):
        began = time.monotonic()
        answer = client.execute_one(write, Deadline.after(5), replicas=1, ack_ms=60_000)
        assert time.monotonic() - began < 5 + GRACE_S
    assert answer.error is None, "the primary has it, and the caller is told so"
    assert not answer.confirmed


# -- definite or unknown


def lose_the_first_reply(field_: Field, client: ClusterClient, address: str, doubtful: Call) -> Answer:
    """The node gets the call and carries it out, and the client, which has given up on the reply, sends it again."""
    with ThreadPoolExecutor(1) as pool:
        with field_.paused(address):
            answer = pool.submit(client.execute_one, doubtful, Deadline.after(5))
            wait_until(lambda: client._node(address).breaker.failures > 0)
        return answer.result()


def test_a_call_that_was_sent_twice_says_so(field_: Field, connect: Callable[..., ClusterClient]) -> None:
    client = connect(node_timeout_s=0.5)
    address, slots = next(iter(field_.primaries().items()))
    assert not client.execute_one(call(slots[120], "SET", "@twice", 1), Deadline.after(5)).repeated
    answer = lose_the_first_reply(field_, client, address, call(slots[120], "SET", "@twice", 2))
    assert (answer.reply, answer.repeated) == (b"OK", True)


def test_a_read_without_an_answer_is_not_unknown(field_: Field, connect: Callable[..., ClusterClient]) -> None:
    """Nothing depends on whether it was carried out: neither after the deadline nor after a second sending."""
    client = connect(node_timeout_s=0.5)
    address, slots = next(iter(field_.primaries().items()))
    read = call(slots[120], "GET", "@twice")
    assert not lose_the_first_reply(field_, client, address, read).repeated
    with field_.paused(address):
        for name in ("GET", "SET"):
            words = (name, "@twice") if name == "GET" else (name, "@twice", 3)
            error = client.execute_one(call(slots[120], *words), Deadline.after(0.3)).error
            assert isinstance(error, ShardUnavailable if name == "GET" else ShardOutcomeUnknown)


def test_who_doubts_a_node_asks_another_however_lately_somebody_asked(
    connect: Callable[..., ClusterClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was learned a moment ago may be from that very node, or from before another took its place."""
    monkeypatch.setattr(cluster_client, "_REFRESH_EVERY_S", 60.0)
    client = connect()
    client.refresh()
    told = client._learned
    client.refresh()
    assert client._learned == told, "nobody asks twice within that time"
    assert told.source is not None
    for _ in range(2):
        client.refresh(avoid=told.source)
        assert client._learned.at > told.at
        assert client._learned.source not in {None, told.source}
        told = client._learned


def test_a_refusal_of_the_second_sending_says_nothing_about_the_first(
    field_: Field, connect: Callable[..., ClusterClient]
) -> None:
    """The first has renamed the key; the second finds none to rename. To call that `not applied` would be a lie."""
    client = connect(node_timeout_s=0.5)
    address, slots = next(iter(field_.primaries().items()))
    slot = slots[121]
    assert replies(client.execute([call(slot, "SET", "@old", 1)], Deadline.after(5))) == [b"OK"]
    answer = lose_the_first_reply(field_, client, address, call(slot, "RENAME", "@old", "@new"))
    assert client.execute_one(call(slot, "GET", "@new"), Deadline.after(5)).reply == b"1", "it was applied"
    assert answer.error is not None
    assert answer.error.outcome is Outcome.UNKNOWN


def test_a_function_that_fails_half_way_leaves_the_outcome_unknown(field_: Field, client: ClusterClient) -> None:
    """Redis does not take back what a function has written before its error."""
    address, slots = next(iter(field_.primaries().items()))
    slot = slots[122]
    code = """#!lua name=half
    redis.register_function('half', function(keys)
      redis.call('SET', keys[1], 'written')
      return redis.call('INCR', keys[1])
    end)"""
    field_.ask(address, "FUNCTION", "LOAD", code)
    try:
        answer = Functions(client, replicas=0, ack_ms=1).on_keys(
            [call(slot, "FCALL", "half", 1, "@half")], Deadline.after(5)
        )[0]
    finally:
        field_.ask(address, "FUNCTION", "DELETE", "half")
    assert client.execute_one(call(slot, "GET", "@half"), Deadline.after(5)).reply == b"written"
    assert answer.error is not None
    assert answer.error.outcome is Outcome.UNKNOWN


@contextmanager
def first_reply_lost(board: Leaderboard, meanwhile: Callable[[], object], *, reachable: bool) -> Iterator[None]:
    """The first rb1_apply is carried out and its reply lost; `meanwhile` happens; then the client sends it again.

    Not `reachable`: whoever asks another shard after that gets no answer.
    """
    client = board.client
    original = client.execute
    sent: list[str] = []

    def lossy(calls: Sequence[Call], deadline: Deadline, **options: int) -> list[Answer]:
        if not calls or calls[0].args[1] != "rb1_apply":
            return original(calls, deadline, **options)
        sent.append("rb1_apply")
        if len(sent) > 1 and not reachable:
            return [Answer(error=ShardUnavailable()) for _ in calls]
        answers = original(calls, deadline, **options)
        if len(sent) == 1:
            meanwhile()
            answers = original(calls, deadline, **options)
            for answer in answers:
                answer.repeated = True
        return answers

    client.execute = lossy  # type: ignore[method-assign]
    try:
        yield
    finally:
        client.execute = original  # type: ignore[method-assign]


@pytest.mark.parametrize("reachable", [True, False])
def test_a_submission_that_was_applied_before_its_player_moved_is_neither_refused_nor_a_duplicate(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap], reachable: bool
) -> None:
    """The second sending finds the player gone, and the submission is known where the player went."""
    shard_map = open_board([10])

    def submit(value: int, match: str) -> Result:
        submission = Submission(PlayerId("ann"), value, match)
        return leaderboard.submit(shard_map.name, [submission], Deadline.after(5), rank=RankMode.NONE)[0]

    def sweep() -> None:
        assert leaderboard.rebalancer.sweep(shard_map, Deadline.after(5)) == 1

    assert submit(5, "m0").status is Status.APPLIED
    with first_reply_lost(leaderboard, sweep, reachable=reachable):
        result = submit(10, "m1")
    assert result.status is (Status.APPLIED if reachable else Status.UNKNOWN)
    assert submit(10, "m1").status is Status.DUPLICATE
    assert submit(1, "m2").points == 16


def test_a_node_without_memory_refuses_writes_and_serves_reads(field_: Field, client: ClusterClient) -> None:
    address, slots = next(iter(field_.primaries().items()))
    slot = slots[130]
    assert replies(client.execute([call(slot, "SET", "@full", 1)], Deadline.after(5))) == [b"OK"]
    field_.ask(address, "CONFIG", "SET", "maxmemory", 1)
    try:
        claim = call(slot, "FCALL", "rb1_point", 1, "@bucket", pack_list(["ann", 0, 1]))
        calls = [call(slot, "SET", "@full", 2), claim, call(slot, "GET", "@full")]
        written, claimed, read = client.execute(calls, Deadline.after(5))
    finally:
        field_.ask(address, "CONFIG", "SET", "maxmemory", 0)
    for answer in (written, claimed):
        assert isinstance(answer.error, ShardUnavailable)
        assert answer.error.outcome is Outcome.NOT_APPLIED
        assert "memory" in str(answer.error)
    assert read.reply == b"1"
    gets = [call(slot, "GET", "@full"), call(slot, "EXISTS", "@bucket")]
    assert replies(client.execute(gets, Deadline.after(5))) == [b"1", 0]


def test_a_process_whose_connections_are_all_in_use_waits_for_one(
    field_: Field, connect: Callable[..., ClusterClient]
) -> None:
    client = connect(connections=2, node_timeout_s=5.0)
    address, slots = next(iter(field_.primaries().items()))
    slot = slots[140]
    assert replies(client.execute([call(slot, "SET", "@queue", 1)], Deadline.after(5))) == [b"OK"]
    with ThreadPoolExecutor(3) as pool:
        blocking = [pool.submit(client.execute_one, call(slot, "BLPOP", "@none", 3), Deadline.after(10)) for _ in "ab"]
        wait_until(lambda: all(not node._permits._value for node in [client._node(address)]))
        began = time.monotonic()
        refused = client.execute_one(call(slot, "GET", "@queue"), Deadline.after(0.2))
        assert 0.2 <= time.monotonic() - began < 0.2 + GRACE_S
        assert isinstance(refused.error, ShardUnavailable), "it was never sent"
        served = client.execute_one(call(slot, "GET", "@queue"), Deadline.after(10))
        assert served.reply == b"1"
        assert all(future.result().error is None for future in blocking)
    assert not client._node(address).breaker.is_open


# -- functions


def test_the_library_registers_what_it_defines(field_: Field) -> None:
    (library,) = field_.ask(next(iter(field_.primaries())), "FUNCTION", "LIST")  # type: ignore[misc]
    registered = {function[b"name"].decode() for function in library[b"functions"]}
    assert registered == set(re.findall(r"^local function (rb\d+_\w+)\(", library_code(), re.MULTILINE))


def test_a_library_that_is_missing_is_loaded(field_: Field, client: ClusterClient) -> None:
    address, slots = next(iter(field_.primaries().items()))
    field_.ask(address, "FUNCTION", "FLUSH")
    claims = [call(slot, "FCALL", "rb1_point", 1, "@bucket", pack_list(["ann", 0, 1])) for slot in slots[150:154]]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda claim: client.execute_one(claim, Deadline.after(5), replicas=1), claims))
    assert [[*pointed(answer.reply)] for answer in answers] == [[(0, 1)]] * 4
    assert not any(answer.repeated for answer in answers), "a function that is not there has done nothing"


def test_a_library_that_cannot_be_loaded_is_no_endless_loop(
    field_: Field, connect: Callable[..., ClusterClient]
) -> None:
    client = connect(library=lambda: "#!lua name=broken\nthis is no Lua")

    def is_refused() -> bool:
        """Unless its last attempt was cut off before the answer."""
        answer = client.execute_one(call(7, "FCALL", "nowhere", 1, "@x"), Deadline.after(0.2))
        return isinstance(answer.error, ShardUnavailable)

    wait_until(is_refused, what="it is certain that nothing was applied")


# -- what a submission costs


@pytest.fixture
def quiet_board(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap]
) -> tuple[Leaderboard, ShardMap, Callable[[str, str], object]]:
    """A board on the session's servers, and a way to submit to it without company."""
    shard_map = open_board([1000])

    def submit(player: str, match: str) -> object:
        submission = Submission(PlayerId(player), 1, match)
        (result,) = leaderboard.submit(shard_map.name, [submission], Deadline.after(5), rank=RankMode.NONE)
        assert result.status is Status.APPLIED
        return result

    return leaderboard, shard_map, submit


def test_a_submission_costs_one_round_trip_or_two(
    servers: ServerSet, quiet_board: tuple[Leaderboard, ShardMap, Callable[[str, str], object]]
) -> None:
    """One where the directory's entry is remembered, two where it has to be read; and no other command is sent."""
    leaderboard, _, submit = quiet_board
    field_ = Field(servers)
    submit("ann", "m0")

    def sent_by(act: Callable[[], object]) -> dict[str, int]:
        before = field_.commands()
        act()
        spent = field_.commands() - before
        background = {"info", "ping", "replconf", "psync", "cluster|slots", "cluster|nodes"}
        return {name: count for name, count in spent.items() if name not in background}

    # The replica carries out what the primary's function wrote; calls and waits are the client's.
    cached = sent_by(lambda: submit("ann", "m1"))
    assert (cached["fcall"], cached["wait"]) == (1, 1)
    leaderboard.directory._memory._entries.clear()
    uncached = sent_by(lambda: submit("ann", "m2"))
    assert (uncached["fcall"], uncached["hget"] - cached.get("hget", 0), uncached["wait"]) == (1, 1, 1)


def test_round_trips_are_the_rounds_of_the_client(
    quiet_board: tuple[Leaderboard, ShardMap, Callable[[str, str], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    leaderboard, _, submit = quiet_board
    submit("ann", "m0")
    rounds = count_rounds(leaderboard.client, monkeypatch)
    submit("ann", "m1")
    assert len(rounds) == 1
    leaderboard.directory._memory._entries.clear()
    submit("ann", "m2")
    assert len(rounds) == 3
    submit("bob", "m0")
    assert len(rounds) == 6, "a player's first: the entry is sought, claimed, and the row made"


def test_no_node_is_ever_asked_for_the_keys_of_a_call(servers: ServerSet, leaderboard: Leaderboard) -> None:
    leaderboard.ping(Deadline.after(5))
    assert "command|getkeys" not in Field(servers).commands()


def test_a_wrong_guess_of_the_shards_clock_is_put_right(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap]
) -> None:
    """Windows are the shard's; a caller whose clock is off pays one more call, once."""
    shard_map = open_board([10], retry_window_ms=60_000)
    functions = Functions(leaderboard.client, replicas=1, ack_ms=500)
    functions._clock_ahead_ms = 3 * 86_400_000
    member = member_of(PlayerId("ann"))
    submission = Submission(PlayerId("ann"), 1, "m")
    asked = Asked(member, 1, submission.event(), submission.note(), may=May.CREATE)
    apply = apply_call(shard_map.keys(0), [asked], outbox_limit=1000, mode=ApplyMode.TELL_PLACES)
    (answer,) = functions.on_shards([apply], 60_000, Deadline.after(5), fence=True)
    assert answer.error is None
    assert [effect.code for effect in effects(answer.reply)] == [1]
    assert abs(functions._clock_ahead_ms) < 1000
