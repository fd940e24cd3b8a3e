"""A process brings home whom its submissions took out of range, also when others wrote meanwhile."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from cli.servers import ServerSet
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.functions import ApplyMode, Asked, May, apply_call
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.players import PlayerId, member_of
from sharding.shard_map import ShardMap
from sharding.submissions import removal_of

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
        leaderboard.strays.bring_home(Deadline.after(5))

    submit(5, "m0")
    monkeypatch.setattr(leaderboard.mover, "move", interrupted)
    submit(10, "m1")
    found = leaderboard.reader.find(shard_map, ANN, Deadline.after(5))
    assert found.shard == TOP


def submits(process: Leaderboard, name: BoardPeriod) -> None:
    (result,) = process.submit(name, [Submission(ANN, 1, "last")], Deadline.after(5), rank=RankMode.NONE)
    assert (result.error, result.points) == (None, 146)


def finds(process: Leaderboard, name: BoardPeriod) -> None:
    shard_map = process.maps.current(name, Deadline.after(5))
    assert process.reader.find(shard_map, ANN, Deadline.after(5)).shard == TOP


def hides(process: Leaderboard, name: BoardPeriod) -> None:
    process.hide(name, {ANN: True}, Deadline.after(5))


def removes(process: Leaderboard, name: BoardPeriod) -> None:
    assert process.remove(name, removal_of(ANN, "removal"), Deadline.after(5)).points == 145


@pytest.mark.parametrize("does", [submits, finds, hides, removes])
def test_a_long_way_is_not_gone_step_by_step(
    leaderboard: Leaderboard,
    open_board: Callable[..., ShardMap],
    servers: ServerSet,
    does: Callable[[Leaderboard, BoardPeriod], None],
) -> None:
    """Another process remembers where the player was more moves ago than anybody goes from shard to shard."""
    name = open_board(list(range(10, 150, 10))).name
    with closing(Leaderboard.connect(servers.settings, known_players=lambda _, players: players)) as other:
        other.submit(name, [Submission(ANN, 5, "m0")], Deadline.after(5), rank=RankMode.NONE)
        for step in range(1, 15):
            leaderboard.submit(name, [Submission(ANN, 10, f"m{step}")], Deadline.after(5), rank=RankMode.NONE)
            leaderboard.strays.bring_home(Deadline.after(5))
        does(other, name)
