"""What boards and records owe to changes of players: who is hidden is hidden everywhere, who is erased is forgotten.

PostgreSQL has the wish, written down in the transaction that changes the player; the API carries it out at once, where
it can. What is done here is the same again: for what the API left when it died or a shard was away, and for a
submission that was on its way meanwhile, by somebody who had looked before. So a change is gone over until it is older
than any request, and an erasure until nothing names the player.

An erased player leaves the open boards first; then their outboxes are drained, so that nothing names the player but the
audit log; then the log and the final rankings get a pseudonym instead. A period that is over and not archived yet has
to wait for its archive: until then its ranking and its log must go on to name the same players.
"""

from collections.abc import Sequence
from datetime import datetime

import structlog
from sqlalchemy import Engine

from records import archives, players
from runtime import failpoints
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.errors import LeaderboardError, UnknownBoard
from sharding.leaderboard import Leaderboard
from sharding.players import PlayerId
from sharding.submissions import removal_of
from workers.draining import drain_now
from workers.periods import open_boards

log = structlog.get_logger()

#: Longer than any request takes, and than any process remembers that a player is not hidden.
SETTLED_S = 60.0
_MOST_CHANGES = 1_000
_MOST_TURNS = 3
_MOST_ERASURES = 100
_STEP_S = 10.0
_DRAIN_S = 60.0


def settle_visibility(leaderboard: Leaderboard, engine: Engine, now: datetime, *, settled_s: float = SETTLED_S) -> int:
    """Make all open boards hide and show whom they should; how many players that concerned."""
    changed = players.visibility_changed(engine, most=_MOST_CHANGES)
    wanted = {PlayerId(player): hidden for player, hidden in changed.items()}
    newer = wanted
    for _ in range(_MOST_TURNS):
        if not newer:
            break
        leaderboard.hide_everywhere(_open(engine, now), newer, Deadline.after(_STEP_S))
        # Where somebody changed a wish meanwhile, the API has told the boards the new one, and this may have told them
        # the older one after that.
        hidden = players.hidden_among(engine, newer)
        newer = {player: player in hidden for player, was in newer.items() if (player in hidden) is not was}
    if wanted:
        players.visibility_settled(engine, wanted, after_s=settled_s)
    return len(wanted)


def erase_pending(leaderboard: Leaderboard, engine: Engine, now: datetime) -> int:
    """Go on with all erasures; how many players are forgotten now. One that cannot go on does not keep the others."""
    names = _open(engine, now)
    erased: list[str] = []
    closed: set[BoardPeriod] = set()
    for player in players.erasures_pending(engine, most=_MOST_ERASURES):
        removal = removal_of(PlayerId(player), f"erasure:{now.timestamp()}")
        try:
            closed.update(leaderboard.remove_everywhere(names, removal, Deadline.after(_STEP_S))[1])
        except LeaderboardError as error:
            log.warning("erasure_put_off", reason=error.detail)
        else:
            erased.append(player)
    if not erased:
        return 0
    failpoints.reach("erasure.removed")
    _drain(leaderboard, engine, names)
    failpoints.reach("erasure.drained")
    at_rest = {(name.board, name.period) for name in names if name not in closed}
    waiting = [name for name in archives.unarchived(engine) if name not in at_rest]
    forgotten = sum(players.forget(engine, player, keep=waiting) for player in erased)
    if forgotten:
        log.info("players_forgotten", players=forgotten)
    return forgotten


def _drain(leaderboard: Leaderboard, engine: Engine, names: Sequence[BoardPeriod]) -> None:
    for name in names:
        try:
            shard_map = leaderboard.maps.current(name, Deadline.after(_STEP_S))
        except UnknownBoard:
            continue
        drain_now(leaderboard, engine, shard_map, Deadline.after(_DRAIN_S))


def _open(engine: Engine, now: datetime) -> list[BoardPeriod]:
    return [BoardPeriod(board, period) for board, period in open_boards(engine, now)]
