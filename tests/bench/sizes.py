"""What a board takes in the primaries' memory by kind of key (docs/keyspace.md), beside bare sorted sets of the same.

Sizes are those of MEMORY USAGE over all samples: the keys and what they hold, without what Redis itself needs.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import redis

#: Kinds of key that are hashes with an entry for each player concerned.
HASHES = ("directory", "epochs", "gone", "recent")
_PATIENCE_S = 60.0
_PIECE = 10_000


class Sizes:
    """The keys of the global board on these primaries."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports

    def by_kind(self) -> dict[str, float]:
        """Bytes of all keys of a kind."""
        sizes: dict[str, float] = defaultdict(float)
        for client, key in self._keys():
            sizes[kind_of(key)] += client.execute_command("MEMORY USAGE", key, "SAMPLES", 0) or 0  # it may be gone
        return sizes

    def counts(self) -> dict[str, float]:
        """Entries of each kind of key; `outbox`: submissions in it, `events`: those in all recent windows."""
        counts: dict[str, float] = defaultdict(float)
        for client, key in self._keys():
            kind = kind_of(key)
            if kind == "rows":
                counts[kind] += client.zcard(key)
            elif kind in HASHES:
                counts[kind] += client.hlen(key)
            elif kind == "head":
                counts["events"] += int(client.hget(key, "submissions") or 0)
        return counts

    def bare(self) -> float:
        """Bytes of bare sorted sets with the members and scores of all rows.

        They are copied in pieces: a node that copies a million members at once is dead to its cluster meanwhile.
        """
        size = 0.0
        for client, key in self._keys():
            if kind_of(key) == "rows":
                copy = key + b":bare"
                for first in range(0, client.zcard(key), _PIECE):
                    rows = client.zrange(key, first, first + _PIECE - 1, withscores=True)
                    client.zadd(copy, dict(rows))
                size += client.execute_command("MEMORY USAGE", copy, "SAMPLES", 0) or 0
                client.unlink(copy)
        return size

    def moves(self) -> float:
        """Steps of moves that all shards have counted."""
        heads = ((client, key) for client, key in self._keys() if kind_of(key) == "head")
        return sum(int(client.hget(key, "moves") or 0) for client, key in heads)

    def used(self) -> float:
        """What all primaries say they use, whatever for."""
        total = 0.0
        for port in self._ports:
            with redis.Redis(port=port) as client:
                total += client.info("memory")["used_memory"]
        return total

    def _keys(self) -> Iterator[tuple["redis.Redis", bytes]]:
        for port in self._ports:
            with redis.Redis(port=port, socket_timeout=_PATIENCE_S) as client:
                for key in list(client.scan_iter(match="*global:*", count=1000)):
                    yield client, key


def kind_of(key: bytes) -> str:
    """The kind of a key, as docs/keyspace.md has it."""
    words = key.decode().split(":")
    if "dir" in words:
        return "mark" if words[-1] == "mark" else "directory"
    return next((kind for kind in ("recent", "gone") if kind in words), words[-1])
