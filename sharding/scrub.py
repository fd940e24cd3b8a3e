"""The scrub: a slow pass over everything, which repairs what no protocol can prevent.

The handoff is safe at any single failure. Two at once, or a replica promoted that was not the one that confirmed, can
leave a player in two shards, in none, or where the directory does not look. So somebody has to look, always, slowly,
and everywhere: first at every row, whether the directory knows of it, then at every entry of the directory, whether
there is a row. The rules are those of `handoff/states.py`:

- an entry that is missing, or older than the row, is *pointed* to the row;
- a row that is older than the entry, or as old and elsewhere, is a ghost, and is *buried*;
- an entry whose row is nowhere, also not along the tombstones, is *restored* from the audit log, under the very epoch
  that was looked for, so that it cannot displace anything as new.

Moves in flight look the same for a moment. So nothing is repaired on one look: who looks wrong is looked at again after
a while, longer than it takes the sweeper to finish what a dead writer began. And nothing is repaired on what a failover
could take back: what is seen at the second look has been touched, and a replica has it. In normal operation all counts
of repairs are zero.

A pass is resumed anywhere: its position is a short text.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack
import structlog

from runtime.deadlines import Deadline
from sharding.cluster.client import Answer, Call
from sharding.directory import FIRST_EPOCH, Directory, Entry, Located
from sharding.errors import LeaderboardError
from sharding.functions import LIVE, PAYLOAD_VERSION, SLICE, Arrive, Code, Functions, ShardCall, arrivals, pack_list
from sharding.handoff.states import is_ghost
from sharding.lifecycle import LoadedRow
from sharding.players import Member, player_of
from sharding.shard_map import ShardMap

log = structlog.get_logger()

#: Rows looked at in one call.
BATCH = 500
#: A move in flight is over by then, also one whose writer died: the sweeper comes every two seconds.
SETTLE_S = 5.0
_MOST_BUCKETS = 64
_STEP_S = 10.0
_MOST_HOPS = 10
#: The player has a row here, or had one that was removed.
_HERE = {LIVE, Code.REMOVED}

#: What the audit log has of these players, as rows, with the recent window that their events are of.
Audit = Callable[[ShardMap, Sequence[Member]], tuple[int, Mapping[Member, LoadedRow]]]


@dataclass(slots=True)
class Repairs:
    """What was looked at, and what was repaired, by kind.

    `missing`: nowhere, and the audit log knows no submission. `passed_over`: batches, shards, or buckets of the
    directory that could not be looked at, because a shard did not answer: that is for the next pass.
    """

    rows: int = 0
    entries: int = 0
    pointed: int = 0
    buried: int = 0
    restored: int = 0
    missing: int = 0
    passed_over: int = 0

    @property
    def total(self) -> int:
        """How many repairs."""
        return self.pointed + self.buried + self.restored


class Position(NamedTuple):
    """Where a pass stands: at a cursor in the rows of the map's n-th shard, or at the n-th bucket of the directory."""

    part: str = "rows"
    number: int = 0
    cursor: str = "0"

    def __str__(self) -> str:
        return f"{self.part}:{self.number}:{self.cursor}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """The position that `str` wrote."""
        part, number, cursor = text.split(":")
        return cls(part, int(number), cursor)


START = Position()


class _Seen(NamedTuple):
    """What a shard attests of a player: a code of rb1_find, the epoch, and the shard where to go on."""

    code: int
    epoch: int
    shard: int


class Scrub:
    """Scrubs boards. `audit` tells what a lost row was."""

    def __init__(self, functions: Functions, directory: Directory, audit: Audit, *, settle_s: float = SETTLE_S) -> None:
        self._functions = functions
        self._directory = directory
        self._audit = audit
        self._settle_s = settle_s

    def run(
        self,
        shard_map: ShardMap,
        deadline: Deadline,
        *,
        players_per_s: float,
        start: Position = START,
        repairs: Repairs | None = None,
        report: Callable[[Repairs], None] = lambda _: None,
    ) -> Position | None:
        """Go on from a position until the pass is over (None) or the deadline passes (where to go on).

        Counts into `repairs`; `report` hears of every batch. What a shard would have to answer for that does not, is
        passed over, logged and counted, and everything else is looked at.
        """
        done = repairs if repairs is not None else Repairs()
        begun, before = time.monotonic(), done.rows + done.entries
        position: Position | None = start
        while position is not None and not deadline.passed:
            position = self._step(shard_map, position, done)
            report(done)
            ahead_s = (done.rows + done.entries - before) / players_per_s - (time.monotonic() - begun)
            if ahead_s > 0:
                time.sleep(min(ahead_s, deadline.remaining()))
        return position

    def _step(self, shard_map: ShardMap, position: Position, done: Repairs) -> Position | None:
        """One batch; where to go on."""
        if position.part == "rows":
            shards = list(shard_map.shards())
            if position.number >= len(shards):
                return Position("entries")
            cursor = self._scrub_rows(shard_map, shards[position.number], position.cursor, done)
            return Position("rows", position.number + (cursor == "0"), cursor)
        if position.number >= shard_map.directory.buckets:
            return None
        return Position("entries", self._scrub_entries(shard_map, position.number, done))

    # -- rows

    def _scrub_rows(self, shard_map: ShardMap, shard: int, cursor: str, done: Repairs) -> str:
        """Hold some rows against the directory; the next cursor."""
        scanned: list[Any] = [b"0"]
        with self._passing_over(shard_map, done, shard=shard):
            scanned = self._on_shard(shard_map, shard, "rb1_scan", (cursor, BATCH))
        epochs = {Member(member): epoch for member, epoch in zip(*[iter(scanned[1:])] * 2, strict=True)}
        done.rows += len(epochs)
        located = self._locate(shard_map, epochs)
        suspects = {
            member: epoch
            for member, epoch in epochs.items()
            if member not in located.failed and located.entries.get(member) != Entry(shard, epoch)
        }
        if suspects:
            time.sleep(self._settle_s)
            with self._passing_over(shard_map, done, shard=shard):
                self._settle_rows(shard_map, shard, suspects, done)
        return str(scanned[0].decode())

    def _settle_rows(self, shard_map: ShardMap, shard: int, suspects: Mapping[Member, int], done: Repairs) -> None:
        """Look again, and repair what is still wrong. A row of another epoch is of a new stay, which has just begun."""
        seen = self._attest(shard_map, dict.fromkeys(suspects, shard))
        rows = {
            member: Entry(shard, its.epoch)
            for member, its in seen.items()
            if its.code in _HERE and its.epoch == suspects[member]
        }
        located = self._locate(shard_map, rows)
        wrong = [
            member for member in rows if member not in located.failed and located.entries.get(member) != rows[member]
        ]
        # This corrects an entry that is older, and rewrites any other: so what it says is on a replica too.
        stored = self._directory.point(
            shard_map, {member: rows[member] for member in wrong}, Deadline.after(_STEP_S)
        ).entries
        for member in wrong:
            if stored.get(member) == rows[member]:
                done.pointed += 1
                self._log(shard_map, "pointed", member, rows[member], located.entries.get(member))
        ghosts = {
            member: stored[member] for member in wrong if member in stored and is_ghost(rows[member], stored[member])
        }
        elsewhere = {member: entry for member, entry in ghosts.items() if entry.shard != shard}
        args = [item for member, entry in elsewhere.items() for item in (member, *entry)]
        buried = self._on_shard(shard_map, shard, "rb1_bury", args, fence=True) if args else []
        for member, was_buried in zip(elsewhere, buried, strict=True):
            done.buried += was_buried
            if was_buried:
                self._log(shard_map, "buried", member, rows[member], elsewhere[member])
        # A row of an old epoch in the very shard that the entry names: the one that should be there is lost.
        self._restore(shard_map, {member: entry for member, entry in ghosts.items() if entry.shard == shard}, done)

    # -- entries of the directory

    def _scrub_entries(self, shard_map: ShardMap, bucket: int, done: Repairs) -> int:
        """Look for the rows of a few buckets' entries; the next bucket."""
        entries: dict[Member, Entry] = {}
        together = 1  # of full buckets some make a batch, of empty ones there may be thousands
        while len(entries) < BATCH and bucket < shard_map.directory.buckets:
            numbers = range(bucket, min(bucket + together, shard_map.directory.buckets))
            calls = [Call(slot, ("HGETALL", key)) for slot, key in map(shard_map.directory.key_of, numbers)]
            for number, answer in zip(numbers, self._functions.on_keys(calls, Deadline.after(_STEP_S)), strict=True):
                flat: list[bytes] = []
                with self._passing_over(shard_map, done, bucket=number):
                    flat = _value(answer)
                for member, stored in zip(flat[::2], flat[1::2], strict=True):
                    shard, _, epoch = stored.partition(b":")
                    entries[Member(member)] = Entry(int(shard), int(epoch))
            bucket = numbers.stop
            together = min(2 * together, _MOST_BUCKETS)
        done.entries += len(entries)
        suspects = self._nowhere(shard_map, entries, done)
        if suspects:
            time.sleep(self._settle_s)
            located = self._directory.locate(shard_map, suspects, Deadline.after(_STEP_S), fresh=True).entries
            with self._passing_over(shard_map, done, buckets=f"before {bucket}"):
                self._restore(shard_map, self._nowhere(shard_map, located, done), done)
        return bucket

    def _nowhere(self, shard_map: ShardMap, entries: Mapping[Member, Entry], done: Repairs) -> dict[Member, Entry]:
        """Those who are nowhere, with the place and the epoch at which they should be.

        Who is leaving is not among them: that move will be finished. Nor is who may be in a shard that does not answer.
        """
        nowhere: dict[Member, Entry] = {}
        wanted = dict(entries)
        for _ in range(_MOST_HOPS):
            if not wanted:
                break
            seen: dict[Member, _Seen] = {}
            for shard, members in _by_shard(wanted).items():
                with self._passing_over(shard_map, done, shard=shard):
                    seen.update(self._attest(shard_map, dict.fromkeys(members, shard)))
            onward = {}
            for member, its in seen.items():
                # An older tombstone is of an earlier stay: the player has come back since, and that row is lost.
                if its.code == Code.GONE and its.epoch > wanted[member].epoch:
                    onward[member] = Entry(its.shard, its.epoch)
                elif its.code in {Code.GONE, Code.UNKNOWN}:
                    nowhere[member] = wanted[member]
            wanted = onward
        return nowhere

    def _restore(self, shard_map: ShardMap, places: Mapping[Member, Entry], done: Repairs) -> None:
        """Make rows from the audit log, unless some shard has one after all."""
        held = self._held_elsewhere(shard_map, places)
        lost = {member: entry for member, entry in places.items() if member not in held}
        if not lost:
            return
        window, audited = self._audit(shard_map, list(lost))
        rows = {member: row for member, row in audited.items() if row.packed is not None}
        places = {member: _place(shard_map, lost[member], row) for member, row in rows.items()}
        for shard, members in _by_shard(places).items():
            payloads = [_payload(rows[member], places[member], window) for member in members]
            flat = [item for pair in zip(members, payloads, strict=True) for item in pair]
            told = arrivals(self._on_shard(shard_map, shard, "rb1_arrive", [pack_list(flat)], fence=True))
            landed = zip(members, told, strict=True)
            back = {member: places[member] for member, arrival in landed if arrival.code == Arrive.ARRIVED}
            self._directory.point(shard_map, back, Deadline.after(_STEP_S))
            done.restored += len(back)
            for member, place in back.items():
                self._log(shard_map, "restored", member, place, lost[member])
        for member, entry in lost.items():
            # A claim without a row is somebody who died before a first submission: nothing is missing.
            if member not in rows and entry.epoch > FIRST_EPOCH:
                done.missing += 1
                self._log(shard_map, "missing", member, entry, entry)

    def _held_elsewhere(self, shard_map: ShardMap, places: Mapping[Member, Entry]) -> set[Member]:
        """Who has a row, or is leaving, in a shard other than the one looked at."""
        held: set[Member] = set()
        for shard in shard_map.shards():
            others = {member: shard for member, entry in places.items() if entry.shard != shard}
            seen = self._attest(shard_map, others)
            held.update(member for member, its in seen.items() if its.code in {*_HERE, Code.LEAVING})
        return held

    @contextmanager
    def _passing_over(self, shard_map: ShardMap, done: Repairs, **what: object) -> Iterator[None]:
        """What needs a shard that does not answer inside the block is given up, counted and logged."""
        try:
            yield
        except LeaderboardError as error:
            done.passed_over += 1
            log.warning("scrub_passed_over", board=str(shard_map.name), reason=error.detail, **what)

    # -- calls

    def _locate(self, shard_map: ShardMap, members: Iterable[Member]) -> Located:
        """The entries that are stored: also in a lost partition one that is missing is to be pointed to its row."""
        return self._directory.locate(shard_map, members, Deadline.after(_STEP_S), fresh=True, lost_is_none=True)

    def _attest(self, shard_map: ShardMap, places: Mapping[Member, int]) -> dict[Member, _Seen]:
        """What shards know of players, as a replica has it too. A shard that is none of the map's knows nobody."""
        seen: dict[Member, _Seen] = {}
        known = set(shard_map.shards())
        for shard, members in _by_shard({member: Entry(shard, 0) for member, shard in places.items()}).items():
            if shard not in known:
                seen.update({member: _Seen(Code.UNKNOWN, 0, shard) for member in members})
                continue
            for start in range(0, len(members), SLICE):
                some = members[start : start + SLICE]
                reply = self._on_shard(shard_map, shard, "rb1_attest", some, fence=True)
                seen.update(zip(some, map(_Seen._make, zip(*[iter(reply)] * 3, strict=True)), strict=True))
        return seen

    def _on_shard(
        self, shard_map: ShardMap, shard: int, function: str, args: Iterable[Any], *, fence: bool = False
    ) -> list[Any]:
        """The reply of one shard; where it is fenced, a replica has what it rests on."""
        keys = shard_map.keys(shard)
        call = ShardCall(keys, function, tuple(args))
        answers = self._functions.on_shards([call], shard_map.retry_window_ms, Deadline.after(_STEP_S), fence=fence)
        if fence:
            self._functions.hold([keys.slot], answers)
        reply: list[Any] = _value(answers[0])
        return reply

    def _log(self, shard_map: ShardMap, kind: str, member: Member, place: Entry, entry: Entry | None) -> None:
        log.warning(
            "scrub_repaired",
            kind=kind,
            board=str(shard_map.name),
            player=player_of(member),
            shard=place.shard,
            epoch=place.epoch,
            entry=None if entry is None else f"{entry.shard}:{entry.epoch}",
        )


def _place(shard_map: ShardMap, entry: Entry, row: LoadedRow) -> Entry:
    """Where a lost row is to be: where it was looked for; at home, under the next epoch, if that is no shard at all."""
    if entry.shard in shard_map.shards():
        return entry
    return Entry(row.home(shard_map), entry.epoch + 1)


def _payload(row: LoadedRow, place: Entry, window: int) -> bytes:
    """The row as one that has departed for a place (lua/handoff.lua)."""
    content = [PAYLOAD_VERSION, row.packed, place.epoch, place.shard, window, row.recent, row.before]
    content += [1] if row.hidden else []
    packed: bytes = msgpack.packb(content, use_bin_type=False)  # Lua knows only the older form
    return packed


def _by_shard(places: Mapping[Member, Entry]) -> dict[int, list[Member]]:
    groups: dict[int, list[Member]] = defaultdict(list)
    for member, entry in places.items():
        groups[entry.shard].append(member)
    return groups


def _value(answer: Answer) -> Any:
    if answer.error is not None:
        raise answer.error
    return answer.reply
