"""What a submission, a read, a player and an audit row cost, as it was measured: `costs.json`, and what it means.

The file is written by `make costs` (tests/bench/costs.py), never by hand, and says when and on what it was measured.
It holds nothing that a formula could give: what follows from the costs is `capacity.py`.
"""

from importlib.resources import files
from typing import Annotated

import msgspec
from msgspec import Meta

#: A measurement; zero would be a measurement that did not take place.
_Micros = Annotated[float, Meta(gt=0)]
_Bytes = Annotated[float, Meta(gt=0)]


class Costs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Costs of one of each. `_us_`: microseconds of one core. Bytes: in one copy in Redis, or on PostgreSQL's disk."""

    api_us_per_submission: Annotated[_Micros, Meta(description="API, a submission of its own request")]
    api_us_per_batched: Annotated[_Micros, Meta(description="API, a submission in a batch of 500")]
    api_us_per_move: Annotated[_Micros, Meta(description="API, when the player changes shards, on top")]
    api_us_per_read: Annotated[_Micros, Meta(description="API, a read of the workload's mix")]
    api_us_per_read_and_shard: Annotated[_Micros, Meta(description="API, a read, for each shard above 16")]
    primary_us_per_submission: Annotated[_Micros, Meta(description="primaries, a submission, and its way to the drain")]
    primary_us_per_batched: Annotated[_Micros, Meta(description="primaries, a submission in a batch, likewise")]
    primary_us_per_move: Annotated[_Micros, Meta(description="primaries, when the player changes shards, on top")]
    primary_us_per_read: Annotated[_Micros, Meta(description="primaries, a read of the workload's mix")]
    primary_us_per_read_and_shard: Annotated[_Micros, Meta(description="primaries, a read, for each shard above 16")]
    worker_us_per_row: Annotated[_Micros, Meta(description="worker, an audit row")]
    postgres_us_per_row: Annotated[_Micros, Meta(description="PostgreSQL, an audit row")]

    bytes_per_row: Annotated[_Bytes, Meta(description="Redis, a player's row")]
    bytes_per_entry: Annotated[_Bytes, Meta(description="Redis, a player's directory entry")]
    bytes_per_epoch: Annotated[_Bytes, Meta(description="Redis, the epoch of a player who has moved")]
    bytes_per_tombstone: Annotated[_Bytes, Meta(description="Redis, the tombstone of a move")]
    bytes_per_recent_player: Annotated[_Bytes, Meta(description="Redis, a player with recent events, without them")]
    bytes_per_recent_event: Annotated[_Bytes, Meta(description="Redis, a recent event")]
    bytes_per_outbox_row: Annotated[_Bytes, Meta(description="Redis, a submission that waits in an outbox")]
    bytes_per_game: Annotated[_Bytes, Meta(description="PostgreSQL, an audit row with its indexes")]
    bytes_per_user: Annotated[_Bytes, Meta(description="PostgreSQL, a player with indexes")]
    bytes_per_snapshot: Annotated[_Bytes, Meta(description="PostgreSQL, a final rank with its indexes")]


class MemoryOfBoard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bytes per player of a board of so many, in one copy: of those `seeded`, who played and have a row.

    `by_kind`: MEMORY USAGE of every key, by kind of key. `bare`: of bare sorted sets of the same members. `told`: how
    much `used_memory` of the primaries grew, whatever for. `each`: bytes of one entry of a kind of key, where not every
    player has one.
    """

    on: str
    seeded: int
    players: int
    by_kind: dict[str, float]
    each: dict[str, float]
    bare: float
    told: float

    @property
    def ratio(self) -> float:
        """Rows and directory beside the bare sorted set."""
        return (self.by_kind["rows"] + self.by_kind["directory"]) / self.bare


class Measured(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The costs, and how they came about. `memory` has one entry for each size of board, the smallest first.

    Bytes in Redis are those of the largest board, whenever it was measured: they change with its size, and with the
    layout of keys, but not with the speed of anything.
    """

    on: str
    machine: str
    how: str
    costs: Costs
    memory: list[MemoryOfBoard]


def measured() -> Measured:
    """What is in the file. msgspec.ValidationError, with the field's name, if it is not what this version knows."""
    return msgspec.json.decode(files("loadtest").joinpath("costs.json").read_bytes(), type=Measured)
