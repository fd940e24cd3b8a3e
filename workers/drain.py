"""The drain: from the outboxes of shards into `games`, each entry once.

Under leases, so that one process drains a shard: read the oldest entries (only such as a replica has), store them in
one transaction, take back what turns out to have been applied twice, then trim the entries from the streams. A crash
anywhere reads again, stores nothing twice and takes nothing back twice. Shards share each of these steps: while play is
slow, the steps cost more than what they store.

Nothing blocks what is behind it. An entry that cannot be decoded, or holds a row that PostgreSQL cannot, goes to
quarantine in the same transaction, and its other rows are stored. A month without a partition is made on the way.

An entry may hold one submission or a thousand. How many are read at a time is learned from those read before, and where
that was too many, as after an import, they are stored in parts: a transaction has some ten thousand rows, and memory
stays flat.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import structlog
from sqlalchemy import Connection, Engine

from records import partitions
from records.audit import AuditEntry, AuditRow, QuarantinedEntry, Stored, last_before, rows_of, store, unfit
from records.boards import Operator
from records.errors import InvalidRecord, MissingPartition
from records.leases import leases
from runtime import failpoints
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.leaderboard import Leaderboard
from sharding.outbox import RawEntry, Undecodable
from sharding.players import PlayerId
from sharding.shard_map import ShardMap
from sharding.submissions import Submission
from workers import metrics
from workers.compensation import REPETITION, compensations, repetitions, setting_back
from workers.rows import packed_at

log = structlog.get_logger()

#: Batches of one run: a task that goes on for ever is never seen to be stuck.
_MOST_BATCHES = 200
#: Of each shard, before it is known how large they are.
_FIRST_ENTRIES = 20
#: Of entries as they come, in one transaction: a row has 100 to 250.
_BYTES_AT_ONCE = 3_000_000


class _Waiting(NamedTuple):
    """An entry, and the shard whose outbox it is in."""

    shard: int
    entry: RawEntry


@dataclass(frozen=True, slots=True)
class Drained:
    """What one run of the drain did. `surplus`: events that were applied again after their retry window."""

    entries: int = 0
    stored: int = 0
    repeated: int = 0
    surplus: int = 0
    quarantined: int = 0

    def plus(self, other: "Drained") -> "Drained":
        """Both together."""
        return Drained(
            self.entries + other.entries,
            self.stored + other.stored,
            self.repeated + other.repeated,
            self.surplus + other.surplus,
            self.quarantined + other.quarantined,
        )


def drain_shards(
    leaderboard: Leaderboard,
    engine: Engine,
    shard_map: ShardMap,
    shards: Sequence[int],
    most: int,
    deadline: Deadline,
    *,
    compensate: bool = True,
) -> Drained:
    """Store what the outboxes of shards hold, `most` entries of each at a time, until they are empty or time is up.

    Passes over shards that somebody else drains. What one of them fails with, all do: then it takes a run for each.
    `compensate`: take back what was applied twice; not where the rows are about to be made anew from the audit.
    """
    done = Drained()
    names = {f"drain:{shard_map.keys(shard).outbox}": shard for shard in shards}
    with leases(engine, list(names)) as (connection, held):
        left = [names[name] for name in held]
        wanted = min(most, _FIRST_ENTRIES)
        for _ in range(_MOST_BATCHES):
            found = leaderboard.outbox.read([shard_map.keys(shard) for shard in left], wanted, deadline)
            waiting = [_Waiting(shard, entry) for shard, entries in zip(left, found, strict=True) for entry in entries]
            if not waiting:
                break
            surplus = 0
            for part in _parts(waiting):
                stored, one = _store(connection, engine, shard_map.name, part)
                failpoints.reach("drain.stored")
                if compensate and stored.surplus:
                    _take_back(leaderboard, connection, shard_map, stored.surplus, deadline)
                    failpoints.reach("drain.compensated")
                lasts = {shard: entry.entry_id for shard, entry in part}
                leaderboard.outbox.trim([shard_map.keys(shard) for shard in lasts], list(lasts.values()), deadline)
                done = done.plus(one)
                surplus += one.surplus
                _count(shard_map.name, one)
            if not surplus:  # else what takes it back is there by now
                left = [shard for shard, entries in zip(left, found, strict=True) if len(entries) == wanted]
            if deadline.passed or not left:
                break
            size = sum(each.entry.size for each in waiting)
            wanted = max(1, min(most, _BYTES_AT_ONCE * len(waiting) // (size * len(left))))
    return done


def _parts(waiting: Sequence[_Waiting]) -> Iterator[Sequence[_Waiting]]:
    """The entries in runs that are stored together; one that is too large by itself is a run of its own."""
    first = size = 0
    for place, each in enumerate(waiting):
        if place > first and size + each.entry.size > _BYTES_AT_ONCE:
            yield waiting[first:place]
            first, size = place, 0
        size += each.entry.size
    yield waiting[first:]


def _store(
    connection: Connection, engine: Engine, name: BoardPeriod, waiting: Sequence[_Waiting]
) -> tuple[Stored, Drained]:
    """Store entries, with what cannot be stored put aside."""
    audited: list[AuditEntry] = []
    aside: dict[tuple[int, str], str] = {}
    for shard, entry in waiting:
        try:
            audited.append(_audited(name, shard, entry))
        except Undecodable as error:
            aside[shard, entry.entry_id] = error.detail
    try:
        stored = _store_entries(connection, engine, audited, _quarantined(name, waiting, aside))
    except InvalidRecord as refused:
        rows = rows_of(audited)
        bad = {wrong.index: wrong for wrong in unfit(rows) if wrong.index is not None}
        if not bad:
            raise
        for index, wrong in bad.items():
            row = rows[index]
            aside.setdefault((row.shard, row.entry_id), f"item {row.entry_item}: {wrong.field} {wrong.detail}")
        log.warning("rows_refused", board=str(name), rows=len(bad), reason=refused.detail)
        audited = [row.alone() for index, row in enumerate(rows) if index not in bad]
        stored = _store_entries(connection, engine, audited, _quarantined(name, waiting, aside))
    for (shard, entry_id), reason in aside.items():
        log.error("outbox_entry_quarantined", board=str(name), shard=shard, entry_id=entry_id, reason=reason)
    return stored, Drained(len(waiting), stored.inserted, stored.repeated, len(stored.surplus), len(aside))


def _store_entries(
    connection: Connection, engine: Engine, audited: Sequence[AuditEntry], quarantined: Sequence[QuarantinedEntry]
) -> Stored:
    try:
        return store(connection, audited, quarantined)
    except MissingPartition as missing:
        partitions.ensure(engine, missing.months)
        return store(connection, audited, quarantined)


def _quarantined(
    name: BoardPeriod, waiting: Sequence[_Waiting], aside: Mapping[tuple[int, str], str]
) -> list[QuarantinedEntry]:
    return [
        QuarantinedEntry(name.board, name.period, shard, entry.entry_id, entry.content(), aside[shard, entry.entry_id])
        for shard, entry in waiting
        if (shard, entry.entry_id) in aside
    ]


def _audited(name: BoardPeriod, shard: int, entry: RawEntry) -> AuditEntry:
    """An outbox entry, as the audit log takes it."""
    received_ms, operator, applied = entry.decode()
    rule = cast(Operator, operator)  # the shard's head says what the board's rules say
    return AuditEntry(name.board, name.period, rule, shard, entry.entry_id, received_ms, applied)


def _take_back(
    leaderboard: Leaderboard,
    connection: Connection,
    shard_map: ShardMap,
    surplus: Sequence[AuditRow],
    deadline: Deadline,
) -> None:
    """Take back what was applied twice. Raises what keeps one of it from being taken back: then nothing is trimmed."""
    submissions = compensations(surplus)
    if repeated := repetitions(surplus):
        store(connection, [row.alone() for row in repeated])
        submissions += _settings_back(leaderboard, connection, shard_map, repeated, deadline)
    if not submissions:
        return
    results = leaderboard.settle(shard_map, submissions, deadline)
    for result in results:
        if result.error is not None:
            raise result.error
    applied = sum(result.status == "applied" for result in results)
    metrics.compensated_events.labels(shard_map.name.board).inc(applied)
    log.warning("events_taken_back", board=str(shard_map.name), count=applied)


def _settings_back(
    leaderboard: Leaderboard,
    connection: Connection,
    shard_map: ShardMap,
    repeated: Sequence[AuditRow],
    deadline: Deadline,
) -> list[Submission]:
    """What sets points back, where they still are what a repetition has made of them."""
    players = [PlayerId(row.user_id) for row in repeated]
    rows = leaderboard.reader.find_many(shard_map, players, deadline, hidden=True)
    found = []
    for row in repeated:
        its = rows.get(PlayerId(row.user_id))
        value = last_before(connection, row, but_not=REPETITION)
        unchanged = its is not None and its.packed == packed_at(shard_map, row.value, row.received_ms)
        if unchanged and value not in {None, row.value}:
            found.append(setting_back(row, value))
    return found


def _count(name: BoardPeriod, drained: Drained) -> None:
    metrics.drained_rows.labels(name.board).inc(drained.stored)
    if drained.quarantined:
        metrics.quarantined_entries.labels(name.board).inc(drained.quarantined)
