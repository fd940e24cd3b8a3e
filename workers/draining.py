"""Emptying all outboxes of a board period: what verify, archive and rebuild begin with."""

import time
from collections.abc import Iterable
from functools import partial

from sqlalchemy import Engine

from runtime.deadlines import Deadline
from sharding.errors import ShardUnavailable
from sharding.leaderboard import Leaderboard
from sharding.shard_map import ShardMap
from workers.drain import drain_shards
from workers.patience import patiently

_ENTRIES = 2_000
_STEP_S = 60.0
_PAUSE_S = 0.05


def drain_now(
    leaderboard: Leaderboard,
    engine: Engine,
    shard_map: ShardMap,
    deadline: Deadline,
    *,
    shards: Iterable[int] | None = None,
    compensate: bool = True,
) -> None:
    """Return once all that was submitted before this call to these shards (default: all) is stored.

    ShardUnavailable if time is up first. A shard that somebody else drains is waited for. Entries that come meanwhile
    may stay.
    """
    for shard in shard_map.shards() if shards is None else shards:
        _drain_up_to(leaderboard, engine, shard_map, shard, deadline, compensate=compensate)


def _drain_up_to(
    leaderboard: Leaderboard, engine: Engine, shard_map: ShardMap, shard: int, deadline: Deadline, *, compensate: bool
) -> None:
    keys = shard_map.keys(shard)
    last = leaderboard.outbox.last(keys, deadline)
    while last is not None and leaderboard.outbox.has_up_to(keys, last, deadline):
        step = Deadline(min(deadline.at, Deadline.after(_STEP_S).at))
        drained = patiently(
            partial(drain_shards, leaderboard, engine, shard_map, [shard], _ENTRIES, step, compensate=compensate)
        )
        if deadline.passed:
            raise ShardUnavailable(f"the outbox of shard {shard} could not be emptied in time")
        if not drained.entries:  # somebody else has the lease
            time.sleep(min(_PAUSE_S, deadline.remaining()))
