"""The published maps: one hash a board in Redis, and what each process remembers of it.

Publishing is ordered by (generation, version); an older map never replaces a newer one. Heads, and the marks of the
directory's partitions, are written before the map is published, so a router that knows a map finds everything ready.
"""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.cluster.client import Answer, Call
from sharding.directory import Directory
from sharding.errors import ShardLost, UnknownBoard
from sharding.functions import Functions
from sharding.keys import map_key
from sharding.shard_map import Bounds, ShardMap

#: A process looks for a newer map at least this often; shards tell it sooner.
_REMEMBERED_S = 5.0
_MOST_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class _Remembered:
    shard_map: ShardMap
    until: float


class Maps:
    """The current maps, as one process knows them."""

    def __init__(self, functions: Functions, directory: Directory) -> None:
        self._functions = functions
        self._directory = directory
        self._remembered: dict[BoardPeriod, _Remembered] = {}
        self._lock = threading.Lock()

    def current(self, name: BoardPeriod, deadline: Deadline, *, newer_than: int = 0) -> ShardMap:
        """The board's map; `newer_than`: a shard said that there is a later version. UnknownBoard if there is none."""
        known = self._remembered.get(name)
        if known and known.until > time.monotonic() and known.shard_map.version >= newer_than:
            return known.shard_map
        shard_map = self.published(name, deadline)
        with self._lock:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[name] = _Remembered(shard_map, time.monotonic() + _REMEMBERED_S)
        return shard_map

    def published(self, name: BoardPeriod, deadline: Deadline) -> ShardMap:
        """The map in Redis."""
        slot, key = map_key(name)
        document = _value(self._functions.on_keys([Call(slot, ("HGET", key, "document"))], deadline)[0])
        if document is None:
            raise UnknownBoard(f"there is no board {name.board!r} for {name.period}", field="board")
        return ShardMap.from_document(json.loads(document))

    def forget(self, name: BoardPeriod) -> None:
        """Look the map up anew, the next time it is asked for."""
        self._remembered.pop(name, None)

    def publish(self, shard_map: ShardMap, deadline: Deadline) -> ShardMap:
        """Open the map's shards where they are not, publish it, and return the map that is published then.

        For the first map of a generation. A later version goes through `rebalancing`, which keeps reads exact. The
        directory is opened with the generation and never again: its marks are to be missing where it was lost.
        """
        before = self._published_or_none(shard_map.name, deadline)
        if before is None or before.generation < shard_map.generation:
            self._directory.open(shard_map, deadline)
        else:
            self.must_be_there(before, deadline)
        self.open_shards(shard_map, {shard: shard_map.bounds(shard) for shard in shard_map.shards()}, 1, deadline)
        return self.replace(shard_map, deadline)

    def must_be_there(self, shard_map: ShardMap, deadline: Deadline) -> None:
        """Raise ShardLost unless all shards of a published map have heads: to open a lost one would hide the loss."""
        shards = {shard: shard_map.keys(shard) for shard in shard_map.shards()}
        calls = [Call(keys.slot, ("EXISTS", keys.head)) for keys in shards.values()]
        answers = self._functions.on_keys(calls, deadline)
        for shard, answer in zip(shards, answers, strict=True):
            if answer.error is not None:
                raise answer.error
            if not answer.reply:
                raise ShardLost(f"shard {shard} of {shard_map.name} is lost; `rangeboard rebuild --shard` comes first")

    def _published_or_none(self, name: BoardPeriod, deadline: Deadline) -> ShardMap | None:
        try:
            return self.published(name, deadline)
        except UnknownBoard:
            return None

    def open_shards(
        self,
        shard_map: ShardMap,
        bounds: Mapping[int, Bounds],
        stage: Literal[0, 1],
        deadline: Deadline,
        *,
        state: str | None = None,
    ) -> None:
        """Write the heads of shards with these bounds, for this version; stage 0 is a widened head (lua/head.lua).

        `state`: that of a head that is written; by default a new one is open, and any other stays as it is.
        """
        calls = [_open(shard_map, shard, its, stage, state) for shard, its in bounds.items()]
        answers = self._functions.on_keys(calls, deadline, fence=True)
        self._functions.hold([call.slot for call in calls], answers)
        for answer in answers:
            _value(answer)

    def replace(self, shard_map: ShardMap, deadline: Deadline) -> ShardMap:
        """Publish a map unless a newer one is; the map that is published then."""
        slot, key = map_key(shard_map.name)
        document = json.dumps(shard_map.document())
        call = Call(slot, ("FCALL", "rb1_publish", 1, key, shard_map.generation, shard_map.version, document))
        answers = self._functions.on_keys([call], deadline, fence=True)
        self._functions.hold([slot], answers)
        published = _value(answers[0]) or document
        self.forget(shard_map.name)
        return ShardMap.from_document(json.loads(published))


def _open(shard_map: ShardMap, shard: int, bounds: Bounds, stage: int, state: str | None) -> Call:
    fields: dict[str, object] = {
        "shard": shard,
        "shards": max(shard_map.shards()) + 1,
        "low": bounds.low,
        "high": bounds.high,
        "start_ms": shard_map.period.start_ms,
        "unit_ms": shard_map.period.tie_unit_ms,
        "sign": shard_map.board.order.sign,
        "operator": shard_map.board.operator.value,
        "recent_ms": shard_map.retry_window_ms,
    }
    if state is not None:
        fields["state"] = state
    keys = shard_map.keys(shard)
    flat = [item for pair in fields.items() for item in pair]
    args = (shard_map.version, stage, bounds.parts, bounds.part, *flat)
    return Call(keys.slot, ("FCALL", "rb1_open", 1, keys.head, *args))


def _value(answer: Answer) -> bytes | None:
    if answer.error is not None:
        raise answer.error
    return answer.reply  # type: ignore[no-any-return]
