"""Jobs over HTTP: asked for, looked at, done once, refused where the board does not allow them, never lost silently."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from flask.testing import FlaskClient
from played_boards import Played, open_played, rows_of
from sqlalchemy import Engine

from api.app import create_app
from cli.servers import ServerSet
from records import api_keys, archives, jobs
from records.leases import lease
from runtime import failpoints
from runtime.failpoints import FailpointReached
from runtime.settings import Settings
from sharding.errors import LeaderboardError
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, period_at
from workers.jobs import Jobs

pytestmark = pytest.mark.servers

ADMIN = "/api/v1/admin"


@pytest.fixture(scope="module")
def settings(servers: ServerSet, database: Engine) -> Settings:
    [(name,)] = rows_of(database, "SELECT current_database()")
    return msgspec.structs.replace(servers.settings, postgres_dsn=servers.postgres.dsn(name))


class Operator:
    """Somebody with an admin's key, and a worker that does what waits when it is told to."""

    def __init__(self, client: FlaskClient, key: str, worker: Jobs, database: Engine) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {key}"}
        self._worker = worker
        self._database = database

    def post(self, kind: str, **body: Any) -> Any:
        return self._client.post(f"{ADMIN}/{kind}", json=body, headers=self._headers)

    def get(self, path: str, **query: Any) -> Any:
        return self._client.get(f"{path}?{urlencode(query)}", headers=self._headers)

    def ask(self, kind: str, **body: Any) -> str:
        """The address of the status of a job that is queued."""
        answer = self.post(kind, **body)
        assert answer.status_code == 202, answer.json
        assert answer.json["state"] == "queued"
        assert answer.headers["Location"] == f"{ADMIN}/jobs/{answer.json['id']}"
        return str(answer.headers["Location"])

    def work(self) -> None:
        """One tick of the workers."""
        for job_id in jobs.waiting(self._database, 100):
            self._worker.run(job_id)

    def done(self, kind: str, **body: Any) -> Any:
        """A job, asked for and done: its status."""
        address = self.ask(kind, **body)
        self.work()
        return self.get(address).json


@pytest.fixture(scope="module")
def operator(leaderboard: Leaderboard, database: Engine, settings: Settings) -> Operator:
    _, key = api_keys.create(database, "an operator", ["admin"])
    worker = Jobs(leaderboard, database, settings)
    return Operator(create_app(settings).test_client(), key, worker, database)


@pytest.fixture(autouse=True)
def _no_failpoints(database: Engine) -> Iterator[None]:
    yield
    failpoints.arm("")
    with database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM jobs")


@pytest.fixture
def board(leaderboard: Leaderboard, database: Engine) -> Played:
    played = open_played(leaderboard, database)
    played.play(120, 300)
    return played


@pytest.fixture
def past(leaderboard: Leaderboard, database: Engine) -> Played:
    # not the last month, which takes late submissions for a while
    over = period_at(PeriodKind.MONTH, datetime.now(UTC).replace(day=1) - timedelta(days=40))
    played = open_played(leaderboard, database, period=over)
    played.play(120, 300)
    return played


def of(played: Played) -> dict[str, str]:
    return {"board": played.name.board, "period": played.name.period}


def test_a_period_is_closed(operator: Operator, past: Played) -> None:
    """With its progress, its times, and what came of it; a second time it is found closed."""
    job = operator.done("archive", **of(past))
    assert (job["state"], job["problem"]) == ("done", None)
    assert job["progress"] == {"done": 120, "total": 120, "unit": "players"}
    assert (job["result"]["players"], job["result"]["already"]) == (120, False)
    assert job["asked_at"] <= job["started_at"] <= job["finished_at"]
    assert archives.is_archived(past.engine, past.name.board, past.name.period)
    assert operator.done("archive", **of(past))["result"]["already"] is True
    listed = operator.get(f"{ADMIN}/jobs", limit=1).json["jobs"]
    assert [one["kind"] for one in listed] == ["archive"]


def test_a_board_is_verified_and_repaired(operator: Operator, board: Played) -> None:
    board.drain()
    agreed = operator.done("verify", board=board.name.board)
    assert (agreed["state"], agreed["result"]["agrees"]) == ("done", True)
    assert agreed["progress"]["done"] == 120
    shard = next(shard for shard in range(4) if board.on_shard(shard, "ZCARD", "@rows"))
    [member] = board.on_shard(shard, "ZRANGE", "@rows", 0, 0)
    board.on_shard(shard, "ZINCRBY", "@rows", -(2**22), member)
    differing = operator.done("verify", board=board.name.board)["result"]
    assert (differing["agrees"], differing["different"], len(differing["differences"])) == (False, 1, 1)
    assert operator.done("verify", board=board.name.board, repair=True)["result"]["repaired"] == 1
    assert operator.done("verify", board=board.name.board)["result"]["agrees"] is True


def test_a_lost_board_and_a_lost_shard_come_back(operator: Operator, board: Played) -> None:
    board.drain()
    before = board.ranking()
    board.destroy_shard(1)
    shard = operator.done("rebuild", board=board.name.board, shard=1)
    assert (shard["state"], shard["result"]["shard"]) == ("done", 1)
    assert board.ranking() == before
    board.destroy()
    whole = operator.done("rebuild", board=board.name.board)
    assert (whole["state"], whole["result"]["players"]) == ("done", 120)
    assert board.ranking() == before


def test_ranges_are_cut_anew(operator: Operator, board: Played) -> None:
    before = board.ranking()
    job = operator.done("rebalance", board=board.name.board, cuts=[5, 15, 40])
    assert (job["state"], job["result"]["left"], job["result"]["version"]) == ("done", 0, 2)
    assert board.ranking() == before
    shards = operator.get(f"{ADMIN}/shards", board=board.name.board).json
    assert (shards["version"], shards["generation"], shards["total_players"]) == (2, 1, 120)
    bounds = [shard["worst_points"] for shard in shards["shards"] if not shard["retiring"]]
    assert bounds == [40, 15, 5, None]
    assert sum(shard["players"] for shard in shards["shards"]) == sum(shards["players_by_node"].values()) == 120
    assert all(shard["strays"] == shard["leaving"] == 0 for shard in shards["shards"])
    assert all(shard["lag_seconds"] >= 0 for shard in shards["shards"])


def test_of_two_at_once_one_is_told_of_the_other(operator: Operator, board: Played) -> None:
    """Whether it waits or runs; what is another job is not in its way."""
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(operator.post("verify", board=board.name.board)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [asked] = [answer for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code == 409]
    assert len(refused) == 4
    assert {answer.headers["Location"] for answer in refused} == {asked.headers["Location"]}
    assert refused[0].json["type"] == "urn:rangeboard:problem:job-under-way"
    operator.ask("rebalance", board=board.name.board, cuts=[9])


@pytest.mark.parametrize(
    ("kind", "body", "status", "field"),
    [
        ("archive", {}, 400, "period"),
        ("archive", {"period": "2026-13"}, 400, "period"),
        ("archive", {"period": "2019-01"}, 404, "period"),
        ("archive", {"period": "2019-01", "board": "nowhere"}, 404, "board"),
        ("archive", {"period": "2019-01", "board": "No Where"}, 400, "board"),
        ("archive", {"period": "2019-01", "force": True}, 400, "force"),
        ("verify", {"period": "2019-01"}, 404, "period"),
        ("verify", {"repair": "yes"}, 400, "repair"),
        ("rebuild", {"period": "2019-01"}, 404, "period"),
        ("rebuild", {"shard": -1}, 400, "shard"),
        ("rebuild", {"board": "nowhere"}, 404, "board"),
        ("rebalance", {}, 400, "cuts"),
        ("rebalance", {"cuts": [1, 1]}, 400, "cuts"),
        ("rebalance", {"cuts": [5, 4]}, 400, "cuts"),
        ("rebalance", {"cuts": [2**40]}, 422, "cuts"),
        ("rebalance", {"cuts": ["ten"]}, 400, "cuts[0]"),
        ("rebalance", {"cuts": [1], "players_per_s": 0}, 400, "players_per_s"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    operator: Operator, database: Engine, kind: str, body: dict[str, Any], status: int, field: str
) -> None:
    refused = operator.post(kind, **body)
    assert (refused.status_code, refused.json["errors"][0]["field"]) == (status, field), refused.json
    assert rows_of(database, "SELECT count(*) FROM jobs") == [(0,)]


def test_what_the_board_does_not_allow_is_a_conflict(operator: Operator, board: Played, past: Played) -> None:
    """A month that is not over, a board in use, a shard that is there, a month that is archived."""
    refusals = [
        ("archive", of(board), "period-not-over"),
        ("rebuild", of(board), "rebuild-refused"),
        ("rebuild", {**of(board), "shard": 1}, "rebuild-refused"),
        ("rebuild", {**of(board), "shard": 99}, "rebuild-refused"),
    ]
    assert operator.done("archive", **of(past))["state"] == "done"
    refusals.append(("rebuild", of(past), "rebuild-refused"))
    for kind, body, told in refusals:
        refused = operator.post(kind, **body)
        assert (refused.status_code, refused.json["type"]) == (409, f"urn:rangeboard:problem:{told}")
    assert operator.done("rebuild", **of(board), force=True)["state"] == "done"


def test_what_turns_out_impossible_is_told_in_its_status(operator: Operator, past: Played) -> None:
    """The board and its audit log differ; somebody else has the board's lease; a defect of ours."""
    past.drain()
    past.on_shard(0, "ZADD", "@rows", -99 * 2**22 * 10, "intruder")
    address = operator.ask("archive", **of(past))
    with pytest.raises(LeaderboardError):
        operator.work()
    refused = operator.get(address).json
    assert (refused["state"], refused["result"]) == ("refused", None)
    assert refused["problem"]["type"] == "urn:rangeboard:problem:archive-differs"
    assert "rangeboard verify" in refused["problem"]["detail"]
    with lease(past.engine, f"lifecycle:{past.name}"):
        address = operator.ask("archive", **of(past))
        with pytest.raises(LeaderboardError):
            operator.work()
    assert operator.get(address).json["state"] == "refused"
    failpoints.arm("job.taken=raise")
    address = operator.ask("archive", **of(past))
    with pytest.raises(FailpointReached):
        operator.work()


def test_a_job_whose_worker_died_is_shown_as_such_and_asked_for_again(operator: Operator, past: Played) -> None:
    """While its lease is held it runs; then it is lost, and the next one goes on where it was."""
    address = operator.ask("archive", **of(past))
    job_id = address.rpartition("/")[2]
    with jobs.taken(past.engine, job_id) as job:
        assert job is not None
        jobs.progress(past.engine, job_id, 40, 120)
        running = operator.get(address).json
        assert (running["state"], running["progress"]["done"]) == ("running", 40)
        assert operator.post("archive", **of(past)).status_code == 409
        operator.work()  # whoever is woken for it once more finds that it is taken
        assert operator.get(address).json["state"] == "running"
    lost = operator.get(address).json
    assert (lost["state"], lost["problem"]["type"]) == ("failed", "urn:rangeboard:problem:worker-lost")
    assert lost["finished_at"]
    assert operator.done("archive", **of(past))["state"] == "done"


def test_no_more_run_at_once_than_may(operator: Operator, board: Played, database: Engine) -> None:
    first, second, third = (
        operator.ask(kind, board=board.name.board, **more)
        for kind, more in (("verify", {}), ("rebalance", {"cuts": [9]}), ("rebuild", {"force": True}))
    )
    with jobs.taken(database, first.rpartition("/")[2]) as one, jobs.taken(database, second.rpartition("/")[2]) as two:
        assert one is not None
        assert two is not None
        operator.work()
        assert operator.get(third).json["state"] == "queued"
    operator.work()
    assert operator.get(third).json["state"] == "done"


def test_jobs_are_kept_for_a_while_and_not_without_end(
    operator: Operator, board: Played, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [operator.ask("verify", board=board.name.board)]
    operator.work()
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE jobs SET finished_at = now() - interval '8 days'")
    addresses.append(operator.ask("verify", board=board.name.board))
    assert operator.get(addresses[0]).status_code == 404
    operator.work()
    monkeypatch.setattr(jobs, "MOST_KEPT", 1)
    for _ in range(3):
        operator.done("verify", board=board.name.board)
    assert rows_of(database, "SELECT count(*) FROM jobs") == [(2,)]
    monkeypatch.setattr(jobs, "MOST_ACTIVE", 1)
    operator.ask("verify", board=board.name.board)
    refused = operator.post("rebalance", board=board.name.board, cuts=[9])
    assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)


def test_a_job_needs_an_admin(operator: Operator, settings: Settings, database: Engine) -> None:
    _, key = api_keys.create(database, "a game server", ["scores:write", "scores:read"])
    client = create_app(settings).test_client()
    for headers, status in (({}, 401), ({"Authorization": f"Bearer {key}"}, 403)):
        for method, path in (("POST", "verify"), ("GET", "jobs"), ("GET", "jobs/abc"), ("GET", "shards")):
            answer = client.open(f"{ADMIN}/{path}", method=method, json={}, headers=headers)
            assert answer.status_code == status
    assert operator.get(f"{ADMIN}/jobs/nothing").status_code == 404
