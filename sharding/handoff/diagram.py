"""The picture of the handoff in `docs/handoff.md`, drawn from the table in `states.py`.

    python -m sharding.handoff.diagram      draws it anew

The table is functions, so it is asked: every step is put to every state, in every situation that it tells apart, and
what comes out is what is drawn. A test asks whether the document still says the same.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

from sharding.boards import Operator
from sharding.directory import Entry
from sharding.handoff import states
from sharding.handoff.states import ABSENT, MOST_RECENT, Clock, Gone, Head, Leaving, Live, Memory, Removed, State, Told
from sharding.scores import HIGHEST, LOWEST, POINTS_LIMIT, Order, PackedScore

DOCUMENT = Path(__file__).parents[2] / "docs" / "handoff.md"
BEGIN, END = "<!-- drawn by sharding/handoff/diagram.py -->\n", "<!-- end of the drawing -->\n"

_HERE, _THERE = 0, 1
_HOME = Head(_HERE, LOWEST, HIGHEST, Order.ASC)
_AWAY = replace(_HOME, high=LOWEST)
_SET = replace(_HOME, operator=Operator.SET)
_EVENT = b"an event.."
_OTHER_CONTENT = b"an event!!"
_EPOCH = 5
_STATES: tuple[State, ...] = (
    ABSENT,
    Live(_EPOCH, PackedScore(0), Memory()),
    Leaving(_EPOCH, PackedScore(0), Memory(), _THERE),
    Removed(_EPOCH, Memory()),
    Gone(_EPOCH, _THERE),
)


class Edge(NamedTuple):
    """What a step makes of a state: names of the step, the state before, the answer and the state after.

    `changes`: something is other than before, be it within the same kind of state.
    """

    step: str
    before: str
    answer: str
    after: str
    changes: bool


def edges() -> list[Edge]:
    """All that can happen, in the order of the steps and states."""
    found = [
        Edge(step, _name(before), answer, _name(after), after != before)
        for state in _STATES
        for step, before, answer, after in (*_applied(state), *_set_aside(state), *_moved(state), *_tidied(state))
    ]
    steps = list(dict.fromkeys(edge.step for edge in found))
    return sorted(dict.fromkeys(found), key=lambda edge: steps.index(edge.step))


#: A step, the state before, the answer, the state after.
_Seen: TypeAlias = tuple[str, State, str, State]


def _applied(before: State) -> Iterator[_Seen]:
    clock = Clock()
    situations: list[tuple[State, Head, int, bool]] = [
        (before, _HOME, 1, False),
        (before, _HOME, 1, True),
        (before, _SET, POINTS_LIMIT, True),
    ]
    if isinstance(before, Live):
        full = frozenset(number.to_bytes(10, "big") for number in range(MOST_RECENT))
        memories = (frozenset({_EVENT}), frozenset({_OTHER_CONTENT}), full)
        situations += [(replace(before, memory=Memory(recent=memory)), _HOME, 1, False) for memory in memories]
    if isinstance(before, Removed):
        situations.append((replace(before, memory=Memory(recent=frozenset({_EVENT}))), _HOME, 1, True))
    for state, head, value, may in situations:
        after, told = states.apply(state, head, clock, value=value, event=_EVENT, may_create=may, may_begin_anew=may)
        yield "apply", state, _words(told), after


def _set_aside(before: State) -> Iterator[_Seen]:
    clock, known = Clock(), Memory(recent=frozenset({_EVENT}))
    situations = [before, replace(before, memory=known)] if isinstance(before, Live | Removed) else [before]
    for state in situations:
        after, told = states.remove(state, clock, event=_EVENT)
        yield "remove", state, _words(told), after
    for hidden in (True, False):
        after, told = states.hide(before, hidden=hidden)
        yield "hide" if hidden else "show", before, _words(told), after


def _moved(before: State) -> Iterator[_Seen]:
    clock = Clock()
    for head in (_AWAY, _HOME):
        for expected, target in ((_EPOCH, _THERE), (_EPOCH, _HERE), (_EPOCH - 1, _THERE)):
            after, told = states.depart(before, head, clock, expected=expected, target=target)
            yield "depart", before, _words(told), after
    for epoch, target in ((_EPOCH + 1, _HERE), (_EPOCH, _HERE), (_EPOCH + 1, _THERE)):
        payload = Leaving(epoch, PackedScore(0), Memory(), target)
        after, told = states.arrive(before, _HOME, clock, payload=payload)
        yield "arrive", before, _words(told), after
    for epoch in (_EPOCH, _EPOCH - 1):
        after, done = states.finish(before, epoch=epoch)
        yield "finish", before, "finished" if done else "nothing to finish", after


def _tidied(before: State) -> Iterator[_Seen]:
    if isinstance(before, Gone):
        yield "expire", before, "a day or two later", states.expire(before)
    for entry in (Entry(_THERE, _EPOCH + 1), Entry(_THERE, _EPOCH), Entry(_HERE, _EPOCH)):
        after, done = states.bury(before, _HOME, entry=entry)
        yield "bury", before, "a ghost" if done else "no ghost", after


def _name(state: State) -> str:
    return type(state).__name__.lower()


def _words(told: Told) -> str:
    words = told.code.name.lower().replace("_", " ")
    return f"{words} ({told.detail})" if words == "refused" else words


def mermaid(found: list[Edge]) -> str:
    """The changes as a state diagram."""
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    {edge.before} --> {edge.after}: {edge.step}" for edge in found if edge.before != edge.after]
    return "\n".join([*dict.fromkeys(lines), "```", ""])


def table(found: list[Edge]) -> str:
    """Every answer to every step in every state: in bold what changes something, behind an arrow the state after."""
    kinds = [_name(state) for state in _STATES]
    lines = [f"| step | {' | '.join(kinds)} |", "| --- |" + " --- |" * len(kinds)]
    for step in dict.fromkeys(edge.step for edge in found):
        cells = []
        for kind in kinds:
            said = [edge for edge in found if (edge.step, edge.before) == (step, kind)]
            cells.append(", ".join(dict.fromkeys(map(_cell, said))))
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(edge: Edge) -> str:
    words = edge.answer if edge.after == edge.before else f"{edge.answer} → {edge.after}"
    return f"**{words}**" if edge.changes else words


def drawn(document: str) -> str:
    """The document with the drawing as it should be. ValueError if it has no place for one."""
    before, _, rest = document.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"there is no {BEGIN.strip()} … {END.strip()} in the document")
    every = edges()
    return f"{before}{BEGIN}\n{mermaid(every)}\n{table(every)}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(drawn(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
