"""What must hold in every state of the handoff, and what is wrong where it does not."""

from collections.abc import Iterator
from enum import StrEnum

from sharding.directory import Entry
from sharding.handoff.states import Leaving, Live, Removed, State
from sharding.scores import Order, points_of
from tests.unit.sharding.handoff.protocol import HIDING, SHARDS, Actor, Do, Waiting, head_of
from tests.unit.sharding.handoff.world import N, Snapshot, World

#: Calls after which something that has not come to its end never will.
_PATIENCE = 60


class Anomaly(StrEnum):
    """What must not happen."""

    DUPLICATED = "two live rows"
    LOST = "what was acknowledged is in no row"
    FORGED = "the points are not the fold of the events since the last removal"
    UNAUDITED = "the row and the audit tell of different events"
    PHANTOM = "a refused submission counts"
    BLOCKED = "a writer needs somebody who may be dead"
    UNFINISHED = "at rest, and somebody is leaving"
    SPLIT = "at rest, and there are two live rows"
    MISPLACED = "at rest, and the row is out of its range"
    STALE = "at rest, and the directory does not know the row"
    RESTLESS = "the sweeper never comes to rest"


#: What may be left when nothing moves any more.
AT_REST = frozenset({Anomaly.UNFINISHED, Anomaly.SPLIT, Anomaly.MISPLACED, Anomaly.STALE, Anomaly.RESTLESS})


class Judge:
    """Judges the states of a world. What depends on a part of a state is judged once for that part.

    `progress`: every writer must get to its end alone. `scrub_at_rest`: the scrub helps to bring the board to rest.
    """

    def __init__(self, world: World, *, progress: bool = False, scrub_at_rest: bool = False) -> None:
        self._world = world
        self._progress = progress
        self._scrub_at_rest = scrub_at_rest
        self._value_of = world.programs.value_of
        self._rows: dict[Snapshot, tuple[list[Anomaly], frozenset[bytes]]] = {}
        self._told: dict[tuple[int, frozenset[bytes]], Anomaly | None] = {}
        self._rest: dict[Snapshot, Anomaly | None] = {}
        self._alone: dict[Snapshot, bool] = {}

    def anomalies(self, state: Snapshot) -> Iterator[Anomaly]:
        """All that is wrong."""
        world = self._world
        rows = state[: len(SHARDS)]
        if rows not in self._rows:
            self._rows[rows] = self._judge_rows(state)
        wrong, events = self._rows[rows]
        yield from wrong
        for at in world.writers:
            told = (state[at], events)
            if told not in self._told:
                self._told[told] = self._told_wrong(world.values[state[at]], events)
            if lie := self._told[told]:
                yield lie
        if self._progress and not all(self._ends_alone(state, at) for at in world.writers):
            yield Anomaly.BLOCKED
        places = (*state[:N], state[world.days])
        if places not in self._rest:
            self._rest[places] = self._left_at_rest(state)
        if left := self._rest[places]:
            yield left

    # -- the rows

    def _judge_rows(self, state: Snapshot) -> tuple[list[Anomaly], frozenset[bytes]]:
        """What is wrong with the rows, and the events that count."""
        shards = [self._world.shard(state, number) for number in SHARDS]
        players = [shard.player for shard in shards]
        events = _owned(players)
        audit = [event for shard in shards for event in shard.outbox]
        taken = [each for shard in shards for each in shard.taken]
        wrong = {
            # The mark of a removed player stands in the place of its row.
            Anomaly.DUPLICATED: sum(isinstance(player, Live | Removed) for player in players) > 1,
            Anomaly.FORGED: any(self._is_forged(player, taken) for player in players),
            Anomaly.UNAUDITED: sorted(audit) != sorted(events - {HIDING}),
        }
        return [anomaly for anomaly, so in wrong.items() if so], events

    def _is_forged(self, player: State, taken: list[tuple[bytes, frozenset[bytes]]]) -> bool:
        if not isinstance(player, Live | Leaving):
            return False
        events = _events(player)
        counting = events.difference(*(before for removal, before in taken if removal in events))
        return points_of(player.packed, Order.ASC) != sum(self._value_of[event] for event in counting)

    # -- the writers

    def _told_wrong(self, actor: Actor | Waiting, events: frozenset[bytes]) -> Anomaly | None:
        """Acknowledged and not there; or refused, be it that the writer gave up just now, and there nevertheless."""
        stood = actor.again if isinstance(actor, Waiting) else actor
        event = self._world.programs.events[stood.who]
        if stood.acked:
            return None if event in events else Anomaly.LOST
        unanswered = isinstance(actor, Waiting) and stood.do is Do.APPLY
        if event in events and not stood.unsure and not unanswered and self._world.programs.events.count(event) == 1:
            return Anomaly.PHANTOM
        return None

    def _ends_alone(self, state: Snapshot, at: int) -> bool:
        """Whether a writer comes to its end though everybody else is dead."""
        world = self._world
        actor, places, day = state[at], list(state[:N]), state[world.days]
        passed = []
        for _ in range(_PATIENCE):
            key = (actor, *places, day)
            if key in self._alone:
                break
            passed.append(key)
            value = world.values[actor]
            if isinstance(value, Waiting):
                actor = world.number(value.then)
            elif value.do is Do.REST:
                self._alone[key] = value.acked or value.refused
            else:
                place = world.programs.place(value)
                places[place], actor, _ = world.call(actor, places[place], day)
        ends = self._alone.get((actor, *places, day), False)
        self._alone.update(dict.fromkeys(passed, ends))
        return ends

    # -- at rest

    def _left_at_rest(self, state: Snapshot) -> Anomaly | None:
        """What is wrong once everybody has crashed, and the sweeper (and the scrub) have done all that is to do."""
        world = self._world
        state = world.quiet(state[:N], state[world.days])
        while world.scenario.new_map and (learned := next(world.learn_map(state), None)):
            state = world.caught_up(learned)
        for _ in range(_PATIENCE):
            following = next(self._tidying(state), None)
            if following is None:
                return self._untidy(state)
            state = world.caught_up(following)
        return Anomaly.RESTLESS

    def _tidying(self, state: Snapshot) -> Iterator[Snapshot]:
        """Steps of the sweeper, then of the scrub if it may help and finds something to repair."""
        world = self._world
        yield from world.step(state, world.sweeper)
        yield from world.step(state, world.scrub)
        yield from world.sweep(state)
        if self._scrub_at_rest and self._untidy(state):
            yield from filter(self._repairs, world.look(state))

    def _repairs(self, state: Snapshot) -> bool:
        """Whether a look of the scrub ends in a repair."""
        begun = state[:N]
        while state[:N] == begun:
            following = next(self._world.step(state, self._world.scrub), None)
            if following is None:
                return False
            state = following
        return True

    def _untidy(self, state: Snapshot) -> Anomaly | None:
        shards = [self._world.shard(state, number) for number in SHARDS]
        live = [(number, shard) for number, shard in enumerate(shards) if isinstance(shard.player, Live | Removed)]
        if any(isinstance(shard.player, Leaving) for shard in shards):
            return Anomaly.UNFINISHED
        if len(live) > 1:
            return Anomaly.SPLIT
        for number, shard in live:
            assert isinstance(shard.player, Live | Removed)
            is_row = isinstance(shard.player, Live)
            if is_row and head_of(number, shard.version).is_stray(shard.player.packed):
                return Anomaly.MISPLACED
            if self._world.entry(state) != Entry(number, shard.player.epoch):
                return Anomaly.STALE
        return None


def _events(player: Live | Leaving | Removed) -> frozenset[bytes]:
    return player.memory.recent | player.memory.before


def _owned(players: list[State]) -> frozenset[bytes]:
    """The events of whoever holds the player: the latest epoch, live rather than leaving; and HIDING if hidden."""
    held = [player for player in players if isinstance(player, Live | Leaving | Removed)]
    owner = max(held, key=lambda player: (player.epoch, not isinstance(player, Leaving)), default=None)
    if owner is None:
        return frozenset()
    is_hidden = not isinstance(owner, Removed) and owner.hidden
    return _events(owner) | {HIDING} if is_hidden else _events(owner)
