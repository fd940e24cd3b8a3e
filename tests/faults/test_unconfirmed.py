"""Nobody acts on what a failover could still take back.

Found by `primary_killed_with_lagging_replica`: whoever met a player on the way out (a reader, the sweeper, a writer)
finished the move from the payload as it was read. With the payload on the primary alone, and the primary dead a moment
later, the row was live again at the source, and a second one in the target.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from faults.census import Misplacement, census
from faults.damage import Damage
from faults.rig import Rig
from waiting import wait_until

from runtime.deadlines import Deadline
from sharding.directory import Entry
from sharding.errors import LeaderboardError, NotDurable
from sharding.functions import Depart, departures, step_call
from sharding.leaderboard import RankMode, Submission
from sharding.players import PlayerId
from sharding.submissions import Status
from workers.patience import patiently
from workers.verify import verify

pytestmark = pytest.mark.servers
ANN = PlayerId("ann")


@pytest.fixture
def damage(rig: Rig) -> Damage:
    rig.wait_healed()
    rig.new_board()
    return Damage(rig)


@contextmanager
def silent_replica(rig: Rig, shard: int) -> Iterator[None]:
    """The replica of a shard's primary hears nothing."""
    replica = rig.replica_of(rig.primary_of(shard))
    rig.pause(replica)
    try:
        yield
    finally:
        rig.go_on(replica)


def depart_unheard(damage: Damage, where: Entry) -> int:
    """Take Ann out of her range and let her depart, without waiting for a replica; the target."""
    board, rig = damage.rig.shard_map, damage.rig
    damage.set_row("ann", where.shard, -(1 << 22) * 305, where.epoch)
    target = board.shard_for(-(1 << 22) * 305, b"ann")  # type: ignore[arg-type]
    call = step_call(board.keys(where.shard), "rb1_depart", ["ann", where.epoch, target])
    answer = rig.leaderboard.functions.on_shards([call], board.retry_window_ms, Deadline.after(5))[0]
    assert next(departures(answer.reply))[0] == Depart.DEPARTED
    return target


def read(rig: Rig) -> None:
    rig.leaderboard.standing(rig.shard_map.name, ANN, Deadline.after(1.5))


def sweep(rig: Rig) -> None:
    rig.leaderboard.rebalancer.sweep(rig.shard_map, Deadline.after(1.5))


def write(rig: Rig) -> None:
    again = Submission(ANN, 1, "m2")
    rig.leaderboard.submit(rig.shard_map.name, [again], Deadline.after(1.5), rank=RankMode.NONE)


@pytest.mark.parametrize("meet", [read, sweep, write])
def test_a_departure_that_no_replica_has_is_not_gone_on_with(damage: Damage, meet: Callable[[Rig], None]) -> None:
    rig = damage.rig
    where = damage.play("ann", 5)
    with silent_replica(rig, where.shard):
        target = depart_unheard(damage, where)
        with suppress(LeaderboardError):  # "try again" is a fair answer
            meet(rig)
        assert damage.packed("ann", target) is None, "a second row, should the primary die now"
    wait_until(lambda: _swept(rig), 10)
    assert {what for what, _, _ in census(rig.leaderboard, rig.shard_map).found} <= {Misplacement.STALE}
    assert damage.packed("ann", target) is not None


def _swept(rig: Rig) -> bool:
    sweep(rig)
    return not any(
        view.leaving or view.strays for view in rig.leaderboard.shards(rig.shard_map.name, Deadline.after(5))
    )


def test_the_audit_waits_for_the_replica(damage: Damage) -> None:
    rig = damage.rig
    where = damage.play("ann", 5)
    keys = rig.shard_map.keys(where.shard)
    with silent_replica(rig, where.shard):
        damage.command(keys.slot, "XADD", keys.outbox, "*", "e", b"unheard")
        with pytest.raises(NotDurable):
            rig.leaderboard.outbox.read([keys], 10, Deadline.after(5))
    (entries,) = patiently(lambda: rig.leaderboard.outbox.read([keys], 10, Deadline.after(5)))
    assert len(entries) == 2


def test_a_lost_replica_does_not_stop_the_audit(damage: Damage) -> None:
    """Its primary has nobody who could take its place with less than it has. An outbox that fills stops all writes."""
    rig = damage.rig
    where = damage.play("ann", 5)
    replica = rig.replica_of(rig.primary_of(where.shard))
    rig.servers.kill(replica)
    try:
        result = rig.leaderboard.submit(
            rig.shard_map.name, [Submission(ANN, 1, "alone")], Deadline.after(5), rank=RankMode.NONE
        )[0]
        assert (result.status, result.durable) == (Status.APPLIED, False)
        assert verify(rig.leaderboard, rig.engine, rig.shard_map, lambda _: None).agrees
    finally:
        rig.servers.start(replica)
        rig.wait_healed()
