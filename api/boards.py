"""Boards: their rules, as every request needs them, and their listing."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from api import schemas
from api.auth import Scope
from api.caches import Cache
from api.endpoints import BASE, Endpoint
from api.periods import current_period, period_to_read
from api.requests import Call, NoQuery
from records.boards import Board as KeptBoard
from sharding.boards import Board, BoardPeriod, Operator, parse_board_name
from sharding.errors import Unavailable, UnknownBoard
from sharding.periods import Period, PeriodKind
from sharding.scores import Order

_FRESH_S = 5.0
_MOST_REMEMBERED = 1_000


class Asked(NamedTuple):
    """What a request is about."""

    board: Board
    period: Period
    name: BoardPeriod


class BoardRules:
    """The rules of boards by name, remembered; a change is noticed within ten seconds."""

    def __init__(self, find: Callable[[str], KeptBoard | None]) -> None:
        """`find` gives the board of a name, or None."""
        self._rules: Cache[str, Board | None] = Cache(
            lambda name: _rules(find(name)), fresh_s=_FRESH_S, most=_MOST_REMEMBERED
        )

    def get(self, name: str) -> Board:
        """The board of that name. InvalidValue if none can have it, UnknownBoard if none has it."""
        board = self._rules.get(parse_board_name(name))
        if board is None:
            raise UnknownBoard(f"there is no board {name!r}", field="board")
        return board

    @contextmanager
    def asked_for(self, query: schemas.BoardQuery) -> Iterator[Asked]:
        """The board and period that a read asks for; in the block, a period without ranking is said to be that."""
        board = self.get(query.board)
        period = period_to_read(board, query.month, query.period, datetime.now(UTC))
        try:
            yield Asked(board, period, BoardPeriod(board.name, period.name))
        except UnknownBoard as error:
            if period == current_period(board.kind, datetime.now(UTC)):
                raise not_open(board, period) from error
            field = "month" if query.period is None else "period"
            raise UnknownBoard(f"board {board.name!r} has no ranking of {period.name}", field=field) from error


def not_open(board: Board, period: Period) -> Unavailable:
    """The refusal where a board's period should be open and is not: that passes, so nothing may be given up for it."""
    return Unavailable(f"{period.name} of board {board.name!r} is about to be opened")


def _rules(kept: KeptBoard | None) -> Board | None:
    if kept is None:
        return None
    return Board(
        name=kept.name,
        kind=PeriodKind(kept.period_kind),
        operator=Operator(kept.operator),
        order=Order(kept.order),
        lowest=kept.min_value,
        highest=kept.max_value,
        open_registration=kept.registration == "open",
    )


class BoardAnswers:
    """What is answered about boards."""

    def __init__(self, list_all: Callable[[], Sequence[KeptBoard]]) -> None:
        self._all: Cache[str, Sequence[KeptBoard]] = Cache(lambda _: list_all(), fresh_s=_FRESH_S, most=1)

    def endpoints(self) -> list[Endpoint]:
        """The addresses of boards."""
        return [
            Endpoint(
                method="GET",
                path=f"{BASE}/boards",
                answer=self.listing,
                summary="All boards and their rules",
                gives=schemas.Boards,
                scope=Scope.READ,
            )
        ]

    def listing(self, _call: Call[NoQuery, None]) -> schemas.Boards:
        """All boards, by name."""
        now = datetime.now(UTC)
        return schemas.Boards(
            boards=[
                schemas.Board(
                    board=board.name,
                    period=board.period_kind,
                    current=current_period(PeriodKind(board.period_kind), now).name,
                    operator=board.operator,
                    order=board.order,
                    lowest=board.min_value,
                    highest=board.max_value,
                    registration=board.registration,
                )
                for board in self._all.get("all")
            ]
        )
