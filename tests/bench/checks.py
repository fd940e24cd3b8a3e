"""Results are correct under all of it: after a benchmark, every player's points are what the audit log adds up to."""

from datetime import UTC, datetime

from sqlalchemy import Engine

from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, period_at
from workers.verify import Verdict, verify

_STEP_S = 60.0


class Disagreement(Exception):
    """Board and audit log do not tell the same after a benchmark: its figures are those of a defect."""


def check(leaderboard: Leaderboard, engine: Engine, name: BoardPeriod | None = None) -> Verdict:
    """Compare a board with its audit log, the global one unless another is named. Disagreement, with what differs."""
    name = name or BoardPeriod("global", period_at(PeriodKind.MONTH, datetime.now(UTC)).name)
    shard_map = leaderboard.maps.published(name, Deadline.after(_STEP_S))
    verdict = verify(leaderboard, engine, shard_map, lambda _: None)
    if not verdict.agrees:
        raise Disagreement(
            f"{name}: {verdict.different:,} players differ, {verdict.rows_in_redis:,} rows in Redis,"
            f" {verdict.players_in_audit:,} players in the audit log; the first are {verdict.differences[:5]}"
        )
    return verdict
