"""`rangeboard demo`: the guided tour. Everything is done through the public HTTP API of a running stack.

Fifty named players win a few thousand matches; then the tour looks at the top, one rank, the neighbours, the board as a
whole and the shards below it, and shows what happens to a retry, a stranger and a malformed request.
"""

import http.client
import json
import random
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import local
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.errors import StackError
from sharding.leaderboard import ShardView

_FIRST = ("Ada", "Alan", "Barbara", "Claude", "Donald", "Edsger", "Frances", "Grace", "Hedy", "Ida")
_LAST = ("of the Hills", "Quickstep", "the Patient", "Nightowl", "One-More-Game")
_WINS = 3_000
_AT_ONCE = 16
_TIMEOUT_S = 10
_WORST_STATUS = 500


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API answered."""

    status: int
    body: Any


class Api:
    """The HTTP API as a game server would call it: one kept-alive connection a thread."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._key = key
        self._thread = local()

    def call(self, method: str, path: str, body: object = None, *, raw: bytes | None = None) -> Reply:
        """Make one call below /api/v1. StackError if nobody answers."""
        connection = getattr(self._thread, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
            self._thread.connection = connection
        sent = raw if raw is not None else None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            connection.request(method, f"/api/v1{path}", sent, headers)
            response = connection.getresponse()
            return Reply(response.status, json.loads(response.read() or b"null"))
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise StackError(f"The API at http://{self._host}:{self._port} did not answer: {error}") from error


@dataclass(frozen=True, slots=True)
class _Hero:
    user_id: str
    name: str
    skill: float


def _heroes(rng: random.Random) -> list[_Hero]:
    names = [f"{first} {last}" for last in _LAST for first in _FIRST]
    return [_Hero(f"demo-{number:02}", name, rng.lognormvariate(0, 1.0)) for number, name in enumerate(names, start=1)]


def tour(api: Api, console: Console, shards: Callable[[], list[ShardView]], *, rng: random.Random) -> None:
    """Walk through a leaderboard's day on `console`. `shards`: the operator's look into the global board's shards."""
    heroes = _heroes(rng)
    console.print(Panel.fit("[bold]Rangeboard[/]: one ranking over many shards, exact at every moment", style="cyan"))
    _players(api, console, heroes)
    _wins(api, console, heroes, rng)
    _reads(api, console, heroes)
    _look_into_shards(console, shards())
    _edge_cases(api, console, heroes[0])
    _what_next(console)


@contextmanager
def _chapter(console: Console, title: str, call: str) -> Iterator[None]:
    console.print(f"\n[bold cyan]{title}[/]  [dim]{call}[/]", highlight=False)
    yield


def _players(api: Api, console: Console, heroes: list[_Hero]) -> None:
    with _chapter(console, "Fifty players", "POST /users:batch"):
        players = [{"user_id": hero.user_id, "username": hero.user_id, "display_name": hero.name} for hero in heroes]
        _expect(api.call("POST", "/users:batch", players))
        console.print(f"  {', '.join(hero.name for hero in heroes[:4])} and {len(heroes) - 4} more")


def _wins(api: Api, console: Console, heroes: list[_Hero], rng: random.Random) -> None:
    run = secrets.token_hex(3)
    winners = rng.choices(heroes, weights=[hero.skill for hero in heroes], k=_WINS)
    bar = Progress(
        TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    with (
        _chapter(console, f"{_WINS:,} wins, one point each", "POST /scores"),
        bar,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        task = bar.add_task("matches", total=_WINS)

        def win(numbered: tuple[int, _Hero]) -> None:
            number, hero = numbered
            body = {"user_id": hero.user_id, "score": 1, "match_id": f"demo-{run}-{number}"}
            _expect(api.call("POST", "/scores?rank=none", body))
            bar.advance(task)

        for _ in pool.map(win, enumerate(winners)):
            pass


def _reads(api: Api, console: Console, heroes: list[_Hero]) -> None:
    with _chapter(console, "The top ten", "GET /scores?limit=10"):
        console.print(_ranking(_expect(api.call("GET", "/scores?limit=10"))["entries"]))
    middle = heroes[len(heroes) // 2]
    with _chapter(console, f"Where is {middle.name}?", f"GET /scores/{middle.user_id}"):
        standing = _expect(api.call("GET", f"/scores/{middle.user_id}"))
        console.print(
            f"  rank [bold]{standing['rank']}[/] of {standing['total_players']:,} with {standing['score']:,} points;"
            f" as good as or better than {standing['percentile']:.1f} % of all players"
        )
    with _chapter(console, "The neighbours", f"GET /scores/{middle.user_id}/surrounding?offset=3"):
        console.print(_ranking(_expect(api.call("GET", f"/scores/{middle.user_id}/surrounding?offset=3"))["entries"]))
    with _chapter(console, "The board as a whole", "GET /stats"):
        stats = _expect(api.call("GET", "/stats"))
        console.print("  " + " · ".join(f"{name.replace('_', ' ')} [bold]{value}[/]" for name, value in stats.items()))


def _ranking(entries: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2))
    table.add_column("rank", justify="right", style="bold")
    table.add_column("player")
    table.add_column("score", justify="right")
    for entry in entries:
        style = "reverse" if entry.get("is_current_user") else None
        table.add_row(
            str(entry["rank"]), entry.get("display_name") or entry["user_id"], f"{entry['score']:,}", style=style
        )
    return table


def _look_into_shards(console: Console, views: list[ShardView]) -> None:
    with _chapter(console, "Below it: shards by score range, over the nodes of the cluster", "rangeboard shards"):
        console.print(shard_table(views))


def shard_table(views: list[ShardView]) -> Table:
    """The shards of a board, best range first, with a bar for the players in each."""
    most = max((view.rows for view in views), default=0) or 1
    table = Table(box=None, padding=(0, 2))
    for title in ("shard", "points", "node", "players", ""):
        table.add_column(title, justify="right" if title in {"shard", "players"} else "left")
    for view in views:
        table.add_row(
            f"{view.shard}",
            _points(view),
            view.node,
            "?" if view.problem else f"{view.rows:,}",
            _bar(view, most),
        )
    return table


def _bar(view: ShardView, most: int) -> str:
    if view.problem:
        return "[red]cannot be looked into[/]"
    return f"[cyan]{'█' * round(30 * view.rows / most)}[/]" + (f" {view.strays} strays" if view.strays else "")


def _points(view: ShardView) -> str:
    best, worst = view.best_points, view.worst_points
    split = f" part {view.part + 1}/{view.parts}" if view.parts > 1 else ""
    if best is None or worst is None:
        bound = worst if best is None else best
        side = "beyond" if best is None else "less"
        return f"all{split}" if bound is None else f"{bound:,} and {side}{split}"
    low, high = sorted((best, worst))
    return (f"{low:,}" if low == high else f"{low:,} … {high:,}") + split


def _edge_cases(api: Api, console: Console, hero: _Hero) -> None:
    match = f"demo-retry-{secrets.token_hex(3)}"
    body = {"user_id": hero.user_id, "score": 1, "match_id": match}
    cases = [
        ("a win", "POST", "/scores", body, None),
        ("the same again: it counts once", "POST", "/scores", body, None),
        ("the same match, another score", "POST", "/scores", {**body, "score": 2}, None),
        ("nobody of that name", "POST", "/scores", {"user_id": "no-such-player", "score": 1, "match_id": match}, None),
        ("not JSON", "POST", "/scores", None, b'{"user_id": '),
        ("a month that does not exist", "GET", "/scores?month=2026-13", None, None),
    ]
    with _chapter(console, "Edge cases", "every refusal says what and where, and changes nothing"):
        for title, method, path, sent, raw in cases:
            reply = api.call(method, path, sent, raw=raw)
            if reply.status >= _WORST_STATUS:
                raise StackError(f"{method} {path} was answered with {reply.status}: {reply.body}")
            colour = "green" if reply.status < http.HTTPStatus.BAD_REQUEST else "yellow"
            told = (
                reply.body.get("detail")
                or f"score {reply.body['score']}, applied: {str(reply.body['applied']).lower()}"
            )
            console.print(f"  [{colour}]{reply.status}[/]  {title}: [dim]{told}[/]", highlight=False)


def _what_next(console: Console) -> None:
    console.print(
        Panel.fit(
            "rangeboard seed --players 100000 --games 500000   volume\n"
            "rangeboard shards                                 how it spreads\n"
            "rangeboard status                                 addresses, processes, the API key\n"
            "docs/tour.md                                      how it works, in reading order",
            title="what to try next",
            style="cyan",
        )
    )


def _expect(reply: Reply) -> Any:
    if reply.status >= http.HTTPStatus.BAD_REQUEST:
        raise StackError(f"The API answered {reply.status}: {reply.body}")
    return reply.body
