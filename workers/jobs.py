"""The long jobs that a worker does, asked for over HTTP or due: what each kind does, and what becomes of its row.

The jobs themselves are those of the command, and as resumable: one whose worker died goes on where it was when it is
asked for again. How far one is gets written about once a second, and a progress that cannot be written keeps nobody
from working.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import msgspec
from celery.exceptions import SoftTimeLimitExceeded
from sqlalchemy import Engine

from records import jobs
from records.errors import RecordsError, RecordsUnavailable
from records.jobs import Job, JobUnderWay
from runtime import failpoints
from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.errors import LeaderboardError, NotNow
from sharding.leaderboard import Leaderboard
from sharding.shard_map import cut_after
from workers.archive import Archive
from workers.patience import patiently
from workers.rebuild import Rebuild
from workers.recutting import recut
from workers.verify import verify

_STEP_S = 10.0
_WRITTEN_EVERY_S = 1.0
_MOST_LISTED = 100
_TOOK_TOO_LONG = {"error": "TookTooLong", "detail": "it took too long; ask for it again, it goes on where it was"}

Report = Callable[[int, int | None], None]


class Jobs:
    """Does jobs, one at a time."""

    def __init__(self, leaderboard: Leaderboard, engine: Engine, settings: Settings) -> None:
        self._leaderboard = leaderboard
        self._engine = engine
        self._settings = settings

    def archive_due(self, name: BoardPeriod) -> None:
        """Archive a period that is due, as a job like any other: so everybody can see how far it is, and why it is not.

        Nothing, if the same is under way. Raises what keeps it from its end.
        """
        try:
            job = jobs.ask_again(self._engine, "archive", name.board, name.period)
        except JobUnderWay:
            return
        self.run(job.id)

    def run(self, job_id: str) -> None:
        """Do a job that waits, and write down how it ended; whatever keeps it from its end is raised, too."""
        with jobs.taken(self._engine, job_id) as job:
            if job is None:
                return
            failpoints.reach("job.taken")
            try:
                result = self._do(job, self._reporting(job_id))
            except (LeaderboardError, RecordsError) as error:
                self._finish(job_id, "failed" if error.retryable else "refused", problem=_told(error))
                raise
            except SoftTimeLimitExceeded:
                self._finish(job_id, "failed", problem=_TOOK_TOO_LONG)
                raise
            except BaseException:
                self._finish(
                    job_id, "failed", problem={"error": "InternalError", "detail": f"the log has job {job_id}"}
                )
                raise
            self._finish(job_id, "done", result=result)

    def _do(self, job: Job, report: Report) -> dict[str, Any]:
        name, asked = BoardPeriod(job.board, job.period), job.asked
        match job.kind:
            case "archive":
                closed = Archive(self._leaderboard, self._engine, self._settings).close(name, datetime.now(UTC), report)
                if closed is None:
                    raise NotNow(f"{name} is being archived or rebuilt already")
                return asdict(closed)
            case "rebuild":
                rebuild = Rebuild(self._leaderboard, self._engine, name)
                if asked["shard"] is not None:
                    return asdict(rebuild.shard(asked["shard"], report))
                return asdict(rebuild.whole(report, force=asked["force"]))
            case "verify":
                return self._verify(name, report, repair=asked["repair"])
            case "rebalance":
                order = self._leaderboard.maps.published(name, Deadline.after(_STEP_S)).board.order
                cuts = sorted(cut_after(points, order) for points in asked["cuts"])
                rate = asked["players_per_s"]
                return asdict(recut(self._leaderboard, self._engine, name, cuts, report, players_per_s=rate))

    def _verify(self, name: BoardPeriod, report: Report, *, repair: bool) -> dict[str, Any]:
        shard_map = self._leaderboard.maps.published(name, Deadline.after(_STEP_S))
        total = self._leaderboard.stats(name, Deadline.after(_STEP_S)).total
        done = 0

        def compared(count: int) -> None:
            nonlocal done
            done += count
            report(done, max(total, done))

        verdict = verify(self._leaderboard, self._engine, shard_map, compared, repair=repair)
        told: dict[str, Any] = msgspec.to_builtins(verdict)
        return {**told, "agrees": verdict.agrees, "differences": told["differences"][:_MOST_LISTED]}

    def _reporting(self, job_id: str) -> Report:
        """Writes progress, the first and then about once a second, and the last."""
        written_at = float("-inf")

        def report(done: int, total: int | None) -> None:
            nonlocal written_at
            if done == total or time.monotonic() - written_at >= _WRITTEN_EVERY_S:
                written_at = time.monotonic()
                with suppress(RecordsError):
                    jobs.progress(self._engine, job_id, done, total)
            failpoints.reach("job.working")

        return report

    def _finish(self, job_id: str, state: jobs.End, **told: Any) -> None:
        patiently(lambda: jobs.finish(self._engine, job_id, state, **told))


def _told(error: LeaderboardError | RecordsError) -> dict[str, str]:
    """What a client is told; what PostgreSQL's driver says names hosts and users, so that stays in the log."""
    detail = "PostgreSQL is away; ask again" if isinstance(error, RecordsUnavailable) else error.detail
    return {"error": type(error).__name__, "detail": detail}
