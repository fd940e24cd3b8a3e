"""After the load: wait until the audit has caught up, then let the checker compare.

The audit log runs behind by design, so a row that is missing now is not lost yet. Asking again until the books agree
or patience ends is sound, because nothing is sent any more: the final state can only come closer to the truth.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from loadtest.checker import Anomaly, Verdict, check
from loadtest.games import Games
from loadtest.ledger import Answer, Entry

_POLL_S = 0.2
_COUNTED = frozenset({Answer.ACKNOWLEDGED, Answer.DUPLICATE})
#: What passes by itself while the audit catches up.
_PASSING = (Anomaly.LOST, Anomaly.WRONG_POINTS)

#: The points of these players, now.
Points = Callable[[Sequence[str]], Mapping[str, int | None]]


def settled_books(
    entries: Sequence[Entry],
    points: Points,
    games: Games | None,
    patience_s: float,
    progress: Callable[[int, int], None],
) -> Verdict:
    """The verdict, once the books agree, or when patience ends. Without `games` there is nothing to wait for.

    `progress` is told how many rows the audit log has, and how many it must get.
    """
    players = sorted({entry.player for entry in entries})
    if games is None:
        return check(entries, points(players))
    certain = len({(entry.player, entry.match_id) for entry in entries if entry.answer in _COUNTED})
    until = time.monotonic() + patience_s
    while True:
        count = games.count(players)
        progress(count, certain)
        last_time = time.monotonic() > until
        if count >= certain or last_time:
            books = check(entries, points(players), games.rows(players))
            if last_time or not any(books.anomalies[anomaly] for anomaly in _PASSING):
                return books
        time.sleep(_POLL_S)
