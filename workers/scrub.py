"""The scrub of one board, with the audit log behind it: `sharding/scrub.py` says what it looks for.

One process scrubs a board at a time, under a lease. Where a pass stands is kept beside the board's map, so the next
tick goes on there, in whatever process, and a crash repeats a batch. Everything is counted by kind, in the log and in a
metric: in normal operation there is nothing to count.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import Engine

from records import audit
from records import players as kept_players
from records.leases import lease
from runtime.deadlines import Deadline
from sharding.cluster.client import Call
from sharding.keys import map_key, windows_at
from sharding.leaderboard import Leaderboard
from sharding.lifecycle import LoadedRow
from sharding.players import Member, player_of
from sharding.scrub import SETTLE_S, START, Position, Repairs, Scrub
from sharding.shard_map import ShardMap
from workers import metrics
from workers.draining import drain_now
from workers.rows import row_of

log = structlog.get_logger()

_DRAIN_S = 60.0
_STEP_S = 10.0
_FIELD = "scrub"


def scrub(
    leaderboard: Leaderboard,
    engine: Engine,
    shard_map: ShardMap,
    deadline: Deadline,
    *,
    players_per_s: float,
    resume: bool = False,
    settle_s: float = SETTLE_S,
    report: Callable[[Repairs], None] = lambda _: None,
) -> Repairs | None:
    """Scrub a board until the pass is over or the deadline passes; what was repaired. None if somebody else is at it.

    `resume`: go on where the last one stopped, and leave word where this one does. Otherwise it is a pass of its own.
    """
    done = Repairs()
    worker = Scrub(leaderboard.functions, leaderboard.directory, _audit(leaderboard, engine), settle_s=settle_s)
    with lease(engine, f"scrub:{shard_map.name}:{shard_map.generation}") as connection:
        if connection is None:
            return None
        start = _position(leaderboard, shard_map) if resume else START
        try:
            end = worker.run(shard_map, deadline, players_per_s=players_per_s, start=start, repairs=done, report=report)
            if resume:
                _keep(leaderboard, shard_map, end or START)
        finally:
            _count(shard_map, done)
    return done


def _audit(
    leaderboard: Leaderboard, engine: Engine
) -> Callable[[ShardMap, Sequence[Member]], tuple[int, Mapping[Member, LoadedRow]]]:
    """Tells of lost rows what the audit log has, once it has all that the outboxes hold."""

    def look_up(shard_map: ShardMap, members: Sequence[Member]) -> tuple[int, Mapping[Member, LoadedRow]]:
        drain_now(leaderboard, engine, shard_map, Deadline.after(_DRAIN_S))
        now = datetime.now(UTC)
        window = windows_at(int(now.timestamp() * 1000), shard_map.retry_window_ms).recent
        since = now - timedelta(milliseconds=2 * shard_map.retry_window_ms)
        name = shard_map.name
        players = [player_of(member) for member in members]
        replayed = audit.replay(engine, name.board, name.period, since=since, players=players)
        hidden = kept_players.hidden_among(engine, players)
        rows = (row_of(shard_map, one, window, hidden=one.user_id in hidden) for one in replayed)
        return window, {row.member: row for row in rows}

    return look_up


def _position(leaderboard: Leaderboard, shard_map: ShardMap) -> Position:
    """Where the last pass of this generation stopped."""
    slot, key = map_key(shard_map.name)
    answer = leaderboard.functions.on_keys([Call(slot, ("HGET", key, _FIELD))], Deadline.after(_STEP_S))[0]
    if answer.error is not None:
        raise answer.error
    return Position.parse(answer.reply.decode()) if answer.reply else START


def _keep(leaderboard: Leaderboard, shard_map: ShardMap, position: Position) -> None:
    slot, key = map_key(shard_map.name)
    call = Call(slot, ("HSET", key, _FIELD, str(position)))
    answer = leaderboard.functions.on_keys([call], Deadline.after(_STEP_S))[0]
    if answer.error is not None:
        raise answer.error


def _count(shard_map: ShardMap, done: Repairs) -> None:
    for kind in ("rows", "entries"):
        metrics.scrubbed.labels(shard_map.name.board, kind).inc(getattr(done, kind))
    for kind in ("pointed", "buried", "restored", "missing", "passed_over"):
        if count := getattr(done, kind):
            metrics.scrub_repairs.labels(shard_map.name.board, kind).inc(count)
    level = log.warning if done.total or done.missing or done.passed_over else log.debug
    level("scrubbed", board=str(shard_map.name), **asdict(done))
