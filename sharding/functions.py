"""The functions that run inside Redis (`lua/`), as typed calls.

All of a shard's state changes in one of these functions, so this module is the only place where their arguments and
replies are known outside of Lua. The library's name carries a version: processes of two versions can serve side by
side, and `docs/how-to/change-a-function.md` says how to make the next one.

The keys of a shard are named for time windows by the shard's clock, of which a caller has only a guess. A wrong guess
is refused (RBWINDOW, with the right time) and the call is made again; nobody's clock but the shard's decides anything.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from functools import cache
from importlib.resources import files
from itertools import starmap
from typing import Any, Final, NamedTuple

import msgpack
import msgspec

from runtime.deadlines import Deadline
from sharding.cluster.client import Answer, Call, ClusterClient, Refused
from sharding.errors import (
    AuditBacklog,
    BoardFrozen,
    DirectoryLost,
    LeaderboardError,
    NotDurable,
    Outcome,
    PeriodClosed,
    ShardLost,
    ShardOutcomeUnknown,
    ShardUnavailable,
)
from sharding.keys import ShardKeys, windows_at
from sharding.players import Member
from sharding.submissions import PackedNote, pack_notes

VERSION = 1
#: Of what travels from shard to shard; mirrors prelude.lua.
PAYLOAD_VERSION = 1
LIBRARY_NAME = f"rangeboard_{VERSION}"
#: In this order: what a file uses stands in one before it.
_SOURCES = ("prelude", "apply", "handoff", "aside", "directory", "head", "read", "strays", "lifecycle", "scrub")
#: Those that are called with a shard's keys and change nothing.
READ_FUNCTIONS = frozenset({"rb1_find", "rb1_scan", "rb1_strays"})
#: Submissions, or players, in one call: it holds a node for less than 2 ms, and stays far from the limit of `unpack`.
SLICE = 1000
#: Players in one call of a step of the handoff: that too holds a node for less than 2 ms.
MOVE_SLICE = 250


@cache
def library_code() -> str:
    """The source of the function library, as FUNCTION LOAD takes it."""
    folder = files("sharding") / "lua"
    return "\n".join([f"#!lua name={LIBRARY_NAME}", *((folder / f"{name}.lua").read_text() for name in _SOURCES)])


class Code(IntEnum):
    """What a shard did with a submission, or knows of a player. Mirrors apply.lua, read.lua and aside.lua."""

    APPLIED = 1
    DUPLICATE = 2
    LEAVING = 3
    GONE = 4
    UNKNOWN = 5
    REFUSED = 6
    HIDDEN = 7
    REMOVED = 8


class May(IntEnum):
    """What a writer may do for a player who has no row. Mirrors apply.lua."""

    NOTHING = 0
    #: create it: the writer's own claim is in the directory, and a replica has it
    CREATE = 1
    #: begin anew where the player was removed: the player is still known
    BEGIN_ANEW = 2
    CREATE_HIDDEN = 3
    BEGIN_ANEW_HIDDEN = 4

    @property
    def hidden(self) -> "May":
        """The same, for a hidden player."""
        return May(self + 2) if self in {May.CREATE, May.BEGIN_ANEW} else self


#: The state of a shard whose period is over: it takes no submissions any more, and is about to be archived.
FROZEN: Final = "frozen"
#: The state of a shard whose rows come from the audit log.
REBUILDING: Final = "rebuilding"
OPEN: Final = "open"

#: In the replies of rb1_find the first code says that the row is here.
LIVE = Code.APPLIED


class Depart(IntEnum):
    """What rb1_depart found."""

    DEPARTED = 1
    AT_HOME = 2
    NOT_HERE = 3
    OTHER_EPOCH = 4
    MISDIRECTED = 5


class Arrive(IntEnum):
    """What rb1_arrive found."""

    ARRIVED = 1
    ALREADY = 2
    MISDIRECTED = 5


class Effect(msgspec.Struct, frozen=True, gc=False):
    """The answer to one submission; `place` is 0-based within the shard, -1 if it was not asked for.

    `detail`: the packed score of a row that is here, else bytes.
    """

    code: int
    detail: Any
    place: int
    is_stray: int


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """The answer to one arrival: `epoch` is that of what is in the target now."""

    code: int
    epoch: int
    is_stray: int


class Shape(NamedTuple):
    """How a shard's rows lie to its range. `astray`: the rows outside of it, member and packed score of each in turn.

    Those are left out where they are many.
    """

    version: int
    rows: int
    better: int
    worse: int
    submissions: int
    points: int
    leaving: int
    moves: int
    low: int
    high: int
    astray: Sequence[bytes] = ()

    @classmethod
    def of_reply(cls, reply: list[Any]) -> "Shape":
        """The shape in a reply of rb1_shape."""
        *counts, low, high = reply[:_SHAPE]
        return cls._make([*counts, int(low), int(high), reply[_SHAPE:]])

    @property
    def tells_strays(self) -> bool:
        """Whether every row outside of the range is listed."""
        return len(self.astray) == 2 * (self.better + self.worse)

    @property
    def within(self) -> int:
        """How many rows lie in the range."""
        return self.rows - self.better - self.worse


#: Values of a shape before the strays.
_SHAPE = len(Shape._fields) - 1


class Payload(msgspec.Struct, frozen=True, gc=False):
    """What travels from shard to shard; opaque but for these."""

    packed: int
    epoch: int
    target: int
    is_hidden: bool = False


def read_payload(payload: bytes) -> Payload:
    """The part of a payload that routing needs (lua/handoff.lua packs it). ShardUnavailable if its form is unknown."""
    try:
        version, packed, epoch, target, _window, _recent, _before, *hidden = msgpack.unpackb(payload, raw=True)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ShardUnavailable("the player is on a move that cannot be read") from error
    if version != PAYLOAD_VERSION:
        raise ShardUnavailable(f"the player is on a move of version {version}, which this process does not know")
    return Payload(int(packed), epoch, target, bool(hidden))


def read_tombstone(entry: bytes) -> tuple[int, int]:
    """Target and epoch of a tombstone."""
    epoch, _, target = entry.partition(b":")
    return int(target), int(epoch)


def pack_list(flat: Sequence[Any]) -> bytes:
    """A flat list as the functions take it: their msgpack knows only the older form, where bytes and text are one."""
    packed: bytes = msgpack.packb(flat, use_bin_type=False)
    return packed


def _in_groups(packed: bytes, size: int) -> Iterator[tuple[Any, ...]]:
    """The values of a flat list that a function has packed, so many at a time."""
    return zip(*[iter(msgpack.unpackb(packed, raw=True))] * size, strict=True)


class ShardCall(NamedTuple):
    """A function call on one shard; `args` is what follows the two windows."""

    keys: ShardKeys
    function: str
    args: tuple[Any, ...]


class Asked(NamedTuple):
    """One submission as rb1_apply takes it."""

    member: Member
    value: int
    event: bytes
    note: PackedNote
    may: May = May.NOTHING


class ApplyMode(IntEnum):
    """What rb1_apply does besides applying."""

    PLAIN = 0
    TELL_PLACES = 1
    #: take back what was applied twice, also in a frozen shard
    SETTLE = 2


def apply_call(
    keys: ShardKeys,
    asked: Iterable[tuple[Member, int, bytes, PackedNote, May]],
    *,
    outbox_limit: int,
    mode: ApplyMode,
) -> ShardCall:
    """The call that applies submissions (each with the fields of an `Asked`) to a shard."""
    flat: list[bytes | int] = []
    notes: list[PackedNote] = []
    may: list[May] = []
    for member, value, event, note, permission in asked:
        flat += (member, value, event)
        notes.append(note)
        may.append(permission)
    permissions = "".join(str(int(one)) for one in may) if any(may) else ""
    args = (outbox_limit, int(mode), permissions, pack_list(flat), pack_notes(notes))
    return ShardCall(keys, "rb1_apply", args)


class Functions:
    """The function library of one cluster, as called by one process."""

    def __init__(self, client: ClusterClient, *, replicas: int, ack_ms: int, insist: bool = False) -> None:
        """`replicas`: how many must have a fenced write; 0 leaves the fences out.

        `insist`: a shard that has lost its replicas takes no fenced writes; else it goes on without them.
        """
        self.client = client
        self.replicas = replicas
        self.insist = insist
        self._ack_ms = ack_ms
        self._clock_ahead_ms = 0.0

    def on_shards(
        self, calls: Sequence[ShardCall], recent_ms: int, deadline: Deadline, *, fence: bool = False
    ) -> list[Answer]:
        """The answers of shards; `fence`: wait until replicas have what was written (`Answer.confirmed`)."""
        answers = self._execute([self._named(call, recent_ms) for call in calls], deadline, fence)
        for index, answer in enumerate(answers):
            refused = refusal_of(answer.error)
            if refused is not None and refused.code == "RBWINDOW":
                self._clock_ahead_ms = int(refused.words) - time.time() * 1000
                again = self._execute([self._named(calls[index], recent_ms)], deadline, fence)[0]
                answers[index] = _after(answer, again)
        return [_told(answer) for answer in answers]

    def on_keys(self, calls: Sequence[Call], deadline: Deadline, *, fence: bool = False) -> list[Answer]:
        """The answers to calls whose keys are the same at any time."""
        return [_told(answer) for answer in self._execute(calls, deadline, fence)]

    def _execute(self, calls: Sequence[Call], deadline: Deadline, fence: bool) -> list[Answer]:
        return self.client.execute(calls, deadline, replicas=self.replicas if fence else 0, ack_ms=self._ack_ms)

    def hold(self, slots: Sequence[int], answers: Sequence[Answer]) -> None:
        """Make errors of those fenced answers that no replica confirmed: the next step must not rest on them.

        Where the primary has no replica at all there is nothing to fail over to, and unless the settings insist on
        replicas the next step may be taken.
        """
        if not self.replicas:
            return
        for slot, answer in zip(slots, answers, strict=True):
            if answer.error is None and not answer.confirmed and (self.insist or not self.client.is_alone(slot)):
                answer.error = NotDurable()

    def _named(self, call: ShardCall, recent_ms: int) -> Call:
        windows = windows_at(int(time.time() * 1000 + self._clock_ahead_ms), recent_ms)
        keys = call.keys.for_function(windows)
        command = "FCALL_RO" if call.function in READ_FUNCTIONS else "FCALL"
        return Call(
            call.keys.slot, (command, call.function, len(keys), *keys, windows.recent, windows.gone, *call.args)
        )


def step_call(keys: ShardKeys, function: str, flat: Sequence[Any]) -> ShardCall:
    """A step of the handoff for some players of one shard: `flat` has their values, as lua/handoff.lua says."""
    return ShardCall(keys, function, (pack_list(flat),))


def on_bucket(function: str, slot: int, keys: Sequence[str], args: Sequence[Any]) -> Call:
    """A call on directory buckets of one slot."""
    return Call(slot, ("FCALL", function, len(keys), *keys, *args))


def point_call(slot: int, keys: Sequence[str], flat: Sequence[Any]) -> Call:
    """The call that points to players: their buckets, and member, shard, epoch of each in turn."""
    return on_bucket("rb1_point", slot, keys, (pack_list(flat),))


def claim_call(slot: int, mark: str, keys: Sequence[str], flat: Sequence[Any]) -> Call:
    """The same for players who are taken to be new: refused where the partition has lost its mark."""
    return on_bucket("rb1_claim", slot, [mark, *keys], (pack_list(flat),))


# -- replies


def effects(reply: list[Any]) -> Iterator[Effect]:
    """The answers of rb1_apply, one per submission."""
    return starmap(Effect, _in_groups(reply[2], 4))


def map_version(reply: list[Any]) -> int:
    """The version of the map that a shard serves, from the reply of rb1_apply."""
    return int(reply[1])


def pairs(reply: list[Any]) -> Iterator[tuple[int, bytes]]:
    """The answers of rb1_find, rb1_remove and rb1_hide: code and detail per player."""
    return zip(*[iter(reply[1:])] * 2, strict=True)


def departures(reply: list[Any]) -> Iterator[tuple[int, bytes]]:
    """The answers of rb1_depart: code and detail per player."""
    return _in_groups(reply[1], 2)


def arrivals(reply: list[Any]) -> Iterator[Arrival]:
    """The answers of rb1_arrive, one per player."""
    return starmap(Arrival, _in_groups(reply[1], 3))


def pointed(reply: bytes) -> Iterator[tuple[int, int]]:
    """The answers of rb1_point and rb1_claim: shard and epoch per player."""
    return _in_groups(reply, 2)


def strays(reply: list[Any]) -> Iterator[tuple[Member, int, int, bytes]]:
    """The players listed by rb1_strays and rb1_comb: member, epoch, packed score, and a payload.

    A payload is that of a player who is leaving; it is empty for a row outside of its shard's range.
    """
    return _in_groups(reply[2], 4)


def is_to_be_combed(reply: list[Any]) -> bool:
    """Whether rb1_strays or rb1_comb says that a shard may have more strays, by their hash, than it could list."""
    return bool(reply[1])


# -- errors


#: Refusals of the server itself, before it runs the function.
_BEFORE_RUNNING = {"BUSY", "MISCONF", "NOPERM", "NOREPLICAS"}


def refusal_of(error: LeaderboardError | None) -> Refused | None:
    """The refusal behind an error, also where an earlier sending of the call leaves the outcome unknown."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, Refused):
        cause = cause.__cause__
    return cause if isinstance(cause, Refused) else None


def _after(first: Answer, again: Answer) -> Answer:
    """The answer to a call that was made again, where an earlier sending of the first may have been carried out."""
    if first.repeated:
        again.repeated = True
        if again.error is not None and again.error.outcome is Outcome.NOT_APPLIED:
            unknown = ShardOutcomeUnknown()
            unknown.__cause__ = again.error
            again.error = unknown
    return again


def _told(answer: Answer) -> Answer:
    """The answer with a function's refusal told in the words of errors.py."""
    refused = answer.error
    if isinstance(refused, Refused):
        told: LeaderboardError
        if refused.code == "RBSTATE":
            if refused.words == FROZEN:
                told = PeriodClosed("the period is over, and its final ranking is being kept", field="played_at")
            else:
                told = BoardFrozen(f"the shard is {refused.words} and takes no submissions now")
        elif refused.code == "RBBACKLOG":
            told = AuditBacklog()
        elif refused.code == "RBNODIR":
            told = DirectoryLost()
        elif refused.code == "RBNOHEAD":
            told = ShardLost()
        elif refused.code == "RBWINDOW":
            told = ShardUnavailable("the shard's clock cannot be met; try again")
        elif refused.code.startswith("RB") or refused.code in _BEFORE_RUNNING:
            told = ShardUnavailable(f"the shard refused the call: {refused}")
        else:  # an error inside of a function takes nothing back that it has written
            told = ShardOutcomeUnknown(f"the shard failed at the call: {refused}")
        told.__cause__ = refused
        answer.error = told
    return answer
