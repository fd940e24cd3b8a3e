"""From what the audit log has of a player to the row that the player had: points, the time they were reached, and the
events by which a retry is recognised. Pure.
"""

from records.audit import Replayed
from sharding.lifecycle import LoadedRow
from sharding.players import PlayerId, member_of
from sharding.scores import PackedScore, pack
from sharding.shard_map import ShardMap
from sharding.submissions import event_kept


def packed_of(shard_map: ShardMap, replayed: Replayed) -> PackedScore | None:
    """The packed score of these points, reached when they were reached; None for a player who was removed."""
    if replayed.points is None or replayed.reached_ms is None:
        return None
    return packed_at(shard_map, replayed.points, replayed.reached_ms)


def packed_at(shard_map: ShardMap, points: int, reached_ms: int) -> PackedScore:
    """The packed score of points that were reached at a moment (ms since 1970, by the shard's clock)."""
    period = shard_map.period
    return pack(points, (reached_ms - period.start_ms) // period.tie_unit_ms, shard_map.board.order)


def row_of(shard_map: ShardMap, replayed: Replayed, window: int, *, hidden: bool = False) -> LoadedRow:
    """The row of a player, or the mark of one who was removed; `window`: the recent window of now."""
    member = member_of(PlayerId(replayed.user_id))
    packed = packed_of(shard_map, replayed)
    if replayed.recent is None:
        return LoadedRow(member, packed, hidden=hidden)
    window_ms, kept = shard_map.retry_window_ms, {window: b"", window - 1: b""}
    for event_id, value, received_ms in replayed.recent:
        its = received_ms // window_ms
        if its in kept:
            kept[its] += event_kept(event_id, value)
    return LoadedRow(member, packed, recent=kept[window], before=kept[window - 1], hidden=hidden)
