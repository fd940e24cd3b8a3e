"""What a board is: its rules, and the name under which one period of it is ranked."""

import re
from dataclasses import dataclass
from enum import StrEnum

from sharding.errors import InvalidValue
from sharding.periods import PeriodKind
from sharding.scores import Order

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class Operator(StrEnum):
    """What a submission does to a player's points."""

    ADD = "add"
    BEST = "best"
    SET = "set"


@dataclass(frozen=True, slots=True)
class Board:
    """A board's rules. `lowest` and `highest` bound the value of one submission; None is no bound."""

    name: str
    kind: PeriodKind = PeriodKind.MONTH
    operator: Operator = Operator.ADD
    order: Order = Order.DESC
    lowest: int | None = None
    highest: int | None = None
    open_registration: bool = False


@dataclass(frozen=True, slots=True)
class BoardPeriod:
    """One period of one board: what is ranked, archived and rebuilt as a whole."""

    board: str
    period: str

    def __str__(self) -> str:
        return f"{self.board}:{self.period}"


def parse_board_name(text: str) -> str:
    """`text`, if it can name a board; InvalidValue if not."""
    if not _NAME.fullmatch(text):
        raise InvalidValue("a board's name is 1 to 32 characters of a-z 0-9 _ -", field="board")
    return text
