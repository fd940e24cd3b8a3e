"""Whether this process lives, and whether it can serve.

Dead and unready are not the same. `/livez` asks nothing of anybody, so that a Redis that is away restarts no API.
`/readyz` names every part that this process depends on and what is wrong with it, but is only refused where no request
could be served: a single node that is down, or PostgreSQL (which writes and ranks do not wait for), must not take every
API process out of the load balancer at the same time.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus

from api import schemas
from api.boards import BoardRules
from api.endpoints import Endpoint, Reply
from api.patience import PATIENCE_S, in_background
from api.periods import current_period
from api.requests import Call, NoQuery
from records.errors import RecordsError
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.errors import LeaderboardError
from sharding.leaderboard import Leaderboard

_OK = "ok"
_DEFAULT_BOARD = "global"


class HealthAnswers:
    """What is answered to those who watch this process."""

    def __init__(self, leaderboard: Leaderboard, rules: BoardRules, ask_records: Callable[[], object]) -> None:
        """`ask_records` asks PostgreSQL for something, or raises RecordsError."""
        self._leaderboard = leaderboard
        self._rules = rules
        self._ask_records = ask_records

    def endpoints(self) -> list[Endpoint]:
        """The addresses for probes."""
        return [
            Endpoint(
                method="GET",
                path="/livez",
                answer=self.alive,
                summary="The process answers",
                gives=schemas.Alive,
                scope=None,
            ),
            Endpoint(
                method="GET",
                path="/readyz",
                answer=self.ready,
                summary="Whether requests can be served, and what each part says",
                gives=schemas.Readiness,
                also=(HTTPStatus.SERVICE_UNAVAILABLE,),
                scope=None,
            ),
        ]

    def alive(self, _call: Call[NoQuery, None]) -> schemas.Alive:
        """Always."""
        return schemas.Alive()

    def ready(self, call: Call[NoQuery, None]) -> Reply:
        """Ready: all is well. Degraded: requests are served, some part is not well. Unavailable: none can be."""
        nodes = self._nodes(call.deadline)
        records = self._records()
        board = self._board(call.deadline)
        dependencies = {
            **{f"redis {address}": said for address, said in nodes.items()},
            "postgresql": records,
            f"board {_DEFAULT_BOARD}": board,
        }
        if all(said == _OK for said in dependencies.values()):
            return Reply(schemas.Readiness(status="ready", dependencies=dependencies), HTTPStatus.OK)
        if board == _OK and _OK in nodes.values():
            return Reply(schemas.Readiness(status="degraded", dependencies=dependencies), HTTPStatus.OK)
        return Reply(schemas.Readiness(status="unavailable", dependencies=dependencies), HTTPStatus.SERVICE_UNAVAILABLE)

    def _nodes(self, deadline: Deadline) -> dict[str, str]:
        try:
            said = self._leaderboard.ping(deadline)
        except LeaderboardError as error:
            return {"cluster": error.detail}
        return said or {"cluster": "no node says who owns the slots"}

    def _records(self) -> str:
        try:
            in_background(self._ask_records).result(PATIENCE_S)
        except TimeoutError:
            return f"no answer within {PATIENCE_S:g} s"
        except RecordsError as error:
            return error.detail
        return _OK

    def _board(self, deadline: Deadline) -> str:
        """Whether the default board is open now: its rules known, its shards published."""
        try:
            board = self._rules.get(_DEFAULT_BOARD)
            period = current_period(board.kind, datetime.now(UTC))
            self._leaderboard.maps.current(BoardPeriod(board.name, period.name), deadline)
        except (LeaderboardError, RecordsError) as error:
            return error.detail
        return _OK
