"""The directory on real nodes: the higher epoch wins, whoever comes when; memory never outvotes it for long."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis

from cli.servers import ServerSet
from runtime.deadlines import Deadline
from sharding.cluster.client import Call
from sharding.directory import FIRST_EPOCH, Directory, Entry, Located
from sharding.errors import DirectoryLost, Outcome, ShardUnavailable
from sharding.functions import Functions
from sharding.leaderboard import Leaderboard
from sharding.players import Member
from sharding.shard_map import ShardMap

pytestmark = pytest.mark.servers

ANN, BOB = Member(b"ann"), Member(bytes(range(0x80, 0x90)))


def soon() -> Deadline:
    return Deadline.after(10)


class CountedFunctions(Functions):
    """The real functions, and how many of their calls were about the directory."""

    def __init__(self, leaderboard: Leaderboard) -> None:
        super().__init__(leaderboard.client, replicas=1, ack_ms=2000)
        self.calls = 0

    def on_keys(self, calls, deadline, *, fence=False):  # type: ignore[no-untyped-def]
        self.calls += len(calls)
        return super().on_keys(calls, deadline, fence=fence)


@pytest.fixture
def functions(leaderboard: Leaderboard) -> CountedFunctions:
    return CountedFunctions(leaderboard)


@pytest.fixture
def directory(functions: CountedFunctions) -> Directory:
    return Directory(functions, remembered=1000)


@pytest.fixture
def shard_map(open_board: Callable[..., ShardMap]) -> ShardMap:
    return open_board()


def stored(functions: Functions, shard_map: ShardMap, member: Member) -> Entry | None:
    """The entry as a process without any memory finds it."""
    return Directory(functions, remembered=0).locate(shard_map, [member], soon()).of(member)


# -- what is stored


def test_a_player_without_an_entry_has_none(directory: Directory, shard_map: ShardMap) -> None:
    located = directory.locate(shard_map, [ANN, BOB], soon())
    assert (located.entries, located.failed) == ({}, {})
    assert located.of(ANN) is None


def test_a_claim_is_kept_and_later_claims_are_told_of_it(
    functions: Functions, directory: Directory, shard_map: ShardMap
) -> None:
    claimed = directory.claim(shard_map, {ANN: Entry(2, FIRST_EPOCH)}, soon())
    assert claimed.entries == {ANN: Entry(2, FIRST_EPOCH)}
    late = directory.claim(shard_map, {ANN: Entry(0, FIRST_EPOCH), BOB: Entry(0, FIRST_EPOCH)}, soon())
    assert late.entries == {ANN: Entry(2, FIRST_EPOCH), BOB: Entry(0, FIRST_EPOCH)}
    assert stored(functions, shard_map, ANN) == Entry(2, FIRST_EPOCH)


@pytest.mark.parametrize("epochs", [(2, 3), (9, 10), (99, 100), (2**31 - 2, 2**31 - 1)])
def test_the_higher_epoch_wins_in_whichever_order_they_come(
    functions: Functions, directory: Directory, shard_map: ShardMap, epochs: tuple[int, int]
) -> None:
    """Epochs are numbers, however many digits they have."""
    older, newer = Entry(1, epochs[0]), Entry(2, epochs[1])
    assert directory.point(shard_map, {ANN: older}, soon()).of(ANN) == older
    assert directory.point(shard_map, {ANN: newer}, soon()).of(ANN) == newer
    assert directory.point(shard_map, {ANN: older}, soon()).of(ANN) == newer
    assert directory.point(shard_map, {ANN: Entry(0, newer.epoch)}, soon()).of(ANN) == newer, "the first of an epoch"
    assert stored(functions, shard_map, ANN) == newer


@pytest.mark.parametrize("wrong", [Entry(1, 2**31), Entry(2**31, 5), Entry(-1, 5)], ids=str)
def test_an_epoch_from_the_future_and_a_number_of_no_shard_are_refused(
    functions: Functions, directory: Directory, shard_map: ShardMap, wrong: Entry
) -> None:
    fine = Entry(1, 4)
    assert directory.point(shard_map, {ANN: fine}, soon()).of(ANN) == fine
    assert isinstance(directory.point(shard_map, {ANN: wrong}, soon()).failed[ANN], ShardUnavailable)
    assert stored(functions, shard_map, ANN) == fine


def test_nobody_claims_a_place_where_entries_may_be_lost(
    functions: Functions, directory: Directory, shard_map: ShardMap
) -> None:
    """Refused as a whole and definitely; who knows of a row may point to it, and whoever is pointed to is found."""
    slot, mark = shard_map.directory.mark_of(shard_map.directory.partition_of(ANN))
    assert functions.on_keys([Call(slot, ("UNLINK", mark))], soon())[0].reply == 1
    (refused,) = directory.claim(shard_map, {ANN: Entry(1, FIRST_EPOCH)}, soon()).failed.values()
    assert isinstance(refused, DirectoryLost)
    assert (refused.outcome, refused.retryable) == (Outcome.NOT_APPLIED, True)
    with pytest.raises(DirectoryLost):
        stored(functions, shard_map, ANN)
    assert directory.locate(shard_map, [ANN], soon(), lost_is_none=True) == Located({}, {})
    assert directory.point(shard_map, {ANN: Entry(2, FIRST_EPOCH)}, soon()).of(ANN) == Entry(2, FIRST_EPOCH)
    assert stored(functions, shard_map, ANN) == Entry(2, FIRST_EPOCH)
    assert list(directory.lost_partitions(shard_map, soon())) == [shard_map.directory.partition_of(ANN)]
    directory.open(shard_map, soon())
    assert directory.lost_partitions(shard_map, soon()) == {}
    assert directory.claim(shard_map, {ANN: Entry(1, FIRST_EPOCH)}, soon()).of(ANN) == Entry(2, FIRST_EPOCH)


def test_a_map_that_is_published_again_opens_no_lost_partition(
    leaderboard: Leaderboard, directory: Directory, shard_map: ShardMap
) -> None:
    """Whoever opens periods, however often, does not hide a loss."""
    slot, mark = shard_map.directory.mark_of(3)
    leaderboard.functions.on_keys([Call(slot, ("UNLINK", mark))], soon())
    leaderboard.maps.publish(shard_map, soon())
    leaderboard.maps.publish(replace(shard_map, version=2), soon())
    assert list(directory.lost_partitions(shard_map, soon())) == [3]


def test_of_many_claims_at_once_one_counts_for_all(leaderboard: Leaderboard, shard_map: ShardMap) -> None:
    def claim(shard: int) -> Entry | None:
        directory = Directory(CountedFunctions(leaderboard), remembered=0)
        return directory.claim(shard_map, {ANN: Entry(shard, FIRST_EPOCH)}, soon()).of(ANN)

    with ThreadPoolExecutor(16) as pool:
        told = set(pool.map(claim, range(16)))
    assert len(told) == 1


def test_many_players_are_pointed_to_in_one_call_a_partition(
    functions: CountedFunctions, directory: Directory, shard_map: ShardMap
) -> None:
    entries = {Member(b"p%d" % number): Entry(number % 3, FIRST_EPOCH) for number in range(3000)}
    pointed = directory.point(shard_map, entries, soon())
    assert pointed.entries == entries
    assert functions.calls == shard_map.partitions
    fresh = Directory(functions, remembered=0)
    assert fresh.locate(shard_map, [*entries, ANN, *entries], soon()).entries == entries


def test_boards_and_generations_have_directories_of_their_own(
    leaderboard: Leaderboard, directory: Directory, open_board: Callable[..., ShardMap]
) -> None:
    one, other = open_board(), open_board()
    rebuilt = leaderboard.maps.publish(replace(one, generation=2), soon())
    directory.point(one, {ANN: Entry(1, 5)}, soon())
    for elsewhere in (other, rebuilt):
        assert directory.locate(elsewhere, [ANN], soon()).of(ANN) is None
        assert directory.point(elsewhere, {ANN: Entry(2, FIRST_EPOCH)}, soon()).of(ANN) == Entry(2, FIRST_EPOCH)
    assert directory.locate(one, [ANN], soon()).of(ANN) == Entry(1, 5)


@pytest.fixture
def full_node(servers: ServerSet, leaderboard: Leaderboard, shard_map: ShardMap) -> Iterator[str]:
    """A primary that takes no writes."""
    address = leaderboard.client.owner(shard_map.directory.bucket(ANN)[0])
    assert address is not None
    host, _, port = address.rpartition(":")
    with redis.Redis(host=host, port=int(port)) as admin:
        admin.config_set("maxmemory", 1)
        try:
            yield address
        finally:
            admin.config_set("maxmemory", 0)


def test_a_part_that_fails_spoils_only_its_own_members(
    directory: Directory, leaderboard: Leaderboard, shard_map: ShardMap, full_node: str
) -> None:
    entries = {Member(b"p%d" % number): Entry(0, FIRST_EPOCH) for number in range(100)} | {ANN: Entry(0, FIRST_EPOCH)}
    pointed = directory.point(shard_map, entries, soon())
    there = {
        member for member in entries if leaderboard.client.owner(shard_map.directory.bucket(member)[0]) == full_node
    }
    assert set(pointed.failed) == there
    assert set(pointed.entries) == set(entries) - there
    assert all(error.outcome is Outcome.NOT_APPLIED for error in pointed.failed.values())
    with pytest.raises(ShardUnavailable):
        pointed.of(ANN)
    assert directory.locate(shard_map, [ANN], soon()).of(ANN) is None, "reads go on, and nothing was claimed"


# -- what is remembered


def test_what_is_remembered_costs_nothing(
    functions: CountedFunctions, directory: Directory, shard_map: ShardMap
) -> None:
    directory.point(shard_map, {ANN: Entry(1, FIRST_EPOCH)}, soon())
    spent = functions.calls
    for _ in range(10):
        assert directory.locate(shard_map, [ANN], soon()).of(ANN) == Entry(1, FIRST_EPOCH)
    assert functions.calls == spent
    assert directory.locate(shard_map, [ANN, BOB], soon()).entries == {ANN: Entry(1, FIRST_EPOCH)}
    assert functions.calls == spent + 2, (
        "only what is not remembered is asked for: the entry, then its partition's mark"
    )
    directory.locate(shard_map, [BOB], soon())
    assert functions.calls == spent + 4, "that somebody has no entry is not remembered: it may change at any time"


def test_a_fresh_look_goes_to_the_nodes_and_is_remembered(
    functions: CountedFunctions, directory: Directory, shard_map: ShardMap
) -> None:
    directory.point(shard_map, {ANN: Entry(1, FIRST_EPOCH)}, soon())
    Directory(functions, remembered=0).point(shard_map, {ANN: Entry(2, 2)}, soon())
    assert directory.locate(shard_map, [ANN], soon()).of(ANN) == Entry(1, FIRST_EPOCH), "it cannot know"
    assert directory.locate(shard_map, [ANN], soon(), fresh=True).of(ANN) == Entry(2, 2)
    spent = functions.calls
    assert directory.locate(shard_map, [ANN], soon()).of(ANN) == Entry(2, 2)
    assert functions.calls == spent


def test_what_a_shard_tells_is_remembered_unless_it_is_older(directory: Directory, shard_map: ShardMap) -> None:
    directory.learn(shard_map, {ANN: Entry(1, 4)})
    directory.learn(shard_map, {ANN: Entry(2, 3)})
    assert directory.locate(shard_map, [ANN], soon()).of(ANN) == Entry(1, 4)
    directory.learn(shard_map, {ANN: Entry(2, 5)})
    assert directory.locate(shard_map, [ANN], soon()).of(ANN) == Entry(2, 5)


@pytest.mark.parametrize("remembered", [0, 1, 7])
def test_memory_is_bounded_and_forgets_the_least_recently_used(
    functions: CountedFunctions, shard_map: ShardMap, remembered: int
) -> None:
    directory = Directory(functions, remembered=remembered)
    members = [Member(b"p%d" % number) for number in range(10)]
    directory.learn(shard_map, {member: Entry(1, FIRST_EPOCH) for member in members})
    if remembered:
        kept = members[-remembered]
        directory.locate(shard_map, [kept], soon())  # used: now it is not the next to go
        directory.learn(shard_map, {ANN: Entry(1, FIRST_EPOCH)})
        assert kept in directory.locate(shard_map, [kept], soon()).entries or remembered == 1
    assert len(directory._memory._entries) == remembered
    assert directory.locate(shard_map, members[:1], soon()).entries == {}, "forgotten, and not stored"
