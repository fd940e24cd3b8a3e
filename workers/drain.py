"""The drain: from a shard's outbox into `games`, each entry once.

Under a lease, so that one process drains a shard: read the oldest entries (only such as a replica has), store them in
one transaction, then trim them from the stream. A crash anywhere reads again and stores nothing twice. An entry that
cannot be decoded goes to quarantine in the same transaction and never blocks those behind it. A month without a
partition is made on the way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, Engine

from records import partitions
from records.audit import AuditRow, QuarantinedEntry, store
from records.errors import MissingPartition
from records.leases import lease
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.leaderboard import Leaderboard
from sharding.outbox import RawEntry, Undecodable
from sharding.shard_map import ShardMap

log = structlog.get_logger()

#: Batches of one run: a task that goes on for ever is never seen to be stuck.
_MOST_BATCHES = 200


@dataclass(frozen=True, slots=True)
class Drained:
    """What one run of the drain did. `surplus`: events that were applied again after their retry window."""

    entries: int = 0
    stored: int = 0
    repeated: int = 0
    surplus: int = 0
    quarantined: int = 0


def drain_shard(
    leaderboard: Leaderboard, engine: Engine, shard_map: ShardMap, shard: int, batch: int, deadline: Deadline
) -> Drained:
    """Store what the shard's outbox holds, `batch` entries a transaction, until it is empty or the deadline passes.

    Does nothing if somebody else drains this shard.
    """
    keys = shard_map.keys(shard)
    done = Drained()
    with lease(engine, f"drain:{keys.outbox}") as connection:
        if connection is None:
            return done
        for _ in range(_MOST_BATCHES):
            entries = leaderboard.outbox.read(keys, batch, deadline)
            if not entries:
                break
            done = _sum(done, _store(connection, engine, shard_map, shard, entries))
            leaderboard.outbox.trim(keys, entries[-1].entry_id, deadline)
            if deadline.passed or len(entries) < batch:
                break
    return done


def _store(
    connection: Connection, engine: Engine, shard_map: ShardMap, shard: int, entries: Sequence[RawEntry]
) -> Drained:
    rows: list[AuditRow] = []
    quarantined: list[QuarantinedEntry] = []
    for entry in entries:
        try:
            rows += _rows(shard_map.name, shard, entry)
        except Undecodable as error:
            log.error("outbox_entry_quarantined", shard=shard, entry_id=entry.entry_id, reason=error.detail)
            quarantined.append(
                QuarantinedEntry(
                    shard_map.board.name, shard_map.period.name, shard, entry.entry_id, entry.content, error.detail
                )
            )
    try:
        stored = store(connection, rows, quarantined)
    except MissingPartition as missing:
        partitions.ensure(engine, missing.months)
        stored = store(connection, rows, quarantined)
    if stored.surplus:
        log.warning("events_applied_again", shard=shard, count=len(stored.surplus))
    return Drained(len(entries), stored.inserted, stored.repeated, len(stored.surplus), len(quarantined))


def _rows(name: BoardPeriod, shard: int, entry: RawEntry) -> list[AuditRow]:
    """The audit rows of one outbox entry."""
    return [
        AuditRow(
            event_id=item.event_id,
            user_id=item.player,
            board=name.board,
            period=name.period,
            operator=item.operator,  # type: ignore[arg-type]  # the shard's head says what the board's rules say
            value=item.value,
            points_after=item.points_after,
            match_id=item.note.match_id,
            played_ms=item.note.played_at_ms,
            received_ms=item.received_at_ms,
            shard=shard,
            entry_id=item.entry_id,
            entry_item=index,
            request_id=item.note.request_id or None,
        )
        for index, item in enumerate(entry.decode())
    ]


def _sum(one: Drained, other: Drained) -> Drained:
    return Drained(
        one.entries + other.entries,
        one.stored + other.stored,
        one.repeated + other.repeated,
        one.surplus + other.surplus,
        one.quarantined + other.quarantined,
    )
