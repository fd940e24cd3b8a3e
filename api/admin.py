"""What an operator asks of a board: how its shards are, and long jobs, which answer at once and are looked at later.

A job is a row in PostgreSQL (records/jobs.py) that the workers take. What can be seen to be impossible is refused right
here; the rest is seen by the job, whose state is `refused` then.
"""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, TypeVar

from sqlalchemy import Engine

from api import schemas
from api.auth import Scope
from api.boards import BoardRules
from api.endpoints import BASE, Endpoint, Reply
from api.finals import until
from api.periods import on_board, period_to_read
from api.problems import NotFound, type_of
from api.requests import Call, NoQuery
from records import archives, jobs, shard_maps
from runtime.deadlines import Deadline
from sharding.boards import Board, BoardPeriod
from sharding.errors import PeriodNotOver, RebuildRefused, UnknownBoard
from sharding.leaderboard import Leaderboard
from sharding.outbox import Backlog
from sharding.periods import Period
from sharding.shard_map import check_cuts

PATH = f"{BASE}/admin"

T = TypeVar("T")


class AdminAnswers:
    """What is answered to operators."""

    def __init__(self, leaderboard: Leaderboard, engine: Engine, rules: BoardRules, *, late: timedelta) -> None:
        """`late`: how long a period takes submissions after its end."""
        self._leaderboard = leaderboard
        self._engine = engine
        self._rules = rules
        self._late = late

    def endpoints(self) -> list[Endpoint]:
        """The addresses for operators."""
        return [
            self._job("archive", self.archive, schemas.NewArchive, "Close a period that is over"),
            self._job(
                "rebuild", self.rebuild, schemas.NewRebuild, "Make a ranking, or a lost shard, from the audit log"
            ),
            self._job("verify", self.verify, schemas.NewVerify, "Compare a ranking with the audit log"),
            self._job(
                "rebalance", self.rebalance, schemas.NewRebalance, "Cut a board's ranges anew while it is in use"
            ),
            Endpoint(
                method="GET",
                path=f"{PATH}/jobs",
                answer=self.jobs,
                summary="The jobs that were asked for last",
                query=schemas.JobsQuery,
                gives=schemas.Jobs,
                scope=Scope.ADMIN,
            ),
            Endpoint(
                method="GET",
                path=f"{PATH}/jobs/<job_id>",
                answer=self.job,
                summary="How far a job is, and how it ended",
                gives=schemas.Job,
                scope=Scope.ADMIN,
                refuses=(404,),
            ),
            Endpoint(
                method="GET",
                path=f"{PATH}/shards",
                answer=self.shards,
                summary="A board's map, and how its players, strays and outboxes spread over shards and nodes",
                query=schemas.BoardQuery,
                gives=schemas.Shards,
                scope=Scope.ADMIN,
                refuses=(404,),
            ),
        ]

    def _job(self, kind: str, answer: Callable[..., Reply], takes: type, summary: str) -> Endpoint:
        return Endpoint(
            method="POST",
            path=f"{PATH}/{kind}",
            answer=answer,
            summary=f"{summary}; the job's status is at Location",
            takes=takes,
            gives=schemas.Job,
            scope=Scope.ADMIN,
            status=HTTPStatus.ACCEPTED,
            refuses=(404, 409, 422),
        )

    # -- jobs

    def archive(self, call: Call[NoQuery, schemas.NewArchive]) -> Reply:
        """Close a period. PeriodNotOver while it takes submissions."""
        board, period = self._named(call.body.board, call.body.period)
        if period.end is None or period.end + self._late > datetime.now(UTC):
            raise PeriodNotOver(f"{board.name}:{period.name} still takes submissions", field="period")
        self._must_have_been_open(board, period, call.deadline)
        return self._ask_for(call, "archive", board, period, {})

    def rebuild(self, call: Call[NoQuery, schemas.NewRebuild]) -> Reply:
        """Make a ranking anew. RebuildRefused where that would take a board in use away without being told to."""
        body = call.body
        board, period = self._named(body.board, body.period)
        name = BoardPeriod(board.name, period.name)
        self._must_have_been_open(board, period, call.deadline)
        if until(call.deadline, lambda: archives.is_archived(self._engine, name.board, name.period)):
            raise RebuildRefused(f"{name} is archived: its final ranking is read from PostgreSQL", field="period")
        try:
            published = self._leaderboard.maps.published(name, call.deadline)
        except UnknownBoard:  # all of it is lost
            if body.shard is not None:
                raise RebuildRefused(f"{name} is lost as a whole: rebuild all of it", field="shard") from None
        else:
            states = self._leaderboard.lifecycle.states(published, call.deadline)
            if body.shard is not None and body.shard not in self._leaderboard.directory.lost_partitions(
                published, call.deadline
            ):
                if body.shard not in states:
                    raise RebuildRefused(f"{name} has no shard {body.shard}", field="shard")
                if states[body.shard] in {"open", "frozen"}:
                    raise RebuildRefused(f"shard {body.shard} of {name} is there", field="shard")
            if body.shard is None and "open" in states.values() and not body.force:
                raise RebuildRefused(f"{name} is in use: to rebuild it all the same takes force", field="force")
        return self._ask_for(call, "rebuild", board, period, {"shard": body.shard, "force": body.force})

    def verify(self, call: Call[NoQuery, schemas.NewVerify]) -> Reply:
        """Compare a ranking with the audit log, or make it what that says."""
        board, period = self._named(call.body.board, call.body.period)
        self._must_be_in_redis(board, period, call.deadline)
        return self._ask_for(call, "verify", board, period, {"repair": call.body.repair})

    def rebalance(self, call: Call[NoQuery, schemas.NewRebalance]) -> Reply:
        """Cut the ranges of the current period anew."""
        body = call.body
        check_cuts(body.cuts)
        board, period = self._named(body.board, None)
        self._must_be_in_redis(board, period, call.deadline)
        asked = {"cuts": body.cuts, "players_per_s": body.players_per_s}
        return self._ask_for(call, "rebalance", board, period, asked)

    def _ask_for(
        self, call: Call[Any, Any], kind: jobs.Kind, board: Board, period: Period, asked: dict[str, Any]
    ) -> Reply:
        job = until(call.deadline, lambda: jobs.ask_for(self._engine, kind, board.name, period.name, asked))
        return Reply(_told(job), HTTPStatus.ACCEPTED, {"Location": f"{PATH}/jobs/{job.id}"})

    def job(self, call: Call[NoQuery, None], job_id: str) -> schemas.Job:
        """How far a job is."""
        job = until(call.deadline, lambda: jobs.get(self._engine, job_id))
        if job is None:
            raise NotFound("there is no such job, or it ended more than a week ago")
        return _told(job)

    def jobs(self, call: Call[schemas.JobsQuery, None]) -> schemas.Jobs:
        """The latest jobs."""
        found = until(call.deadline, lambda: jobs.latest(self._engine, call.query.limit))
        return schemas.Jobs(jobs=[_told(job) for job in found])

    # -- shards

    def shards(self, call: Call[schemas.BoardQuery, None]) -> schemas.Shards:
        """The shards, best range first."""
        as_of = datetime.now(UTC)
        with self._rules.asked_for(call.query) as asked:
            self._leaderboard.maps.forget(
                asked.name
            )  # an operator wants the map that is published, not a remembered one
            shard_map = self._leaderboard.maps.current(asked.name, call.deadline)
            views = self._leaderboard.shards(asked.name, call.deadline, partial=True)
            lost_partitions = self._leaderboard.lost_partitions(asked.name, call.deadline)
            backlogs = self._leaderboard.outbox.backlogs(shard_map, call.deadline)
        by_node: Counter[str] = Counter()
        for view in views:
            by_node[view.node] += view.rows
        return schemas.Shards(
            generation=shard_map.generation,
            version=shard_map.version,
            total_players=sum(view.rows for view in views),
            players_by_node=dict(by_node),
            as_of=as_of,
            lost_partitions=sorted(lost_partitions),
            shards=[
                schemas.Shard(
                    shard=view.shard,
                    slot=view.slot,
                    node=view.node,
                    retiring=view.retiring,
                    best_points=view.best_points,
                    worst_points=view.worst_points,
                    part=view.part,
                    parts=view.parts,
                    players=view.rows,
                    strays=view.strays,
                    leaving=view.leaving,
                    submissions=view.submissions,
                    outbox=view.outbox,
                    lag_seconds=_age(backlogs.get(view.shard), as_of),
                    version=view.version,
                    problem=view.problem,
                )
                for view in views
            ],
            **on_board(asked.board, asked.period),
        )

    # -- what is meant

    def _named(self, board_name: str, period_name: str | None) -> tuple[Board, Period]:
        board = self._rules.get(board_name)
        return board, period_to_read(board, None, period_name, datetime.now(UTC))

    def _must_have_been_open(self, board: Board, period: Period, deadline: Deadline) -> None:
        if until(deadline, lambda: shard_maps.latest(self._engine, board.name, period.name)) is None:
            raise _no_ranking(board, period)

    def _must_be_in_redis(self, board: Board, period: Period, deadline: Deadline) -> None:
        try:
            self._leaderboard.maps.current(BoardPeriod(board.name, period.name), deadline)
        except UnknownBoard:
            raise _no_ranking(board, period) from None


def _no_ranking(board: Board, period: Period) -> UnknownBoard:
    return UnknownBoard(f"Redis has no ranking of {board.name}:{period.name}", field="period")


def _age(backlog: object, now: datetime) -> float | None:
    """The seconds that the oldest entry of an outbox waits; None if nobody can tell."""
    if not isinstance(backlog, Backlog):
        return None
    if not backlog.entries:
        return 0.0
    return max(0.0, round(now.timestamp() - backlog.oldest_ms / 1000, 3))


def _told(job: jobs.Job) -> schemas.Job:
    problem = job.problem
    return schemas.Job(
        id=job.id,
        kind=job.kind,
        board=job.board,
        period=job.period,
        asked=job.asked,
        state=job.state,
        progress=schemas.Progress(done=job.done, total=job.total),
        asked_at=job.asked_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        result=job.result,
        problem=schemas.JobProblem(type=type_of(problem["error"]), detail=problem["detail"]) if problem else None,
    )
