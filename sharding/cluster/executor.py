"""Forming a real cluster: look at every node, plan, act, look again.

The decisions are `formation`'s; here is only the talking. A node that does not answer is a fact to plan with, not an
error. An action that a node refuses was planned on a picture that has changed since, and the next look decides; only a
function library that does not compile is refused for ever, and raises at once.
"""

import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from sharding.cluster.formation import (
    Action,
    AddSlots,
    FormationError,
    Library,
    LoadFunctions,
    Meet,
    Member,
    Node,
    Plan,
    Replicate,
    Shape,
    code_digest,
    plan,
)

LOOK_INTERVAL_S = 0.05
NODE_TIMEOUT_S = 1.0

log = structlog.get_logger(__name__)


def form(
    addresses: Sequence[str], shape: Shape, *, deadline_s: float, alive: Callable[[], bool] = lambda: True
) -> None:
    """Bring the nodes at `host:port` into the wanted shape.

    Raises `FormationError` after `deadline_s` seconds, or once `alive` says that waiting for the nodes is in vain.
    """
    deadline = time.monotonic() + deadline_s
    while not (wanted := plan(observe(addresses), shape)).done:
        for action in wanted.actions:
            attempt(action)
        if not alive():
            raise FormationError(f"a node ended: {_lacks(wanted)}")
        if time.monotonic() > deadline:
            raise FormationError(f"the cluster was not formed in {deadline_s:g} s: {_lacks(wanted)}")
        time.sleep(LOOK_INTERVAL_S)


def observe(addresses: Iterable[str]) -> list[Node]:
    """One look at every node, all at once; the order is kept."""
    addresses = list(addresses)
    with ThreadPoolExecutor(max_workers=max(1, min(32, len(addresses)))) as pool:
        return list(pool.map(_look, addresses))


def execute(action: Action) -> None:
    """Take one action. Raises `redis.RedisError` where the node refuses or cannot be reached."""
    with _client(action.at) as client:
        match action:
            case Meet(other=other):
                host, port = _split(_endpoint(other))
                client.execute_command("CLUSTER", "MEET", host, port)
            case AddSlots(ranges=ranges):
                bounds = [bound for slots in ranges for bound in (slots.start, slots.stop - 1)]
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", *bounds)
            case Replicate(primary_id=primary_id):
                client.execute_command("CLUSTER", "REPLICATE", primary_id)
            case LoadFunctions(library=library):
                client.function_load(library.code, replace=True)


def parse_table(text: str) -> tuple[str, tuple[Member, ...], frozenset[str]]:
    """The reply of CLUSTER NODES: the speaker's own id, its table, and the endpoints it is shaking hands with.

    A line is `id ip:port@bus[,hostname] flags primary ping pong epoch link-state slot…`. A node in handshake has a
    made-up id and is no member yet; a slot on the move (`[slot->-id]`) still belongs to its owner.
    """
    myself, table, meeting = "", [], []
    for line in text.splitlines():
        node_id, address, flag_text, primary, _, _, _, link, *slots = line.split()
        endpoint = address.partition("@")[0]
        flags = set(flag_text.split(","))
        if "handshake" in flags:
            meeting.append(endpoint)
            continue
        if "myself" in flags:
            myself = node_id
        table.append(
            Member(
                node_id=node_id,
                endpoint=endpoint,
                primary_id=None if primary == "-" else primary,
                slots=tuple(_slot_range(word) for word in slots if not word.startswith("[")),
                linked="myself" in flags or (link == "connected" and not flags & {"fail", "fail?", "noaddr"}),
            )
        )
    return myself, tuple(table), frozenset(meeting)


def _look(address: str) -> Node:
    try:
        with _client(address) as client, client.pipeline(transaction=False) as pipe:
            pipe.execute_command("CLUSTER", "NODES")
            pipe.execute_command("CLUSTER INFO")
            pipe.info("replication")
            pipe.execute_command("FUNCTION", "LIST", "WITHCODE")
            nodes, cluster, replication, libraries = pipe.execute()
        endpoint = _endpoint(address)
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        log.debug("node_silent", address=address, reason=str(error))
        return Node(address)
    except redis.ResponseError as error:
        raise FormationError(f"{address} is no node of a cluster: {error}") from error
    node_id, table, meeting = parse_table(nodes)
    return Node(
        address=address,
        endpoint=endpoint,
        node_id=node_id,
        table=table,
        meeting=meeting,
        libraries=frozenset((lib["library_name"], code_digest(lib["library_code"])) for lib in libraries),
        in_sync=replication["role"] == "master" or replication["master_link_status"] == "up",
        cluster_ok=cluster["cluster_state"] == "ok",
    )


def attempt(action: Action) -> bool:
    """Take one action; whether the node did it. A refusal is logged: the next look decides what comes of it.

    Raises `FormationError` where trying again is in vain.
    """
    try:
        execute(action)
    except (redis.RedisError, OSError) as error:
        if isinstance(action, LoadFunctions) and _is_defect(error):
            raise FormationError(f"the function library cannot be loaded: {error}") from error
        log.info("formation_refused", action=describe(action), reason=str(error))
        return False
    log.info("formation_action", action=describe(action))
    return True


def _is_defect(error: Exception) -> bool:
    """Whether a refusal to load is about the code: what passes has a word in capitals before it."""
    words = str(error)
    return type(error) is redis.ResponseError and not words.partition(" ")[0].isupper() and "timeout" not in words


def describe(action: Action) -> str:
    """The action in words."""
    match action:
        case Meet(at, other):
            return f"{at} meets {other}"
        case AddSlots(at, ranges):
            return f"{at} gets slots {' '.join(f'{r.start}-{r.stop - 1}' for r in ranges)}"
        case Replicate(at, primary_id):
            return f"{at} replicates {primary_id}"
        case LoadFunctions(at, Library(name=name)):
            return f"{at} loads {name}"


def _lacks(wanted: Plan) -> str:
    return "; ".join(wanted.waiting) or ", ".join(map(describe, wanted.actions))


def _client(address: str) -> redis.Redis:
    host, port = _split(address)
    return redis.Redis(
        host=host,
        port=port,
        decode_responses=True,
        socket_timeout=NODE_TIMEOUT_S,
        socket_connect_timeout=NODE_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _endpoint(address: str) -> str:
    """The address with its host resolved: the cluster's own tables and CLUSTER MEET know no names."""
    host, port = _split(address)
    return f"{socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]}:{port}"


def _slot_range(word: str) -> range:
    first, _, last = word.partition("-")
    return range(int(first), int(last or first) + 1)
