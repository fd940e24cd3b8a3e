"""The census sees what is planted: a fault test without it would find points right and nobody in the right place."""

import pytest
from faults.census import Misplacement, census
from faults.damage import Damage
from faults.rig import Rig

from sharding.directory import Entry

pytestmark = pytest.mark.servers


@pytest.fixture
def damage(rig: Rig) -> Damage:
    rig.new_board()
    return Damage(rig)


def found(damage: Damage) -> set[tuple[Misplacement, str]]:
    seen = census(damage.rig.leaderboard, damage.rig.shard_map)
    return {(what, player) for what, player, _ in seen.found}


def test_who_plays_is_in_place(damage: Damage) -> None:
    damage.play("ann", 5, 100, -300)
    damage.play("bob", 0)
    seen = census(damage.rig.leaderboard, damage.rig.shard_map)
    assert (seen.found, seen.points) == ([], {"ann": -195, "bob": 0})


def test_a_second_row_is_seen_and_counts(damage: Damage) -> None:
    entry = damage.play("ann", 5)
    packed = damage.packed("ann", entry.shard)
    assert packed is not None
    damage.set_row("ann", entry.shard + 1, packed, 1)
    assert (Misplacement.IN_TWO_SHARDS, "ann") in found(damage)
    assert census(damage.rig.leaderboard, damage.rig.shard_map).points == {"ann": 10}


def test_a_row_out_of_range_is_seen(damage: Damage) -> None:
    entry = damage.play("ann", 5)
    damage.set_row("ann", entry.shard, 1 << 40, 1)
    assert found(damage) == {(Misplacement.MISPLACED, "ann")}


@pytest.mark.parametrize("wrong", [None, Entry(0, 1), Entry(5, 7)])
def test_a_directory_that_differs_is_seen(damage: Damage, wrong: Entry | None) -> None:
    damage.play("ann", 5)
    damage.set_entry("ann", wrong)
    assert found(damage) == {(Misplacement.STALE, "ann")}


def test_a_player_who_is_nowhere_is_seen(damage: Damage) -> None:
    entry = damage.play("ann", 5, 300)
    damage.lose_row("ann", entry.shard)
    assert found(damage) == {(Misplacement.NOWHERE, "ann")}


def test_somebody_frozen_is_seen(damage: Damage) -> None:
    entry = damage.play("ann", 5)
    keys = damage.rig.shard_map.keys(entry.shard)
    damage.lose_row("ann", entry.shard)
    damage.command(keys.slot, "HSET", keys.leaving, "ann", b"anything")
    assert found(damage) == {(Misplacement.LEAVING, "ann")}
