"""Submitting scores, one at a time."""

import re
from datetime import UTC, datetime, timedelta
from secrets import token_hex

from api import schemas
from api.auth import Scope
from api.boards import Asked, BoardRules, not_open
from api.endpoints import BASE, Endpoint
from api.metrics import count_submission
from api.periods import on_board, period_to_write
from api.requests import Call
from sharding.boards import Board, BoardPeriod
from sharding.errors import InvalidValue, LeaderboardError, OutOfBounds, PeriodClosed, UnknownBoard
from sharding.leaderboard import Leaderboard
from sharding.players import parse_player_id
from sharding.submissions import Result, Submission, failure, removal_of

PATH = f"{BASE}/scores"
_MATCH_ID = re.compile(schemas.MATCH_ID_PATTERN)


class Admission:
    """Which submissions count, and where, at the moment it was made; what those of one request share it finds once."""

    def __init__(self, rules: BoardRules, late: timedelta) -> None:
        """`late`: how long a period takes submissions after its end."""
        self._rules = rules
        self._late = late
        self._now = datetime.now(UTC)
        self._current: dict[str, Asked] = {}

    def admit(self, body: schemas.NewScore, match_id: str, request_id: str) -> tuple[Asked, Submission]:
        """The board and period that a submission is for, and the submission; an error if it cannot count there."""
        player = parse_player_id(body.user_id)
        if body.played_at is None:
            asked = self._current.get(body.board) or self._now_on(body.board)
            played_at_ms = None
        else:
            asked = self._find(body.board, body.played_at)
            played_at_ms = round(body.played_at.timestamp() * 1000)
        _check_bounds(asked.board, body.score)
        return asked, Submission(player, body.score, match_id, played_at_ms, request_id)

    def _now_on(self, board: str) -> Asked:
        asked = self._current[board] = self._find(board, None)
        return asked

    def _find(self, name: str, played_at: datetime | None) -> Asked:
        board = self._rules.get(name)
        period = period_to_write(board, played_at, self._now, self._late)
        return Asked(board, period, BoardPeriod(board.name, period.name))


class ScoreAnswers:
    """What is answered to submissions."""

    def __init__(self, leaderboard: Leaderboard, rules: BoardRules, *, late: timedelta) -> None:
        """`late`: how long a period takes submissions after its end."""
        self._leaderboard = leaderboard
        self._rules = rules
        self._late = late

    def endpoints(self) -> list[Endpoint]:
        """The address of submissions."""
        return [
            Endpoint(
                method="POST",
                path=PATH,
                answer=self.submit,
                summary="Submit one score; Idempotency-Key names the match where the body does not",
                query=schemas.ScoreQuery,
                takes=schemas.NewScore,
                gives=schemas.Submitted,
                scope=Scope.WRITE,
                refuses=(404, 409, 422, 429),
            ),
            Endpoint(
                method="DELETE",
                path=f"{PATH}/<user_id>",
                answer=self.remove,
                summary="Take a player off a board; Idempotency-Key names the removal, so that it may be repeated",
                query=schemas.BoardQuery,
                gives=schemas.Removed,
                scope=Scope.ADMIN,
                refuses=(404, 422),
            ),
        ]

    def submit(self, call: Call[schemas.ScoreQuery, schemas.NewScore]) -> schemas.Submitted:
        """Apply one submission, once."""
        match_id = call.body.match_id or _match_id(call.idempotency_key)
        try:
            asked, result = self._apply(call, match_id)
            if result.error is not None:
                raise result.error
        except LeaderboardError as error:
            count_submission(failure(error).status)
            raise
        count_submission(result.status)
        return schemas.Submitted(
            user_id=parse_player_id(call.body.user_id),
            score=result.points,
            rank=result.rank,
            rank_is=result.rank_is.value,
            applied=result.status == "applied",
            durable=result.durable,
            match_id=match_id,
            **on_board(asked.board, asked.period),
        )

    def remove(self, call: Call[schemas.BoardQuery, None], user_id: str) -> schemas.Removed:
        """Take a player off a board, with an entry in the audit. NotOnBoard if there is no row."""
        player, removal_id = parse_player_id(user_id), _match_id(call.idempotency_key)
        removal = removal_of(player, removal_id, call.request_id)
        with self._rules.asked_for(call.query) as asked:
            try:
                removed = self._leaderboard.remove(asked.name, removal, call.deadline)
                self._leaderboard.outlive_tops()
            except PeriodClosed as error:
                field = "month" if call.query.period is None else "period"
                raise PeriodClosed(f"{asked.period.name} is closed: its ranking is final", field=field) from error
        return schemas.Removed(
            user_id=player,
            score=removed.points,
            durable=removed.durable,
            **on_board(asked.board, asked.period),
        )

    def _apply(self, call: Call[schemas.ScoreQuery, schemas.NewScore], match_id: str) -> tuple[Asked, Result]:
        asked, submission = self.admission().admit(call.body, match_id, call.request_id)
        try:
            (result,) = self._leaderboard.submit(asked.name, [submission], call.deadline, rank=call.query.rank)
        except UnknownBoard as error:
            raise not_open(asked.board, asked.period) from error
        return asked, result

    def admission(self) -> Admission:
        """What counts now, and where."""
        return Admission(self._rules, self._late)


def _match_id(idempotency_key: str | None) -> str:
    """The header's match id, or a new one."""
    if idempotency_key is None:
        return token_hex(16)
    if not _MATCH_ID.search(idempotency_key):
        raise InvalidValue("1 to 128 printable ASCII characters", field="Idempotency-Key")
    return idempotency_key


def _check_bounds(board: Board, score: int) -> None:
    if (board.lowest is not None and score < board.lowest) or (board.highest is not None and score > board.highest):
        lowest = "any" if board.lowest is None else board.lowest
        highest = "any" if board.highest is None else board.highest
        raise OutOfBounds(f"board {board.name!r} takes scores from {lowest} to {highest}", field="score")
