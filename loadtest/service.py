"""The service as the run itself needs it: is it there, what can it do, make the players, tell their points.

Plain, patient HTTP, outside of any measurement. Everything that goes wrong is a `ServiceError` in one sentence.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

_BASE = "/api/v1"
_TIMEOUT_S = 30.0
_CONNECTIONS = 8
_PLAYERS_AT_ONCE = 5_000
_LOOKUP_AT_ONCE = 500

#: Told how many more are done.
Progress = Callable[[int], None]


class ServiceError(Exception):
    """The service cannot be tested as it is."""


class Service:
    """A Rangeboard API."""

    def __init__(self, url: str, api_key: str) -> None:
        """`url`: without a path, such as `http://127.0.0.1:8080`."""
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {api_key}"
        # All that is asked here may be asked twice. A service whose processes are being killed closes connections.
        again = Retry(3, status=0, backoff_factor=0.3, allowed_methods=None)
        for scheme in ("http://", "https://"):
            adapter = HTTPAdapter(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS, max_retries=again)
            self._session.mount(scheme, adapter)

    def __enter__(self) -> "Service":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    def period(self) -> str:
        """The period that is open now on the global board."""
        stats = self._json("GET", "/stats")
        return str(stats.get("month") or stats["period"])

    def has(self, address: str) -> bool:
        """Whether there is something that can be posted to. An empty list is sent, which changes nothing."""
        return self._request("POST", address, json=[]).status_code not in {404, 405}

    def make_players(self, players: Sequence[str], run: str, progress: Progress) -> None:
        """Make players with these ids; those who are there already stay as they are."""
        for begin in range(0, len(players), _PLAYERS_AT_ONCE):
            some = players[begin : begin + _PLAYERS_AT_ONCE]
            users = [
                {"user_id": player, "username": f"{run}-{number}", "display_name": f"Load {number}"}
                for number, player in enumerate(some, begin)
            ]
            made = self._json("POST", "/users:batch", json=users)
            if made["refused"]:
                raise ServiceError(f"{self.url} refused {made['refused']} of {len(some)} new players")
            progress(len(some))

    def points(self, players: Sequence[str], period: str) -> dict[str, int | None]:
        """Each player's points in that period, None for those who are not on the board."""
        with ThreadPoolExecutor(_CONNECTIONS) as threads:
            if not self.has("/scores/lookup"):
                return dict(
                    zip(players, threads.map(lambda player: self._standing(player, period), players), strict=True)
                )
            chunks = [players[at : at + _LOOKUP_AT_ONCE] for at in range(0, len(players), _LOOKUP_AT_ONCE)]
            parts = threads.map(lambda chunk: self._looked_up(chunk, period), chunks)
            return {player: points for part in parts for player, points in part.items()}

    def _standing(self, player: str, period: str) -> int | None:
        answer = self._request("GET", f"/scores/{player}", params={"month": period})
        if answer.status_code == 404:
            return None
        return int(_body(answer)["score"])

    def _looked_up(self, players: Sequence[str], period: str) -> dict[str, int | None]:
        answer = self._json("POST", "/scores/lookup", params={"month": period}, json={"user_ids": list(players)})
        found: dict[str, int | None] = dict.fromkeys(players)
        return found | {entry["user_id"]: int(entry["score"]) for entry in answer["entries"]}

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        return _body(self._request(method, path, **options))

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        try:
            return self._session.request(method, f"{self.url}{_BASE}{path}", timeout=_TIMEOUT_S, **options)
        except requests.RequestException as error:
            raise ServiceError(f"{self.url} does not answer: {_reason(error)}") from error


def _body(answer: requests.Response) -> dict[str, Any]:
    if not answer.ok:
        raise ServiceError(f"{answer.request.method} {answer.url} was answered {answer.status_code}: {_detail(answer)}")
    try:
        body = answer.json()
    except ValueError as error:
        raise ServiceError(f"{answer.url} does not answer as Rangeboard does: {answer.text[:80]!r}") from error
    return body if isinstance(body, dict) else {}


def _detail(answer: requests.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:80]


def _reason(error: BaseException) -> str:
    """The innermost reason: requests wraps it three times."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error)
