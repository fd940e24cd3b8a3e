"""Tasks: each has its context, time and outcome; late, twice and beside itself they do no harm."""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import structlog
from celery.contrib.testing.app import TestApp
from celery.exceptions import SoftTimeLimitExceeded
from played_boards import OpenBoard, Played, rows_of, soon
from sqlalchemy import Engine, text

from cli.servers import ServerSet
from records import archives, audit, jobs, partitions, players, shard_maps
from records.errors import RecordsUnavailable, WrongSchema
from records.leases import lease
from records.periods import months_around
from sharding.boards import BoardPeriod
from sharding.errors import ShardUnavailable
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, period_at
from sharding.shard_map import cut_after
from workers import metrics, recutting, resources
from workers.recutting import lease_of_moves
from workers.schedule import SCHEDULE
from workers.tasks import archive as archive_tasks
from workers.tasks import audit as audit_tasks
from workers.tasks import handoff as handoff_tasks
from workers.tasks import jobs as job_tasks
from workers.tasks import periods as period_tasks
from workers.tasks import players as player_tasks
from workers.tasks import scrub as scrub_tasks
from workers.tasks.base import Job, job

pytestmark = pytest.mark.servers


@pytest.fixture(autouse=True)
def celery(
    leaderboard: Leaderboard, database: Engine, servers: ServerSet, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestApp]:
    """This process is a worker: its connections are the tests', and a task that wakes another runs it at once."""
    app = TestApp(set_as_current=True)
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    monkeypatch.setattr(resources, "settings", lambda: msgspec.structs.replace(servers.settings, audit_months=1))
    monkeypatch.setattr(resources, "engine", lambda: database)
    monkeypatch.setattr(resources, "leaderboard", lambda: leaderboard)
    yield app
    app.close()


def seconds_of(task: str, outcome: str) -> float:
    for metric in metrics.task_seconds.collect():
        for sample in metric.samples:
            if sample.name.endswith("_count") and sample.labels == {"task": task, "outcome": outcome}:
                return sample.value
    return 0.0


def jobs_of(board: Played) -> list[jobs.Job]:
    return [job for job in jobs.latest(board.engine, 100) if job.board == board.name.board]


OUTCOMES = {
    "done": None,
    "put_off": ShardUnavailable("the node is down"),
    "refused": WrongSchema("another version"),
    "failed": ZeroDivisionError("a defect"),
}


@pytest.mark.parametrize(("outcome", "error"), OUTCOMES.items(), ids=OUTCOMES.keys())
def test_a_task_says_how_it_ended(outcome: str, error: Exception | None) -> None:
    """Only a success moves the time stamp that alerts look at; only a defect is raised."""
    seen: list[dict[str, object]] = []

    @job(f"test.{outcome}")
    def body() -> None:
        seen.append(structlog.contextvars.get_contextvars())
        if error is not None:
            raise error

    if outcome == "failed":
        with pytest.raises(ZeroDivisionError):
            body.apply()
    else:
        body.apply()
    assert seconds_of(f"test.{outcome}", outcome) == 1
    assert seen[0]["task"] == f"test.{outcome}"
    assert seen[0]["task_id"]
    assert "task" not in structlog.contextvars.get_contextvars()
    stamp = metrics.task_succeeded_at.labels(f"test.{outcome}")._value.get()
    assert (stamp > 0) is (outcome == "done")


@pytest.mark.parametrize("error", [RecordsUnavailable(), SoftTimeLimitExceeded()], ids=["postgres", "too long"])
def test_what_passes_by_itself_is_put_off(error: Exception) -> None:
    @job(f"test.passing.{type(error).__name__}")
    def body() -> None:
        raise error

    body.apply()
    assert seconds_of(body.name, "put_off") == 1


SCHEDULED = (
    audit_tasks.drain_all,
    audit_tasks.drop_old_months,
    archive_tasks.close_due,
    handoff_tasks.sweep_all,
    period_tasks.open_all,
    job_tasks.wake_all,
    scrub_tasks.scrub_all,
    player_tasks.settle_visibility,
    player_tasks.erase_pending,
)


def test_every_scheduled_job_is_a_task_that_beat_may_miss() -> None:
    """Each entry names a task of the base class, that says what becomes of it, and expires: ticks do not heap up."""
    known = {task.name: task for task in SCHEDULED}
    assert {entry["task"] for entry in SCHEDULE.values()} == set(known)
    for entry in SCHEDULE.values():
        task = known[entry["task"]]
        assert entry["options"]["expires"] >= entry["schedule"]
        assert isinstance(task, Job)
        head = " ".join((sys.modules[task.run.__module__].__doc__ or "").lower().split())
        assert f"`{task.run.__name__}`" in head
        assert all(word in head for word in ("late", "twice", "beside itself"))


@pytest.mark.parametrize("task", SCHEDULED, ids=lambda task: task.name)
def test_a_tick_that_comes_twice_and_beside_itself_does_no_harm(
    open_one: OpenBoard, celery: TestApp, task: Job
) -> None:
    """Four ticks, two and two at once, on a board with players to hide, to forget and to bring home: no defect."""
    board = open_one(cuts=[10, 20])
    board.play(200, 400)
    cuts = [cut_after(points, board.shard_map.board.order) for points in (15, 5)]
    wanted = board.now().recut(cuts)
    shard_maps.append(board.engine, board.name.board, board.name.period, 1, wanted.document())
    board.leaderboard.rebalancer.switch(wanted)
    players.register_missing(board.engine, ["player-000001", "player-000002"])
    players.update(board.engine, "player-000001", {"hidden": True})
    players.erase(board.engine, "player-000002")
    before = {outcome: seconds_of(task.name, outcome) for outcome in OUTCOMES}

    def tick() -> None:
        celery.set_current()  # each thread has one of its own
        task.apply()

    for _ in range(2):
        ticks = [threading.Thread(target=tick) for _ in range(2)]
        for one in ticks:
            one.start()
        for one in ticks:
            one.join()
    ended = {outcome: seconds_of(task.name, outcome) - before[outcome] for outcome in OUTCOMES}
    assert ended["done"] + ended["refused"] == 4
    assert ended["refused"] == 0 or task is archive_tasks.close_due, "another test's board is lost, and says so"
    assert board.agrees()


@pytest.fixture
def with_strays(open_one: OpenBoard) -> Played:
    """A board whose ranges were cut anew by somebody who died before the players moved."""
    board = open_one(cuts=[10, 20])
    board.play(200, 400)
    wanted = board.now().recut([cut_after(points, board.shard_map.board.order) for points in (15, 5)])
    shard_maps.append(board.engine, board.name.board, board.name.period, 1, wanted.document())
    board.leaderboard.rebalancer.switch(wanted)
    assert strays_of(board) > 0
    return board


def strays_of(board: Played) -> int:
    return sum(view.strays + view.leaving for view in board.leaderboard.shards(board.name, soon()))


def test_a_sweep_leaves_a_board_to_whoever_moves_its_players(with_strays: Played) -> None:
    before = strays_of(with_strays)
    with lease(with_strays.engine, lease_of_moves(with_strays.name)):
        handoff_tasks.sweep_all.apply()
        assert strays_of(with_strays) == before
    for _ in range(2):  # who is moved by the old map, which the process may still have, goes on from there
        handoff_tasks.sweep_all.apply()
    assert strays_of(with_strays) == 0


@pytest.mark.parametrize("sweep_ends", [True, False], ids=["sweep ends", "sweep goes on"])
def test_players_move_once_the_sweep_is_over_or_beside_it(
    with_strays: Played, monkeypatch: pytest.MonkeyPatch, *, sweep_ends: bool
) -> None:
    """Who cuts ranges anew waits a while for the sweep to end, and then nobody sweeps; or goes on beside it."""
    monkeypatch.setattr(recutting, "_SWEEP_ENDS_S", 30.0 if sweep_ends else 0.1)
    name, seen = lease_of_moves(with_strays.name), []

    def look(_moved: int, _of: int) -> None:
        with lease(with_strays.engine, name) as held:
            seen.append(held is None)

    wanted = with_strays.now()
    cuts = [part.low for part in wanted.ranges[1:]]
    with ExitStack() as sweeping:
        sweeping.enter_context(lease(with_strays.engine, name))
        if sweep_ends:
            threading.Timer(0.2, sweeping.pop_all().close).start()
        done = recutting.recut(
            with_strays.leaderboard, with_strays.engine, with_strays.name, cuts, look, players_per_s=1e6
        )
    assert done.left == strays_of(with_strays) == 0
    assert done.moved > 0
    assert seen, "nothing was reported"
    assert all(seen), "somebody could have swept meanwhile"


def test_draining_measures_how_far_behind_the_audit_log_is(open_one: OpenBoard, celery: TestApp) -> None:
    """In entries and in seconds, before; nothing waits, after. A second run, and one beside it, find nothing."""
    board = open_one()
    board.play(50, 100)
    audit_tasks.drain_all.apply()
    assert metrics.outbox_entries.labels(board.name.board)._value.get() > 0
    assert 0 < metrics.audit_lag_seconds.labels(board.name.board)._value.get() < 60
    assert metrics.board_generation.labels(board.name.board)._value.get() == board.shard_map.generation
    assert audit.totals(board.engine, board.name.board, board.name.period).games == 100

    def drain() -> None:
        celery.set_current()  # each thread has one of its own
        audit_tasks.drain_all.apply()

    threads = [threading.Thread(target=drain) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.outbox_entries.labels(board.name.board)._value.get() == 0
    assert metrics.audit_lag_seconds.labels(board.name.board)._value.get() == 0
    assert audit.totals(board.engine, board.name.board, board.name.period).games == 100


def test_a_shard_that_cannot_be_stored_stops_no_other(open_one: OpenBoard) -> None:
    """What PostgreSQL refuses for a reason that nobody foresaw stays in its outbox, and is stored once it can be."""
    board = open_one(cuts=[10])
    board.win("ann", 5, "m1")
    board.win("bob", 654_321, "m1")
    stored = "SELECT user_id FROM games WHERE board = :board ORDER BY user_id"
    refused = seconds_of("audit.drain_shards", "refused")
    with board.engine.begin() as connection:
        connection.execute(text("ALTER TABLE games ADD CONSTRAINT games_value_check CHECK (value <> 654321)"))
    try:
        audit_tasks.drain_all.apply()
        assert rows_of(board.engine, stored, board=board.name.board) == [("ann",)]
        assert seconds_of("audit.drain_shards", "refused") == refused + 1
    finally:
        with board.engine.begin() as connection:
            connection.execute(text("ALTER TABLE games DROP CONSTRAINT games_value_check"))
    audit_tasks.drain_all.apply()
    assert rows_of(board.engine, stored, board=board.name.board) == [("ann",), ("bob",)]


def test_periods_that_are_over_are_closed_however_late(open_one: OpenBoard) -> None:
    """A day of last month that nobody archived: the next tick does. Twice, and beside itself, it is archived once."""
    past = period_at(PeriodKind.DAY, datetime.now(UTC) - timedelta(days=40))
    board = open_one(period_kind="day", period=past)
    current = open_one(period_kind="day")
    board.play(30, 60)
    archive_tasks.close_due.apply()
    assert archives.is_archived(board.engine, board.name.board, board.name.period)
    [job] = jobs_of(board)
    assert (job.kind, job.state, job.done, job.total) == ("archive", "done", 30, 30)
    assert not archives.of_period(current.engine, current.name.board, current.name.period)
    changed = archives.of_period(board.engine, board.name.board, board.name.period)
    threads = [threading.Thread(target=archive_tasks.close_due.apply) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert archives.of_period(board.engine, board.name.board, board.name.period) == changed


def test_one_period_that_cannot_be_closed_does_not_keep_the_others(open_one: OpenBoard) -> None:
    past = period_at(PeriodKind.DAY, datetime.now(UTC) - timedelta(days=35))
    lost, sound = open_one(period_kind="day", period=past), open_one(period_kind="day", period=past)
    lost.play(5, 5)
    lost.drain()
    lost.destroy()
    sound.play(5, 5)
    for _ in range(3):
        archive_tasks.close_due.apply()
    assert archives.is_archived(sound.engine, sound.name.board, sound.name.period)
    assert not archives.is_archived(lost.engine, lost.name.board, lost.name.period)
    assert seconds_of("archive.close_due", "refused") >= 1
    [job] = jobs_of(lost)
    assert job.state == "refused"
    assert job.problem is not None
    assert "rangeboard rebuild" in job.problem["detail"], "one row for all attempts, and what to do"


def test_a_period_whose_archive_is_under_way_is_left_to_whoever_does_it(open_one: OpenBoard) -> None:
    """Asked for by hand a moment before: the tick leaves it alone, and it is done once."""
    past = period_at(PeriodKind.DAY, datetime.now(UTC) - timedelta(days=33))
    board = open_one(period_kind="day", period=past)
    board.play(5, 5)
    asked = jobs.ask_for(board.engine, "archive", board.name.board, board.name.period, {})
    archive_tasks.close_due.apply()
    assert [(job.id, job.state) for job in jobs_of(board)] == [(asked.id, "queued")]
    job_tasks.run.apply((asked.id,))
    archive_tasks.close_due.apply()
    assert [(job.id, job.state) for job in jobs_of(board)] == [(asked.id, "done")]


def test_an_archive_whose_worker_died_is_taken_up_by_the_next_tick(open_one: OpenBoard) -> None:
    """It is running, and nobody has its lease any more."""
    past = period_at(PeriodKind.DAY, datetime.now(UTC) - timedelta(days=31))
    board = open_one(period_kind="day", period=past)
    board.play(5, 5)
    job = jobs.ask_again(board.engine, "archive", board.name.board, board.name.period)
    with jobs.taken(board.engine, job.id):
        archive_tasks.close_due.apply()
        assert not archives.is_archived(board.engine, board.name.board, board.name.period), "its worker is alive"
    archive_tasks.close_due.apply()
    assert [(found.id, found.state) for found in jobs_of(board)] == [(job.id, "done")]


def test_periods_and_partitions_are_made_ahead(database: Engine) -> None:
    """This month and the next have partitions; twice changes nothing."""
    for _ in range(2):
        period_tasks.open_all.apply()
        made = partitions.months_of_audit(database)
        assert set(months_around(datetime.now(UTC).date(), before=0)) <= set(made)
    name = BoardPeriod("global", period_at(PeriodKind.MONTH, datetime.now(UTC)).name)
    assert resources.leaderboard().maps.published(name, soon()).name == name


def test_old_months_are_dropped(database: Engine) -> None:
    old = (datetime.now(UTC) - timedelta(days=200)).date().replace(day=1)
    partitions.ensure(database, [old])
    for _ in range(2):
        audit_tasks.drop_old_months.apply()
        assert old not in partitions.months_of_audit(database)


def test_a_job_that_was_asked_for_is_done(open_one: OpenBoard) -> None:
    """By whoever is woken first; a second wake, and one for a job that is done, find nothing."""
    board = open_one()
    board.play(20, 40)
    asked = jobs.ask_for(board.engine, "verify", board.name.board, board.name.period, {"repair": False})
    for _ in range(2):
        job_tasks.wake_all.apply()
    job_tasks.run.apply((asked.id,))
    done = jobs.get(board.engine, asked.id)
    assert done is not None
    assert (done.state, done.done, done.result and done.result["agrees"]) == ("done", 20, True)
    job_tasks.run.apply((asked.id,))
    assert jobs.get(board.engine, asked.id) == done
