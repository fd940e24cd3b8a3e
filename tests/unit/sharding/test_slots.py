"""Slots: the cluster's own, spread evenly over however many nodes there are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.crc import key_slot as slot_by_redis

from sharding.slots import SLOTS, key_slot, shard_slot, tag

keys = st.one_of(st.binary(max_size=40), st.text("{}ab:", max_size=12).map(str.encode))


@given(keys)
@settings(deadline=None)
def test_a_key_lies_where_the_cluster_puts_it(key: bytes) -> None:
    assert key_slot(key) == slot_by_redis(key, SLOTS)


@pytest.mark.parametrize(
    "key", [b"", b"{}", b"{}a", b"{a", b"}a{", b"{a}{b}", b"x{a}y", b"{{a}}", b"{}{a}", b"a{b}}c{d"]
)
def test_braces(key: bytes) -> None:
    assert key_slot(key) == slot_by_redis(key, SLOTS)


def test_every_slot_has_a_tag_of_its_own() -> None:
    tags = [tag(slot) for slot in range(SLOTS)]
    assert len(set(tags)) == SLOTS
    assert all(key_slot(f"{{{text}}}board:rows".encode()) == slot for slot, text in enumerate(tags))
    assert max(map(len, tags)) <= 4, "every key carries one"


@pytest.mark.parametrize("nodes", [3, 5])
def test_shards_are_spread_evenly_over_the_nodes(nodes: int) -> None:
    """However many shards a board has: no node serves more than three more than another."""
    for board in [f"board-{number}" for number in range(50)]:
        counts = [0] * nodes
        for shard in range(64):
            counts[shard_slot(board, shard) * nodes // SLOTS] += 1
            assert max(counts) - min(counts) <= 3, (board, shard + 1, counts)


@given(st.text(max_size=32), st.integers(0, 100_000))
@settings(deadline=None)
def test_neighbours_in_rank_lie_far_apart(board: str, shard: int) -> None:
    one, next_one = shard_slot(board, shard), shard_slot(board, shard + 1)
    assert 0 <= one < SLOTS
    apart = abs(one - next_one)
    assert min(apart, SLOTS - apart) > SLOTS // 3


def test_the_top_shards_of_many_boards_do_not_meet() -> None:
    boards, parts = 400, 8
    counts = [0] * parts
    for board in range(boards):
        counts[shard_slot(f"country-{board}", 0) * parts // SLOTS] += 1
    assert max(counts) < 1.5 * boards / parts


def test_thousands_of_shards_have_slots_of_their_own() -> None:
    assert len({shard_slot("global", shard) for shard in range(4096)}) == 4096
