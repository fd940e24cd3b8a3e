"""The Flask application: one process's connections, wired to the endpoints.

Made after the fork, one in each worker process. Nothing is connected until the first request needs it, so a process
starts while Redis or PostgreSQL are still away, says so in `/readyz`, and serves when they come.
"""

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from functools import partial
from importlib.metadata import version

import msgspec
from flask import Flask, Response, request
from sqlalchemy import Engine
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from api import problems
from api.admin import AdminAnswers
from api.auth import Keys
from api.batches import BatchAnswers
from api.boards import BoardAnswers, BoardRules
from api.direct import ahead_of
from api.endpoints import Endpoint, Served, refusal, serving
from api.finals import Rankings
from api.health import HealthAnswers
from api.history import HistoryAnswers
from api.metrics import NO_ENDPOINT, observe_request, on_own_port
from api.names import Names
from api.newcomers import Newcomers
from api.openapi import document
from api.pages import add_pages
from api.rankings import RankingAnswers
from api.requests import JSON, request_id_of
from api.scores import ScoreAnswers
from api.stats import StatsAnswers
from api.streams import StreamAnswers
from api.users import UserAnswers
from records import api_keys, boards, players
from records.engine import connect
from runtime.settings import Settings, load
from sharding.boards import Board
from sharding.cursors import Cursors
from sharding.leaderboard import Leaderboard
from sharding.players import PlayerId

_DEFAULT_BOARD = "global"


def create_app(settings: Settings | None = None) -> Flask:
    """The application, with these settings or those of the environment."""
    settings = settings or load()
    engine = connect(settings.postgres_dsn, statement_timeout_ms=settings.request_deadline_ms, pool_timeout_s=1)
    newcomers = Newcomers(partial(_existing, engine), partial(players.hidden_among, engine))
    leaderboard = Leaderboard.connect(settings, known_players=newcomers.admitted, hidden_players=newcomers.hidden)
    rules = BoardRules(partial(boards.get, engine))
    names = Names(partial(players.profiles, engine))
    rankings = Rankings(leaderboard, engine, rules, Cursors.of(settings))
    tops = RankingAnswers(rankings, rules, names)
    late = timedelta(minutes=settings.late_minutes)
    scores = ScoreAnswers(leaderboard, rules, late=late)
    endpoints = [
        *scores.endpoints(),
        *BatchAnswers(leaderboard, scores.admission).endpoints(),
        *tops.endpoints(),
        *StreamAnswers(tops, rules, pause_ms=settings.top_cache_ms, most=settings.stream_listeners).endpoints(),
        *HistoryAnswers(engine, rules, names).endpoints(),
        *UserAnswers(engine, leaderboard, names).endpoints(),
        *StatsAnswers(rankings, rules).endpoints(),
        *BoardAnswers(engine).endpoints(),
        *AdminAnswers(leaderboard, engine, rules, late=late).endpoints(),
        *HealthAnswers(leaderboard, rules, partial(boards.get, engine, _DEFAULT_BOARD)).endpoints(),
    ]
    app = application(endpoints, settings, Keys(partial(api_keys.find, engine)))
    add_pages(app)
    app.wsgi_app = on_own_port(app.wsgi_app, settings.metrics_port)  # type: ignore[assignment,method-assign]
    return app


def _existing(engine: Engine, board: Board, ids: Sequence[PlayerId]) -> Collection[PlayerId]:
    """Which of these players exist; where the board's registration is open, all of them, registered now."""
    if board.open_registration:
        players.register_missing(engine, ids)
        return ids
    return {PlayerId(player_id) for player_id in players.existing(engine, ids)}


def application(endpoints: Sequence[Endpoint], settings: Settings, keys: Keys) -> Flask:
    """The application that serves these endpoints and nothing else."""
    app = Flask("rangeboard", static_folder=None)
    app.url_map.merge_slashes = False
    served = [(endpoint, serving(endpoint, settings, keys)) for endpoint in endpoints]
    for endpoint, serve in served:
        app.add_url_rule(
            endpoint.path,
            f"{endpoint.method} {endpoint.path}",
            _view(serve),
            methods=[endpoint.method],
            provide_automatic_options=False,
        )
    app.wsgi_app = ahead_of(app.wsgi_app, served)  # type: ignore[assignment,method-assign]
    openapi = msgspec.json.encode(document(endpoints, version("rangeboard"), reads_open=settings.reads_open))

    @app.get("/openapi.json")
    def describe() -> Response:
        return Response(openapi, content_type=JSON)

    @app.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        """What met no endpoint: no such address, another method, or a defect outside of the endpoints."""
        served = refusal(_meant(error), request.environ, request_id_of(request.environ), wrote=False)
        observe_request(NO_ENDPOINT, _method(request.method), served.status, 0.0)
        return Response(*served)

    return app


def _view(serve: Callable[..., Served]) -> Callable[..., Response]:
    def view(**path: str) -> Response:
        return Response(*serve(request.environ, **path))

    return view


def _method(method: str) -> str:
    """The method as a label: a client may send any word."""
    return method if method in {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"} else "other"


def _meant(error: Exception) -> Exception:
    """What Flask and Werkzeug refuse, in our words."""
    match error:
        case MethodNotAllowed():
            allowed = ", ".join(sorted(error.valid_methods or ()))
            return problems.MethodNotAllowed(f"it takes {allowed}", headers={"Allow": allowed})
        case NotFound():
            return problems.NotFound(request.path[:200])
        case HTTPException() if error.code is not None and error.code < 500:
            return problems.Malformed(error.description or "")
        case _:
            return error
