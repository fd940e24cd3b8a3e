"""The typed side of the functions in Redis: replies are read as they are packed there, refusals told in our words."""

import re
from importlib.resources import files
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding import functions
from sharding.cluster.client import Answer, Refused
from sharding.errors import (
    AuditBacklog,
    BoardFrozen,
    DirectoryLost,
    LeaderboardError,
    Outcome,
    ShardLost,
    ShardOutcomeUnknown,
    ShardUnavailable,
)
from sharding.functions import (
    LIBRARY_NAME,
    SLICE,
    Arrival,
    Arrive,
    Code,
    Depart,
    Effect,
    Payload,
    arrivals,
    departures,
    effects,
    library_code,
    map_version,
    pack_list,
    pairs,
    pointed,
    read_payload,
    read_tombstone,
    strays,
)
from sharding.keys import GONE_WINDOW_MS
from sharding.scores import ELAPSED_SPAN, HIGHEST, LOWEST, POINTS_LIMIT
from sharding.submissions import EVENT_ID_BYTES, Submission

LUA = files("sharding") / "lua"


def lua_numbers(name: str) -> dict[str, int]:
    """The numbers that a Lua file gives names to, at its top level."""
    found: dict[str, int] = {}
    for names, values in re.findall(r"^local ([A-Z_, ]+) = ([\d, ]+)", (LUA / name).read_text(), re.MULTILINE):
        found.update(zip(names.split(", "), map(int, values.strip().split(", ")), strict=True))
    return found


# -- both sides are written by hand


def test_the_codes_of_a_submission_are_those_of_lua() -> None:
    told = lua_numbers("apply.lua")
    renamed = {name: f"IS_{name}" for name in ("LEAVING", "GONE", "HIDDEN", "REMOVED")}
    assert {code.name: told[renamed.get(code.name, code.name)] for code in Code} == {code.name: code for code in Code}
    assert lua_numbers("read.lua")["LIVE"] == functions.LIVE


def test_the_codes_of_the_handoff_are_those_of_lua() -> None:
    told = lua_numbers("handoff.lua")
    for code in (*Depart, *Arrive):
        assert told[code.name] == code


def test_the_limits_are_those_of_lua() -> None:
    told = lua_numbers("prelude.lua")
    assert told["SPAN"] == ELAPSED_SPAN
    assert told["POINTS_LIMIT"] == POINTS_LIMIT
    assert told["EVENT_ID"] == EVENT_ID_BYTES
    assert told["EVENT"] == len(Submission("ann", 1, "m").event())  # type: ignore[arg-type]
    assert told["GONE_MS"] == GONE_WINDOW_MS


def test_a_slice_stays_below_what_lua_can_unpack() -> None:
    """The vectorised calls pass two values a player: ZADD and HSET, behind command and key."""
    assert 2 * SLICE + 2 < 7_900


def test_the_library_has_every_function_that_is_called() -> None:
    code = library_code()
    assert code.startswith(f"#!lua name={LIBRARY_NAME}\n")
    defined = re.findall(r"^local function (rb\d+_\w+)\(", code, re.MULTILINE)
    assert len(set(defined)) == len(defined)
    assert all(name.startswith(f"rb{functions.VERSION}_") for name in defined)
    python = "".join(path.read_text() for path in Path(functions.__file__).parent.rglob("*.py"))
    assert set(re.findall(r'"(rb\d+_\w+)"', python)) <= set(defined)
    assert {path.name for path in LUA.iterdir()} == {f"{name}.lua" for name in functions._SOURCES}, "none left out"


def test_what_is_called_as_a_read_is_one() -> None:
    """The server refuses a write in a function that was registered as a read."""
    code = library_code()
    reads = {*re.findall(r"function_name = '(rb\d+_\w+)'", code), *re.findall(r"register_read\('(rb\d+_\w+)'", code)}
    with_shard_keys = set(re.findall(r"local function (rb\d+_\w+)\(keys, args\)\n  local head, problem = look", code))
    assert reads & with_shard_keys == functions.READ_FUNCTIONS


# -- replies


@given(st.integers(LOWEST, HIGHEST - 1), st.integers(1, 10**6), st.integers(0, 5000), st.booleans())
@settings(deadline=None)
def test_the_head_of_a_payload_is_read(packed: int, epoch: int, target: int, as_double: bool) -> None:
    """Lua has doubles; cmsgpack packs whole ones as integers, and nothing here depends on it."""
    number = float(packed) if as_double else packed
    payload = msgpack.packb([1, number, epoch, target, 490_000, b"e" * 10, b""])
    assert read_payload(payload) == Payload(packed, epoch, target)


@given(st.integers(0, 5000), st.integers(1, 10**6))
@settings(deadline=None)
def test_a_tombstone_is_read_as_target_and_epoch(target: int, epoch: int) -> None:
    assert read_tombstone(f"{epoch}:{target}".encode()) == (target, epoch)


def test_replies_are_cut_into_one_answer_each() -> None:
    reply = [1_760_000_000_000, 7, msgpack.packb([1, -42, 0, 0, 3, b"payload", -1, 0])]
    assert list(effects(reply)) == [Effect(1, -42, 0, 0), Effect(3, b"payload", -1, 0)]
    assert map_version(reply) == 7
    assert list(pairs([7, 1, b"payload", 3, b""])) == [(1, b"payload"), (3, b"")]
    assert list(departures([7, pack_list([1, b"payload", 3, b""])])) == [(1, b"payload"), (3, b"")]
    assert list(arrivals([7, pack_list([1, 2, 0, 5, 0, 1])])) == [Arrival(1, 2, 0), Arrival(5, 0, 1)]
    assert list(pointed(pack_list([3, 1, 0, 7]))) == [(3, 1), (0, 7)]
    assert list(strays([7, 0, pack_list([b"ann", 2, LOWEST, b""])])) == [(b"ann", 2, LOWEST, b"")]
    none = pack_list([])
    for read, reply in (
        (effects, [0, 1, none]),
        (pairs, [1]),
        (departures, [1, none]),
        (arrivals, [1, none]),
        (pointed, none),
        (strays, [1, 0, none]),
    ):
        assert list(read(reply)) == []


@pytest.mark.parametrize(
    ("read", "reply"),
    [
        (effects, [1, 2, pack_list([1, 2, 3])]),
        (pairs, [1, 2, 3, 4]),
        (departures, [1, pack_list([1, 2, 3])]),
        (arrivals, [1, pack_list([1, 2, 3, 4])]),
        (pointed, pack_list([1, 2, 3])),
        (strays, [1, 2, pack_list([1, 2, 3])]),
    ],
)
def test_a_reply_of_another_form_is_not_half_read(read, reply) -> None:
    with pytest.raises(ValueError, match="zip"):
        list(read(reply))


# -- refusals


@pytest.mark.parametrize(
    ("code", "words", "told"),
    [
        ("RBSTATE", "rebuilding", BoardFrozen),
        ("RBBACKLOG", "the outbox is full", AuditBacklog),
        ("RBNOHEAD", "it was never opened, or is gone", ShardLost),
        ("RBNODIR", "this partition was never opened, or is gone", DirectoryLost),
        ("RBWINDOW", "1760000000000", ShardUnavailable),
        ("RBFORM", "five arguments a submission", ShardUnavailable),
        ("BUSY", "Redis is busy running a script", ShardUnavailable),
        ("ERR", "an error inside of a function", ShardOutcomeUnknown),
        ("WRONGTYPE", "Operation against a key holding the wrong kind of value", ShardOutcomeUnknown),
    ],
)
def test_what_a_function_refuses_is_told_in_our_words(code: str, words: str, told: type[LeaderboardError]) -> None:
    refused = Refused(code, words)
    error = functions._told(Answer(error=refused)).error
    assert type(error) is told
    assert error.__cause__ is refused
    assert (error.outcome is Outcome.UNKNOWN) == (told is ShardOutcomeUnknown)


def test_other_answers_are_left_as_they_are() -> None:
    fine, unknown = Answer(reply=[1]), Answer(error=ShardOutcomeUnknown())
    assert functions._told(fine) == Answer(reply=[1])
    assert functions._told(unknown).error is unknown.error
