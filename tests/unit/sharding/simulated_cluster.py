"""A Redis Cluster in memory, just true enough to plan for: tables, handshakes, gossip, failover, crashes, moves.

Every node has a table of its own that lags behind the others until they gossip. A command is refused where the servers
refuse it, and taking a slot that anybody owns, alive or not, is an assertion error: the plan promises never to.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache

from sharding.cluster.formation import (
    SLOTS,
    Action,
    AddSlots,
    LoadFunctions,
    Meet,
    Member,
    Node,
    Replicate,
)


class Refused(Exception):
    """The node answers the command with an error."""


@dataclass
class Server:
    node_id: str
    address: str
    alive: bool = True
    epoch: int = 0
    primary_id: str | None = None
    mask: int = 0  # a bit for each slot it owns
    table: dict[str, Member] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    meeting: set[str] = field(default_factory=set)
    libraries: dict[str, str] = field(default_factory=dict)

    @property
    def slots(self) -> tuple[range, ...]:
        return ranges_of(self.mask)


class Cluster:
    def __init__(self, size: int) -> None:
        self.servers: list[Server] = []
        self._addresses = 0
        for _ in range(size):
            self.join()

    # -- what happens to it

    def join(self) -> None:
        self.servers.append(Server(f"id{len(self.servers)}", self._new_address()))

    def kill(self, place: int) -> None:
        server = self.servers[place]
        server.alive = False
        server.meeting.clear()
        for other in self.servers:
            if entry := other.table.get(server.node_id):
                other.table[server.node_id] = replace(entry, linked=False)
        server.table = {node_id: replace(entry, linked=False) for node_id, entry in server.table.items()}

    def restart(self, place: int, *, moved: bool = False) -> None:
        """Bring it back with what it knew; functions live on in its data."""
        if not self.servers[place].alive and moved:
            self.servers[place].address = self._new_address()
        self.servers[place].alive = True

    def fail_over(self, place: int) -> None:
        """A live replica of a dead primary takes its slots."""
        heir = self.servers[place]
        primary = next((server for server in self.servers if server.node_id == heir.primary_id), None)
        if heir.alive and primary is not None and not primary.alive and primary.mask:
            heir.epoch = 1 + max(server.epoch for server in self.servers)
            heir.mask, heir.primary_id = primary.mask, None

    def gossip(self, pairs: Iterable[tuple[int, int]] | None = None) -> None:
        """Let pairs of nodes exchange what they know; everybody, without an argument."""
        everybody = [(a, b) for a in range(len(self.servers)) for b in range(len(self.servers)) if a != b]
        for a, b in everybody if pairs is None else pairs:
            self._talk(self.servers[a % len(self.servers)], self.servers[b % len(self.servers)])

    # -- what the planner sees and does

    def look(self) -> list[Node]:
        return [self._look(server) for server in self.servers]

    def execute(self, action: Action) -> None:
        server = next((server for server in self.servers if server.address == action.at and server.alive), None)
        if server is None:
            raise Refused("connection refused")
        match action:
            case Meet(other=other):
                server.meeting.add(other)
            case AddSlots(ranges=ranges):
                wanted = mask_of(ranges)
                assert not any(wanted & other.mask for other in self.servers), "a slot was taken from its owner"
                assert server.primary_id is None
                server.mask |= wanted
            case Replicate(primary_id=primary_id):
                if server.mask or server.table[primary_id].primary_id is not None:
                    raise Refused("to be a replica, a node must be empty and the other a primary")
                server.primary_id = primary_id
            case LoadFunctions(library=library):
                server.libraries[library.name] = library.digest

    # -- how the servers get on

    def _talk(self, one: Server, other: Server) -> None:
        """`one` sends to `other`, if it knows where that is; the answer comes back on the same link."""
        if not (one.alive and other.alive):
            return
        entry = one.table.get(other.node_id)
        shaking = other.address in one.meeting
        if not shaking and (entry is None or entry.endpoint != other.address):
            return
        one.meeting.discard(other.address)
        one.meeting.discard(one.address)
        self._hear(one, other)
        self._hear(other, one)
        for told, teller in ((one, other), (other, one)):
            unknown = [member for node_id, member in teller.table.items() if node_id not in {*told.table, told.node_id}]
            told.meeting.update(member.endpoint for member in unknown)

    def _hear(self, listener: Server, speaker: Server) -> None:
        listener.table[speaker.node_id] = Member(speaker.node_id, speaker.address, speaker.primary_id, speaker.slots)
        listener.epochs[speaker.node_id] = speaker.epoch
        for node_id, entry in list(listener.table.items()):  # the higher epoch owns the slot
            if node_id != speaker.node_id and listener.epochs[node_id] < speaker.epoch:
                listener.table[node_id] = replace(entry, slots=ranges_of(mask_of(entry.slots) & ~speaker.mask))
        if listener.mask & speaker.mask and listener.epoch < speaker.epoch:
            listener.mask &= ~speaker.mask
            listener.primary_id = None if listener.mask else speaker.node_id
        primary = listener.table.get(listener.primary_id or "")
        if primary is not None and primary.primary_id is not None:  # a chain: follow the primary's primary
            listener.primary_id = primary.primary_id

    def _look(self, server: Server) -> Node:
        if not server.alive:
            return Node(server.address)
        itself = Member(server.node_id, server.address, server.primary_id, server.slots)
        return Node(
            address=server.address,
            endpoint=server.address,
            node_id=server.node_id,
            table=(itself, *server.table.values()),
            meeting=frozenset(server.meeting),
            libraries=frozenset(server.libraries.items()),
        )

    def _new_address(self) -> str:
        self._addresses += 1
        return f"10.0.0.{self._addresses}:6379"


def mask_of(slots: Iterable[range]) -> int:
    """The slots as bits."""
    return sum((1 << taken.stop) - (1 << taken.start) for taken in slots)


@cache
def ranges_of(mask: int) -> tuple[range, ...]:
    """The slots as ranges in order, as CLUSTER NODES prints them."""
    edges = [slot for slot in range(SLOTS + 1) if (mask >> slot ^ mask << 1 >> slot) & 1]
    return tuple(range(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True))
