"""What can happen next: the world of the handoff as a state, and all the states that may follow it.

Places and actors are interned as numbers and calls are remembered, so a state is a tuple of numbers, and following it
costs a look into a dict.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sharding.directory import Entry
from sharding.handoff import states
from sharding.handoff.states import Live, State
from tests.unit.sharding.handoff.protocol import (
    DIRECTORY,
    FENCED,
    PLACES,
    SCRUB,
    SHARDS,
    SWEEPER,
    Actor,
    Bucket,
    Do,
    Programs,
    Rule,
    Shard,
    Waiting,
    Wish,
)

#: Numbers for: places at their primaries, places at their replicas, actors (writers, sweeper, scrub); then how many
#: failovers, days and looks of the scrub there were.
Snapshot = tuple[int, ...]

N = len(PLACES)


@dataclass(frozen=True)
class Scenario:
    """What is explored: a writer for each of `wishes` (not both removals and hidings, nor either with the scrub).

    `matches` names the match of each writer: the same one is a submission sent twice. `failovers`, `days`, `scrubs`: at
    most so many. `new_map`: the first cut moves from 3 to 5 meanwhile. `without`: rules left out.
    """

    wishes: tuple[Wish, ...]
    matches: tuple[int, ...] = ()
    failovers: int = 0
    days: int = 0
    scrubs: int = 0
    new_map: bool = False
    without: frozenset[Rule] = frozenset()


@dataclass
class _Interned:
    """Values as numbers, so that states are small and quick to compare."""

    values: list[Any] = field(default_factory=list)
    numbers: dict[Any, int] = field(default_factory=dict)

    def number(self, value: Any) -> int:
        found = self.numbers.get(value)
        if found is None:
            found = self.numbers[value] = len(self.values)
            self.values.append(value)
        return found


class Step(NamedTuple):
    """The place and the actor after a call; `waiting`: the actor as long as no replica has what the call wrote."""

    place: int
    actor: int
    waiting: int | None


class World:
    """The states of one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.programs = Programs(scenario.wishes, scenario.matches, scenario.without)
        self.writers = range(2 * N, 2 * N + len(scenario.wishes))
        self.sweeper, self.scrub = self.writers.stop, self.writers.stop + 1
        self.failovers, self.days, self.scrubs = range(self.scrub + 1, self.scrub + 4)
        self._replicated = scenario.failovers > 0
        self._things = _Interned()
        self.values = self._things.values
        self.number = self._things.number
        self._idle = {who: self.number(Actor(who, Do.REST)) for who in (SWEEPER, SCRUB)}
        self._calls: dict[tuple[int, int, int], Step] = {}
        self._next_places: dict[int, int | None] = {}
        self._sweeps: dict[tuple[int, ...], tuple[int, ...]] = {}

    def start(self) -> Snapshot:
        """Nothing has happened."""
        places = [self.number(Shard())] * len(SHARDS) + [self.number(Bucket())]
        versions = (1, 2) if self.scenario.new_map else (1,)
        # With two versions about, the first writer knows the old one and every other the new one.
        writers = [
            self.number(Actor(who, Do.LOCATE, version=versions[min(who, len(versions) - 1)]))
            for who in range(len(self.writers))
        ]
        return (*places, *places, *writers, self._idle[SWEEPER], self._idle[SCRUB], 0, 0, 0)

    def quiet(self, places: Snapshot, day: int) -> Snapshot:
        """These places with their replicas, and no actor on the way."""
        state = self.start()
        return (*places, *places, *state[2 * N : self.days], day, *state[self.days + 1 :])

    def shard(self, state: Snapshot, number: int) -> Shard:
        """A shard as its primary has it."""
        shard: Shard = self.values[state[number]]
        return shard

    def entry(self, state: Snapshot) -> Entry | None:
        """The directory's entry as its primary has it."""
        bucket: Bucket = self.values[state[DIRECTORY]]
        return bucket.entry

    def following(self, state: Snapshot) -> Iterator[Snapshot]:
        """All states that may come next."""
        for at in (*self.writers, self.sweeper, self.scrub):
            yield from self.step(state, at)
        yield from self.sweep(state)
        if state[self.scrubs] < self.scenario.scrubs:
            for looking in self.look(state):
                yield _put(looking, self.scrubs, state[self.scrubs] + 1)
        if self._replicated:
            yield from self._replicate_or_fail(state)
        if self.scenario.new_map:
            yield from self.learn_map(state)
        if state[self.days] < self.scenario.days:
            yield self._next_day(state)
        if Rule.TOMBSTONES in self.scenario.without:
            for number in SHARDS:
                yield self._with_player(state, number, states.expire(self.shard(state, number).player))

    # -- actors

    def step(self, state: Snapshot, at: int) -> Iterator[Snapshot]:
        """An actor makes its next call, if it has one to make."""
        place = self._next_place(state[at])
        if place is None:
            return
        step = self.call(state[at], state[place], state[self.days])
        following = list(state)
        following[place] = step.place
        following[at] = step.actor
        if not self._replicated:
            following[N + place] = step.place
        elif step.waiting is not None and step.place != state[N + place]:
            following[at] = step.waiting
        yield tuple(following)

    def call(self, actor: int, place: int, day: int) -> Step:
        """What an actor's next call makes of its place and of the actor."""
        known = self._calls.get((actor, place, day))
        if known is None:
            known = self._calls[actor, place, day] = self._first_call(actor, place, day)
        return known

    def _first_call(self, actor: int, place: int, day: int) -> Step:
        caller, without = self.values[actor], self.scenario.without
        now, then = self.programs.call(caller, self.values[place], day)
        # Who wrote nothing has nothing to wait for: that is what a touch is for.
        writes = now != self.values[place] or Rule.TOUCH not in without
        waiting = None
        if caller.do in FENCED and writes and Rule.FENCE not in without:
            again = caller._replace(unsure=True) if caller.do is Do.APPLY and Rule.UNSURE not in without else caller
            waiting = self.number(Waiting(self.programs.place(caller), again, then))
        return Step(self.number(now), self.number(then), waiting)

    def _next_place(self, actor: int) -> int | None:
        if actor not in self._next_places:
            value = self.values[actor]
            stands = isinstance(value, Waiting) or value.do is Do.REST
            self._next_places[actor] = None if stands else self.programs.place(value)
        return self._next_places[actor]

    def sweep(self, state: Snapshot) -> Iterator[Snapshot]:
        """The sweeper, if it is idle, finds something to do."""
        if state[self.sweeper] != self._idle[SWEEPER]:
            return
        key = (*state[: len(SHARDS)], state[self.days])
        if key not in self._sweeps:
            shards = [self.shard(state, number) for number in SHARDS]
            # From the first head that has the new map on, somebody may know the one or the other.
            versions = tuple(sorted({shard.version for shard in shards}))
            begun = (self.programs.sweeps(number, shards[number], versions, state[self.days]) for number in SHARDS)
            self._sweeps[key] = tuple(self.number(actor) for actors in begun for actor in actors)
        for actor in self._sweeps[key]:
            yield _put(state, self.sweeper, actor)

    def look(self, state: Snapshot) -> Iterator[Snapshot]:
        """The scrub, if it is idle, looks at each live row, and at the directory's entry."""
        if state[self.scrub] != self._idle[SCRUB]:
            return
        # What the drain has stored at the most: entries that a replica has.
        audit = frozenset().union(*(self.values[state[N + number]].outbox for number in SHARDS))
        for number in SHARDS:
            player = self.shard(state, number).player
            if isinstance(player, Live):
                yield self._read(state, Actor(SCRUB, Do.COMPARE, Entry(number, player.epoch), audit=audit), number)
        if self.entry(state):
            yield self._read(state, Actor(SCRUB, Do.COMPARE, audit=audit), DIRECTORY)

    def _read(self, state: Snapshot, actor: Actor, place: int) -> Snapshot:
        """A touched read: what was found at the place counts once a replica has it."""
        number = self.number(actor)
        if self._replicated and state[place] != state[N + place]:
            number = self.number(Waiting(place, self.values[self._idle[SCRUB]], actor))
        return _put(state, self.scrub, number)

    # -- places

    def _replicate_or_fail(self, state: Snapshot) -> Iterator[Snapshot]:
        """A replica catches up, or takes over: with what it has, or (the answers being lost) with everything."""
        for place in PLACES:
            waiting = [at for at in (*self.writers, self.sweeper, self.scrub) if self._waits(state[at], place)]
            if state[place] == state[N + place] and not waiting:
                continue
            yield self._resume(_put(state, N + place, state[place]), waiting, answered=True)
            if state[self.failovers] < self.scenario.failovers:
                failed = _put(state, self.failovers, state[self.failovers] + 1)
                yield self._resume(_put(failed, place, state[N + place]), waiting, answered=False)
                if waiting:
                    yield self._resume(_put(failed, N + place, state[place]), waiting, answered=False)

    def _waits(self, actor: int, place: int) -> bool:
        value = self.values[actor]
        return isinstance(value, Waiting) and value.place == place

    def _resume(self, state: Snapshot, waiting: list[int], *, answered: bool) -> Snapshot:
        trusts = answered or Rule.ANSWERED in self.scenario.without
        for at in waiting:
            actor = self.values[state[at]]
            state = _put(state, at, self.number(actor.then if trusts else actor.again))
        return state

    def caught_up(self, state: Snapshot) -> Snapshot:
        """The state once all replicas have caught up."""
        waiting = [
            at for at in (*self.writers, self.sweeper, self.scrub) if isinstance(self.values[state[at]], Waiting)
        ]
        return self._resume((*state[:N], *state[:N], *state[2 * N :]), waiting, answered=True)

    def learn_map(self, state: Snapshot) -> Iterator[Snapshot]:
        """Heads take the new map in the order of shards: the first range widens before the second narrows."""
        for number in SHARDS:
            shard = self.shard(state, number)
            if shard.version == 1:
                yield self._with_place(state, number, self.number(shard._replace(version=2)))
            if self.values[state[N + number]].version == 1:
                return

    def _next_day(self, state: Snapshot) -> Snapshot:
        """All that was written is on replicas, tombstones are over, and only requests to come are alive."""
        for number in SHARDS:
            state = self._with_player(state, number, states.expire(self.shard(state, number).player))
        following = [*state[:N], *state[:N], *state[2 * N :]]
        for at in self.writers:
            actor = self.values[state[at]]
            stood = actor.again if isinstance(actor, Waiting) else actor
            if stood.do is not Do.LOCATE:
                following[at] = self.number(self.programs.end(stood))
        following[self.sweeper] = self._idle[SWEEPER]
        following[self.scrub] = self._idle[SCRUB]
        following[self.days] += 1
        return tuple(following)

    def _with_player(self, state: Snapshot, number: int, player: State) -> Snapshot:
        return self._with_place(state, number, self.number(self.shard(state, number)._replace(player=player)))

    def _with_place(self, state: Snapshot, place: int, value: int) -> Snapshot:
        state = _put(state, place, value)
        return state if self._replicated else _put(state, N + place, value)


def _put(state: Snapshot, at: int, value: int) -> Snapshot:
    return (*state[:at], value, *state[at + 1 :])
