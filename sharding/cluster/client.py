"""Calls to the Redis Cluster: many at once, one round trip per node, one deadline.

The problem: redis-py's cluster client asks a node for the keys of every function call (two more round trips), retries
behind the caller's back, cannot pair a WAIT with the write it is about, and has no notion of a request's deadline. So
this module takes the library's connections and does the routing itself: `execute` groups calls by the node that owns
their slot, writes to all nodes, then reads from all nodes. Nothing is spawned; the nodes work in parallel.

What it guarantees: every call is answered by its reply or by an error that says whether it may have happened. Redirects
and refusals that come before execution (MOVED, ASK, TRYAGAIN, CLUSTERDOWN, LOADING, READONLY, a function library that
is missing) are dealt with and the call is sent again. A connection that dies after sending is, too: **every call given
to `execute` must be safe to repeat**, which all functions of this project are by construction. When the deadline
passes, or a later sending is refused, a call that was ever sent without an answer is UNKNOWN, any other NOT_APPLIED;
a read is never more than NOT_APPLIED.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.connection import Connection
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from runtime.deadlines import Deadline
from runtime.metrics import NodeCounts
from sharding.cluster.breaker import Breaker
from sharding.errors import LeaderboardError, Outcome, ShardOutcomeUnknown, ShardUnavailable
from sharding.slots import SLOTS

#: Refusals that come before anything was executed and pass by themselves.
_PASSING = (TryAgainError, ClusterDownError, ReadOnlyError, MasterDownError)
_LOST = (RedisConnectionError, RedisTimeoutError, OSError)
_PAUSE_S = 0.025
_REFRESH_EVERY_S = 0.1
_TOPOLOGY_TIMEOUT_S = 0.3
_LEARN_FOR_S = 1.0
#: A node that was silent for so long counts as failed, also to callers whose deadline does not let them wait longer.
_SILENT_S = 0.1
#: For how long a node that is taken to be down is listened to when it is tried again: whoever tries it learns only then
#: of another that has taken its place.
_PROBED_S = 0.25
_ALONE_FOR_S = 1.0


class Call(NamedTuple):
    """A command whose keys lie in one slot."""

    slot: int
    args: tuple[Any, ...]


@dataclass(slots=True)
class Answer:
    """What became of a call: a reply, or an error.

    `confirmed`: as many replicas as were asked for have everything that the call wrote. `repeated`: an earlier sending
    of the call got no answer, so it may be that one that counted.
    """

    reply: Any = None
    error: LeaderboardError | None = None
    confirmed: bool = False
    repeated: bool = False


class Refused(LeaderboardError):
    """A function refused the call before doing anything; `code` and `words` are what it said."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(f"{code} {words}".strip())
        self.code = code
        self.words = words


#: Commands that change nothing: for a call of one of these it makes no difference whether it was carried out.
_READS = frozenset(
    {"FCALL_RO", "GET", "HGET", "HGETALL", "HMGET", "XLEN", "XRANGE", "XREVRANGE", "ZCARD", "ZMSCORE", "ZRANGE"}
)


class _Node:
    """One Redis node: its breaker and a bounded stock of connections."""

    def __init__(self, address: str, timeout_s: float, connections: int) -> None:
        self.address = address
        self.breaker = Breaker()
        self.counts = NodeCounts(address)
        #: until when nobody need wait for this node's replicas: it has none
        self.alone_until = 0.0
        self._timeout_s = timeout_s
        self._idle: list[Connection] = []
        self._permits = threading.BoundedSemaphore(connections)

    @property
    def patience_s(self) -> float:
        """For how long an answer of this node is waited for."""
        return min(_PROBED_S, self._timeout_s) if self.breaker.is_open else self._timeout_s

    def take(self, deadline: Deadline) -> Connection | None:
        """A connection; None if all are in use until the deadline."""
        if not self._permits.acquire(timeout=deadline.remaining()):
            return None
        if self._idle:
            return self._idle.pop()
        host, _, port = self.address.rpartition(":")
        return Connection(
            host=host,
            port=int(port),
            protocol=2,
            socket_timeout=self._timeout_s,
            driver_info=None,  # to tell it would cost round trips, outside of any deadline
            retry=Retry(NoBackoff(), 0),
        )

    def connect(self, connection: Connection, deadline: Deadline) -> None:
        """Connect, if it is not yet. Raises what _LOST names."""
        if connection.is_connected:  # what the library does to find that out costs more than a command
            return
        connection.socket_connect_timeout = min(self.patience_s, max(deadline.remaining(), 0.001))
        connection.connect()

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next caller."""
        self._idle.append(connection)
        self._permits.release()

    def lose(self, connection: Connection, error: BaseException, since: float) -> None:
        """A connection failed with an error, having been asked at the moment `since`.

        If that is the node's fault, those that lie idle are likely dead too, and none of them shall cost another
        caller. It is not where the caller was in a hurry, or was interrupted.
        """
        now = time.monotonic()
        hurried = isinstance(error, RedisTimeoutError) and now - since < min(_SILENT_S, self._timeout_s)
        if isinstance(error, _LOST) and not hurried:
            self.breaker.failed(now)
            stale, self._idle = self._idle, []
            for dead in stale:
                dead.disconnect()
        connection.disconnect()
        self._permits.release()

    def close(self) -> None:
        """Close what lies idle."""
        while self._idle:
            self._idle.pop().disconnect()


class _Learned(NamedTuple):
    """When somebody last asked who owns which slots, and who told; None: nobody did."""

    at: float
    source: str | None


@dataclass(slots=True)
class _Exchange:
    """The state of one `execute`."""

    calls: Sequence[Call]
    deadline: Deadline
    replicas: int
    ack_ms: int
    answers: list[Answer]
    pending: set[int]
    uncertain: set[int] = field(default_factory=set)
    #: where ASK sent a call
    asked: dict[int, str] = field(default_factory=dict)

    def answer(self, replies: Mapping[int, Any], confirmed: bool) -> None:
        for index, reply in replies.items():
            answer = self.answers[index]
            answer.reply, answer.confirmed = reply, confirmed
        self.pending.difference_update(replies)

    def doubt(self, indexes: Iterable[int]) -> None:
        """These were sent, and may have been carried out; with a read that makes no difference."""
        self.uncertain.update(index for index in indexes if self.calls[index].args[0] not in _READS)

    def fail(self, index: int, error: LeaderboardError, cause: Exception | None = None) -> None:
        error.__cause__ = cause
        if index in self.uncertain and error.outcome is Outcome.NOT_APPLIED:
            # This says something of the last sending. An earlier one may have been carried out.
            error, refusal = ShardOutcomeUnknown(), error
            error.__cause__ = refusal
        self.answers[index].error = error
        self.pending.discard(index)

    def give_up(self, indexes: Iterable[int]) -> None:
        for index in list(indexes):
            self.fail(index, ShardUnavailable())


@dataclass(frozen=True, slots=True)
class _Message:
    """What was sent to one node, and for how long each answer is waited for.

    `ack_ms`: for how long the node waits for replicas; 0 where it was not asked to.
    """

    node: _Node
    connection: Connection
    indexes: list[int]
    asking: bool
    ack_ms: int
    sent_at: float
    patience_s: float


class ClusterClient:
    """One per process, made after the fork. Safe to use from many threads or greenlets."""

    def __init__(
        self,
        nodes: Iterable[str],
        *,
        node_timeout_s: float = 1.0,
        connections: int = 32,
        library: Callable[[], str] | None = None,
    ) -> None:
        """`nodes`: addresses `host:port` to start from. `library`: the functions' code, loaded where it is missing."""
        self._seeds = list(nodes)
        self._timeout_s = node_timeout_s
        self._connections = connections
        self._library = library
        self._nodes: dict[str, _Node] = {}
        self._owners: list[str | None] = [None] * SLOTS
        self._refresh_lock = threading.Lock()
        self._learned = _Learned(0.0, None)
        self._has_topology = False

    # -- calls

    def execute(
        self, calls: Sequence[Call], deadline: Deadline, *, replicas: int = 0, ack_ms: int = 500
    ) -> list[Answer]:
        """The answers to calls, in their order.

        `replicas` > 0: each node is also asked to WAIT until that many replicas have what was written, for `ack_ms` at
        the most; the answers say whether they have.
        """
        exchange = _Exchange(
            calls, deadline, replicas, ack_ms, [Answer() for _ in calls], pending=set(range(len(calls)))
        )
        self._ensure_topology(deadline)
        while exchange.pending:
            if deadline.passed:
                exchange.give_up(exchange.pending)
                break
            self._round(exchange)
            if exchange.pending and not exchange.asked:
                self.refresh(deadline=deadline)
                time.sleep(min(_PAUSE_S, deadline.remaining()))
        for index in exchange.uncertain:
            exchange.answers[index].repeated = True
        return exchange.answers

    def execute_one(self, call: Call, deadline: Deadline, *, replicas: int = 0, ack_ms: int = 500) -> Answer:
        """The answer to one call."""
        return self.execute([call], deadline, replicas=replicas, ack_ms=ack_ms)[0]

    def _round(self, exchange: _Exchange) -> None:
        """Send what is pending, one message to each node, and take in what comes back."""
        groups: defaultdict[tuple[str, bool], list[int]] = defaultdict(list)
        calls, owners = exchange.calls, self._owners
        for index in sorted(exchange.pending):
            asked = exchange.asked.get(index) if exchange.asked else None
            address = asked or owners[calls[index].slot]
            if address is not None:
                groups[address, asked is not None].append(index)
        exchange.asked.clear()
        messages: list[_Message] = []
        try:
            # In the order of addresses: two callers that need connections of the same nodes cannot wait for each other.
            for (address, asking), indexes in sorted(groups.items()):
                node = self._node(address)
                if not node.breaker.allows(time.monotonic()):
                    self._refuse(exchange, address, indexes)
                elif (message := self._send(exchange, node, indexes, asking)) is not None:
                    messages.append(message)
            while messages:
                self._receive(exchange, messages.pop(0))
        except BaseException as error:  # a greenlet's timeout: what is unread would be taken for the next caller's
            for unread in messages:
                unread.node.lose(unread.connection, error, unread.sent_at)
            raise

    def _refuse(self, exchange: _Exchange, address: str, indexes: list[int]) -> None:
        """The node is taken to be down: calls whose slot has no other owner by now fail at once."""
        self._node(address).counts.not_sent(len(indexes))
        self.refresh(deadline=exchange.deadline)
        exchange.give_up(index for index in indexes if self._owners[exchange.calls[index].slot] == address)

    def _send(self, exchange: _Exchange, node: _Node, indexes: list[int], asking: bool) -> _Message | None:
        """Write calls to a node; None if that failed."""
        connection = node.take(exchange.deadline)
        if connection is None:
            return None
        began, patience_s = time.monotonic(), node.patience_s
        ack_ms = 0
        commands: list[tuple[Any, ...]] = []
        for index in indexes:
            if asking:
                commands.append(("ASKING",))
            commands.append(exchange.calls[index].args)
        if exchange.replicas and node.alone_until <= began:
            # Answered before the deadline, so that what the primary has done is known even where no replica has it.
            ack_ms = max(1, min(exchange.ack_ms, int(900 * exchange.deadline.remaining())))
            commands.append(("WAIT", exchange.replicas, ack_ms))
        connected = False
        try:
            node.connect(connection, exchange.deadline)
            connected = True
            connection.send_packed_command([b"".join(map(pack_command, commands))])
        except _LOST as error:
            if connected:
                exchange.doubt(indexes)
            node.lose(connection, error, began)
            node.counts.unanswered(len(indexes))
            return None
        except BaseException as error:
            node.lose(connection, error, began)
            raise
        return _Message(node, connection, indexes, asking, ack_ms, began, patience_s)

    def _receive(self, exchange: _Exchange, message: _Message) -> None:
        """Read the answers of one node."""
        node, connection = message.node, message.connection
        replies: dict[int, Any] = {}
        confirmed = lacks_library = False
        unread = list(reversed(message.indexes))
        try:
            while unread:
                if message.asking:
                    self._read(connection, exchange.deadline, message.patience_s)
                try:
                    replies[unread[-1]] = self._read(connection, exchange.deadline, message.patience_s)
                except (MovedError, AskError) as redirect:
                    self._redirect(exchange, node, unread[-1], redirect)
                except _PASSING:
                    pass
                except OutOfMemoryError as error:
                    exchange.fail(unread[-1], ShardUnavailable("the shard's node is out of memory"), error)
                except ResponseError as error:
                    if self._library is not None and "Function not found" in str(error):
                        lacks_library = True
                    else:
                        exchange.fail(unread[-1], _refusal(error), error)
                unread.pop()
            if message.ack_ms:
                confirmed = self._confirmed(exchange, message)
        except BusyLoadingError as error:  # the library drops the replies behind it: all of them say the same
            node.lose(connection, error, message.sent_at)
            return
        except _LOST as error:
            # Without the answer to its WAIT a reply counts for nothing: a failover may be taking it back just now.
            exchange.doubt([*unread, *replies])
            node.lose(connection, error, message.sent_at)
            node.counts.unanswered(len(message.indexes))
            return
        except BaseException as error:
            node.lose(connection, error, message.sent_at)
            raise
        node.breaker.succeeded()
        node.give_back(connection)
        node.counts.answered(len(message.indexes), len(replies), time.monotonic() - message.sent_at)
        if message.ack_ms and not confirmed:
            node.counts.unconfirmed()
            if replies:
                self._doubt(exchange, node, replies)
        exchange.answer(replies, confirmed)
        if lacks_library:
            self._load_library(node.address, exchange.deadline)

    def _confirmed(self, exchange: _Exchange, message: _Message) -> bool:
        """The answer to a WAIT."""
        try:
            patience_s = message.patience_s + message.ack_ms / 1000
            acknowledged = self._read(message.connection, exchange.deadline, patience_s)
            return bool(acknowledged >= exchange.replicas)
        except ResponseError:  # the node became a replica while we waited
            return False

    def _doubt(self, exchange: _Exchange, node: _Node, replies: dict[int, Any]) -> None:
        """No replica confirmed: find out whether this node still is the primary, and whether it has replicas at all.

        One that was paused, or cut off, goes on as if nothing had happened until it learns that another has taken over,
        and then forgets what it did meanwhile. So the others are asked, and replies of a node that owns the slot no
        more are dropped: the calls are made again, at the new owner.
        """
        self.refresh(avoid=node.address, deadline=exchange.deadline)
        for index in [index for index in replies if self._owners[exchange.calls[index].slot] != node.address]:
            del replies[index]
            exchange.doubt([index])
        role = self.command(node.address, ("ROLE",), exchange.deadline)
        if isinstance(role, list) and role[0] == b"master" and not role[2]:
            node.alone_until = time.monotonic() + _ALONE_FOR_S

    def is_alone(self, slot: int) -> bool:
        """Whether the primary of a slot was found to have no replica connected."""
        owner = self.owner(slot)
        return owner is not None and self._node(owner).alone_until > time.monotonic()

    def _redirect(self, exchange: _Exchange, node: _Node, index: int, redirect: MovedError | AskError) -> None:
        # An empty host means: the host you asked.
        address = f"{redirect.host or node.address.rpartition(':')[0]}:{redirect.port}"
        if isinstance(redirect, MovedError):
            self._owners[redirect.slot_id] = address
        else:
            exchange.asked[index] = address

    @staticmethod
    def _read(connection: Connection, deadline: Deadline, patience_s: float) -> Any:
        """The next reply, which may take so long."""
        # Written out, for there are hundreds of replies in some messages.
        left_s = deadline.at - time.monotonic()
        return connection.read_response(timeout=patience_s if patience_s < left_s else max(left_s, 0.001))

    def _load_library(self, address: str, deadline: Deadline) -> None:
        if self._library is not None:
            self.command(address, ("FUNCTION", "LOAD", self._library()), deadline)

    # -- one node

    def command(self, address: str, args: tuple[Any, ...], deadline: Deadline) -> Any:
        """The reply of one node to a command without routing; errors are returned, not raised."""
        node = self._node(address)
        connection = node.take(deadline)
        if connection is None:
            return RedisConnectionError(f"every connection to {address} is in use")
        began = time.monotonic()
        try:
            node.connect(connection, deadline)
            connection.send_command(*args)
            reply = self._read(connection, deadline, node.patience_s)
        except ResponseError as error:
            node.give_back(connection)
            return error
        except _LOST as error:
            node.lose(connection, error, began)
            return error
        except BaseException as error:
            node.lose(connection, error, began)
            raise
        node.give_back(connection)
        return reply

    def on_primaries(self, args: tuple[Any, ...], deadline: Deadline) -> dict[str, Any]:
        """The replies of all primaries to a command, by address; errors are among them."""
        self.refresh(deadline=deadline)
        return {address: self.command(address, args, deadline) for address in self.primaries()}

    # -- topology

    def primaries(self) -> list[str]:
        """Addresses of the nodes that own slots."""
        self._ensure_topology()
        return sorted({owner for owner in self._owners if owner is not None})

    def owner(self, slot: int) -> str | None:
        """The address of the node that owns a slot, as far as this process knows."""
        self._ensure_topology()
        return self._owners[slot]

    def refresh(self, *, avoid: str | None = None, deadline: Deadline | None = None) -> None:
        """Learn anew who owns which slots, not from `avoid`.

        One caller does it, at most every 100 ms; the others use what it learns. Who wants to `avoid` a node distrusts
        what was learned before, and from that node.
        """
        until = deadline or Deadline.after(_LEARN_FOR_S)
        since = time.monotonic() - (0.0 if avoid else _REFRESH_EVERY_S)
        if not self._refresh_lock.acquire(timeout=until.remaining()):
            return
        try:
            learned = self._learned
            if learned.at < since or (avoid and learned.source == avoid):
                began = time.monotonic()
                source = self._learn(avoid, until)
                self._learned = _Learned(began if avoid else time.monotonic(), source)
        finally:
            self._refresh_lock.release()

    def _learn(self, avoid: str | None, until: Deadline) -> str | None:
        """Ask nodes in turn, healthy ones first, until one tells the slots; which one did."""
        nodes = [self._node(address) for address in dict.fromkeys([*self._nodes, *self._seeds]) if address != avoid]
        for address in [node.address for node in sorted(nodes, key=lambda node: node.breaker.failures)]:
            if until.passed:
                break
            turn = Deadline(min(until.at, Deadline.after(_TOPOLOGY_TIMEOUT_S).at))
            slots = self.command(address, ("CLUSTER", "SLOTS"), turn)
            if isinstance(slots, RedisError | OSError) or not slots:
                continue
            owners: list[str | None] = [None] * SLOTS
            for first, last, *holders in slots:
                names = [_address(holder, asked=address) for holder in holders]
                owners[first : last + 1] = [names[0]] * (last - first + 1)
                for name in names:  # replicas too: they can tell the topology when a primary cannot
                    self._node(name)
            self._owners = owners
            self._has_topology = True
            return address
        return None

    def _ensure_topology(self, deadline: Deadline | None = None) -> None:
        if not self._has_topology:
            self.refresh(deadline=deadline)

    def _node(self, address: str) -> _Node:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes.setdefault(address, _Node(address, self._timeout_s, self._connections))
        return node

    def close(self) -> None:
        """Close the connections that nobody uses."""
        for node in self._nodes.values():
            node.close()


def _address(holder: list[Any], *, asked: str) -> str:
    """`host:port` of a node in CLUSTER SLOTS; an empty host means the one that was asked."""
    host = (holder[0] or b"").decode()
    return f"{host or asked.rpartition(':')[0]}:{holder[1]}"


def _refusal(error: ResponseError) -> Refused:
    """The library takes away the words by which it tells errors apart, and keeps them elsewhere."""
    if error.status_code:
        return Refused(error.status_code, str(error))
    code, _, words = str(error).partition(" ")
    return Refused(code, words)
