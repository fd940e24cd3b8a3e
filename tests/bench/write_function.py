"""`rb1_apply` by the node's own CPU, beside ZINCRBY, and beside the commands that it cannot do without.

The players are those of the board, all of them, over as many shards as the board has, but on one node: each shard has a
range of the points, as in mid-month, and everybody has events in both windows. ZINCRBY is of one sorted set of them all
on the same node. Both are asked for the same players in the same order, 100 at a time, in turns right after each other.
"""

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from typing import Any

import msgpack

from bench.measures import TOGETHER, Bench, Pair, increments
from bench.node import Command, Node
from sharding.boards import BoardPeriod
from sharding.functions import OPEN, REBUILDING, SLICE, ApplyMode, Asked, Code, apply_call, effects, pack_list
from sharding.keys import ShardKeys, shard_keys, windows_at
from sharding.lifecycle import LoadedRow
from sharding.players import Member, PlayerId, member_of
from sharding.scores import Order, PackedScore, pack
from sharding.shard_map import ShardMap
from sharding.submissions import Submission, pack_notes

#: Turns, and calls of a turn for each second of a measurement.
_TURNS, _CALLS_PER_S = 5, 40
#: How long an event is remembered: so long that the window of now does not end while something is measured.
_RECENT_MS = 10**12
_SECONDS_IN = 100_000
_OTHERS = 1_000
#: Bytes of an event.
_EVENT = 10


@dataclass(frozen=True)
class _Shards:
    """A shard of each range on one node, the same once more for the commands alone, and who plays in it.

    `points` are those of the commands alone, and follow what is won.
    """

    ours: list[ShardKeys]
    bare: list[ShardKeys]
    playing: list[list[Member]]
    points: dict[Member, int]


def write_function(bench: Bench) -> Pair:
    """Submissions a second of the node's CPU, beside ZINCRBY's; the third figure is of the commands alone."""
    node, shards = bench.node, _loaded(bench)
    busy = [shard for shard, members in enumerate(shards.playing) if members]
    count = max(len(busy), int(_CALLS_PER_S * bench.seconds))
    ours_us, bare_us, floor_us = [], [], []
    for _ in range(_TURNS + 1):
        calls = [(shard, random.choices(shards.playing[shard], k=TOGETHER)) for shard in islice(cycle(busy), count)]
        ours = [node.packed([_apply_call(shards.ours[shard], members)]) for shard, members in calls]
        floor = [increments(bench, members) for _, members in calls]
        alone = [node.packed([_commands_alone(shards.bare[shard], members, shards.points)]) for shard, members in calls]
        our_us, said = node.cpu_us(ours, 1)
        assert all(effect.code == Code.APPLIED for reply in said for effect in effects(reply)), "not all was applied"
        ours_us.append(our_us / TOGETHER)
        floor_us.append(node.cpu_us(floor, TOGETHER)[0] / TOGETHER)
        bare_us.append(node.cpu_us(alone, 1)[0] / TOGETHER)
        node.call(*(("UNLINK", keys.outbox) for keys in (*shards.ours, *shards.bare)))
    # the first turn finds nothing in any cache
    us, alone_us, floor_each = (statistics.median(figures[1:]) for figures in (ours_us, bare_us, floor_us))
    return Pair(1e6 / us, 1e6 / floor_each, {"function": us, "its commands alone": alone_us, "`ZINCRBY`": floor_each})


@cache
def _loaded(bench: Bench) -> _Shards:
    """Loaded once a run, as a rebuild loads them; the shards of the commands alone are copies."""
    node, shard_map = bench.node, bench.shard_map()
    mine = (
        keys
        for shard in range(_OTHERS)
        if node.owns((keys := shard_keys(BoardPeriod("bench", shard_map.period.name), 1, shard)).slot)
    )
    ours, bare = (list(islice(mine, len(shard_map.ranges))) for _ in range(2))
    now_ms = int(time.time() * 1000)
    bounds = {"shard": 0, "low": -(2**52), "high": 2**52, "parts": 1, "part": 0, "version": 1, "state": REBUILDING}
    rules = {"start_ms": now_ms - 10**6, "unit_ms": 1000, "sign": -1, "operator": "add", "recent_ms": _RECENT_MS}
    for keys in ours:
        node.client.hset(keys.head, mapping={**bounds, **rules})
    _load(node, ours, shard_map, bench)
    for keys in ours:
        node.client.hset(keys.head, "state", OPEN)
    _copy(node, ours, bare)
    node.client.function_load(_COMMANDS_ALONE, replace=True)
    playing: list[list[Member]] = [[] for _ in ours]
    points = {}
    for one in bench.population.who_play():
        member = member_of(one.player)
        playing[shard_map.range_at(_row_of(member, one.points))].append(member)
        points[member] = one.points
    bench.wait_until_nodes_rest()
    return _Shards(ours, bare, playing, points)


def _row_of(member: Member, points: int) -> PackedScore:
    return pack(points, int.from_bytes(member[:4], "big") % _SECONDS_IN, Order.DESC)


def _load(node: Node, shards: Sequence[ShardKeys], shard_map: ShardMap, bench: Bench) -> None:
    waiting: dict[int, list[LoadedRow]] = defaultdict(list)

    def flush(shard: int) -> None:
        rows = waiting.pop(shard)
        flat = pack_list([value for row in rows for value in row.flat()])
        window = windows_at(int(time.time() * 1000), _RECENT_MS).recent
        node.call(_function_call(shards[shard], "rb1_load", window, flat))

    for one in bench.population.everybody():
        member = member_of(one.player)
        packed = _row_of(member, one.points)
        recent, before = random.randbytes(_EVENT), random.randbytes(2 * _EVENT)
        shard = shard_map.range_at(packed)
        waiting[shard].append(LoadedRow(member, packed, recent=recent, before=before))
        if len(waiting[shard]) == SLICE:
            flush(shard)
    for shard in list(waiting):
        flush(shard)


def _copy(node: Node, sources: Sequence[ShardKeys], targets: Sequence[ShardKeys]) -> None:
    """Whole shards; their slots are others, so COPY does not do it."""
    windows = windows_at(int(time.time() * 1000), _RECENT_MS)
    for source, target in zip(sources, targets, strict=True):
        for key, other in zip(source.for_function(windows), target.for_function(windows), strict=True):
            (content,) = node.call(("DUMP", key))
            if content is not None:
                node.call(("RESTORE", other, 0, content, "REPLACE"))


def _apply_call(keys: ShardKeys, members: Sequence[Member]) -> Command:
    note = Submission(PlayerId("x"), 1, random.randbytes(8).hex()).note()
    asked = [Asked(member, 1, random.randbytes(_EVENT), note) for member in members]
    call = apply_call(keys, asked, outbox_limit=10**9, mode=ApplyMode.PLAIN)
    return _function_call(keys, call.function, *call.args)


#: Reads and writes what rb1_apply does, with arguments that were made beforehand.
_COMMANDS_ALONE = """#!lua name=bench
redis.register_function('bench_commands_alone', function(keys, args)
  local members = cmsgpack.unpack(args[3])
  redis.call('ZMSCORE', keys[1], unpack(members))
  redis.call('HMGET', keys[3], unpack(members))
  redis.call('HMGET', keys[4], unpack(members))
  redis.call('ZADD', keys[1], unpack(cmsgpack.unpack(args[4])))
  redis.call('HSET', keys[3], unpack(cmsgpack.unpack(args[5])))
  redis.call('XADD', keys[8], '*', 's', args[5], 'n', args[6], 'r', args[3])
  return 1
end)
"""


def _commands_alone(keys: ShardKeys, members: Sequence[Member], points: dict[Member, int]) -> Command:
    rows: list[int | bytes] = []
    for member in members:
        points[member] += 1
        rows += (_row_of(member, points[member]), member)
    events = [part for member in members for part in (member, random.randbytes(2 * _EVENT))]
    notes = pack_notes([Submission(PlayerId("x"), 1, random.randbytes(8).hex()).note()] * len(members))
    lists = (msgpack.packb(each, use_bin_type=False) for each in (list(members), rows, events))
    return _function_call(keys, "bench_commands_alone", *lists, notes)


def _function_call(keys: ShardKeys, function: str, *args: Any) -> Command:
    windows = windows_at(int(time.time() * 1000), _RECENT_MS)
    named = keys.for_function(windows)
    return ("FCALL", function, len(named), *named, windows.recent, windows.gone, *args)
