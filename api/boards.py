"""Boards: their rules, as every request needs them; listing, making and changing them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import NamedTuple

from msgspec import UNSET, UnsetType
from sqlalchemy import Engine

from api import schemas
from api.auth import Scope
from api.caches import Cache
from api.endpoints import BASE, Endpoint
from api.periods import current_period, period_to_read
from api.requests import Call, NoQuery
from records import boards
from records.boards import Board as KeptBoard
from records.boards import BoardChanges
from records.errors import Conflict, InvalidRecord
from sharding.boards import Board, BoardPeriod, Operator, parse_board_name
from sharding.errors import InvalidValue, Unavailable, UnknownBoard
from sharding.periods import Period, PeriodKind
from sharding.scores import POINTS_LIMIT, POINTS_SPAN, Order

PATH = f"{BASE}/boards"
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


_FIELDS = {"name": "board", "min_value": "lowest"}


class BoardAnswers:
    """What is answered about boards."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._all: Cache[str, Sequence[KeptBoard]] = Cache(lambda _: boards.list_all(engine), fresh_s=_FRESH_S, most=1)

    def endpoints(self) -> list[Endpoint]:
        """The addresses of boards."""
        return [
            Endpoint(
                method="GET",
                path=PATH,
                answer=self.listing,
                summary="All boards and their rules",
                gives=schemas.Boards,
                scope=Scope.READ,
            ),
            Endpoint(
                method="POST",
                path=PATH,
                answer=self.create,
                summary="Make a board; its first period opens within a minute",
                takes=schemas.NewBoard,
                gives=schemas.Board,
                scope=Scope.ADMIN,
                status=HTTPStatus.CREATED,
                refuses=(409,),
            ),
            Endpoint(
                method="PATCH",
                path=f"{PATH}/<board>",
                answer=self.change,
                summary="Change which submissions a board takes from now on; every process knows within ten seconds",
                takes=schemas.BoardChanges,
                gives=schemas.Board,
                scope=Scope.ADMIN,
                refuses=(404,),
            ),
        ]

    def listing(self, _call: Call[NoQuery, None]) -> schemas.Boards:
        """All boards, by name; one that was made a moment ago may be missing."""
        return schemas.Boards(boards=[_described(board) for board in self._all.get("all")])

    def create(self, call: Call[NoQuery, schemas.NewBoard]) -> schemas.Board:
        """Make a board. Conflict if there is one of that name."""
        body = call.body
        _check_bounds(lowest=body.lowest, highest=body.highest)
        new = boards.NewBoard(
            name=parse_board_name(body.board),
            period_kind=body.period,
            operator=body.operator,
            order=body.order,
            min_value=body.lowest,
            max_value=body.highest,
            registration=body.registration,
        )
        with _named_as_here():
            return _described(boards.create(self._engine, new))

    def change(self, call: Call[NoQuery, schemas.BoardChanges], board: str) -> schemas.Board:
        """Change a board's rules for what comes; what was counted stays counted."""
        body = call.body
        _check_bounds(lowest=body.lowest, highest=body.highest)
        changes: BoardChanges = {}
        if body.lowest is not UNSET:
            changes["min_value"] = body.lowest
        if body.highest is not UNSET:
            changes["max_value"] = body.highest
        if body.registration is not UNSET:
            changes["registration"] = body.registration
        with _named_as_here():
            changed = boards.update(self._engine, parse_board_name(board), changes)
        if changed is None:
            raise UnknownBoard(f"there is no board {board!r}", field="board")
        return _described(changed)


def _check_bounds(**bounds: int | UnsetType | None) -> None:
    """Refuse a bound on one submission that no submission can reach: it would take none, or bind nothing."""
    for field, bound in bounds.items():
        if isinstance(bound, int) and not -POINTS_LIMIT < bound < POINTS_LIMIT:
            raise InvalidValue(f"a submission lies within {POINTS_SPAN}", field=field)


@contextmanager
def _named_as_here() -> Iterator[None]:
    """In the block, errors of records name the fields as the contract does."""
    try:
        yield
    except Conflict as error:
        raise Conflict("another board has this name", field="board") from error
    except InvalidRecord as error:
        if error.field == "max_value":
            raise InvalidRecord("`highest` is below `lowest`", field="highest") from error
        raise InvalidRecord(error.detail, field=_FIELDS.get(error.field or "", error.field)) from error


def _described(board: KeptBoard) -> schemas.Board:
    return schemas.Board(
        board=board.name,
        period=board.period_kind,
        current=current_period(PeriodKind(board.period_kind), datetime.now(UTC)).name,
        operator=board.operator,
        order=board.order,
        lowest=board.min_value,
        highest=board.max_value,
        registration=board.registration,
    )
