"""A board at a glance."""

from msgspec import UNSET

from api import schemas
from api.auth import Scope
from api.boards import BoardRules
from api.endpoints import BASE, Endpoint
from api.finals import FinalStats, Rankings
from api.periods import on_board
from api.requests import Call


class StatsAnswers:
    """What is answered about whole boards."""

    def __init__(self, rankings: Rankings, rules: BoardRules) -> None:
        self._rankings = rankings
        self._rules = rules

    def endpoints(self) -> list[Endpoint]:
        """The addresses of statistics."""
        return [
            Endpoint(
                method="GET",
                path=f"{BASE}/stats",
                answer=self.stats,
                summary="A board at a glance",
                query=schemas.StatsQuery,
                gives=schemas.Stats,
                scope=Scope.READ,
                refuses=(404,),
            )
        ]

    def stats(self, call: Call[schemas.StatsQuery, None]) -> schemas.Stats:
        """How many players, how high, how many submissions, on how many shards."""
        with self._rules.asked_for(call.query) as asked:
            stats = self._rankings.stats(asked.name, call.deadline, partial=call.query.partial is not None)
        return schemas.Stats(
            total_players=stats.total,
            top_score=stats.top.points if stats.top else None,
            average_score=round(stats.points_sum / stats.total, 2) if stats.total else None,
            submissions=stats.submissions,
            shards=stats.shards,
            missing_shards=len(stats.missing) or UNSET,
            final=isinstance(stats, FinalStats) or UNSET,
            **on_board(asked.board, asked.period),
        )
