"""Every key in the Redis Cluster, and the windows of time some are named for. `docs/keyspace.md` describes them.

All keys of a shard carry the hash tag of the shard's slot, so one function call may touch them all. The generation
tells a rebuilt board from the one it replaces.
"""

from dataclasses import dataclass

from sharding.boards import BoardPeriod
from sharding.players import Member, member_hash
from sharding.slots import shard_slot, tag

#: A tombstone lives for one to two of these windows.
GONE_WINDOW_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Windows:
    """Which time windows the windowed keys of a call are named for: whole windows since 1970, by the shard's clock."""

    recent: int
    gone: int


def windows_at(now_ms: int, recent_ms: int) -> Windows:
    """The windows that a moment belongs to."""
    return Windows(now_ms // recent_ms, now_ms // GONE_WINDOW_MS)


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """The keys of one shard of one generation of a board period."""

    slot: int
    prefix: str

    @property
    def outbox(self) -> str:
        """Stream of audit entries, drained into PostgreSQL."""
        return self.prefix + "outbox"

    @property
    def rows(self) -> str:
        """Sorted set, member to packed score: the ranking."""
        return self.prefix + "rows"

    @property
    def epochs(self) -> str:
        """Hash, member to epoch, for rows that arrived from another shard."""
        return self.prefix + "epochs"

    @property
    def head(self) -> str:
        """Hash: the shard's range, rules, state and counters."""
        return self.prefix + "head"

    @property
    def leaving(self) -> str:
        """Hash, member to payload: players on their way out, frozen and unranked."""
        return self.prefix + "leaving"

    @property
    def aside(self) -> str:
        """Sorted set beside the ranking: hidden players with their packed scores, and the marks of removed ones."""
        return self.prefix + "aside"

    def gone_around(self, windows: Windows) -> tuple[str, ...]:
        """The hashes of tombstones that may have any: of these windows, those before and those after."""
        return tuple(f"{self.prefix}gone:{windows.gone + off}" for off in (-2, -1, 0, 1))

    def for_function(self, windows: Windows) -> tuple[str, ...]:
        """The ten keys that a shard's functions take, in their order (lua/prelude.lua)."""
        prefix = self.prefix
        return (
            prefix + "rows",
            self.epochs,
            f"{prefix}recent:{windows.recent}",
            f"{prefix}recent:{windows.recent - 1}",
            prefix + "leaving",
            f"{prefix}gone:{windows.gone}",
            f"{prefix}gone:{windows.gone - 1}",
            prefix + "outbox",
            prefix + "head",
            prefix + "aside",
        )


def shard_keys(board: BoardPeriod, generation: int, shard: int) -> ShardKeys:
    """The keys of a shard."""
    slot = shard_slot(board.board, shard)
    return ShardKeys(slot, f"{{{tag(slot)}}}{board}:{generation}:s{shard}:")


def map_key(board: BoardPeriod) -> tuple[int, str]:
    """Slot and key of the hash with the board's published map."""
    slot = shard_slot(board.board, 0)
    return slot, f"{{{tag(slot)}}}{board}:map"


@dataclass(frozen=True, slots=True)
class DirectoryKeys:
    """The keys of a board's directory: `buckets` hashes, dealt out over `partitions` slots."""

    slots: tuple[int, ...]
    prefixes: tuple[str, ...]
    buckets: int

    def bucket(self, member: Member) -> tuple[int, str]:
        """Slot and key of the hash that has the member's entry."""
        return self.key_of(member_hash(member) % self.buckets)

    def key_of(self, bucket: int) -> tuple[int, str]:
        """Slot and key of the hash with this number."""
        partition = bucket % len(self.slots)
        return self.slots[partition], f"{self.prefixes[partition]}{bucket}"

    def mark_of(self, partition: int) -> tuple[int, str]:
        """Slot and key of the mark of a partition: it is there as long as the partition's entries are."""
        return self.slots[partition], f"{self.prefixes[partition]}mark"

    def mark_in(self, slot: int) -> str:
        """Key of the mark of the partition in a slot."""
        return self.mark_of(self.slots.index(slot))[1]

    def partition_of(self, member: Member) -> int:
        """The partition that has the member's entry."""
        return member_hash(member) % self.buckets % len(self.slots)


def directory_keys(board: BoardPeriod, generation: int, partitions: int, buckets: int) -> DirectoryKeys:
    """The keys of a board's directory."""
    slots = tuple(shard_slot(board.board, partition) for partition in range(partitions))
    return DirectoryKeys(slots, tuple(f"{{{tag(slot)}}}{board}:{generation}:dir:" for slot in slots), buckets)
