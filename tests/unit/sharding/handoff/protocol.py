"""What actors make of the handoff's table: small programs that mirror `writer.py`, `mover.py` and the sweep and scrub.

One player, three shards, a directory; each of these is a *place*. A program makes one call to one place, and goes on by
the answer. Which rules it keeps is a parameter: to see what a rule is for, leave it out.

A writer submits points; or it takes the player off the board, or hides it, which is done alike (`aside.py`).
"""

from collections.abc import Iterator
from enum import Enum, StrEnum, auto
from typing import NamedTuple

from sharding.directory import FIRST_EPOCH, Entry
from sharding.functions import Arrive, Code, Depart
from sharding.handoff import states
from sharding.handoff.states import ABSENT, Clock, Gone, Head, Leaving, Live, Memory, State, Told
from sharding.scores import HIGHEST, LOWEST, Order, PackedScore, pack

SHARDS = (0, 1, 2)
DIRECTORY = 3
PLACES = (*SHARDS, DIRECTORY)
OLD_CUTS, NEW_CUTS = (3, 6), (5, 6)


class Rule(StrEnum):
    """The rules of states.py, each of which can be taken out."""

    EPOCH = "arrive and point take only a higher epoch"
    FENCE = "wait for a replica after each step"
    ANSWERED = "a reply counts once its WAIT was answered"
    TOUCH = "a call that changes nothing writes nevertheless"
    HELP = "whoever finds the player leaving finishes the move"
    HELPER_TOUCH = "whoever finishes a move has touched the payload"
    OLD_MOVES = "whoever goes on with an old move looks into the directory first"
    OWN_CLAIM = "only the writer's own claim lets it create"
    TOMBSTONES = "tombstones outlive requests"
    UNSURE = "what was sent without an answer is not refused"
    MARK = "a removed row leaves a mark"


class Aside(StrEnum):
    """What a writer may do instead of submitting."""

    REMOVE = "remove"
    HIDE = "hide"


#: What one writer wants: points, or one of those.
Wish = int | Aside
#: Stands among the events of a hidden player: what whoever hides it is told about.
HIDING = b"hiding----"


# -- places


class Shard(NamedTuple):
    """A shard's slot: the player in it, the events in its outbox, and the version of the map in its head.

    `taken`: what removals took back here, each as its own event and those before it.
    """

    player: State = ABSENT
    outbox: frozenset[bytes] = frozenset()
    version: int = 1
    taken: frozenset[tuple[bytes, frozenset[bytes]]] = frozenset()


class Bucket(NamedTuple):
    """The player's part of the directory."""

    entry: Entry | None = None


Place = Shard | Bucket


def home(packed: PackedScore, version: int) -> int:
    """The shard whose range holds a packed score."""
    cuts = OLD_CUTS if version == 1 else NEW_CUTS
    return sum(packed >= pack(cut, 0, Order.ASC) for cut in cuts)


def head_of(shard: int, version: int) -> Head:
    """A shard's head in one version of the map."""
    bounds = [LOWEST, *(pack(cut, 0, Order.ASC) for cut in (OLD_CUTS if version == 1 else NEW_CUTS)), HIGHEST]
    return Head(shard, bounds[shard], bounds[shard + 1], Order.ASC)


# -- actors


class Do(Enum):
    """What an actor does next."""

    LOCATE = auto()
    CLAIM = auto()
    APPLY = auto()
    LOCATE_AGAIN = auto()
    DEPART = auto()
    LOOK = auto()
    ARRIVE = auto()
    POINT = auto()
    FINISH = auto()
    COMPARE = auto()
    CORRECT = auto()
    BURY = auto()
    RESTORE = auto()
    REST = auto()


class Move(NamedTuple):
    """A payload and where it was found."""

    source: int
    payload: Leaving
    is_stray: bool = False


class Actor(NamedTuple):
    """A program and where it stands. `who`: the writer's number, or one of those below it."""

    who: int
    do: Do
    entry: Entry | None = None
    packed: PackedScore = LOWEST
    move: Move | None = None
    version: int = 1
    departures: int = 0
    may_create: bool = False
    may_begin_anew: bool = False
    acked: bool = False
    refused: bool = False
    #: a sending of the submission got no answer
    unsure: bool = False
    #: what the scrub found in the directory, and in the audit log
    stored: Entry | None = None
    audit: frozenset[bytes] = frozenset()


class Waiting(NamedTuple):
    """An actor between a call and the answer that a replica has it: what follows, and the call again if none comes."""

    place: int
    again: Actor
    then: Actor


SWEEPER, SCRUB = -1, -2
FENCED = {Do.CLAIM, Do.APPLY, Do.DEPART, Do.ARRIVE, Do.POINT, Do.COMPARE, Do.CORRECT, Do.BURY, Do.RESTORE}


class Programs:
    """What actors do: one call to one place at a time."""

    def __init__(self, wishes: tuple[Wish, ...], matches: tuple[int, ...], without: frozenset[Rule]) -> None:
        self.wishes = wishes
        matches = matches or tuple(range(len(wishes)))
        #: the points of each wish; a removal is an event without any
        self.values = tuple(wish if isinstance(wish, int) else 0 for wish in wishes)
        self.events = tuple(
            HIDING if wish is Aside.HIDE else b"match--%d" % match + b"%+02d" % value
            for match, wish, value in zip(matches, wishes, self.values, strict=True)
        )
        self.value_of = dict(zip(self.events, self.values, strict=True))
        self.without = without

    def place(self, actor: Actor) -> int:
        """The place that an actor's next call goes to."""
        move, entry = actor.move, actor.entry
        match actor.do:
            case Do.LOCATE | Do.CLAIM | Do.LOCATE_AGAIN | Do.LOOK | Do.POINT | Do.CORRECT | Do.COMPARE:
                return DIRECTORY
            case Do.ARRIVE:
                assert move
                return move.payload.target
            case Do.FINISH:
                assert move
                return move.source
        assert entry
        return entry.shard

    def call(self, actor: Actor, place: Place, day: int) -> tuple[Place, Actor]:
        """The place and the actor after the actor's next call."""
        now, after = self._ask(actor, place) if isinstance(place, Bucket) else self._tell(actor, place, day)
        return now, self._forget(after)

    @staticmethod
    def _forget(actor: Actor) -> Actor:
        """The actor without what it will not use again: the fewer states, the further one sees."""
        if actor.acked:
            actor = actor._replace(may_create=False, may_begin_anew=False, unsure=False)
        match actor.do:
            case Do.DEPART | Do.RESTORE | Do.COMPARE | Do.BURY:
                return actor
            case Do.ARRIVE | Do.LOOK:
                return actor._replace(entry=None, departures=0)
            case Do.POINT | Do.FINISH:
                assert actor.move
                payload = Leaving(actor.move.payload.epoch, LOWEST, Memory(), actor.move.payload.target)
                return actor._replace(entry=None, departures=0, move=actor.move._replace(payload=payload))
        return actor._replace(packed=LOWEST, move=None, departures=0, stored=None, audit=frozenset())

    # calls to the directory

    def _ask(self, actor: Actor, bucket: Bucket) -> tuple[Bucket, Actor]:
        stored, move = bucket.entry, actor.move
        match actor.do:
            case Do.LOCATE if stored:
                may_create = Rule.OWN_CLAIM in self.without and stored.epoch == FIRST_EPOCH
                return bucket, actor._replace(do=Do.APPLY, entry=stored, may_create=may_create)
            case Do.LOCATE | Do.LOCATE_AGAIN if not self._submits(actor) and (
                not stored or (actor.do is Do.LOCATE_AGAIN and stored.epoch == FIRST_EPOCH)
            ):
                return bucket, self.end(actor._replace(refused=True))  # the player has no row yet
            case Do.LOCATE | Do.LOCATE_AGAIN if not stored:
                first = Entry(home(pack(self.values[actor.who], 0, Order.ASC), actor.version), FIRST_EPOCH)
                return bucket, actor._replace(do=Do.CLAIM, entry=actor.entry or first)
            case Do.LOCATE_AGAIN if stored:
                return bucket, actor._replace(do=Do.CLAIM if stored.epoch == FIRST_EPOCH else Do.APPLY, entry=stored)
            case Do.CLAIM if actor.entry:
                entry = states.point(stored, wanted=actor.entry)
                may_create = entry.epoch == FIRST_EPOCH
                return Bucket(entry), actor._replace(do=Do.APPLY, entry=entry, may_create=may_create)
            case Do.LOOK if move:
                arrived = stored is not None and stored.epoch >= move.payload.epoch
                return bucket, actor._replace(do=Do.POINT if arrived else Do.ARRIVE)
            case Do.POINT if move:
                wanted = Entry(move.payload.target, move.payload.epoch)
                entry = wanted if Rule.EPOCH in self.without else states.point(stored, wanted=wanted)
                return Bucket(entry), actor._replace(do=Do.FINISH)
            case Do.COMPARE:
                return bucket, self._compare(actor, stored)
            case Do.CORRECT if actor.entry:
                return Bucket(states.point(stored, wanted=actor.entry)), self.end(actor)
        raise AssertionError(actor)

    def _compare(self, actor: Actor, stored: Entry | None) -> Actor:
        """The scrub holds a row against the entry; without a row it follows the entry."""
        row = actor.entry
        if row and (stored is None or stored.epoch < row.epoch):
            return actor._replace(do=Do.CORRECT)
        assert stored
        if row and not states.is_ghost(row, stored):
            return self.end(actor)
        if row and row.shard != stored.shard:
            return actor._replace(do=Do.BURY, stored=stored)
        return actor._replace(do=Do.RESTORE, entry=stored) if actor.audit else self.end(actor)

    # calls to shards

    def _tell(self, actor: Actor, shard: Shard, day: int) -> tuple[Shard, Actor]:
        number = self.place(actor)
        head, clock = head_of(number, shard.version), Clock(window=day)
        match actor.do:
            case Do.APPLY:
                return self._apply(actor, shard, head, clock)
            case Do.DEPART:
                return self._depart(actor, shard, head, clock)
            case Do.ARRIVE:
                return self._arrive(actor, shard, head, clock)
            case Do.FINISH:
                assert actor.move
                player, _ = states.finish(shard.player, epoch=actor.move.payload.epoch)
                return shard._replace(player=player), self._moved(actor, actor.move)
            case Do.BURY:
                assert actor.stored
                player, _ = states.bury(shard.player, head, entry=actor.stored)
                return shard._replace(player=player), self.end(actor)
            case Do.RESTORE:
                assert actor.entry
                packed = pack(sum(self.value_of[event] for event in actor.audit), 0, Order.ASC)
                payload = Leaving(actor.entry.epoch, packed, Memory(day, actor.audit), number)
                player, _ = states.arrive(shard.player, head, clock, payload=payload)
                return shard._replace(player=player), self.end(actor)
        raise AssertionError(actor)

    def _submits(self, actor: Actor) -> bool:
        return actor.who < 0 or isinstance(self.wishes[actor.who], int)

    def _ask_for(self, actor: Actor, shard: Shard, head: Head, clock: Clock) -> tuple[Shard, Told]:
        """What the shard makes of what a writer wants of it."""
        wish, event, before = self.wishes[actor.who], self.events[actor.who], shard.player
        match wish:
            case Aside.HIDE:
                player, told = states.hide(before, hidden=True)
                return shard._replace(player=player), told
            case Aside.REMOVE:
                player, told = states.remove(before, clock, event=event)
                if told.code == Code.APPLIED:
                    assert isinstance(before, Live)
                    if Rule.MARK in self.without:
                        player = ABSENT
                    taken = (event, before.memory.recent | before.memory.before)
                    shard = shard._replace(taken=shard.taken | {taken})
            case int():
                may = {"may_create": actor.may_create, "may_begin_anew": actor.may_begin_anew}
                player, told = states.apply(before, head, clock, value=wish, event=event, **may)
        outbox = shard.outbox | {event} if told.code == Code.APPLIED else shard.outbox
        return shard._replace(player=player, outbox=outbox), told

    def _apply(self, actor: Actor, shard: Shard, head: Head, clock: Clock) -> tuple[Shard, Actor]:
        after, told = self._ask_for(actor, shard, head, clock)
        detail = told.detail
        match told.code:
            case Code.APPLIED | Code.DUPLICATE:
                then = self.end(actor._replace(acked=True))
                if told.is_stray:
                    assert isinstance(detail, int)
                    assert actor.entry
                    then = then._replace(do=Do.DEPART, entry=actor.entry, packed=PackedScore(detail))
                return after, then
            case Code.LEAVING:
                assert isinstance(detail, Leaving)
                if Rule.HELP in self.without:
                    return shard, actor
                return shard, self._help(actor, Move(head.shard, detail), clock.window)
            case Code.GONE:
                assert isinstance(detail, Gone)
                return shard, actor._replace(entry=Entry(detail.target, detail.epoch))
            case Code.UNKNOWN:
                return shard, actor._replace(do=Do.LOCATE_AGAIN)
            case Code.REMOVED if self._submits(actor):  # the player is still known
                return shard, actor._replace(may_create=False, may_begin_anew=True)
        return shard, self.end(actor._replace(refused=True))

    def _depart(self, actor: Actor, shard: Shard, head: Head, clock: Clock) -> tuple[Shard, Actor]:
        assert actor.entry
        target = home(actor.packed, actor.version)
        player, told = states.depart(shard.player, head, clock, expected=actor.entry.epoch, target=target)
        if told.code == Depart.DEPARTED:
            assert isinstance(told.detail, Leaving)
            move = Move(head.shard, told.detail)
            return shard._replace(player=player), self._carry_on(actor, move, clock.window)
        if told.code == Depart.OTHER_EPOCH and actor.departures == 0:
            assert isinstance(told.detail, int)
            return shard, actor._replace(departures=1, entry=Entry(head.shard, told.detail))
        if actor.who >= 0 and not actor.acked:  # somebody else has finished the move that was found
            there = Entry(told.detail.target, told.detail.epoch) if isinstance(told.detail, Gone) else actor.entry
            return shard, actor._replace(do=Do.APPLY, entry=there)
        return shard, self.end(actor)

    def _help(self, actor: Actor, move: Move, day: int) -> Actor:
        """A move was found: depart once more, which touches what it rests on."""
        if Rule.HELPER_TOUCH in self.without:
            return self._carry_on(actor, move, day)
        entry = Entry(move.source, move.payload.epoch - 1)
        return actor._replace(do=Do.DEPART, entry=entry, packed=move.payload.packed)

    def _carry_on(self, actor: Actor, move: Move, day: int) -> Actor:
        """With a payload in hand, on the way to its target."""
        is_old = move.payload.memory.window < day and Rule.OLD_MOVES not in self.without
        return actor._replace(do=Do.LOOK if is_old else Do.ARRIVE, move=move)

    def _arrive(self, actor: Actor, shard: Shard, head: Head, clock: Clock) -> tuple[Shard, Actor]:
        assert actor.move
        payload = actor.move.payload
        before = ABSENT if Rule.EPOCH in self.without else shard.player
        player, told = states.arrive(before, head, clock, payload=payload)
        assert told.code != Arrive.MISDIRECTED
        return shard._replace(player=player), actor._replace(
            do=Do.POINT, move=actor.move._replace(is_stray=told.is_stray)
        )

    def _moved(self, actor: Actor, move: Move) -> Actor:
        """The move is done: a writer whose submission counts goes on moving a stray; one whose does not, submits."""
        entry = Entry(move.payload.target, move.payload.epoch)
        if actor.who >= 0 and not actor.acked:
            return actor._replace(do=Do.APPLY, entry=entry, move=None, departures=0)
        if actor.who >= 0 and move.is_stray:
            return actor._replace(do=Do.DEPART, entry=entry, move=None, departures=0)
        return self.end(actor)

    @staticmethod
    def end(actor: Actor) -> Actor:
        """At rest; only what an observer was told remains."""
        return Actor(actor.who, Do.REST, acked=actor.acked, refused=actor.refused, unsure=actor.unsure)

    # who can begin

    def sweeps(self, number: int, shard: Shard, versions: tuple[int, ...], day: int) -> Iterator[Actor]:
        """What the sweeper may begin on finding the player so in a shard."""
        player = shard.player
        if isinstance(player, Leaving):
            yield self._help(Actor(SWEEPER, Do.REST), Move(number, player), day)
        elif isinstance(player, Live) and head_of(number, shard.version).is_stray(player.packed):
            for version in versions:
                yield Actor(SWEEPER, Do.DEPART, Entry(number, player.epoch), player.packed, version=version)
