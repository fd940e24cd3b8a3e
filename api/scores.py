"""Scores: submitting them, and reading the ranking."""

import re
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Literal
from urllib.parse import urlencode

from msgspec import UNSET, UnsetType

from api import schemas
from api.auth import Scope
from api.boards import Asked, BoardRules, not_open
from api.endpoints import BASE, Endpoint
from api.metrics import count_submission
from api.names import Found, Names
from api.periods import on_board, period_to_write
from api.requests import Call
from sharding.boards import Board, BoardPeriod
from sharding.errors import InvalidValue, LeaderboardError, OutOfBounds, UnknownBoard
from sharding.leaderboard import Leaderboard, Page
from sharding.players import parse_player_id
from sharding.submissions import Result, Submission, failure

PATH = f"{BASE}/scores"
_MATCH_ID = re.compile(schemas.MATCH_ID_PATTERN)


class ScoreAnswers:
    """What is answered about scores."""

    def __init__(self, leaderboard: Leaderboard, rules: BoardRules, names: Names, *, late: timedelta) -> None:
        """`late`: how long a period takes submissions after its end."""
        self._leaderboard = leaderboard
        self._rules = rules
        self._names = names
        self._late = late

    def endpoints(self) -> list[Endpoint]:
        """The addresses of scores."""
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
                refuses=(404, 409, 422),
            ),
            Endpoint(
                method="GET",
                path=PATH,
                answer=self.top,
                summary="The top of a board, or any part of its ranking",
                query=schemas.TopQuery,
                gives=schemas.Entries,
                scope=Scope.READ,
                refuses=(404,),
            ),
            Endpoint(
                method="GET",
                path=f"{PATH}/<user_id>",
                answer=self.standing,
                summary="A player's exact rank",
                query=schemas.BoardQuery,
                gives=schemas.Standing,
                scope=Scope.READ,
                refuses=(404,),
            ),
            Endpoint(
                method="GET",
                path=f"{PATH}/<user_id>/surrounding",
                answer=self.surrounding,
                summary="A player and those ranked around",
                query=schemas.SurroundingQuery,
                gives=schemas.Entries,
                scope=Scope.READ,
                refuses=(404,),
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
        assert result.points is not None
        return schemas.Submitted(
            user_id=parse_player_id(call.body.user_id),
            score=result.points,
            rank=result.rank,
            rank_is="none" if result.rank is None else call.query.rank.value,
            applied=result.status == "applied",
            durable=result.durable,
            match_id=match_id,
            **on_board(asked.board, asked.period),
        )

    def _apply(self, call: Call[schemas.ScoreQuery, schemas.NewScore], match_id: str) -> tuple[Asked, Result]:
        asked, submission = self.admit(call.body, match_id, call.request_id)
        try:
            (result,) = self._leaderboard.submit(asked.name, [submission], call.deadline, rank=call.query.rank)
        except UnknownBoard as error:
            raise not_open(asked.board, asked.period) from error
        return asked, result

    def admit(self, body: schemas.NewScore, match_id: str, request_id: str) -> tuple[Asked, Submission]:
        """The board and period that a submission is for, and the submission; an error if it cannot count there."""
        player = parse_player_id(body.user_id)
        board = self._rules.get(body.board)
        period = period_to_write(board, body.played_at, datetime.now(UTC), self._late)
        _check_bounds(board, body.score)
        played_at_ms = None if body.played_at is None else round(body.played_at.timestamp() * 1000)
        submission = Submission(player, body.score, match_id, played_at_ms, request_id)
        return Asked(board, period, BoardPeriod(board.name, period.name)), submission

    def top(self, call: Call[schemas.TopQuery, None]) -> schemas.Entries:
        """Consecutive rows from an offset on."""
        query = call.query
        with self._rules.asked_for(query) as asked:
            page = self._leaderboard.top(asked.name, query.offset, query.limit, call.deadline)
        answer = self._entries(asked, page)
        if query.offset + len(page.rows) < page.total and page.rows:
            answer.next = _following(query, query.offset + len(page.rows))
        return answer

    def standing(self, call: Call[schemas.BoardQuery, None], user_id: str) -> schemas.Standing:
        """A player's exact rank."""
        player = parse_player_id(user_id)
        with self._rules.asked_for(call.query) as asked:
            standing = self._leaderboard.standing(asked.name, player, call.deadline)
        found = self._names.of([player])
        profile = found.players.get(player)
        return schemas.Standing(
            user_id=player,
            display_name=profile.display_name if profile else None,
            score=standing.row.points,
            rank=standing.row.rank,
            percentile=standing.percentile,
            total_players=standing.total,
            names=_names(found),
            **on_board(asked.board, asked.period),
        )

    def surrounding(self, call: Call[schemas.SurroundingQuery, None], user_id: str) -> schemas.Entries:
        """A player, with as many others on each side as the board has and the query asks for."""
        player = parse_player_id(user_id)
        with self._rules.asked_for(call.query) as asked:
            page = self._leaderboard.surrounding(asked.name, player, call.query.offset, call.deadline)
        answer = self._entries(asked, page)
        for entry in answer.entries:
            entry.is_current_user = entry.user_id == player
        return answer

    def _entries(self, asked: Asked, page: Page) -> schemas.Entries:
        found = self._names.of([row.player for row in page.rows])
        entries = []
        for row in page.rows:
            profile = found.players.get(row.player)
            entries.append(
                schemas.Entry(
                    rank=row.rank,
                    user_id=row.player,
                    username=profile.username if profile else None,
                    display_name=profile.display_name if profile else None,
                    avatar_url=profile.avatar_url if profile else None,
                    score=row.points,
                )
            )
        return schemas.Entries(
            total_players=page.total,
            as_of=datetime.fromtimestamp(page.as_of_ms / 1000, UTC),
            entries=entries,
            names=_names(found),
            **on_board(asked.board, asked.period),
        )


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


def _names(found: Found) -> Literal["unavailable"] | UnsetType:
    return UNSET if found.complete else "unavailable"


def _following(query: schemas.TopQuery, offset: int) -> str:
    """The address of the rows that follow, with what else was asked for."""
    given = {"board": query.board if query.board != "global" else None, "month": query.month, "period": query.period}
    named = {name: value for name, value in given.items() if value is not None}
    return f"{PATH}?{urlencode({'limit': query.limit, 'offset': offset, **named})}"
