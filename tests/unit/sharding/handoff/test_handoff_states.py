"""The table of the handoff: what holds for every step in every state, whatever comes before."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.boards import Operator
from sharding.directory import Entry
from sharding.functions import Arrive, Code, Depart
from sharding.handoff import diagram, states
from sharding.handoff.states import ABSENT, MOST_RECENT, Clock, Gone, Head, Leaving, Live, Memory, State
from sharding.scores import ELAPSED_SPAN, HIGHEST, LOWEST, POINTS_LIMIT, Order, PackedScore, elapsed_of, pack, points_of

HERE, THERE = 0, 1
HEAD = Head(HERE, pack(0, 0, Order.ASC), pack(10, 0, Order.ASC), Order.ASC)
EVENT, OTHER = b"event-01aa", b"event-02aa"

epochs = st.integers(1, 6)
packed_scores = st.integers(LOWEST + ELAPSED_SPAN, HIGHEST - 1).map(PackedScore)
events = st.frozensets(st.sampled_from([b"event-%02dxx" % number for number in range(6)]), max_size=3)
memories = st.builds(Memory, st.integers(3, 6), events, events)
payloads = st.builds(Leaving, epochs, packed_scores, memories, st.sampled_from([HERE, THERE]))
any_state: st.SearchStrategy[State] = st.one_of(
    st.just(ABSENT), st.builds(Live, epochs, packed_scores, memories), payloads, st.builds(Gone, epochs, st.just(THERE))
)
heads = st.builds(
    Head,
    st.just(HERE),
    st.sampled_from([LOWEST, PackedScore(0)]),
    st.sampled_from([HIGHEST, PackedScore(1)]),
    st.sampled_from(Order),
    st.sampled_from(Operator),
)
clocks = st.builds(Clock, st.integers(3, 7), st.integers(0, ELAPSED_SPAN - 1))
steps: st.SearchStrategy[Callable[[State, Head, Clock], State]] = st.one_of(
    st.builds(
        lambda value, may: (
            lambda state, head, clock: states.apply(state, head, clock, value=value, event=EVENT, may_create=may)[0]
        ),
        st.integers(-(2**31), 2**31),
        st.booleans(),
    ),
    st.builds(
        lambda expected, target: (
            lambda state, head, clock: states.depart(state, head, clock, expected=expected, target=target)[0]
        ),
        epochs,
        st.sampled_from([HERE, THERE]),
    ),
    st.builds(
        lambda payload: lambda state, head, clock: states.arrive(state, head, clock, payload=payload)[0], payloads
    ),
    st.builds(lambda epoch: lambda state, head, clock: states.finish(state, epoch=epoch)[0], epochs),
    st.builds(
        lambda entry: lambda state, head, clock: states.bury(state, head, entry=entry)[0],
        st.builds(Entry, epochs, epochs),
    ),
)


def epoch_of(state: State) -> int:
    return 0 if isinstance(state, states.Absent) else state.epoch


@given(any_state, heads, clocks, steps)
def test_no_step_takes_an_epoch_back(state: State, head: Head, clock: Clock, step: Callable[..., State]) -> None:
    assert epoch_of(step(state, head, clock)) >= epoch_of(state)


@given(any_state, heads, clocks, steps)
def test_every_step_may_be_repeated(state: State, head: Head, clock: Clock, step: Callable[..., State]) -> None:
    once = step(state, head, clock)
    assert step(once, head, clock) == once


@given(any_state, heads, clocks, payloads)
def test_a_payload_arrives_once(state: State, head: Head, clock: Clock, payload: Leaving) -> None:
    """Whatever the target has seen of this epoch or a later one, a late arrival changes nothing."""
    after, told = states.arrive(state, head, clock, payload=payload)
    if told.code != Arrive.ARRIVED:
        assert after == state
    assert states.arrive(after, head, clock, payload=payload)[1].code != Arrive.ARRIVED


@given(any_state, heads, clocks, st.integers(-(2**31), 2**31), st.booleans())
def test_what_is_not_applied_changes_nothing(state: State, head: Head, clock: Clock, value: int, may: bool) -> None:
    after, told = states.apply(state, head, clock, value=value, event=EVENT, may_create=may)
    assert (told.code == Code.APPLIED) == (after != state)
    if told.code == Code.APPLIED:
        assert isinstance(after, Live)
        assert abs(points_of(after.packed, head.order)) < POINTS_LIMIT
        assert states.apply(after, head, clock, value=value, event=EVENT, may_create=may)[1].code == Code.DUPLICATE


@given(st.builds(Live, epochs, packed_scores, memories), heads, clocks)
def test_a_move_carries_everything_over(live: Live, head: Head, clock: Clock) -> None:
    """Points, the time they were reached, and the memory of retries: the target has what the source had."""
    head = replace(head, low=HIGHEST, high=HIGHEST)
    left, told = states.depart(live, head, clock, expected=live.epoch, target=THERE)
    assert told.detail == left
    assert isinstance(left, Leaving)
    arrived, _ = states.arrive(ABSENT, replace(head, shard=THERE), clock, payload=left)
    assert arrived == Live(live.epoch + 1, live.packed, live.memory.seen_at(clock.window))
    assert states.finish(left, epoch=left.epoch) == (Gone(live.epoch + 1, THERE), True)


@given(memories, st.integers(1, 9), st.integers(1, 9))
def test_an_event_is_remembered_for_a_window_and_no_longer_than_two(memory: Memory, window: int, later: int) -> None:
    seen = memory.seen_at(window)
    known = seen.recent | seen.before
    assert seen.window == window
    assert known <= memory.recent | memory.before
    if window <= memory.window:
        assert known == memory.recent | memory.before
    elif window == memory.window + 1:
        assert known == memory.recent
    else:
        assert not known
    if later >= window >= memory.window:
        assert seen.seen_at(later) == memory.seen_at(later), "it does not matter how often one looks"


@pytest.mark.parametrize(
    ("operator", "order", "points", "value", "after"),
    [
        (Operator.ADD, Order.DESC, 5, -7, -2),
        (Operator.SET, Order.DESC, 5, -7, -7),
        (Operator.BEST, Order.DESC, 5, 7, 7),
        (Operator.BEST, Order.DESC, 5, 3, 5),
        (Operator.BEST, Order.ASC, 5, 3, 3),
        (Operator.BEST, Order.ASC, 5, 7, 5),
    ],
)
def test_operators(operator: Operator, order: Order, points: int, value: int, after: int) -> None:
    head = Head(HERE, LOWEST, HIGHEST, order, operator)
    live = Live(1, pack(points, 100, order), Memory())
    got, _ = states.apply(live, head, Clock(0, 200), value=value, event=EVENT, may_create=False)
    assert isinstance(got, Live)
    assert points_of(got.packed, order) == after
    assert elapsed_of(got.packed) == (200 if after != points else 100), (
        "ties are decided by when the points were reached"
    )


def test_refusals_say_why() -> None:
    live = Live(1, pack(5, 0, Order.ASC), Memory(0, frozenset({EVENT})))

    def why(state: State, event: bytes, value: int = 1) -> object:
        return states.apply(state, HEAD, Clock(), value=value, event=event, may_create=True)[1].detail

    full = frozenset(number.to_bytes(10, "big") for number in range(MOST_RECENT))
    assert why(live, EVENT[:8] + b"zz") == "match"
    assert why(live, OTHER, POINTS_LIMIT) == "points"
    assert why(ABSENT, OTHER, -POINTS_LIMIT) == "points"
    assert why(replace(live, memory=Memory(0, full)), OTHER) == "recent"


def test_depart_goes_by_what_the_shard_knows() -> None:
    """The caller's idea of the row may be old: of its epoch, of its points, of the map."""
    stray = Live(3, pack(20, 0, Order.ASC), Memory())

    def code(state: State, expected: int = 3, target: int = THERE) -> object:
        return states.depart(state, HEAD, Clock(), expected=expected, target=target)[1].code

    assert code(stray) == Depart.DEPARTED
    assert code(stray, expected=2) == Depart.OTHER_EPOCH
    assert code(stray, target=HERE) == Depart.MISDIRECTED
    assert code(replace(stray, packed=pack(5, 0, Order.ASC))) == Depart.AT_HOME
    assert code(Leaving(4, stray.packed, Memory(), THERE), expected=9) == Depart.DEPARTED
    assert code(Gone(4, THERE)) == code(ABSENT) == Depart.NOT_HERE


def test_a_row_of_the_wrong_part_is_a_stray() -> None:
    assert not HEAD.is_stray(pack(5, 0, Order.ASC))
    assert replace(HEAD, takes_player=False).is_stray(pack(5, 0, Order.ASC))


@given(st.none() | st.builds(Entry, epochs, epochs), st.builds(Entry, epochs, epochs))
def test_the_directory_takes_the_higher_epoch(entry: Entry | None, wanted: Entry) -> None:
    after = states.point(entry, wanted=wanted)
    assert after in (entry, wanted)
    assert after.epoch == max(wanted.epoch, entry.epoch if entry else 0)
    if entry and entry.epoch == wanted.epoch:
        assert after == entry, "the first claim stays"


def test_a_row_that_the_directory_knows_is_no_ghost() -> None:
    live = Live(3, PackedScore(0), Memory())
    assert states.bury(live, HEAD, entry=Entry(HERE, 3)) == (live, False)
    assert states.bury(live, HEAD, entry=Entry(THERE, 2)) == (live, False)
    assert states.bury(live, HEAD, entry=Entry(THERE, 3)) == (Gone(3, THERE), True)
    assert states.bury(live, HEAD, entry=Entry(THERE, 4)) == (Gone(4, THERE), True)
    assert states.bury(live, HEAD, entry=Entry(HERE, 4)) == (live, False), "a tombstone would point to itself"


def test_only_tombstones_expire() -> None:
    assert states.expire(Gone(3, THERE)) == ABSENT
    for state in (ABSENT, Live(3, PackedScore(0), Memory()), Leaving(3, PackedScore(0), Memory(), THERE)):
        assert states.expire(state) == state


def test_the_document_shows_the_table() -> None:
    """`python -m sharding.handoff.diagram` draws it anew."""
    document = diagram.DOCUMENT.read_text(encoding="utf-8")
    assert diagram.drawn(document) == document


def test_the_drawing_knows_every_answer() -> None:
    answers = {edge.answer.split(" (")[0] for edge in diagram.edges()}
    codes = [*(code for code in Code if code is not Code.HIDDEN), *Depart, *Arrive]  # hidden: only reads tell
    assert answers >= {code.name.lower().replace("_", " ") for code in codes}
    with pytest.raises(ValueError, match="in the document"):
        diagram.drawn("a document without a place for it")
