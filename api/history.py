"""What is over, the latest first, a page at a time: a board's final periods, and a player's final ranks in them."""

from urllib.parse import urlencode

from msgspec import UNSET
from sqlalchemy import Engine

from api import schemas
from api.auth import Scope
from api.boards import BoardRules
from api.endpoints import BASE, Endpoint
from api.finals import until
from api.names import Names
from api.periods import on_board
from api.requests import Call
from records import archives, snapshots
from records.archives import Archived
from records.snapshots import PastRow
from sharding.boards import Board
from sharding.errors import InvalidValue
from sharding.leaderboard import Row, Standing
from sharding.periods import parse_period
from sharding.players import PlayerId, parse_player_id

PATH = f"{BASE}/scores/<user_id>/history"
PERIODS_PATH = f"{BASE}/boards/<board>/periods"


class HistoryAnswers:
    """What is answered about the past of a board or a player."""

    def __init__(self, engine: Engine, rules: BoardRules, names: Names) -> None:
        self._engine = engine
        self._rules = rules
        self._names = names

    def endpoints(self) -> list[Endpoint]:
        """The addresses of the past."""
        return [
            Endpoint(
                method="GET",
                path=PATH,
                answer=self.history,
                summary="A player's final ranks in past periods, the latest first",
                query=schemas.HistoryQuery,
                gives=schemas.History,
                scope=Scope.READ,
                refuses=(404,),
            ),
            Endpoint(
                method="GET",
                path=PERIODS_PATH,
                answer=self.periods,
                summary="A board's periods that are over and final, the latest first",
                query=schemas.PeriodsQuery,
                gives=schemas.FinalPeriods,
                scope=Scope.READ,
                refuses=(404,),
            ),
        ]

    def periods(self, call: Call[schemas.PeriodsQuery, None], board: str) -> schemas.FinalPeriods:
        """Periods that can be read for ever."""
        rules, query = self._rules.get(board), call.query
        before = None if query.before is None else _period_before(rules, query.before)
        found = until(
            call.deadline,
            lambda: archives.finals(self._engine, rules.name, limit=query.limit + 1, before=before),
        )
        shown = found[: query.limit]
        answer = schemas.FinalPeriods(board=rules.name, periods=[_final(rules, archived) for archived in shown])
        if len(found) > len(shown):
            following = urlencode({"limit": query.limit, "before": shown[-1].period})
            answer.next = f"{BASE}/boards/{rules.name}/periods?{following}"
        return answer

    def history(self, call: Call[schemas.HistoryQuery, None], user_id: str) -> schemas.History:
        """Final ranks; none for a player who was in no ranking that is over."""
        player, query = parse_player_id(user_id), call.query
        board = self._rules.get(query.board)
        before = None if query.before is None else _period_before(board, query.before)
        rows = until(
            call.deadline,
            lambda: snapshots.history(self._engine, board.name, player, limit=query.limit + 1, before=before),
        )
        shown = rows[: query.limit]
        found = self._names.of([player])
        profile = found.players.get(player)
        return schemas.History(
            board=board.name,
            user_id=player,
            display_name=profile.display_name if profile else None,
            entries=[_past(board, player, row) for row in shown],
            next=_following(query, player, shown[-1].period) if len(rows) > len(shown) else UNSET,
            names=UNSET if found.complete else "unavailable",
        )


def _period_before(board: Board, name: str) -> str:
    try:
        return parse_period(board.kind, name).name
    except InvalidValue as error:
        raise InvalidValue(error.detail, field="before") from None


def _final(board: Board, archived: Archived) -> schemas.FinalPeriod:
    named = on_board(board, parse_period(board.kind, archived.period))
    return schemas.FinalPeriod(
        month=named["month"],
        period=named["period"],
        total_players=archived.players or 0,
        closed_at=archived.changed_at,
    )


def _past(board: Board, player: PlayerId, row: PastRow) -> schemas.PastStanding:
    standing = Standing(Row(row.rank, player, row.points), row.players)
    named = on_board(board, parse_period(board.kind, row.period))
    return schemas.PastStanding(
        month=named["month"],
        period=named["period"],
        rank=row.rank,
        score=row.points,
        total_players=row.players,
        percentile=standing.percentile,
    )


def _following(query: schemas.HistoryQuery, player: PlayerId, last: str) -> str:
    named = {"limit": query.limit, "before": last} | ({} if query.board == "global" else {"board": query.board})
    return f"{BASE}/scores/{player}/history?{urlencode(named)}"
