"""Boards: what is counted, over which periods, in which order, and who may be on them.

A board's period, operator and order never change: its rows and its audit log mean what they meant when they were
written. What may change is which submissions are accepted from now on.
"""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Literal, TypedDict

from sqlalchemy import Engine, insert, select
from sqlalchemy import update as update_rows

from records.engine import reading, transaction
from records.tables import boards

PeriodKind = Literal["month", "week", "day", "forever"]
Operator = Literal["add", "best", "set"]
Order = Literal["desc", "asc"]
Registration = Literal["registered", "open"]


@dataclass(frozen=True, slots=True)
class NewBoard:
    """The rules of a board. `min_value` and `max_value` bound the value of one submission; None is no bound.

    On an `open` board the first submission registers its player; on the others that is refused.
    """

    name: str
    period_kind: PeriodKind = "month"
    operator: Operator = "add"
    order: Order = "desc"
    min_value: int | None = None
    max_value: int | None = None
    registration: Registration = "registered"
    players_may_report: bool = False


@dataclass(frozen=True, slots=True)
class Board(NewBoard):
    """A board that is there."""

    created_at: datetime = field(kw_only=True)


class BoardChanges(TypedDict, total=False):
    """The rules that may change."""

    min_value: int | None
    max_value: int | None
    registration: Registration
    players_may_report: bool


def create(engine: Engine, board: NewBoard) -> Board:
    """Make a board. Conflict (field `name`) if there is one of that name, InvalidRecord if a rule is not allowed."""
    with transaction(engine) as connection:
        row = connection.execute(insert(boards).values(asdict(board)).returning(boards)).mappings().one()
    return Board(**row)


def get(engine: Engine, name: str) -> Board | None:
    """The board of that name."""
    with reading(engine) as connection:
        row = connection.execute(select(boards).where(boards.c.name == name)).mappings().one_or_none()
    return None if row is None else Board(**row)


def list_all(engine: Engine) -> list[Board]:
    """All boards, by name."""
    with reading(engine) as connection:
        return [Board(**row) for row in connection.execute(select(boards).order_by(boards.c.name)).mappings()]


def update(engine: Engine, name: str, changes: BoardChanges) -> Board | None:
    """Change rules of a board; None if there is none of that name. InvalidRecord if a rule is not allowed."""
    if not changes:
        return get(engine, name)
    change = update_rows(boards).where(boards.c.name == name).values(**changes).returning(boards)
    with transaction(engine) as connection:
        row = connection.execute(change).mappings().one_or_none()
    return None if row is None else Board(**row)
