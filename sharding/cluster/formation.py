"""The next steps towards a formed cluster: a pure plan from what the nodes say and what is wanted.

Forming a cluster is a sequence of commands, and whoever gives them may be killed between any two. A script that
remembers how far it got is wrong after the first crash; so nothing is remembered here. One *looks* at every node,
plans the actions that may be taken now, takes them and looks again, until nothing is left to do or to wait for. Every
action is idempotent. Nothing here knows where the nodes run: `rangeboard up` and the Kubernetes reconciler share it.

The order: MEET, until every node has a link to every other; ADDSLOTSRANGE for the slots that nobody owns; REPLICATE for
the nodes without slots, and the function library on every primary that has them.

What it never does:

- It never takes a slot from a node. A primary that failed over stays what it became: swapped roles are healthy.
- It hands out slots only while every named node answers: one that is silent might own them.
- It never forgets a node. One that comes back under another address is known by its id, and MEET heals its address.
- It never joins two clusters that own the same slots as strangers: MEET would make one of them lose its rows.

Growing a formed cluster means moving slots, which is another plan: an empty node that `Shape.primaries` asks for is
left empty, and said to be waiting.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import TypeAlias

SLOTS = 16384


class FormationError(RuntimeError):
    """The cluster cannot be formed, or was not in time; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Library:
    """A function library that every primary must have, with exactly this code."""

    name: str
    code: str

    @property
    def digest(self) -> str:
        """What tells this code from another version of it."""
        return code_digest(self.code)


def code_digest(code: str) -> str:
    """The digest by which the code of two libraries is compared."""
    return hashlib.sha256(code.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Shape:
    """The cluster that is wanted: at least so many primaries, each with at least so many replicas."""

    primaries: int
    replicas: int
    library: Library | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """What one node's own table says about one member of the cluster (a line of CLUSTER NODES)."""

    node_id: str
    endpoint: str  # `ip:port`, where the table's owner looks for it
    primary_id: str | None = None  # None: a primary
    slots: tuple[range, ...] = ()
    linked: bool = True  # the table's owner has a working link to it


@dataclass(frozen=True, slots=True)
class Node:
    """What one look at one node showed. A node that did not answer has no `node_id` and an empty table."""

    address: str  # `host:port`, as we reach it
    endpoint: str = ""  # `ip:port`, as the others may reach it
    node_id: str = ""
    table: tuple[Member, ...] = ()  # itself included
    meeting: frozenset[str] = frozenset()  # endpoints it is shaking hands with
    libraries: frozenset[tuple[str, str]] = frozenset()  # name and code digest
    in_sync: bool = True  # a replica: its link to the primary is up
    cluster_ok: bool = True  # what it says of `cluster_state`

    @property
    def answers(self) -> bool:
        """Whether the node could be reached."""
        return bool(self.node_id)

    @property
    def itself(self) -> Member:
        """Its own line of its table."""
        return next(member for member in self.table if member.node_id == self.node_id)

    @property
    def slots(self) -> tuple[range, ...]:
        """The slots it owns, by its own account."""
        return self.itself.slots

    @property
    def primary_id(self) -> str | None:
        """The primary it replicates, by its own account; None for a primary."""
        return self.itself.primary_id

    def entry(self, node_id: str) -> Member | None:
        """What its table has of this node, reachable or not."""
        return next((member for member in self.table if member.node_id == node_id), None)


@dataclass(frozen=True, slots=True)
class Meet:
    """Tell the node `at` that there is a node `other`."""

    at: str
    other: str


@dataclass(frozen=True, slots=True)
class AddSlots:
    """Give the node `at` slots that nobody owns."""

    at: str
    ranges: tuple[range, ...]


@dataclass(frozen=True, slots=True)
class Replicate:
    """Make the node `at` a replica of a primary."""

    at: str
    primary_id: str


@dataclass(frozen=True, slots=True)
class LoadFunctions:
    """Load the function library, in place of another version of it, on the primary `at`."""

    at: str
    library: Library


Action: TypeAlias = Meet | AddSlots | Replicate | LoadFunctions


@dataclass(frozen=True, slots=True)
class Plan:
    """What may be done now, and what has to come about before the shape is there, one sentence each."""

    actions: tuple[Action, ...] = ()
    waiting: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Nothing to do and nothing to wait for: the cluster has the wanted shape."""
        return not self.actions and not self.waiting


def plan(nodes: Sequence[Node], shape: Shape) -> Plan:
    """The actions that may be taken now; `nodes` are all nodes that should belong, in the order they are preferred.

    Raises `FormationError` where going on would lose somebody's rows.
    """
    answering = [node for node in nodes if node.answers]
    silent = [f"{node.address} does not answer" for node in nodes if not node.answers]
    _refuse_two_clusters(answering)
    meets, unlinked = _meets(answering)
    if unlinked:
        return Plan(tuple(meets), (*silent, *unlinked))
    if gaps := unassigned(slots for node in answering for member in node.table for slots in member.slots):
        if silent:
            return Plan((), (*silent, "slots are handed out once every node answers"))
        return _slot_plan(answering, gaps, shape)
    replicates, lacking = _replicates(answering, shape)
    loads = _loads(answering, shape.library)
    return Plan((*replicates, *loads), (*silent, *lacking, *_unsettled(answering)))


def unassigned(owned: Iterable[range]) -> list[range]:
    """The slots that are in none of the ranges, as ranges in order."""
    gaps, end = [], 0
    for taken in sorted(owned, key=lambda slots: slots.start):
        if taken.start > end:
            gaps.append(range(end, taken.start))
        end = max(end, taken.stop)
    if end < SLOTS:
        gaps.append(range(end, SLOTS))
    return gaps


def share(gaps: Iterable[range], held: Sequence[int]) -> list[tuple[range, ...]]:
    """Cut the gaps among owners that hold so many slots already, so as to level them up with few, long runs."""
    shares: list[list[range]] = [[] for _ in held]
    wants = [
        max(0, SLOTS // len(held) + (place < SLOTS % len(held)) - slots_held) for place, slots_held in enumerate(held)
    ]
    owner = 0
    for gap in gaps:
        rest = gap
        while rest:
            while not wants[owner]:
                owner += 1
            part, rest = rest[: wants[owner]], rest[wants[owner] :]
            wants[owner] -= len(part)
            shares[owner].append(part)
    return [tuple(ranges) for ranges in shares]


def _refuse_two_clusters(nodes: Sequence[Node]) -> None:
    """Two nodes that claim a slot and know of each other are a failover; two that do not are two clusters."""
    for one, other in combinations([node for node in nodes if node.slots], 2):
        clash = any(a.start < b.stop and b.start < a.stop for a in one.slots for b in other.slots)
        if clash and not one.entry(other.node_id) and not other.entry(one.node_id):
            raise FormationError(
                f"{one.address} and {other.address} own the same slots and have never met: they belong to two "
                "clusters, and joining them would lose the rows of one"
            )


def _meets(nodes: Sequence[Node]) -> tuple[list[Meet], list[str]]:
    """Introductions for the pairs that lack a link and are not about to have one, and the pairs that lack one.

    All pairs at once: gossip would spread the word from one seed, but takes longer. No pair twice: a second MEET tears
    down the link that the first has made.
    """
    meets, unlinked = [], []
    for one, other in permutations(nodes, 2):
        entry = one.entry(other.node_id)
        if entry is not None and entry.linked:
            continue
        unlinked.append(f"{one.address} has no link to {other.address} yet")
        looked_for = entry is not None and entry.endpoint == other.endpoint
        about_to = other.endpoint in one.meeting or one.endpoint in other.meeting
        if not looked_for and not about_to and Meet(at=other.address, other=one.address) not in meets:
            meets.append(Meet(at=one.address, other=other.address))
    return meets, unlinked


def _slot_plan(nodes: Sequence[Node], gaps: list[range], shape: Shape) -> Plan:
    primaries = [node for node in nodes if node.primary_id is None]
    owners = [node for node in primaries if node.slots]
    empty = [node for node in primaries if not node.slots]
    owners += empty[: max(0, shape.primaries - len(owners))]
    if len(owners) < shape.primaries:
        return Plan((), (f"{shape.primaries} primaries are wanted, and {len(owners)} nodes can be one",))
    shares = share(gaps, [sum(map(len, node.slots)) for node in owners])
    return Plan(
        tuple(AddSlots(node.address, ranges) for node, ranges in zip(owners, shares, strict=True) if ranges),
        ("not all slots are assigned yet",),
    )


def _replicates(nodes: Sequence[Node], shape: Shape) -> tuple[list[Replicate], list[str]]:
    """Who should replicate whom, and what is still missing from the shape."""
    owners = [node for node in nodes if node.primary_id is None and node.slots]
    owner_ids = {member.node_id for node in nodes for member in node.table if member.slots}
    empty = [node for node in nodes if node.primary_id is None and not node.slots]
    replicas = [node for node in nodes if node.primary_id is not None]
    lacking = []
    if len(owner_ids) < shape.primaries:
        lacking.append(f"{shape.primaries} primaries are wanted, {len(owner_ids)} own slots: slots have to be moved")
    if not owners:
        return [], [*lacking, "no primary answers"]

    following = Counter(node.primary_id for node in replicas)
    count = {node.node_id: following[node.node_id] for node in owners}
    replicates = []

    def attach(node: Node) -> None:
        neediest = min(owners, key=lambda owner: count[owner.node_id])
        count[neediest.node_id] += 1
        replicates.append(Replicate(node.address, neediest.node_id))

    for node in empty[max(0, shape.primaries - len(owner_ids)) :]:
        attach(node)
    if not _disagreement(nodes):  # while tables differ a failover may be under way, and it moves replicas itself
        for node in replicas:
            if node.primary_id not in owner_ids:
                attach(node)
            elif count.get(node.primary_id, 0) > shape.replicas > min(count.values()):
                count[node.primary_id] -= 1
                attach(node)
    lacking += [
        f"the primary {owner.address} has {count[owner.node_id]} of {shape.replicas} replicas"
        for owner in owners
        if count[owner.node_id] < shape.replicas
    ]
    return replicates, lacking


def _loads(nodes: Sequence[Node], library: Library | None) -> list[LoadFunctions]:
    """Functions reach replicas by replication, never another primary."""
    if library is None:
        return []
    return [
        LoadFunctions(node.address, library)
        for node in nodes
        if node.primary_id is None and node.slots and (library.name, library.digest) not in node.libraries
    ]


def _unsettled(nodes: Sequence[Node]) -> list[str]:
    """What the nodes themselves still have to bring about."""
    unsettled = [f"the replica {node.address} is not in sync" for node in nodes if not node.in_sync]
    unsettled += [f"{node.address} does not call the cluster ok" for node in nodes if not node.cluster_ok]
    if _disagreement(nodes):
        unsettled.append("the nodes do not agree yet who owns which slots")
    return unsettled


def _disagreement(nodes: Sequence[Node]) -> bool:
    """Whether two tables differ in a role or an owner. Dead members without slots are not told to newcomers."""
    alive = {node.node_id for node in nodes}
    pictures = {
        frozenset((m.node_id, m.primary_id, m.slots) for m in node.table if m.slots or m.node_id in alive)
        for node in nodes
    }
    return len(pictures) > 1
