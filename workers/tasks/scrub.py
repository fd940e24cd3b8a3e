"""Scrubbing.

`scrub_all`: late: what is wrong stays wrong for longer. Twice: the second goes on where the first stopped. Beside
itself: whoever finds the lease of a board taken passes it over.
"""

from datetime import UTC, datetime

from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.errors import LeaderboardError, UnknownBoard
from workers import resources
from workers.periods import open_boards
from workers.scrub import scrub
from workers.tasks.base import job, log

#: Of a minute, so that other tasks find the worker free.
_SCRUB_S = 30.0
#: Slow: what it looks for takes two failures at once, and it shares the nodes with those who play.
_PLAYERS_PER_S = 2_000.0


@job("scrub.scrub_all")
def scrub_all() -> None:
    """Go on with the pass over every open board."""
    leaderboard, engine = resources.leaderboard(), resources.engine()
    boards = open_boards(engine, datetime.now(UTC))
    end = Deadline.after(_SCRUB_S)
    for number, (board, period) in enumerate(boards):
        share = Deadline.after(end.remaining() / (len(boards) - number))
        try:
            shard_map = leaderboard.maps.current(BoardPeriod(board, period), share)
            scrub(leaderboard, engine, shard_map, share, players_per_s=_PLAYERS_PER_S, resume=True)
        except UnknownBoard:
            continue
        except LeaderboardError as error:
            log.warning("scrub_put_off", board=board, period=period, reason=error.detail)
