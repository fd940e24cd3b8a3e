"""A writer brings home whom his submission took out of range, also when others wrote meanwhile."""

from collections.abc import Callable
from typing import Any

import pytest

from runtime.deadlines import Deadline
from sharding.functions import ApplyMode, Asked, May, apply_call
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.players import PlayerId, member_of
from sharding.shard_map import ShardMap

pytestmark = pytest.mark.servers

ANN = PlayerId("ann")
#: Where more points rank first, shard 0 takes those above 20 and shard 2 those up to 10.
TOP, BOTTOM = 0, 2


def test_a_row_goes_where_its_score_at_the_departure_belongs(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another submission counts between the one that leads out of range and the departure, and leads further."""
    shard_map = open_board([10, 20])
    functions, move = leaderboard.functions, leaderboard.mover.move

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(leaderboard.mover, "move", move)
        other = Submission(ANN, 10, "m2")
        asked = [Asked(member_of(ANN), other.value, other.event(), other.note(), may=May.NOTHING)]
        call = apply_call(shard_map.keys(BOTTOM), asked, outbox_limit=10**6, mode=ApplyMode.PLAIN)
        assert functions.on_shards([call], shard_map.retry_window_ms, Deadline.after(5))[0].error is None
        return move(*args, **kwargs)

    def submit(value: int, match: str) -> None:
        submission = Submission(ANN, value, match)
        leaderboard.submit(shard_map.name, [submission], Deadline.after(5), rank=RankMode.NONE)

    submit(5, "m0")
    monkeypatch.setattr(leaderboard.mover, "move", interrupted)
    submit(10, "m1")
    found = leaderboard.reader.find(shard_map, ANN, Deadline.after(5))
    assert found.shard == TOP
