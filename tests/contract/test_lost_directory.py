"""A partition of the directory that is lost, with its shard or without: its players are never taken for new ones.

The keys of a shard and those of a partition with entries of players of *all* shards lie in one slot, so they are lost
together. Until `rangeboard rebuild --shard` has made the entries again, whoever may have had one there is refused.
"""

from collections.abc import Callable, Iterator

import msgspec.structs
import pytest
from played_boards import OpenBoard, Played, soon

from cli.servers import ServerSet
from records import shard_maps
from runtime import failpoints
from runtime.failpoints import FailpointReached
from runtime.settings import Settings
from sharding.directory import Entry
from sharding.errors import (
    DirectoryLost,
    LeaderboardError,
    NotOnBoard,
    Outcome,
    RebuildRefused,
    ShardLost,
    ShardUnavailable,
)
from sharding.functions import ApplyMode, Asked, apply_call, effects
from sharding.leaderboard import Leaderboard, RankMode, Submission
from sharding.players import PlayerId, member_of
from sharding.scores import PackedScore
from sharding.scrub import Repairs
from sharding.shard_map import cut_after
from sharding.submissions import Status
from workers.periods import open_period
from workers.rebuild import Rebuild
from workers.scrub import scrub
from workers.verify import verify

pytestmark = pytest.mark.servers

PLAYERS = 400
EVERYBODY = [PlayerId(f"player-{number:06d}") for number in range(PLAYERS)]


def quiet(_done: int, _total: int) -> None:
    pass


@pytest.fixture
def forgetful(servers: ServerSet) -> Iterator[Leaderboard]:
    """A process that remembers nobody's place."""
    settings = msgspec.structs.replace(servers.settings, directory_cache=0)
    board = Leaderboard.connect(settings, known_players=lambda _, players: players)
    yield board
    board.close()


def played(open_one: OpenBoard) -> Played:
    """Four shards with players in each of them, at rest and stored."""
    board = open_one(cuts=(40, 70, 100))
    board.play(PLAYERS, 2_000)
    board.drain()
    return board


def rebuild(board: Played) -> Rebuild:
    return Rebuild(board.leaderboard, board.engine, board.name)


def holders(board: Played) -> dict[str, list[int]]:
    """The shards in which each player has a row."""
    found: dict[str, list[int]] = {}
    for shard in board.now().shards():
        for member in board.on_shard(shard, "ZRANGE", "@rows", 0, -1):
            found.setdefault(member.decode(), []).append(shard)
    return found


def is_of(board: Played, player: PlayerId, partition: int) -> bool:
    return board.now().directory.partition_of(member_of(player)) == partition


def of_partition(board: Played, partition: int) -> set[PlayerId]:
    return {player for player in EVERYBODY if is_of(board, player, partition)}


def stranger(board: Played, wanted: Callable[[PlayerId], bool]) -> PlayerId:
    return next(player for player in map(PlayerId, map("stranger-{}".format, range(10_000))) if wanted(player))


def outcomes(leaderboard: Leaderboard, board: Played, match: str) -> dict[PlayerId, LeaderboardError | Status]:
    """What a win of nothing comes to for everybody."""
    wins = [Submission(player, 0, match) for player in EVERYBODY]
    results = leaderboard.submit(board.name, wins, soon(), rank=RankMode.NONE)
    return {player: one.error or one.status for player, one in zip(EVERYBODY, results, strict=True)}


@pytest.mark.parametrize("shard", [0, 2])
def test_no_player_of_a_lost_slot_is_taken_for_a_new_one(
    open_one: OpenBoard, forgetful: Leaderboard, shard: int
) -> None:
    """Refused, writes and reads, and nothing changed; players of other partitions and shards go on."""
    board = played(open_one)
    rows, before = holders(board), board.ranking()
    board.destroy_slot(shard)
    affected = of_partition(board, shard)
    lost_rows = {PlayerId(player) for player, shards in rows.items() if shards == [shard]}
    assert affected - lost_rows, "players of other shards have their entries there"
    for player, told in outcomes(forgetful, board, "after").items():
        if player in affected | lost_rows:
            assert isinstance(told, DirectoryLost if player in affected else ShardUnavailable), player
            assert (told.outcome, told.retryable) == (Outcome.NOT_APPLIED, True)
        else:
            assert told == Status.APPLIED, player
    assert all(len(shards) == 1 for shards in holders(board).values())
    assert holders(board) == {player: shards for player, shards in rows.items() if shards != [shard]}
    for player in sorted(affected)[:5]:
        with pytest.raises(DirectoryLost):
            forgetful.reader.find(board.now(), player, soon())
    newcomer = stranger(board, lambda player: is_of(board, player, shard))
    (refused,) = forgetful.submit(board.name, [Submission(newcomer, 50, "m")], soon(), rank=RankMode.NONE)
    assert isinstance(refused.error, DirectoryLost), "it cannot be told from a player who was here before"
    known = stranger(board, lambda player: not is_of(board, player, shard))
    with pytest.raises(NotOnBoard):
        forgetful.reader.find(board.now(), known, soon())
    done = rebuild(board).shard(shard, quiet)
    assert done.players == len(lost_rows)
    assert board.ranking() == before
    assert holders(board) == rows
    assert set(outcomes(forgetful, board, "after").values()) <= {Status.APPLIED, Status.DUPLICATE}
    assert holders(board) == rows
    assert verify(forgetful, board.engine, board.now(), lambda _: None).agrees
    with pytest.raises(RebuildRefused, match="is there"):
        rebuild(board).shard(shard, quiet)


@pytest.mark.parametrize("partition", [1, 7], ids=["beside a shard", "beside none"])
def test_a_partition_that_is_lost_alone_comes_back(open_one: OpenBoard, forgetful: Leaderboard, partition: int) -> None:
    """Its shard plays on; also where the directory has more partitions than the board has shards."""
    board = played(open_one)
    rows, before = holders(board), board.ranking()
    board.destroy_partition(partition)
    affected = of_partition(board, partition)
    told = outcomes(forgetful, board, "after")
    assert {player for player, one in told.items() if isinstance(one, DirectoryLost)} == affected
    assert {one for player, one in told.items() if player not in affected} == {Status.APPLIED}
    assert rebuild(board).plan_shard(partition).players == 0
    assert rebuild(board).shard(partition, quiet).players == 0
    assert set(outcomes(forgetful, board, "after").values()) == {Status.APPLIED, Status.DUPLICATE}
    assert (board.ranking(), holders(board)) == (before, rows)


@pytest.mark.parametrize("order", [(1, 3), (3, 1)], ids=str)
def test_two_lost_slots_come_back_one_after_the_other(
    open_one: OpenBoard, forgetful: Leaderboard, order: tuple[int, int]
) -> None:
    """Who is neither in a shard that is there nor in the one that is rebuilt waits for the other: no new row."""
    board = played(open_one)
    rows, before = holders(board), board.ranking()
    for shard in order:
        board.destroy_slot(shard)
    for shard in order:
        rebuild(board).shard(shard, quiet)
        assert all(len(shards) == 1 for shards in holders(board).values())
        told = outcomes(forgetful, board, "meanwhile")
        assert {player for player, shards in holders(board).items() if shards != rows[player]} == set()
        refused = {player for player, one in told.items() if isinstance(one, LeaderboardError)}
        gone = {PlayerId(player) for player, shards in rows.items() if player not in holders(board)}
        assert gone <= refused
    assert not refused
    assert (board.ranking(), holders(board)) == (before, rows)
    assert verify(forgetful, board.engine, board.now(), lambda _: None).agrees


def test_a_rebuild_that_dies_before_the_mark_leaves_the_partition_closed(
    open_one: OpenBoard, forgetful: Leaderboard
) -> None:
    """Everybody is refused as before, and the next run goes through."""
    board = played(open_one)
    rows, before = holders(board), board.ranking()
    board.destroy_slot(2)
    failpoints.arm("rebuild.shard_loaded=raise")
    with pytest.raises(FailpointReached):
        rebuild(board).shard(2, quiet)
    failpoints.arm("")
    newcomer = stranger(board, lambda player: is_of(board, player, 2))
    (refused,) = forgetful.submit(board.name, [Submission(newcomer, 50, "m")], soon(), rank=RankMode.NONE)
    assert isinstance(refused.error, DirectoryLost)
    rebuild(board).shard(2, quiet)
    assert (board.ranking(), holders(board)) == (before, rows)
    assert board.win(newcomer, 50, "m") == Status.APPLIED


def test_a_lost_shard_is_never_open_before_it_is_rebuilt(open_one: OpenBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the rebuild dies as soon as there is a head: nobody begins anew, and it can be run again."""
    board = played(open_one)
    rows, before = holders(board), board.ranking()
    board.destroy_shard(2)

    def dies(*_: object, **__: object) -> None:
        raise FailpointReached

    with monkeypatch.context() as patched:
        patched.setattr(board.leaderboard.lifecycle, "set_state", dies)
        with pytest.raises(FailpointReached):
            rebuild(board).shard(2, quiet)
    assert board.leaderboard.lifecycle.states(board.now(), soon())[2] == "rebuilding"
    told = outcomes(board.leaderboard, board, "meanwhile")
    lost = {PlayerId(player) for player, shards in rows.items() if shards == [2]}
    assert {player for player, one in told.items() if isinstance(one, LeaderboardError)} == lost
    rebuild(board).shard(2, quiet)
    assert (board.ranking(), holders(board)) == (before, rows)


def test_the_scrub_buries_nobody_after_a_loss(open_one: OpenBoard, forgetful: Leaderboard) -> None:
    """It points the entries of rows that are there, so that their players go on, and takes no row away."""
    board = played(open_one)
    rows, before = holders(board), board.ranking()
    board.destroy_slot(1)
    left = {player: shards for player, shards in rows.items() if shards != [1]}
    done = scrub(forgetful, board.engine, board.now(), soon(), players_per_s=100_000, settle_s=0.0)
    assert isinstance(done, Repairs)
    affected = {player for player in of_partition(board, 1) if player in left}
    assert (done.pointed, done.buried, done.restored) == (len(affected), 0, 0)
    assert holders(board) == left
    told = outcomes(forgetful, board, "after")
    assert {player for player, one in told.items() if one == Status.APPLIED} == set(left)
    rebuild(board).shard(1, quiet)
    assert (board.ranking(), holders(board)) == (before, rows)


def test_who_was_leaving_when_the_partition_was_lost_arrives_after_all(open_one: OpenBoard) -> None:
    """The entry that is made for them is that of the row that departed, so their move is still to come."""
    board = played(open_one)
    before = dict(board.ranking())
    player = next(player for player in EVERYBODY if is_of(board, player, 3) and holders(board)[player] == [2])
    member, shard_map, leaderboard = member_of(player), board.now(), board.leaderboard
    far_up = Submission(player, 1_000, "far up")
    asked = [Asked(member, far_up.value, far_up.event(), far_up.note())]
    call = apply_call(shard_map.keys(2), asked, outbox_limit=10**6, mode=ApplyMode.PLAIN)
    (answer,) = leaderboard.functions.on_shards([call], shard_map.retry_window_ms, soon())
    stray = {
        member: (
            Entry(2, leaderboard.directory.locate(shard_map, [member], soon()).entries[member].epoch),
            PackedScore(next(effects(answer.reply)).detail),
        )
    }
    failpoints.arm("handoff.departed=raise")
    with pytest.raises(FailpointReached):
        leaderboard.mover.move(shard_map, stray, soon())
    failpoints.arm("")
    board.destroy_slot(3)
    rebuild(board).shard(3, quiet)
    board.leaderboard.rebalancer.sweep(board.now(), soon())
    ranking = dict(board.ranking())
    assert ranking.pop(player) >> 22 == (before.pop(player) >> 22) - 1_000
    assert ranking == before
    assert holders(board)[player] == [0]
    assert board.agrees()


def test_the_operator_sees_which_shard_and_which_partitions_are_lost(
    open_one: OpenBoard,
) -> None:
    """All shards are looked into; without `partial` a lost one fails the whole look."""
    board = played(open_one)
    healthy = {view.shard: view for view in board.leaderboard.shards(board.name, soon())}
    board.destroy_slot(2)
    board.destroy_partition(6)
    with pytest.raises(ShardLost):
        board.leaderboard.shards(board.name, soon())
    views = board.leaderboard.shards(board.name, soon(), partial=True)
    assert [view.shard for view in views if view.problem] == [2]
    assert [view for view in views if view.shard != 2] == [view for shard, view in healthy.items() if shard != 2]
    assert sorted(board.leaderboard.lost_partitions(board.name, soon())) == [2, 6]


def test_a_lost_shard_is_not_opened_anew_by_a_change_of_the_map(open_one: OpenBoard) -> None:
    """Neither by a rebalance nor by whoever opens periods: its players would begin at nothing."""
    board = played(open_one)
    before = board.ranking()
    board.destroy_shard(1)
    lost = board.now()
    wanted = lost.recut([cut_after(points, lost.board.order) for points in (90, 60, 30)])
    for change in (board.leaderboard.rebalancer.switch, lambda new: board.leaderboard.maps.publish(new, soon())):
        with pytest.raises(ShardLost, match="shard 1 of"):
            change(wanted)
    shard_maps.append(board.engine, board.name.board, board.name.period, lost.version, wanted.document())
    open_period(board.leaderboard, board.engine, lost.board, lost.period, Settings())  # it goes on to other boards
    assert board.now() == lost
    assert board.leaderboard.lifecycle.states(lost, soon())[1] is None
    rebuild(board).shard(1, quiet)
    assert board.ranking() == before
    open_period(board.leaderboard, board.engine, lost.board, lost.period, Settings())
    assert board.now() == wanted


def test_what_healthy_shards_hold_is_not_lost_with_the_map(open_one: OpenBoard) -> None:
    """The map lies in the slot of shard 0. A rebuild of the whole board drains the other shards all the same."""
    board = played(open_one)
    before, rows = dict(board.ranking()), holders(board)
    player = next(player for player in EVERYBODY if rows[player] == [3])
    assert board.win(player, 1, "not drained yet") == Status.APPLIED
    board.destroy_slot(0)
    board.leaderboard.lifecycle.unpublish(board.now(), 1, soon())
    board.leaderboard.maps.forget(board.name)
    with pytest.raises(RebuildRefused, match="as a whole"):
        rebuild(board).shard(0, quiet)
    assert rebuild(board).whole(quiet).players == PLAYERS
    after = dict(board.ranking())
    assert after.pop(player) >> 22 == (before.pop(player) >> 22) - 1
    assert after == before
