"""The Lua functions keep the handoff's table: after any sequence of calls the servers hold what the table says.

Calls come in any order, with any epoch, payload and target, right or wrong; the model takes the same steps through
`sharding/handoff/states.py`. After each call every row, epoch, memory, payload, tombstone, directory entry, audit entry
and counter is compared. What is refused as malformed leaves every key of the board as it was, byte for byte.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from sharding.boards import Operator
from sharding.directory import Entry
from sharding.functions import (
    ApplyMode,
    Arrive,
    Asked,
    Code,
    May,
    arrivals,
    departures,
    effects,
    pairs,
    pointed,
    strays,
)
from sharding.handoff import states
from sharding.handoff.states import ABSENT, Gone, Leaving, Live, Memory, Removed, State, Told
from sharding.keys import Windows
from sharding.leaderboard import Leaderboard
from sharding.players import Member, PlayerId, member_of
from sharding.scores import ELAPSED_SPAN, Order, PackedScore, points_of
from sharding.shard_map import ShardMap
from sharding.submissions import Note, pack_notes
from tests.stateful.raw_board import NO_LIMIT, RawBoard, Said, pack_payload, read_leaving

pytestmark = pytest.mark.servers

PLAYERS = [member_of(PlayerId(name)) for name in ("ann", "Bob", "3f2b8c1e-9d4a-4b6f-8a2e-5c7d9e0f1a2b")]
EVENTS = [b"match-%02d" % number + content for number in range(5) for content in (b"aa", b"bb")]
NOTE = Note("match", None, "request")
#: 7 is no shard of the board.
SHARDS, NO_SHARD = (0, 1, 2), 7

#: Mostly one of them, so that much happens to him.
players = st.sampled_from([*PLAYERS[:1] * 3, *PLAYERS])
shards = st.sampled_from(SHARDS)
events = st.sampled_from(EVENTS)
values = st.one_of(
    st.integers(-30, 30), st.sampled_from([0, 2**30 - 1, 1 - 2**30, 2**30, -(2**30), 2**53, 10**15, -(10**15)])
)
epochs = st.integers(0, 6)
packed_scores = st.builds(
    lambda points, elapsed: PackedScore(points * ELAPSED_SPAN + elapsed),
    st.one_of(st.integers(-30, 30), st.sampled_from([2**30 - 1, 1 - 2**30])),
    st.integers(0, ELAPSED_SPAN - 1),
)


class Functions(RuleBasedStateMachine):
    """The servers, and beside them the table's idea of what they hold."""

    def __init__(self, board: RawBoard) -> None:
        super().__init__()
        self.board = board
        self.states: dict[tuple[int, Member], State] = {}
        self.entries: dict[Member, Entry] = {}
        self.written: dict[int, list[list[list[object]]]] = {shard: [] for shard in SHARDS}
        self.submissions = dict.fromkeys(SHARDS, 0)
        self.moves = dict.fromkeys(SHARDS, 0)
        #: payloads that somebody may still have in hand
        self.payloads: list[tuple[Member, Leaving]] = []
        self.windows = Windows(0, 0)
        cuts = [part.low for part in board.shard_map.ranges[1:]]
        self.edges = [PackedScore(cut - back) for cut in cuts for back in (0, 1)]

    def at(self, shard: int, member: Member) -> State:
        return self.states.get((shard, member), ABSENT)

    def moved(self, shard: int, member: Member, after: State) -> None:
        """A step that is no submission has made this of a player."""
        self.moves[shard] += after != self.at(shard, member)
        self.states[shard, member] = after

    # -- steps

    @rule(
        shard=shards,
        batch=st.lists(st.tuples(players, values, events, st.sampled_from(May)), min_size=1, max_size=6),
        mode=st.sampled_from(ApplyMode),
    )
    def apply(self, shard: int, batch: list[tuple[Member, int, bytes, May]], mode: ApplyMode) -> None:
        asked = [Asked(member, value, event, NOTE, may) for member, value, event, may in batch]
        places = mode is ApplyMode.TELL_PLACES
        said = self.accepted(self.board.apply(shard, *asked, mode=mode))
        now_ms, version, *_ = said.reply
        clock = self.board.clock(said, now_ms)
        told: list[Told] = []
        points: list[int | bool] = []
        for member, value, event, may in batch:
            head = self.board.head(shard, member)
            after, answer = states.apply(
                self.at(shard, member),
                head,
                clock,
                value=value,
                event=event,
                may_create=may in {May.CREATE, May.CREATE_HIDDEN},
                may_begin_anew=may in {May.BEGIN_ANEW, May.BEGIN_ANEW_HIDDEN},
                hidden=may in {May.CREATE_HIDDEN, May.BEGIN_ANEW_HIDDEN},
                settles=mode is ApplyMode.SETTLE,
            )
            self.states[shard, member] = after
            told.append(answer)
            if answer.code == Code.APPLIED:
                assert isinstance(answer.detail, int)
                points.append(points_of(answer.detail, head.order))
            else:
                points.append(False)
        if applied := sum(one is not False for one in points):
            operator = self.board.shard_map.board.operator.value.encode()
            flat = [part for one in asked for part in one[:3]]
            notes = msgpack.unpackb(pack_notes([NOTE] * len(batch)), raw=True)
            self.written[shard].append([flat, notes, [2, now_ms, operator, *points]])
            self.submissions[shard] += applied
        assert version == 1
        for (member, *_), answer, effect in zip(batch, told, effects(said.reply), strict=True):
            live = self.at(shard, member)
            assert (effect.code, self.read(effect.code, effect.detail)) == (answer.code, answer.detail)
            placed = effect.code <= Code.DUPLICATE and isinstance(live, Live)
            assert effect.is_stray == (placed and self.board.head(shard, member).is_stray(live.packed))
            assert effect.place == (self.place(shard, member) if placed and places and not live.hidden else -1)

    @rule(
        shard=shards,
        batch=st.lists(
            st.tuples(players, epochs, st.sampled_from([*SHARDS, NO_SHARD])), max_size=3, unique_by=lambda one: one[0]
        ),
    )
    def depart_under_any_epoch(self, shard: int, batch: list[tuple[Member, int, int]]) -> None:
        self.depart(shard, batch)

    @rule(shard=shards, batch=st.lists(st.tuples(players, events), min_size=1, max_size=3))
    def remove(self, shard: int, batch: list[tuple[Member, bytes]]) -> None:
        notes, args = pack_notes([NOTE] * len(batch)), [arg for one in batch for arg in one]
        said = self.accepted(self.board.call(shard, "rb1_remove", NO_LIMIT, notes, *args))
        removed = []
        for (member, event), (code, detail) in zip(batch, pairs(said.reply), strict=True):
            after, told = states.remove(self.at(shard, member), self.board.clock(said), event=event)
            if told.code == Code.APPLIED:
                self.moved(shard, member, after)
            assert (code, self.read(code, detail)) == (told.code, told.detail)
            if told.code == Code.APPLIED:
                assert isinstance(told.detail, int)
                points = points_of(told.detail, self.board.shard_map.board.order)
                removed.append((member, -points, event, 0))
        if removed:
            asked, _, (_, _, _, *results) = written = self.board.outbox(shard)[-1]
            each = zip(*[iter(asked)] * 3, results, strict=True)
            assert [one for one in each if one[3] is not False] == removed
            self.written[shard].append(written)

    @rule(shard=shards, batch=st.lists(st.tuples(players, st.booleans()), min_size=1, max_size=3))
    def hide(self, shard: int, batch: list[tuple[Member, bool]]) -> None:
        args = [arg for member, hidden in batch for arg in (member, int(hidden))]
        said = self.accepted(self.board.call(shard, "rb1_hide", 0, *args))
        for (member, hidden), (code, detail) in zip(batch, pairs(said.reply), strict=True):
            after, told = states.hide(self.at(shard, member), hidden=hidden)
            self.moved(shard, member, after)
            assert code == told.code
            assert detail == b"" if code <= Code.DUPLICATE else self.read(code, detail) == told.detail

    @rule(shard=shards, towards=st.sampled_from([*SHARDS, NO_SHARD]))
    def depart_everybody(self, shard: int, towards: int) -> None:
        live = [(member, state) for (at, member), state in self.states.items() if at == shard]
        self.depart(shard, [(member, state.epoch, towards) for member, state in live if isinstance(state, Live)])

    def depart(self, shard: int, batch: list[tuple[Member, int, int]]) -> None:
        args = [arg for player in batch for arg in player]
        said = self.accepted(self.board.step(shard, "rb1_depart", *args))
        for (member, expected, target), (code, detail) in zip(batch, departures(said.reply), strict=True):
            head, clock = self.board.head(shard, member), self.board.clock(said)
            after, told = states.depart(self.at(shard, member), head, clock, expected=expected, target=target)
            self.moved(shard, member, after)
            assert code == told.code
            if isinstance(told.detail, Leaving):
                assert read_leaving(detail) == told.detail
                self.payloads.append((member, told.detail))
            else:
                assert detail == _words(told.detail)

    @rule(data=st.data())
    @precondition(lambda self: self.payloads)
    def arrive_known(self, data: st.DataObject) -> None:
        """A payload that was made here: fresh, late, or for the third time."""
        batch = data.draw(
            st.lists(st.sampled_from(self.payloads), min_size=1, max_size=3, unique_by=lambda one: one[0])
        )
        shard = data.draw(st.sampled_from([batch[0][1].target, *SHARDS]))
        self.arrive(shard if shard in SHARDS else 0, batch)

    @rule(
        data=st.data(),
        shard=shards,
        member=players,
        newer_by=st.integers(-2, 2),
        recent=st.frozensets(events, max_size=3),
        before=st.frozensets(events, max_size=3),
        shift=st.integers(-3, 2),
        hidden=st.booleans(),
    )
    def arrive_forged(
        self,
        data: st.DataObject,
        shard: int,
        member: Member,
        newer_by: int,
        recent: frozenset[bytes],
        before: frozenset[bytes],
        shift: int,
        hidden: bool,
    ) -> None:
        """A payload from anywhere, older or newer than what is here, also from a shard whose clock is ahead."""
        if self.states:
            shard, member = data.draw(st.sampled_from([(shard, member), *self.states]))
        state = self.at(shard, member)
        epoch = max(1, newer_by + (state.epoch if state != ABSENT else 0))
        by_id = {event[:8]: event for event in (*before, *recent)}
        known = frozenset(by_id.values())
        memory = Memory(self.windows.recent + shift, recent & known, (before & known) - recent)
        packed = data.draw(packed_scores | st.sampled_from(self.edges))
        self.arrive(shard, [(member, Leaving(epoch, packed, memory, shard, hidden))])

    def arrive(self, shard: int, batch: list[tuple[Member, Leaving]]) -> None:
        args = [arg for member, payload in batch for arg in (member, pack_payload(payload))]
        said = self.accepted(self.board.step(shard, "rb1_arrive", *args))
        for (member, payload), arrival in zip(batch, arrivals(said.reply), strict=True):
            head, clock = self.board.head(shard, member), self.board.clock(said)
            after, told = states.arrive(self.at(shard, member), head, clock, payload=payload)
            self.moved(shard, member, after)
            assert (arrival.code, arrival.epoch, arrival.is_stray) == (told.code, told.detail, told.is_stray)

    @rule(shard=shards, batch=st.lists(st.tuples(players, epochs), max_size=3, unique_by=lambda one: one[0]))
    def finish(self, shard: int, batch: list[tuple[Member, int]]) -> None:
        said = self.accepted(self.board.step(shard, "rb1_finish", *[arg for player in batch for arg in player]))
        for (member, epoch), done in zip(batch, msgpack.unpackb(said.reply[1]), strict=True):
            after, told = states.finish(self.at(shard, member), epoch=epoch)
            self.moved(shard, member, after)
            assert done == told

    @rule(shard=shards)
    def finish_everybody(self, shard: int) -> None:
        leaving = [(member, state) for (at, member), state in self.states.items() if at == shard]
        self.finish(shard, [(member, state.epoch) for member, state in leaving if isinstance(state, Leaving)])

    @rule(member=players, shard=shards, epoch=st.integers(1, 8))
    def point(self, member: Member, shard: int, epoch: int) -> None:
        said = self.accepted(self.board.point([member], member, shard, epoch))
        self.entries[member] = states.point(self.entries.get(member), wanted=Entry(shard, epoch))
        assert list(pointed(said.reply)) == [self.entries[member]]

    @rule(shard=shards, batch=st.lists(st.tuples(players, shards, st.integers(0, 8)), max_size=3))
    def bury(self, shard: int, batch: list[tuple[Member, int, int]]) -> None:
        said = self.accepted(self.board.call(shard, "rb1_bury", *[arg for player in batch for arg in player]))
        for (member, *entry), done in zip(batch, said.reply, strict=True):
            head = self.board.head(shard, member)
            after, told = states.bury(self.at(shard, member), head, entry=Entry(*entry))
            self.moved(shard, member, after)
            assert done == told

    # -- reads

    @rule(shard=shards)
    def attest(self, shard: int) -> None:
        said = self.accepted(self.board.call(shard, "rb1_attest", *PLAYERS))
        for member, told in zip(PLAYERS, zip(*[iter(said.reply)] * 3, strict=True), strict=True):
            match self.at(shard, member):
                case Live(epoch=epoch):
                    assert told == (Code.APPLIED, epoch, shard)
                case Removed(epoch=epoch):
                    assert told == (Code.REMOVED, epoch, shard)
                case Leaving(epoch=epoch, target=target):
                    assert told == (Code.LEAVING, epoch, target)
                case Gone(epoch=epoch, target=target):
                    assert told == (Code.GONE, epoch, target)
                case _:
                    assert told == (Code.UNKNOWN, 0, shard)

    @rule(shard=shards)
    def find(self, shard: int) -> None:
        said = self.accepted(self.board.call(shard, "rb1_find", 0, *PLAYERS))
        for member, (code, detail) in zip(PLAYERS, pairs(said.reply), strict=True):
            match self.at(shard, member):
                case Live(packed=packed, hidden=hidden):
                    assert (code, detail) == (Code.HIDDEN if hidden else Code.APPLIED, b"%d" % packed)
                case Leaving() as payload:
                    assert (code, read_leaving(detail)) == (Code.LEAVING, payload)
                case Gone() as gone:
                    assert (code, detail) == (Code.GONE, _words(gone))
                case _:
                    assert (code, detail) == (Code.UNKNOWN, b"")

    @rule(shard=shards)
    def strays(self, shard: int) -> None:
        said = self.accepted(self.board.call(shard, "rb1_strays", 100))
        listed = {}
        for member, epoch, packed, payload in strays(said.reply):
            listed[member] = (epoch, int(packed), read_leaving(payload) if payload else None)
        expected = {}
        for member in PLAYERS:
            state = self.at(shard, member)
            if isinstance(state, Leaving):
                expected[member] = (state.epoch, state.packed, state)
            elif isinstance(state, Live) and self.board.head(shard, member).is_stray(state.packed):
                expected[member] = (state.epoch, state.packed, None)
        assert listed == expected

    # -- what is refused

    @rule(data=st.data(), shard=shards, member=players, event=events)
    def refused(self, data: st.DataObject, shard: int, member: Member, event: bytes) -> None:
        """Refused as a whole, and not one byte has changed."""
        fine = Asked(member, 1, event, NOTE, may=May.CREATE)

        def packed(*flat: object, creators: str = "", limit: object = NO_LIMIT) -> Said:
            return self.board.call(shard, "rb1_apply", limit, 0, creators, msgpack.packb(flat, use_bin_type=False), b"")

        code, make = data.draw(
            st.sampled_from(
                [
                    ("RBNOHEAD", lambda: self.board.apply(NO_SHARD, fine)),
                    ("RBNOHEAD", lambda: self.board.step(NO_SHARD, "rb1_arrive", member, b"")),
                    ("RBNOHEAD", lambda: self.board.step(NO_SHARD, "rb1_depart", member, 1, 1)),
                    ("RBNOHEAD", lambda: self.board.step(NO_SHARD, "rb1_finish", member, 1)),
                    *(
                        ("RBWINDOW", lambda shift=shift, call=call: self.board.call(shard, *call, shift=shift))
                        for shift in (Windows(1, 0), Windows(-1, 0), Windows(0, 1), Windows(0, -1))
                        for call in (("rb1_apply", NO_LIMIT, 0, "", b"", b""), ("rb1_depart", b"\x90"))
                    ),
                    ("RBFORM", lambda: self.board.call(shard, "rb1_apply", NO_LIMIT, 0)),
                    ("RBFORM", lambda: self.board.call(shard, "rb1_apply", NO_LIMIT, 0, "", b"\xc1", b"")),
                    ("RBFORM", lambda: self.board.call(shard, "rb1_apply", NO_LIMIT, 0, "", b"\x07", b"")),
                    ("RBFORM", packed),
                    ("RBFORM", lambda: packed(member, 1, event, member)),
                    ("RBFORM", lambda: packed(member, 1, event, member, 1, b"x")),
                    ("RBFORM", lambda: packed(member, 1, event, member, b"1", event)),
                    ("RBFORM", lambda: packed(member, 1, event, member, 1.5, event)),
                    ("RBFORM", lambda: packed(member, 1, event, member, math.nan, event)),
                    ("RBFORM", lambda: packed(member, 1, event, 1, 1, event)),
                    ("RBFORM", lambda: packed(member, 1, event, creators="11")),
                    ("RBFORM", lambda: packed(member, 1, event, limit="many")),
                    ("RBBACKLOG", lambda: self.board.apply(shard, fine, limit=0)),
                    ("RBFORM", lambda: self.board.call(shard, "rb1_depart")),
                    ("RBFORM", lambda: self.board.call(shard, "rb1_depart", b"\xc1")),
                    ("RBFORM", lambda: self.board.call(shard, "rb1_arrive", b"\x07")),
                    ("RBFORM", lambda: self.board.step(shard, "rb1_depart", member, 1)),
                    ("RBFORM", lambda: self.board.step(shard, "rb1_depart", 7, 1, 1)),
                    ("RBFORM", lambda: self.board.step(shard, "rb1_depart", member, None, 1)),
                    ("RBFORM", lambda: self.board.step(shard, "rb1_depart", member, [1], 1)),
                    ("RBFORM", lambda: self.board.step(shard, "rb1_depart", member, 1, 1, member, 1, "x")),
                    ("RBFORM", lambda: self.board.step(shard, "rb1_depart", member, 1, 1, member, "x", 1)),
                    ("RBFORM", lambda: self.board.step(shard, "rb1_depart", member, 1, 1, member, 1, 1)),
                    ("RBFORM", lambda: self.board.step(shard, "rb1_depart", member, 1, "1.5")),
                    ("RBFORM", lambda: self.board.step(shard, "rb1_depart", member, 1, -1)),
                    ("RBFORM", lambda: self.board.point([member], member, 1, 2**31)),
                    ("RBFORM", lambda: self.board.step(shard, "rb1_arrive", member)),
                    ("RBFORM", lambda: self.board.step(shard, "rb1_arrive", member, b"", member, b"")),
                    ("RBFORM", lambda: self.board.step(shard, "rb1_finish", member, 1, member, 1)),
                    ("RBFORM", lambda: self.board.step(shard, "rb1_finish", member)),
                    ("RBFORM", lambda: self.board.step(shard, "rb1_finish", member, "x")),
                    (
                        "RBFORM",
                        lambda: self.board.point([member] * 2, member, 1, 9, member, 1, "x"),
                    ),
                    (
                        "RBFORM",
                        lambda: self.board.point([member] * 2, member, 1, 9, member, "x", 9),
                    ),
                    ("RBFORM", lambda: self.board.point([member], member, 1)),
                    ("RBFORM", lambda: self.board.point([member] * 2, member, 1, 9, 7, 1, 9)),
                    ("RBFORM", lambda: self.board.call(shard, "rb1_bury", member, 1)),
                    ("RBFORM", lambda: self.board.call(shard, "rb1_bury", member, 1, 9, member, 1, "x")),
                    (
                        "RBFORM",
                        lambda: self.board.bare(shard, "FCALL", "rb1_apply", 1, self.board.shard_map.keys(shard).rows),
                    ),
                ]
            )
        )
        before = self.board.keyspace()
        assert make().refusal == code
        assert self.board.keyspace() == before

    @rule(
        shard=shards,
        member=players,
        payload=st.sampled_from(
            [
                b"",
                b"\xc1",
                b"\x01",
                7,
                [1, 0, 9, 0, 0, b"", b""],
                pack_payload(Leaving(9, PackedScore(0), Memory(), 0), version=2),
                *(
                    _damaged
                    for _damaged in (
                        b"\x97\x01\x00\xa1x\x00\x00\xa0\xa0",  # epoch: a string
                        b"\x97\x01\xa1x\x09\x00\x00\xa0\xa0",  # packed score: a string
                        b"\x97\x01\x00\x09\x00\xa1x\xa0\xa0",  # window: a string
                        b"\x97\x01\x00\x09\x00\x00\xa1x\xa0",  # events: of no form
                        b"\x97\x01\x00\x09\x00\x00\xa0\x00",  # events: a number
                        b"\x96\x01\x00\x09\x00\x00\xa0",  # one too few
                        b"\x97\x01\x00\x09\x00\x00\xa0",  # fewer than it says
                        b"\x97\x01\x00\x09\x00\x00\xa0\xa0\x01",  # more than it says
                        b"\x98\x01\x00\x09\x00\x00\xa0\xa0\x02",  # hidden: 2
                        b"\x97\x01\x00\x09\x00\x00\xa0\xaax",  # events: cut off
                        b"\x97\x01\xcb\x43\x50\x00\x00\x00\x00\x00\x00\x09\x00\x00\xa0\xa0",  # packed score: 2^54
                        b"\x97\x01\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\x09\x00\x00\xa0\xa0",  # packed score: 1.5
                        b"\x97\x01\x00\xce\x80\x00\x00\x00\x00\x00\xa0\xa0",  # epoch: 2^31
                    )
                ),
            ]
        ),
    )
    def misdirected(self, shard: int, member: Member, payload: Any) -> None:
        """A payload of another version or of no form is nobody's: the player stays as it is, whoever else arrives."""
        assert self.windows.recent
        other = next(player for player in PLAYERS if player != member)
        fine = Leaving(9, PackedScore(5), Memory(self.windows.recent), shard)
        said = self.accepted(self.board.step(shard, "rb1_arrive", other, pack_payload(fine), member, payload))
        clock = self.board.clock(said)
        after, _ = states.arrive(self.at(shard, other), self.board.head(shard, other), clock, payload=fine)
        self.moved(shard, other, after)
        assert [arrival.code for arrival in arrivals(said.reply)][1] == Arrive.MISDIRECTED

    @rule(shard=shards, member=players, event=events)
    def frozen(self, shard: int, member: Member, event: bytes) -> None:
        """A frozen shard takes no submission, and moves go on."""
        head = self.board.shard_map.keys(shard).head
        self.board.bare(shard, "HSET", head, "state", "frozen")
        before = self.board.keyspace()
        assert self.board.apply(shard, Asked(member, 1, event, NOTE, may=May.CREATE)).refusal == "RBSTATE"
        assert self.board.keyspace() == before
        self.depart_everybody(shard, (shard + 1) % len(SHARDS))
        self.finish_everybody(shard)
        self.board.bare(shard, "HSET", head, "state", "open")

    # -- what must be so after every step

    @invariant()
    def the_servers_hold_what_the_table_says(self) -> None:
        known = self.board.call(0, "rb1_find", 0)
        self.windows = known.windows
        expected = {}
        for at, state in self.states.items():
            if isinstance(state, Live | Removed):
                expected[at] = replace(state, memory=state.memory.seen_at(self.windows.recent))
            elif state != ABSENT:
                expected[at] = state
        assert self.board.players(self.windows) == expected
        assert self.board.entries(PLAYERS) == self.entries
        for shard in SHARDS:
            assert self.board.outbox(shard) == self.written[shard]
            assert self.board.counters(shard) == (self.submissions[shard], sum(self.points(shard)))
            assert self.board.moves(shard) == self.moves[shard]

    def points(self, shard: int) -> list[int]:
        order = self.board.shard_map.board.order
        rows = [state for (at, _), state in self.states.items() if at == shard and isinstance(state, Live)]
        return [points_of(row.packed, order) for row in rows if not row.hidden]

    def place(self, shard: int, member: Member) -> int:
        rows = [
            (state.packed, who)
            for (at, who), state in self.states.items()
            if at == shard and isinstance(state, Live) and not state.hidden
        ]
        return sorted(rows).index(next(row for row in rows if row[1] == member))

    @staticmethod
    def accepted(said: Said) -> Said:
        assert said.refusal is None
        return said

    @staticmethod
    def read(code: int, detail: Any) -> object:
        """The detail of an effect in the table's words."""
        if code in {Code.APPLIED, Code.DUPLICATE}:
            return "" if detail == b"" else int(detail)
        if code == Code.LEAVING:
            return read_leaving(detail)
        if code == Code.GONE:
            epoch, _, target = detail.partition(b":")
            return Gone(int(epoch), int(target))
        return detail.decode()


def _words(detail: object) -> bytes:
    return f"{detail.epoch}:{detail.target}".encode() if isinstance(detail, Gone) else str(detail).encode()


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("operator", Operator)
def test_the_functions_keep_the_table(
    leaderboard: Leaderboard, open_board: Callable[..., ShardMap], operator: Operator, order: Order
) -> None:
    """Any sequence of calls leaves what the table says, on every kind of board."""
    run_state_machine_as_test(
        lambda: Functions(RawBoard(leaderboard, open_board([-5, 10], operator=operator, order=order))),
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
