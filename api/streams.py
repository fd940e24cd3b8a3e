"""The top as server-sent events: to everybody who listens, whenever it has changed.

A process watches a board once, however many listen: one thread looks at the top that the process keeps anyway
(sharding/tops.py), as often as that is read anew. So Redis has no more to do for a thousand listeners than for one.

Nothing is queued for anybody. A listener who is ready gets the top of that moment, if it is another than the last one
sent; who takes long misses some in between; and who takes nothing for so long that the server gives the connection up
(api/server.py) is gone. A comment every now and then shows both sides that the other one is still there. A process that
ends lets its streams end, and clients come back to another one by themselves.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import structlog

from api import schemas
from api.auth import Scope
from api.boards import Asked, BoardRules
from api.ending import ENDING
from api.endpoints import BASE, Endpoint, Streamed
from api.metrics import stream_listeners
from api.rankings import RankingAnswers
from api.requests import Call
from records.errors import RecordsError
from runtime.deadlines import Deadline
from sharding.errors import LeaderboardError, Unavailable
from sharding.leaderboard import Page

PATH = f"{BASE}/stream"
EVENT_STREAM = "text/event-stream"

_HEARTBEAT_S = 15.0
_COMMENT = b": nothing new\n\n"
_COME_BACK_MS = 2_000
_LOOK_S = 3.0
_LEAST_PAUSE_S = 0.1

log = structlog.get_logger()


class Seen(NamedTuple):
    """A top, and of which board period it is."""

    asked: Asked
    page: Page


class StreamAnswers:
    """What is told to those who listen."""

    def __init__(self, rankings: RankingAnswers, rules: BoardRules, *, pause_ms: int, most: int) -> None:
        """`pause_ms`: between two looks at a top. `most`: listeners of this process."""
        self._rankings = rankings
        self._rules = rules
        self._pause_s = max(pause_ms / 1000, _LEAST_PAUSE_S)
        self._most = most
        self._listening = 0
        self._watches: dict[str, _Watch] = {}
        self._lock = threading.Lock()

    def endpoints(self) -> list[Endpoint]:
        """The address of the stream."""
        return [
            Endpoint(
                method="GET",
                path=PATH,
                answer=self.listen,
                summary="The top, as server-sent events named `top`: now, and whenever it changes",
                query=schemas.StreamQuery,
                gives=schemas.Entries,
                media_type=EVENT_STREAM,
                scope=Scope.READ,
                refuses=(404,),
            )
        ]

    def listen(self, call: Call[schemas.StreamQuery, None]) -> Streamed:
        """The events. Unavailable if as many listen to this process as may."""
        board = call.query.board
        seen = self._look(board, call.deadline)
        with self._lock:
            if self._listening >= self._most or ENDING.told:
                raise Unavailable("as many listen to this process as may; try again, or read GET /scores")
            self._listening += 1
            stream_listeners.inc()
            watch = self._watches.get(board)
            if watch is None:
                watch = self._watches[board] = _Watch(seen)
                threading.Thread(target=self._keep_watch, args=(board, watch), daemon=True).start()
            else:
                watch.show(seen)
            watch.listeners += 1
        return Streamed(_Listener(watch, call.query.limit, self._encoded, lambda: self._left(watch)), EVENT_STREAM)

    def _left(self, watch: "_Watch") -> None:
        with self._lock:
            self._listening -= 1
            watch.listeners -= 1
        stream_listeners.dec()

    def _keep_watch(self, board: str, watch: "_Watch") -> None:
        """Look at the top again and again, for as long as anybody listens."""
        try:
            while self._is_wanted(board, watch):
                try:
                    watch.show(self._look(board, Deadline.after(_LOOK_S)))
                except (LeaderboardError, RecordsError) as error:
                    log.debug("top_not_seen", board=board, reason=error.detail)
                time.sleep(self._pause_s)
        finally:
            watch.end()

    def _is_wanted(self, board: str, watch: "_Watch") -> bool:
        with self._lock:
            if watch.listeners and not ENDING.told:
                return True
            del self._watches[board]
            return False

    def _look(self, board: str, deadline: Deadline) -> Seen:
        with self._rules.asked_for(schemas.BoardQuery(board=board)) as asked:
            return Seen(asked, self._rankings.recent_top(asked, deadline))

    def _encoded(self, seen: Seen, limit: int) -> bytes:
        """The event that tells of a top: what `GET /scores?limit=…` would have answered then."""
        query = schemas.PageQuery(board=seen.asked.board.name, limit=limit)
        told = self._rankings.encoded_top(seen.asked, seen.page, query)
        return b"event: top\nid: %d\ndata: %s\n\n" % (seen.page.as_of_ms, bytes(told))


class _Watch:
    """The top of a board, as it was seen last, and who waits for the next one."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.listeners = 0
        self.ended = False
        self.news = threading.Condition()
        #: the event that tells of `seen`, by length
        self.encoded: dict[int, bytes] = {}

    def show(self, seen: Seen) -> None:
        """Wake the listeners if anything has changed. What was read before the last one shown is not shown any more."""
        with self.news:
            if seen.page.as_of_ms < self.seen.page.as_of_ms and seen.asked.name == self.seen.asked.name:
                return
            changed = seen.asked.name != self.seen.asked.name or seen.page.rows != self.seen.page.rows
            self.seen, self.encoded = seen, {}
            if changed:
                self.news.notify_all()

    def end(self) -> None:
        """Let all streams end."""
        with self.news:
            self.ended = True
            self.news.notify_all()


class _Listener(Iterator[bytes]):
    """The events of one client, made when the client is ready for them."""

    def __init__(
        self, watch: _Watch, limit: int, encoded: Callable[[Seen, int], bytes], leave: Callable[[], None]
    ) -> None:
        self._watch = watch
        self._limit = limit
        self._encoded = encoded
        self._leave: Callable[[], None] | None = leave
        self._sent: object = None

    def __next__(self) -> bytes:
        watch, beginning = self._watch, b"" if self._sent else b"retry: %d\n" % _COME_BACK_MS
        with watch.news:
            fresh = watch.news.wait_for(lambda: watch.ended or self._told(watch.seen) != self._sent, _HEARTBEAT_S)
            seen, encoded, ended = watch.seen, watch.encoded, watch.ended
        if ended:
            raise StopIteration
        if not fresh:
            return _COMMENT
        self._sent = self._told(seen)
        if self._limit not in encoded:
            encoded[self._limit] = self._encoded(seen, self._limit)
        return beginning + encoded[self._limit]

    def _told(self, seen: Seen) -> object:
        """What a client would see of a top."""
        return seen.asked.name, seen.page.rows[: self._limit]

    def close(self) -> None:
        """The server calls this when the client has gone."""
        if self._leave is not None:
            leave, self._leave = self._leave, None
            leave()

    def __del__(self) -> None:
        self.close()  # the answer to a HEAD is never begun, so the server does not close it either
