"""Keys: all of a shard in one slot, no two things under one name, and the order that the functions in Redis expect."""

import re
from importlib.resources import files

from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.boards import BoardPeriod
from sharding.keys import GONE_WINDOW_MS, Windows, directory_keys, map_key, shard_keys, windows_at
from sharding.players import Member
from sharding.slots import key_slot, shard_slot

boards = st.builds(
    BoardPeriod,
    st.from_regex(r"[a-z0-9][a-z0-9_-]{0,31}", fullmatch=True),
    st.sampled_from(["2026-11", "2026-W48", "2026-11-23", "all"]),
)
windows = st.builds(Windows, st.integers(1, 10**9), st.integers(1, 10**5))
members = st.binary(min_size=1, max_size=64).map(Member)


@given(boards, st.integers(1, 9), st.integers(0, 5000), windows)
@settings(deadline=None)
def test_all_keys_of_a_shard_lie_in_its_slot(board: BoardPeriod, generation: int, shard: int, now: Windows) -> None:
    keys = shard_keys(board, generation, shard)
    named = keys.for_function(now)
    assert {key_slot(key.encode()) for key in named} == {keys.slot} == {shard_slot(board.board, shard)}
    assert len(set(named)) == len(named)
    assert {keys.rows, keys.aside, keys.leaving, keys.outbox, keys.head} <= set(named)


def test_keys_stand_in_the_order_of_the_functions() -> None:
    """lua/prelude.lua numbers them; both sides are written by hand."""
    prelude = (files("sharding") / "lua" / "prelude.lua").read_text()
    names, numbers = re.search(r"^local (ROWS.*) = (.*)$", prelude, re.MULTILINE).groups()  # type: ignore[union-attr]
    expected = {
        "ROWS": "rows",
        "EPOCHS": "epochs",
        "RECENT": "recent:500",
        "RECENT_BEFORE": "recent:499",
        "LEAVING": "leaving",
        "GONE": "gone:20",
        "GONE_BEFORE": "gone:19",
        "OUTBOX": "outbox",
        "HEAD": "head",
        "ASIDE": "aside",
    }
    keys = shard_keys(BoardPeriod("global", "2026-11"), 1, 7)
    named = keys.for_function(Windows(recent=500, gone=20))
    order = {name: int(number) for name, number in zip(names.split(", "), numbers.split(", "), strict=True)}
    assert {name: named[number - 1].removeprefix(keys.prefix) for name, number in order.items()} == expected
    assert f"SHARD_KEYS = {len(named)}\n" in prelude
    assert f"GONE_MS = {GONE_WINDOW_MS} " in prelude


def test_two_shards_share_no_key() -> None:
    """Boards, periods, generations and shards are told apart, also where they share a slot."""
    now = Windows(500, 20)
    named = [
        name
        for board in (BoardPeriod("a", "2026-11"), BoardPeriod("a-1", "2026-11"), BoardPeriod("a", "2026-11-01"))
        for generation in range(1, 13)
        for shard in range(130)
        for name in shard_keys(board, generation, shard).for_function(now)
    ]
    assert len(set(named)) == len(named)


@given(boards, st.integers(1, 9), st.integers(1, 64), st.integers(1, 5000), members)
@settings(deadline=None)
def test_a_directory_bucket_lies_in_the_slot_it_is_said_to(
    board: BoardPeriod, generation: int, partitions: int, buckets: int, member: Member
) -> None:
    directory = directory_keys(board, generation, partitions, buckets)
    slot, key = directory.bucket(member)
    assert key_slot(key.encode()) == slot
    assert slot in directory.slots
    assert key.endswith(f"{board}:{generation}:dir:{key.rpartition(':')[2]}")
    assert int(key.rpartition(":")[2]) < buckets


def test_buckets_are_dealt_out_over_all_partitions() -> None:
    directory = directory_keys(BoardPeriod("global", "2026-11"), 1, 8, 64)
    found = {directory.bucket(Member(b"%d" % number)) for number in range(5_000)}
    assert len(found) == 64, "every bucket lies in one slot, and all are used"
    assert {slot for slot, _ in found} == set(directory.slots)


@given(boards)
@settings(deadline=None)
def test_the_map_lies_in_the_slot_it_is_said_to(board: BoardPeriod) -> None:
    slot, key = map_key(board)
    assert key_slot(key.encode()) == slot
    assert key not in shard_keys(board, 1, 0).for_function(Windows(500, 20))


@given(st.integers(0, 10**14), st.integers(1, 10**9))
@settings(deadline=None)
def test_a_moment_lies_in_its_windows(now_ms: int, recent_ms: int) -> None:
    found = windows_at(now_ms, recent_ms)
    assert found.recent * recent_ms <= now_ms < (found.recent + 1) * recent_ms
    assert found.gone * GONE_WINDOW_MS <= now_ms < (found.gone + 1) * GONE_WINDOW_MS
