"""The handoff as a table: what one player is in one shard, and what every call makes of it. Values in, values out.

The Lua functions (`lua/apply.lua`, `handoff.lua`, `directory.lua`) are held to this table by
`tests/stateful/test_functions_table.py`, the actors that call them by the explorer in `tests/unit/sharding/handoff/`,
and the picture in `docs/handoff.md` is drawn from it.

**The problem.** A player who scores leaves the range of one shard for that of another. Three places take part: the
source, the target and the directory. Each is changed atomically by one call; nothing spans two of them. Actors die
between calls, and a failover gives a place the state of a replica that lagged behind.

**The move.** A player is at most one row. To move it, the source freezes it into a payload (*depart*), the target
makes it a row again (*arrive*), the directory learns of it (*point*), the source keeps a tombstone (*finish*). Every
step may be repeated by anybody at any time, so nobody has to know who else is at it.

**What must hold**, and the anomaly that breaks it:

1. at most one live row a player (else *duplicated*);
2. an acknowledged submission counts exactly once, for ever after (else *lost*);
3. the points are the fold of the events applied, and the audit says the same (else *forged*);
4. at rest nobody is leaving, every row is in its range, the directory agrees (else *unfinished*, *misplaced*, *stale*);
5. a refused submission changed nothing anywhere (else *phantom*).

**The rules**, and what goes wrong without each. The explorer takes them out one by one and finds just that.

- *Epoch.* Every departure raises the player's epoch by one. Arrive and point take the higher epoch and leave anything
  else alone. Without it a late arrival overwrites what has happened since: lost.
- *Fence.* After apply, claim, depart, arrive and point the actor waits until a replica has it, then goes on. A failover
  would otherwise take back a step that the next one rests on: duplicated, lost.
- *Unanswered is not held.* A reply whose WAIT was not answered counts for nothing; the call is made again. Every call
  is idempotent, so that is harmless; to trust it is to leave the fence out just when it matters.
- *Touch.* A WAIT covers what its own connection wrote. An answer that rests on somebody else's write (a payload found,
  an event recognised, a claim found) comes with a write of the caller's own. Without it: duplicated.
- *Help.* Whoever finds the player leaving finishes the move and goes on at the target; nobody waits for the dead. The
  helper must have touched what it found: a payload that was merely read may be taken back (duplicated). Without help
  writers stand still until the sweeper comes: blocked.
- *Old moves ask the directory.* A departure may lie unfinished for longer than tombstones live. By then the player may
  have arrived, gone on, and be forgotten at the target, where a late arrival would be taken for the first (duplicated).
  If the directory knows the epoch, the player has been there, and only point and finish are left.
- *Own claim before create.* A row begins under the epoch 1, where the directory says, and only by somebody who has
  himself written that entry or rewritten the one he found. A claim merely read may be taken back, and the next one may
  name another shard, because the shard of a claim follows from the first score: duplicated.
- *A mark in the place of a removed row.* Who is taken off the board leaves epoch and events behind. The entry goes on
  to be true, so nobody claims anew; a late arrival finds that it was here already; and who submits again begins in that
  very place, once somebody has made sure that the player still exists.
- *Tombstones* outlive any request. A writer that was sent here by an old entry is sent on; without them it would find
  nothing and, with a claim of its own from before, create: duplicated.
- *Unsure is not refused.* A call that was sent and not answered may have happened. Whatever is answered to the second
  sending, short of an answer about the event itself, the writer reports unknown: phantom.

Apply does not look at epochs: with one live row at most, the row that is here is the right one. Depart does, since its
caller's knowledge of the row may be old; and it looks at the range again, since only the shard knows it for sure. A map
that changes in the meantime costs a further move, never more.

**What no protocol prevents**: two failures at once, or a replica promoted that is not the one that confirmed. The scrub
repairs what that leaves, with the same tools. The directory is corrected by *point*, from a row that was touched; a
live row older than the directory's entry, or as old and elsewhere, is a ghost and is *buried*; a row that is nowhere
is restored by *arrive* under the very epoch that the directory names, so that it displaces nothing that is as new.

**Time.** The events that recognise a retry lie in keys named for windows of time, and so do tombstones. A shard's clock
therefore never runs back: every call that writes leaves its time in the head, and no later call goes by an earlier one.
After a failover to a server whose clock is behind, or a step of that clock, the shard's time stands still until it has
caught up. What a replica has, it has with the time that goes with it, so no window that holds an event is looked past.

Assumed: the clocks of two shards differ by less than one window.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from sharding.boards import Operator
from sharding.directory import FIRST_EPOCH, Entry
from sharding.functions import Arrive, Code, Depart
from sharding.scores import POINTS_LIMIT, Order, PackedScore, pack, points_of
from sharding.submissions import EVENT_ID_BYTES

#: Epochs and numbers of shards lie below it.
MOST_EPOCH = 1 << 31
#: Events of one player that one window holds.
MOST_RECENT = 4096

_NONE: frozenset[bytes] = frozenset()


# -- what a player is in a shard


@dataclass(frozen=True, slots=True)
class Memory:
    """The events by which a retry is recognised: those of a time window and of the one before it."""

    window: int = 0
    recent: frozenset[bytes] = _NONE
    before: frozenset[bytes] = _NONE

    def seen_at(self, window: int) -> "Memory":
        """The memory as it is in another window.

        In an earlier one only if the events come from a shard whose clock is ahead: they are kept, as new ones.
        """
        if window == self.window:
            return self
        if window < self.window:
            return Memory(window, self.recent | self.before)
        return Memory(window, _NONE, self.recent if window == self.window + 1 else _NONE)

    def find(self, event: bytes) -> bytes | None:
        """The event with the same id, if it was applied; its content may differ."""
        event_id = event[:EVENT_ID_BYTES]
        return next((known for known in (*self.recent, *self.before) if known[:EVENT_ID_BYTES] == event_id), None)


@dataclass(frozen=True, slots=True)
class Absent:
    """The shard knows nothing of the player."""


@dataclass(frozen=True, slots=True)
class Live:
    """The row: ranked and writable."""

    epoch: int
    packed: PackedScore
    memory: Memory
    #: writable, and kept out of the ranking
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Leaving:
    """Frozen on the way to `target`, where it will have this epoch. As a value this is also the payload."""

    epoch: int
    packed: PackedScore
    memory: Memory
    target: int
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Removed:
    """The mark of a player who was taken off the board here."""

    epoch: int
    memory: Memory


@dataclass(frozen=True, slots=True)
class Gone:
    """The tombstone of a player who left for `target` under this epoch."""

    epoch: int
    target: int


State: TypeAlias = Absent | Live | Leaving | Removed | Gone

ABSENT = Absent()


# -- what a call is told about the shard


@dataclass(frozen=True, slots=True)
class Head:
    """A shard's own record of its range and rules, as far as they concern one player.

    `takes_player`: the player's hash belongs to this shard, where the range is split by it. `shards`: the board's
    shards have the numbers below it.
    """

    shard: int
    low: PackedScore
    high: PackedScore
    order: Order = Order.DESC
    operator: Operator = Operator.ADD
    takes_player: bool = True
    shards: int = MOST_EPOCH

    def is_stray(self, packed: PackedScore) -> bool:
        """Whether a row with this packed score belongs elsewhere."""
        return not (self.low <= packed < self.high and self.takes_player)


class Clock(NamedTuple):
    """The shard's time: the window of recent events, and the tie-break units since the period began."""

    window: int = 0
    elapsed: int = 0


@dataclass(frozen=True, slots=True)
class Told:
    """A shard's answer: a code, what goes with it (see each step), and whether the row that is here now is a stray."""

    code: IntEnum
    detail: int | str | State = ""
    is_stray: bool = False


# -- the steps: each is one call to one place


def apply(  # noqa: PLR0911 (one return a case)
    state: State,
    head: Head,
    clock: Clock,
    *,
    value: int,
    event: bytes,
    may_create: bool,
    may_begin_anew: bool = False,
    hidden: bool = False,
    settles: bool = False,
) -> tuple[State, Told]:
    """A submission. `detail`: the packed score, the state that says where to go, or why it was refused.

    `may_create`: the caller has written or rewritten the player's claim himself, and a replica has it.
    `may_begin_anew`: the caller knows that a player who was removed still exists. `hidden`: a row that begins is.
    `settles`: this takes back what was applied twice.
    """
    match state:
        case Leaving():
            return state, Told(Code.LEAVING, state)
        case Gone():
            return state, Told(Code.GONE, state)
        case Absent() if not may_create:
            return state, Told(Code.UNKNOWN)
        case Absent():
            epoch, packed, memory = FIRST_EPOCH, None, Memory(clock.window)
        case Removed():
            epoch, packed, memory = state.epoch, None, state.memory.seen_at(clock.window)
        case Live():
            epoch, packed, memory = state.epoch, state.packed, state.memory.seen_at(clock.window)
            hidden = state.hidden
    if known := memory.find(event):
        if known != event:
            return state, Told(Code.REFUSED, "match")
        return state, _duplicate(head, packed)
    if isinstance(state, Removed) and settles:
        return state, _duplicate(head, None)
    if isinstance(state, Removed) and not may_begin_anew:
        return state, Told(Code.REMOVED)
    if len(memory.recent) >= MOST_RECENT:
        return state, Told(Code.REFUSED, "recent")
    points = None if packed is None else points_of(packed, head.order)
    after = _points_after(head, points, value)
    if abs(after) >= POINTS_LIMIT:
        return state, Told(Code.REFUSED, "points")
    if packed is None or after != points:  # the time that decides ties moves only with the points
        packed = pack(after, clock.elapsed, head.order)
    live = Live(epoch, packed, Memory(memory.window, memory.recent | {event}, memory.before), hidden)
    return live, Told(Code.APPLIED, packed, head.is_stray(packed))


def _duplicate(head: Head, packed: PackedScore | None) -> Told:
    return Told(Code.DUPLICATE) if packed is None else Told(Code.DUPLICATE, packed, head.is_stray(packed))


def depart(  # noqa: PLR0911 (one return a case)
    state: State, head: Head, clock: Clock, *, expected: int, target: int
) -> tuple[State, Told]:
    """Freeze a stray for `target`. `detail`: the payload, the tombstone, or the epoch that the row has."""
    match state:
        case Live() if state.epoch != expected:
            return state, Told(Depart.OTHER_EPOCH, state.epoch)
        case Live() if not head.is_stray(state.packed):
            return state, Told(Depart.AT_HOME)
        case Live() if target == head.shard or target >= head.shards:  # the caller's map is not the shard's
            return state, Told(Depart.MISDIRECTED)
        case Live():
            memory = state.memory.seen_at(clock.window)
            payload = Leaving(state.epoch + 1, state.packed, memory, target, state.hidden)
            return payload, Told(Depart.DEPARTED, payload)
        case Leaving():
            return state, Told(Depart.DEPARTED, state)
        case Gone():
            return state, Told(Depart.NOT_HERE, state)
        case Absent() | Removed():
            return state, Told(Depart.NOT_HERE)


def arrive(state: State, head: Head, clock: Clock, *, payload: Leaving) -> tuple[State, Told]:
    """Make a payload a row, unless the player was here under its epoch or a later one. `detail`: the epoch here."""
    if payload.target != head.shard:
        return state, Told(Arrive.MISDIRECTED, 0)
    here = 0 if isinstance(state, Absent) else state.epoch
    if payload.epoch > here:
        state = Live(payload.epoch, payload.packed, payload.memory.seen_at(clock.window), payload.hidden)
        return state, Told(Arrive.ARRIVED, payload.epoch, head.is_stray(payload.packed))
    return state, Told(Arrive.ALREADY, here, isinstance(state, Live) and head.is_stray(state.packed))


def remove(state: State, clock: Clock, *, event: bytes) -> tuple[State, Told]:
    """Take the player off the board. `detail`: the packed score the player had, or the state that says where to go."""
    match state:
        case Live() | Removed():
            memory = state.memory.seen_at(clock.window)
            if memory.find(event):
                return state, Told(Code.DUPLICATE)
            if isinstance(state, Removed):
                return state, Told(Code.REMOVED)
            mark = Removed(state.epoch, Memory(memory.window, memory.recent | {event}, memory.before))
            return mark, Told(Code.APPLIED, state.packed)
    return state, _elsewhere(state)


def hide(state: State, *, hidden: bool) -> tuple[State, Told]:
    """Keep the player out of the ranking, or show it again. `detail`: the state that says where to go."""
    match state:
        case Live() if state.hidden != hidden:
            return replace(state, hidden=hidden), Told(Code.APPLIED)
        case Live():
            return state, Told(Code.DUPLICATE)
        case Removed():
            return state, Told(Code.REMOVED)
    return state, _elsewhere(state)


def _elsewhere(state: State) -> Told:
    match state:
        case Leaving():
            return Told(Code.LEAVING, state)
        case Gone():
            return Told(Code.GONE, state)
    return Told(Code.UNKNOWN)


def finish(state: State, *, epoch: int) -> tuple[State, bool]:
    """Replace the payload of this epoch by its tombstone; whether that was done."""
    if isinstance(state, Leaving) and state.epoch == epoch:
        return Gone(epoch, state.target), True
    return state, False


def expire(state: State) -> State:
    """A tombstone's time is over. No request that was sent here before is still on its way."""
    return ABSENT if isinstance(state, Gone) else state


def bury(state: State, head: Head, *, entry: Entry) -> tuple[State, bool]:
    """Make a row a tombstone that the directory's entry shows to be a ghost; whether that was done.

    Not if the entry names this very shard: what is missing here then is the later row, which has to arrive.
    """
    ghost = isinstance(state, Live) and is_ghost(Entry(head.shard, state.epoch), entry)
    if ghost and entry.shard != head.shard:
        return Gone(entry.epoch, entry.shard), True
    return state, False


def is_ghost(row: Entry, entry: Entry) -> bool:
    """Whether a live row of this shard and epoch is not the player's, going by the directory's entry."""
    return row.epoch < entry.epoch or (row.epoch == entry.epoch and row.shard != entry.shard)


def point(entry: Entry | None, *, wanted: Entry) -> Entry:
    """The directory's entry after somebody wants it to be `wanted`. Wanting the first epoch is a claim."""
    return wanted if entry is None or entry.epoch < wanted.epoch else entry


def _points_after(head: Head, points: int | None, value: int) -> int:
    if points is None or head.operator is Operator.SET:
        return value
    if head.operator is Operator.ADD:
        return points + value
    sign = head.order.sign
    return value if sign * value < sign * points else points
