"""Long jobs, asked for over HTTP or due by themselves: what each is to do, how far it is, how it ended.

A row is *queued* until a worker takes it, *running* while it works, and in the end *done*, *refused* (somebody has to
look: the board does not allow it) or *failed*. It is written at most about once a second, survives the broker, and goes
after a week, or when a thousand newer ones have ended.

Of each kind there is one at a time for a board period: the index admits no second one that is not finished. What the
workers do by themselves is tried again and again until it can be done, and has one row for all attempts.

A worker holds the lease of a job for as long as it works at it. So a job that is running while nobody has its lease has
lost its worker; whoever looks at it next writes that down, and then it may be asked for again. A look at a job that is
queued never takes the lease, so it never keeps a worker from it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex
from typing import Any, Literal

from sqlalchemy import ColumnElement, Engine, Select, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from records.engine import reading, transaction
from records.errors import Conflict, RecordsError
from records.leases import lease
from records.tables import jobs

Kind = Literal["archive", "rebuild", "rebalance", "verify"]
End = Literal["done", "failed", "refused"]
State = Literal["queued", "running"] | End

#: Jobs that may wait or run at a time, and those that run.
MOST_ACTIVE = 100
MOST_RUNNING = 2
MOST_KEPT = 1_000
_KEPT = text("now() - interval '7 days'")
_ID_BYTES = 8
_BY_ITSELF: dict[str, Any] = {"scheduled": True}
LOST = {"error": "WorkerLost", "detail": "the worker that did this is gone; ask for it again, it goes on where it was"}


class JobUnderWay(RecordsError):
    """The same job is under way already."""

    def __init__(self, job_id: str = "") -> None:
        super().__init__(f"job {job_id} does this already" if job_id else "")
        self.job_id = job_id


class TooManyJobs(RecordsError):
    """Too many jobs are waiting."""

    retryable = True


@dataclass(frozen=True, slots=True)
class Job:
    """One job. `done` of `total` players; `problem` is the error's class and what it says."""

    id: str
    kind: Kind
    board: str
    period: str
    asked: dict[str, Any]
    state: State
    done: int
    total: int | None
    asked_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    result: dict[str, Any] | None
    problem: dict[str, str] | None


def ask_for(engine: Engine, kind: Kind, board: str, period: str, asked: dict[str, Any]) -> Job:
    """Queue a job. JobUnderWay if the same is queued or running, TooManyJobs if a hundred are."""
    same = _under_way(kind, board, period)
    _refuse_second(engine, *same)
    values = {"kind": kind, "board": board, "period": period, "asked": asked, "state": "queued"}
    queued = insert(jobs).values(id=token_hex(_ID_BYTES), **values).on_conflict_do_nothing().returning(jobs)
    with transaction(engine) as connection:
        connection.execute(delete(jobs).where(_outdated()))
        waiting = select(func.count()).select_from(jobs).where(jobs.c.finished_at.is_(None))
        if connection.execute(waiting).scalar_one() >= MOST_ACTIVE:
            raise TooManyJobs(f"{MOST_ACTIVE} jobs are waiting; try again when some are done")
        row = connection.execute(queued).mappings().one_or_none()
        if row is None:  # another request was quicker
            raise JobUnderWay(connection.execute(select(jobs.c.id).where(*same)).scalar_one_or_none() or "")
    return Job(**row)


def ask_again(engine: Engine, kind: Kind, board: str, period: str) -> Job:
    """Queue a job that is due by itself, in the row of its last attempt if there is one; raises what `ask_for` does."""
    _refuse_second(engine, *_under_way(kind, board, period))
    of_period = (jobs.c.kind == kind, jobs.c.board == board, jobs.c.period == period, jobs.c.asked == _BY_ITSELF)
    last = select(jobs.c.id).where(*of_period).order_by(jobs.c.asked_at.desc()).limit(1).scalar_subquery()
    anew = dict.fromkeys(("total", "started_at", "finished_at", "result", "problem"))
    waits = update(jobs).where(jobs.c.id == last).values(state="queued", done=0, asked_at=func.now(), **anew)
    try:
        with transaction(engine) as connection:
            row = connection.execute(waits.returning(jobs)).mappings().one_or_none()
    except Conflict as quicker:
        raise JobUnderWay from quicker
    return ask_for(engine, kind, board, period, _BY_ITSELF) if row is None else Job(**row)


def get(engine: Engine, job_id: str) -> Job | None:
    """The job with that id, as it is now."""
    job = _one(engine, select(jobs).where(jobs.c.id == job_id))
    return None if job is None else _looked_at(engine, job)


def latest(engine: Engine, limit: int) -> list[Job]:
    """The jobs that were asked for last, the latest first."""
    with reading(engine) as connection:
        rows = connection.execute(select(jobs).order_by(jobs.c.asked_at.desc()).limit(limit)).mappings().all()
    return [_looked_at(engine, Job(**row)) for row in rows]


def waiting(engine: Engine, limit: int) -> list[str]:
    """The ids of queued jobs, the oldest first."""
    queued = select(jobs.c.id).where(jobs.c.finished_at.is_(None), jobs.c.state == "queued")
    with reading(engine) as connection:
        return list(connection.scalars(queued.order_by(jobs.c.asked_at).limit(limit)))


@contextmanager
def taken(engine: Engine, job_id: str) -> Iterator[Job | None]:
    """The job, for the worker that does it; None if it waits no longer, or if as many run as may."""
    with _a_place(engine) as place, lease(engine, _lease_of(job_id)) as held:
        if not place or held is None:
            yield None
            return
        started = update(jobs).where(jobs.c.id == job_id, jobs.c.state == "queued")
        with transaction(engine) as connection:
            row = connection.execute(started.values(state="running", started_at=func.now()).returning(jobs))
            found = row.mappings().one_or_none()
        yield None if found is None else Job(**found)


def progress(engine: Engine, job_id: str, done: int, total: int | None) -> None:
    """How far a running job is."""
    with transaction(engine) as connection:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(done=done, total=total))


def finish(
    engine: Engine,
    job_id: str,
    state: End,
    *,
    result: dict[str, Any] | None = None,
    problem: dict[str, str] | None = None,
) -> None:
    """How a running job ended; nothing, if it has ended before."""
    running = update(jobs).where(jobs.c.id == job_id, jobs.c.state == "running")
    with transaction(engine) as connection:
        connection.execute(running.values(state=state, finished_at=func.now(), result=result, problem=problem))


def _under_way(kind: Kind, board: str, period: str) -> tuple[ColumnElement[bool], ...]:
    return jobs.c.kind == kind, jobs.c.board == board, jobs.c.period == period, jobs.c.finished_at.is_(None)


def _refuse_second(engine: Engine, *same: ColumnElement[bool]) -> None:
    """JobUnderWay if there is such a job, and its worker is alive."""
    active = _one(engine, select(jobs).where(*same))
    if active is not None and _looked_at(engine, active).finished_at is None:
        raise JobUnderWay(active.id)


def _looked_at(engine: Engine, job: Job) -> Job:
    """The job, with its end written down if its worker is gone."""
    if job.state != "running":
        return job
    with lease(engine, _lease_of(job.id)) as held:
        if held is not None:
            finish(engine, job.id, "failed", problem=LOST)
    return _one(engine, select(jobs).where(jobs.c.id == job.id)) or job


@contextmanager
def _a_place(engine: Engine) -> Iterator[bool]:
    """One of the places for running jobs; False if all are taken."""
    for place in range(MOST_RUNNING):
        with lease(engine, f"jobs:{place}") as held:
            if held is not None:
                yield True
                return
    yield False


def _lease_of(job_id: str) -> str:
    return f"job:{job_id}"


def _outdated() -> ColumnElement[bool]:
    ended = jobs.c.finished_at.is_not(None)
    newest = select(jobs.c.id).where(ended).order_by(jobs.c.asked_at.desc()).limit(MOST_KEPT)
    return ended & ((jobs.c.finished_at < _KEPT) | jobs.c.id.not_in(newest))


def _one(engine: Engine, wanted: Select[Any]) -> Job | None:
    with reading(engine) as connection:
        row = connection.execute(wanted).mappings().one_or_none()
    return None if row is None else Job(**row)
