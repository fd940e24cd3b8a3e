"""What a fault test works on: servers that may be killed, a database, and one board whose ranges are narrow.

The ranges are as wide as two typical submissions, so nearly every submission moves its player to another shard, and
there are few players, so everybody is after the same ones.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Engine
from waiting import wait_until

from cli.servers import ServerSet, wait_for_redis
from records import boards, migrations, partitions
from records.engine import connect
from records.periods import months_around
from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import Board
from sharding.cluster.executor import observe
from sharding.cluster.formation import Library, Shape, plan
from sharding.functions import LIBRARY_NAME, library_code
from sharding.leaderboard import Leaderboard
from sharding.periods import period_at
from sharding.players import PlayerId
from sharding.shard_map import ShardMap, cut_after, ranges_cut_at

CUTS = range(-500, 501, 100)
PLAYERS = [PlayerId(f"player-{number}") for number in range(12)]
#: Points of one submission: far enough to leave the range more often than not.
FURTHEST = 250
_HEAL_S = 40.0


@dataclass(slots=True)
class Rig:
    """Servers and a board on them. `leaderboard` and `engine` are the parent's; no child may use them.

    `patient` is for looking at what came of it all: a node that is late, once, is no finding.
    """

    home: Path
    servers: ServerSet
    settings: Settings
    engine: Engine
    leaderboard: Leaderboard
    patient: Leaderboard
    shard_map: ShardMap

    def new_board(self) -> None:
        """Go on with an empty board."""
        number = len(boards.list_all(self.engine))
        name = f"faults-{number}"
        boards.create(self.engine, boards.NewBoard(name, registration="open"))
        rules = Board(name=name, open_registration=True)
        first = ShardMap(
            board=rules,
            period=period_at(rules.kind, datetime.now(UTC)),
            generation=1,
            version=1,
            ranges=ranges_cut_at(sorted(cut_after(points, rules.order) for points in CUTS)),
            retry_window_ms=3_600_000,
            partitions=8,
            buckets=64,
        )
        self.shard_map = self.leaderboard.maps.publish(first, Deadline.after(10))

    def connect(self, settings: Settings) -> Leaderboard:
        """A child's own door to the boards."""
        return Leaderboard.connect(settings, known_players=lambda _, players: players)

    # -- doing harm, and waiting until it has healed

    def primary_of(self, shard: int) -> str:
        """The name of the process that serves a shard, as the cluster says now."""
        slot = self.shard_map.keys(shard).slot
        self.leaderboard.client.refresh()
        owner = self.leaderboard.client.owner(slot)
        assert owner is not None
        return self.name_of(owner)

    def name_of(self, address: str) -> str:
        """The process that listens there."""
        port = int(address.rpartition(":")[2])
        return next(name for name, its in self.servers.ports.items() if its == port)

    def replica_of(self, name: str) -> str:
        """The name of a process that replicates that one."""
        nodes = observe(self.settings.redis_nodes.split(","))
        node_id = next(node.node_id for node in nodes if self.name_of(node.address) == name)
        table = next(node.table for node in nodes if self.name_of(node.address) == name)
        replica = next(member for member in table if member.primary_id == node_id)
        return self.name_of(replica.endpoint)

    def pause(self, name: str) -> None:
        """Stop a process in its tracks."""
        os.kill(self.servers.pids[name], signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """Let a paused process go on as if nothing had happened."""
        os.kill(self.servers.pids[name], signal.SIGCONT)

    def write_through(self, name: str) -> None:
        """From now on the node's file has what it has told others that it has, however busy the disk is."""
        with self.node(name) as node:
            node.config_set("appendfsync", "always")

    def promote_in_any_case(self, name: str) -> None:
        """Let a replica that has just been started take over, however old its data may be."""
        wait_for_redis(self.servers.ports[name], _HEAL_S)
        with self.node(name) as node:
            node.config_set("cluster-replica-validity-factor", 0)

    def node(self, name: str) -> redis.Redis:
        """A connection to one node."""
        return redis.Redis(
            host="127.0.0.1", port=self.servers.ports[name], socket_timeout=5, retry=Retry(NoBackoff(), 0)
        )

    def migrate(self, slot: int, source: str, target: str) -> None:
        """Move a slot from one primary to another, key by key, while it is in use."""
        with self.node(source) as giver, self.node(target) as taker:
            ids = {name: node.execute_command("CLUSTER", "MYID") for name, node in ((source, giver), (target, taker))}
            taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
            giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
            while keys := giver.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                port = self.servers.ports[target]
                giver.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
            for node in (taker, giver):
                node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])

    def wait_healed(self) -> None:
        """Return once every slot has a primary and every primary an up-to-date replica."""
        shape = Shape(3, 1, Library(LIBRARY_NAME, library_code()))
        addresses = self.settings.redis_nodes.split(",")
        wait_until(lambda: plan(observe(addresses), shape).done, _HEAL_S)


@contextmanager
def rigged(home: Path, *, ack_replicas: int = 1) -> Iterator[Rig]:
    """Three primaries, three replicas, PostgreSQL, and a first board."""
    given = Settings(ack_replicas=ack_replicas, log_level="warning")
    with ServerSet(home, settings=given, library=Library(LIBRARY_NAME, library_code())) as servers:
        settings = msgspec.structs.replace(servers.settings, ack_replicas=ack_replicas)
        migrations.upgrade(settings.postgres_dsn)
        engine = connect(settings.postgres_dsn, pool_size=2)
        leaderboard = Leaderboard.connect(settings, known_players=lambda _, players: players)
        patience = msgspec.structs.replace(settings, ack_timeout_ms=5_000, node_timeout_ms=5_000)
        patient = Leaderboard.connect(patience, known_players=lambda _, players: players)
        partitions.ensure(engine, months_around(datetime.now(UTC).date()))
        try:
            rig = Rig(home, servers, settings, engine, leaderboard, patient, None)  # type: ignore[arg-type]
            rig.new_board()
            yield rig
        finally:
            leaderboard.close()
            patient.close()
            engine.dispose()
