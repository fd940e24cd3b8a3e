"""The plan towards a formed cluster: it converges from wherever it is left, and never takes what somebody owns."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_cluster import Cluster, Refused, Server

from sharding.cluster.executor import parse_table
from sharding.cluster.formation import (
    SLOTS,
    AddSlots,
    FormationError,
    Library,
    LoadFunctions,
    Meet,
    Node,
    Plan,
    Replicate,
    Shape,
    plan,
    share,
    unassigned,
)

LIBRARY = Library("rangeboard", "code")
SHAPE = Shape(primaries=3, replicas=1, library=LIBRARY)


def converge(cluster: Cluster, shape: Shape, *, looks: int = 60) -> list[Plan]:
    """Look, plan, act and let the nodes gossip until the plan is done; the plans on the way."""
    plans = []
    for _ in range(looks):
        plans.append(plan(cluster.look(), shape))
        if plans[-1].done:
            return plans
        for action in plans[-1].actions:
            try:
                cluster.execute(action)
            except Refused:
                continue
        cluster.gossip()
    raise AssertionError(f"not formed after {looks} looks: {plans[-1]}")


def formed(shape: Shape = SHAPE, size: int | None = None) -> Cluster:
    cluster = Cluster(size or shape.primaries * (1 + shape.replicas))
    converge(cluster, shape)
    return cluster


def assert_shape(cluster: Cluster, shape: Shape) -> None:
    owners = [server for server in cluster.servers if server.slots]
    assert len(owners) >= shape.primaries
    assert sum(slot_count(server) for server in owners) == SLOTS
    assert unassigned(slots for server in owners for slots in server.slots) == []
    for owner in owners:
        assert owner.primary_id is None
        assert owner.libraries[LIBRARY.name] == LIBRARY.digest
        followers = [server for server in cluster.servers if server.primary_id == owner.node_id]
        assert len(followers) >= shape.replicas
    everybody = {server.node_id for server in cluster.servers}
    for server in cluster.servers:
        assert {server.node_id, *server.table} == everybody


def slot_count(server: Server) -> int:
    return sum(map(len, server.slots))


def kinds(plan: Plan) -> set[type]:
    return {type(action) for action in plan.actions}


def test_fresh_nodes_are_formed_in_the_order_meet_slots_replicas_and_functions():
    """The steps come one kind after the other, and the fixed point has the wanted shape."""
    cluster = Cluster(6)
    steps = [kinds(step) for step in converge(cluster, SHAPE) if step.actions]
    assert steps == [{Meet}, {AddSlots}, {Replicate, LoadFunctions}]
    assert_shape(cluster, SHAPE)


def test_primaries_get_even_shares_in_the_order_they_are_named():
    cluster = formed()
    assert [slot_count(server) for server in cluster.servers] == [5462, 5461, 5461, 0, 0, 0]


def test_one_primary_alone_is_a_cluster():
    shape = Shape(primaries=1, replicas=0, library=LIBRARY)
    assert_shape(formed(shape), shape)


def test_a_formed_cluster_needs_nothing():
    assert plan(formed().look(), SHAPE) == Plan()


def test_nodes_that_restart_need_nothing():
    cluster = formed()
    for place in range(6):
        cluster.kill(place)
    for place in range(6):
        cluster.restart(place)
    cluster.gossip()
    assert plan(cluster.look(), SHAPE) == Plan()


def test_no_node_is_introduced_twice_while_it_shakes_hands():
    """A second MEET would tear down the link of the first."""
    cluster = Cluster(3)
    first = plan(cluster.look(), SHAPE)
    for action in first.actions:
        cluster.execute(action)
    assert len(first.actions) == 3
    assert plan(cluster.look(), SHAPE).actions == ()


def test_links_that_come_back_by_themselves_are_waited_for():
    cluster = formed()
    cluster.kill(0)
    cluster.restart(0)
    waiting = plan(cluster.look(), SHAPE)
    assert waiting.actions == ()
    assert not waiting.done


def test_swapped_roles_are_healthy():
    """A primary that failed over and came back as a replica is left as it is."""
    cluster = formed()
    cluster.kill(0)
    cluster.fail_over(3)
    cluster.gossip()
    cluster.restart(0)
    cluster.gossip()
    cluster.gossip()
    assert cluster.servers[0].primary_id == "id3"
    assert converge(cluster, SHAPE)[0].actions == (LoadFunctions(cluster.servers[3].address, LIBRARY),)


def test_an_empty_node_replicates_the_primary_with_fewest_replicas():
    cluster = formed()
    cluster.kill(4)  # the replica of id1
    cluster.join()
    converge_without_the_dead(cluster)
    assert cluster.servers[6].primary_id == "id1"


def converge_without_the_dead(cluster: Cluster) -> None:
    for _ in range(10):
        step = plan([node for node in cluster.look() if node.answers], SHAPE)
        for action in step.actions:
            cluster.execute(action)
        cluster.gossip()
    assert step.done


def test_a_surplus_replica_moves_to_the_primary_that_lost_its_own():
    cluster = formed()
    cluster.join()
    converge(cluster, SHAPE)  # id6 is a second replica of id0
    cluster.kill(5)  # the only replica of id2
    converge_without_the_dead(cluster)
    replicas = {server.primary_id for server in cluster.servers if server.alive and server.primary_id}
    assert replicas == {"id0", "id1", "id2"}


def test_nothing_is_moved_while_a_failover_is_under_way():
    """The tables differ for a moment; the old primary will come back as the replica that seems to be missing."""
    cluster = formed()
    cluster.join()
    for action in plan(cluster.look(), SHAPE).actions:
        cluster.execute(action)
    cluster.gossip()
    cluster.execute(Replicate(cluster.servers[6].address, "id1"))  # a surplus replica
    cluster.gossip()
    cluster.kill(0)
    cluster.fail_over(3)
    assert Replicate not in kinds(plan(cluster.look(), SHAPE))


def test_a_replica_of_a_primary_without_slots_gets_another_primary():
    cluster = formed()
    cluster.join()
    cluster.join()
    for action in plan(cluster.look(), SHAPE).actions:
        cluster.execute(action)
    cluster.gossip()
    cluster.execute(Replicate(cluster.servers[7].address, "id6"))
    cluster.gossip()
    assert plan(cluster.look(), SHAPE).actions == (
        Replicate(cluster.servers[6].address, "id0"),
        Replicate(cluster.servers[7].address, "id1"),
    )


def test_a_node_at_another_address_is_met_there():
    cluster = formed()
    for place in (1, 4):
        cluster.kill(place)
    for place in (1, 4):
        cluster.restart(place, moved=True)
    meets = plan(cluster.look(), SHAPE).actions
    assert {type(action) for action in meets} == {Meet}
    assert {action.other for action in meets} == {cluster.servers[1].address, cluster.servers[4].address}
    converge(cluster, SHAPE)
    assert_shape(cluster, SHAPE)


def test_slots_partly_assigned_are_completed_without_touching_the_assigned():
    cluster = Cluster(6)
    for action in plan(cluster.look(), SHAPE).actions:
        cluster.execute(action)
    cluster.gossip()
    cluster.gossip()
    cluster.execute(AddSlots(cluster.servers[4].address, (range(100, 7000), range(9000, 9001))))
    converge(cluster, SHAPE)
    assert_shape(cluster, SHAPE)
    assert cluster.servers[4].slots == (range(100, 7000), range(9000, 9001))


def test_no_slots_are_handed_out_while_a_node_is_silent():
    """The silent one might own them: newcomers alone would found a second cluster."""
    cluster = formed()
    for place in range(6):
        cluster.kill(place)
    for _ in range(3):
        cluster.join()
    for _ in range(5):
        step = plan(cluster.look(), SHAPE)
        assert kinds(step) <= {Meet}
        for action in step.actions:
            cluster.execute(action)
        cluster.gossip()
    assert "slots are handed out once every node answers" in step.waiting


def test_two_clusters_that_never_met_are_not_joined():
    one, other = formed(), formed()
    moved = [replace(node, address=f"other-{node.address}", node_id=f"other-{node.node_id}") for node in other.look()]
    strangers = [
        replace(node, table=tuple(replace(m, node_id=f"other-{m.node_id}") for m in node.table)) for node in moved
    ]
    with pytest.raises(FormationError, match="two clusters"):
        plan([*one.look(), *strangers], SHAPE)


def test_another_version_of_the_library_is_replaced():
    cluster = formed()
    newer = replace(SHAPE, library=Library("rangeboard", "newer code"))
    assert [action.at for action in plan(cluster.look(), newer).actions] == [
        server.address for server in cluster.servers[:3]
    ]


def test_an_empty_node_is_kept_for_slots_when_more_primaries_are_wanted():
    cluster = formed()
    cluster.join()
    with pytest.raises(AssertionError, match="slots have to be moved"):
        converge(cluster, replace(SHAPE, primaries=4), looks=10)
    assert cluster.servers[6].primary_id is None


def test_too_few_nodes_are_named():
    with pytest.raises(AssertionError, match="3 primaries are wanted, and 2 nodes can be one"):
        converge(Cluster(2), SHAPE, looks=5)


def test_a_silent_node_is_named():
    cluster = formed()
    cluster.kill(5)
    assert f"{cluster.servers[5].address} does not answer" in plan(cluster.look(), SHAPE).waiting


def test_an_unsettled_cluster_is_not_done():
    nodes = formed().look()
    nodes[3] = replace(nodes[3], in_sync=False)
    nodes[0] = replace(nodes[0], cluster_ok=False)
    assert plan(nodes, SHAPE) == Plan(
        (),
        (
            f"the replica {nodes[3].address} is not in sync",
            f"{nodes[0].address} does not call the cluster ok",
        ),
    )


PLACES = st.integers(0, 11)
EVENTS = st.one_of(
    st.tuples(st.just("act"), st.integers(0, 20)),  # a look, and so many of the planned actions before a crash
    st.tuples(st.just("gossip"), st.lists(st.tuples(PLACES, PLACES), max_size=30)),
    st.tuples(st.just("kill"), PLACES),
    st.tuples(st.just("restart"), PLACES),
    st.tuples(st.just("move"), PLACES),
    st.tuples(st.just("fail over"), PLACES),
    st.tuples(st.just("join"), st.none()),
)


def happen(cluster: Cluster, shape: Shape, kind: str, detail: object) -> None:
    match kind, detail:
        case "act", int(count):
            for action in plan(cluster.look(), shape).actions[:count]:
                try:
                    cluster.execute(action)
                except Refused:
                    continue
        case "gossip", list(pairs):
            cluster.gossip(pairs)
        case "join", None:
            if len(cluster.servers) < 12:
                cluster.join()
        case _, int(place):
            place %= len(cluster.servers)
            match kind:
                case "kill":
                    cluster.kill(place)
                case "restart":
                    cluster.restart(place)
                case "move":
                    cluster.kill(place)
                    cluster.restart(place, moved=True)
                case "fail over":
                    cluster.fail_over(place)


@settings(max_examples=1000, deadline=None)
@given(
    primaries=st.integers(1, 4),
    replicas=st.integers(0, 2),
    spare=st.integers(0, 1),
    once_formed=st.booleans(),
    events=st.lists(EVENTS, max_size=25),
)
def test_it_converges_from_wherever_it_is_left(primaries, replicas, spare, once_formed, events):
    """Crashes of the planner and of nodes, lost addresses, failovers and newcomers, in any order: once every node runs
    again the shape is reached, and no slot was ever taken from its owner (the simulation asserts that)."""
    shape = Shape(primaries, replicas, LIBRARY)
    cluster = Cluster(min(12, primaries * (1 + replicas) + spare))
    if once_formed:
        converge(cluster, shape)
    for kind, detail in events:
        happen(cluster, shape, kind, detail)
    for place in range(len(cluster.servers)):
        cluster.restart(place)
    converge(cluster, shape)
    assert_shape(cluster, shape)
    assert plan(cluster.look(), shape) == Plan()


RANGES = st.lists(st.integers(0, SLOTS), max_size=12).map(
    lambda cuts: [range(a, b) for a, b in zip(sorted(cuts)[::2], sorted(cuts)[1::2], strict=False) if a < b]
)


@given(RANGES)
def test_what_is_unassigned_is_exactly_the_rest(owned):
    gaps = unassigned(reversed(owned))
    covered = [slot for slots in [*owned, *gaps] for slot in slots]
    assert sorted(covered) == list(range(SLOTS))


@given(owned=RANGES, owners=st.integers(1, 7), data=st.data())
def test_shares_cover_the_gaps_once_and_level_the_owners_up(owned, owners, data):
    held = [0] * owners
    for slots in owned:
        held[data.draw(st.integers(0, owners - 1))] += len(slots)
    gaps = unassigned(owned)
    shares = share(gaps, held)
    given_out = [slot for ranges in shares for slots in ranges for slot in slots]
    assert sorted(given_out) == [slot for gap in gaps for slot in gap]
    after = [had + sum(map(len, ranges)) for had, ranges in zip(held, shares, strict=True)]
    grown = [total for total, had in zip(after, held, strict=True) if total > had]
    assert all(total <= SLOTS // owners + 1 for total in grown)


def test_the_table_of_a_real_node_is_read():
    """Handshakes are no members yet, a failing member has no link, a slot on the move stays with its owner."""
    myself, table, meeting = parse_table(
        "aa 127.0.0.1:7001@17001,host-1 myself,master - 0 0 3 connected 0-5460 9000 [9000->-cc]\n"
        "bb 127.0.0.1:7002@17002 slave aa 0 1795444883567 3 connected\n"
        "cc 127.0.0.1:7003@17003 master,fail? - 0 1795444883567 2 connected 5461-8999 9001-16383\n"
        "dd :0@0 master,noaddr - 0 0 0 disconnected\n"
        "ee 127.0.0.1:7005@17005 handshake - 0 0 0 connected\n"
    )
    assert myself == "aa"
    assert meeting == {"127.0.0.1:7005"}
    assert {member.node_id: member.linked for member in table} == {"aa": True, "bb": True, "cc": False, "dd": False}
    first, second, *_ = table
    assert (first.endpoint, first.primary_id, first.slots) == ("127.0.0.1:7001", None, (range(5461), range(9000, 9001)))
    assert second.primary_id == "aa"
    assert not Node("host:1").answers
