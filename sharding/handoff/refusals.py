"""Players whose move was refused, be it by a shard or by a process that cannot read their payload.

A refused step changed nothing. What is refused comes from a defect, from damaged data, or from a process of another
version, and none of that passes by itself, so each is counted, by why, and logged with player and shard. In normal
operation there are none.
"""

from enum import StrEnum

import structlog
from prometheus_client import Counter

from sharding.players import Member, player_of
from sharding.shard_map import ShardMap

log = structlog.get_logger()

refused_moves = Counter("rangeboard_refused_moves", "Players whose move was refused, by why", ["why"])


class Why(StrEnum):
    """Why a step of a move was refused."""

    #: the target is no shard of the board
    UNKNOWN_SHARD = "unknown_shard"
    #: the shard has no head: it was never opened, or its data are lost
    NO_HEAD = "no_head"
    #: of another version, of no form, or of another shard
    PAYLOAD = "payload"
    #: from the future: later than the one that the row has
    EPOCH = "epoch"


def refuse(why: Why, shard_map: ShardMap, shard: int, member: Member) -> None:
    """Count and log the refusal of one player's step at a shard."""
    refused_moves.labels(why.value).inc()
    log.error("handoff_refused", why=why.value, board=str(shard_map.name), player=player_of(member), shard=shard)
