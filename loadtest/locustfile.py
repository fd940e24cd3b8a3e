"""Locust's users: game servers that submit, players that look. Started by `loadtest.run`.

A user here is not one person but a stream of requests that arrive on a schedule of its own (`scenario.arrivals`), each
in a greenlet, over a bounded number of connections. Where all connections are busy the request waits, and its latency
counts from when it was due. What is still waiting when the time is over is *unsent*, and the run says so.

Locust provides the processes, the HTTP client and the orderly end. Its own statistics are closed-loop and rounded; the
verdict rests on the ledger and the measurements that every process writes into `--directory`. Each process has one
user of either class, so that players look at what game servers of the same process have just been told.
"""

import gc
import os
import random
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import gevent
import msgspec
import psutil
from gevent.pool import Pool
from locust import events, task
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import FastHttpUser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from loadtest.answers import Told, told_batch, told_single, wrong_with_read
from loadtest.ledger import Answer, Ledger, LedgerFull
from loadtest.measurements import Measurements
from loadtest.scenario import ABSURD_VALUE, Crowd, Scenario, arrivals, points_of_match

F = TypeVar("F", bound=Callable[..., None])

BASE = "/api/v1"
FINISHED = "rangeboard_users_finished"

_LONGEST_ANSWER_S = 10.0
#: What was due in time and has a connection is sent, though the generator is a moment late, and is counted as late.
_LATE_AT_THE_END_S = 1.0
_RETRY_AFTER_S = 0.5
_REMEMBERED = 10_000
_FRIENDS = 20


def _on(hook: Any) -> Callable[[F], F]:
    """Locust's decorator, with a type."""
    listener: Callable[[F], F] = hook.add_listener
    return listener


@_on(events.init_command_line_parser)
def _arguments(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("Rangeboard", "what `python -m loadtest.run` passes on")
    group.add_argument("--scenario", required=True, help="The run, as JSON: see loadtest/scenario.py")
    group.add_argument("--directory", required=True, help="Where ledgers and measurements go")
    group.add_argument("--connections", type=int, default=32, help="Of each user of each process")
    group.add_argument("--ledger-bytes", type=int, default=1 << 30, help="Limit of each process's ledger")


class Process:
    """What the users of one process share."""

    current: ClassVar["Process"]

    def __init__(self, options: Namespace, index: int) -> None:
        """`index`: this process among those of the run."""
        self.scenario = msgspec.json.decode(options.scenario, type=Scenario)
        self.index = index
        #: each process brings its part of the load
        self.share = 1 / options.expect_workers
        self.headers = {
            "Authorization": f"Bearer {os.environ['LOADTEST_API_KEY']}",  # not an option: those are for all to see
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
        }
        self.directory = Path(options.directory)
        self.crowd = Crowd(self.scenario.run, self.scenario.players)
        self.ledger = Ledger(
            self.directory / f"{index}.ledger", {"run": self.scenario.run}, limit_bytes=options.ledger_bytes
        )
        self.measured = Measurements()
        #: players whose submission was acknowledged lately: they look at where they stand
        self.seen: deque[str] = deque(maxlen=_REMEMBERED)
        self.users = 0
        self.closed = False
        self._began = time.perf_counter()
        self._matches = count()
        self._cpu = psutil.Process().cpu_times()

    def now(self) -> float:
        """Seconds since the load began."""
        return time.perf_counter() - self._began

    def match_id(self) -> str:
        """A match id that nobody else in the run has."""
        return f"{self.scenario.run}-{self.index}-{next(self._matches)}"

    def finish(self) -> None:
        """Write down what was measured; nothing is sent any more."""
        self.closed = True
        cpu = psutil.Process().cpu_times()
        self.measured.cpu_s = cpu.user + cpu.system - self._cpu.user - self._cpu.system
        self.measured.wall_s = self.now()
        (self.directory / f"{self.index}.json").write_bytes(msgspec.json.encode(self.measured))
        self.ledger.close()


@_on(events.init)
def _await_the_end(environment: Environment, **_: Any) -> None:
    """The master ends the run once all users have finished; by itself Locust would wait for `--run-time`.

    Locust spawns users of a fixed number first, one per process in turn, then the others in the same turn. Otherwise it
    alternates the classes, and with two processes one gets all game servers.
    """
    GameServer.fixed_count = _options(environment).expect_workers
    if not isinstance(environment.runner, MasterRunner):
        return
    finished = 0

    def note(environment: Environment, **_: Any) -> None:
        nonlocal finished
        finished += 1
        if finished == _options(environment).expect_workers and environment.runner:
            environment.runner.quit()

    environment.runner.register_message(FINISHED, note)


@_on(events.test_start)
def _begin(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner):
        return
    index = environment.runner.worker_index if isinstance(environment.runner, WorkerRunner) else 0
    Process.current = Process(_options(environment), index)
    OpenLoopUser.concurrency = _options(environment).connections
    gc.freeze()


@_on(events.quitting)
def _exit_code(environment: Environment, **_: Any) -> None:
    """Failed requests are for the verdict to judge, which knows which of them were meant to fail."""
    if isinstance(environment.runner, MasterRunner):
        environment.process_exit_code = 0


class OpenLoopUser(FastHttpUser):
    """Sends requests when they are due, whatever became of those before."""

    abstract = True
    network_timeout = _LONGEST_ANSWER_S
    connection_timeout = _LONGEST_ANSWER_S

    def per_s(self) -> float:
        """Requests a second, of all users of this class together."""
        raise NotImplementedError

    def send(self, due: float) -> None:
        """Send one request that was due then, and book what became of it."""
        raise NotImplementedError

    def on_start(self) -> None:
        """Draw a schedule."""
        self.process = Process.current
        self.rng = random.Random(f"{self.process.scenario.run}/{self.process.index}/{self.process.users}")  # noqa: S311
        self.process.users += 1

    def on_stop(self) -> None:
        """The last user of a process closes its books."""
        self.process.users -= 1
        if self.process.users or self.process.closed:
            return
        self.process.finish()
        runner = self.environment.runner
        if isinstance(runner, WorkerRunner):
            runner.send_message(FINISHED)
        elif runner:
            gevent.spawn(runner.quit)

    @task
    def arrive(self) -> None:
        """The whole run. Users that Locust moves here from a process that died come too late for it."""
        process, measured, pool = self.process, self.process.measured, Pool(self.concurrency)
        if process.closed:
            raise StopUser
        end = process.scenario.seconds
        busy_until = 0.0
        for due in arrivals(self.per_s() * process.share, end, self.rng):
            measured.due += 1
            if (early := due - process.now()) > 0:
                gevent.sleep(early)
            if pool.full():
                pool.wait_available(max(0.0, end - process.now()))
                busy_until = process.now()
            elif due > busy_until:
                measured.late.record(process.now() - due)
            if pool.full() or process.now() > end + _LATE_AT_THE_END_S:
                measured.unsent += 1
            else:
                pool.spawn(self._send, due)
        pool.join(2 * _LONGEST_ANSWER_S)
        raise StopUser

    def request(self, method: str, path: str, name: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of an answer; status 0 if there was none."""
        response: Any = self.client.request(
            method, BASE + path, name=name, data=cast("Any", body), headers=self.process.headers
        )
        return response.status_code, response.content or b""

    def _send(self, due: float) -> None:
        try:
            self.send(due)
        except LedgerFull as error:
            self.process.measured.unsent += 1
            if str(error) not in self.process.measured.notes:
                self.process.measured.notes.append(str(error))


class GameServer(OpenLoopUser):
    """Reports matches as they end, one by one or in batches; now and then a second time, now and then nonsense."""

    def per_s(self) -> float:
        """Singles and batches."""
        return self.process.scenario.singles_per_s + self.process.scenario.batches_per_s

    def send(self, due: float) -> None:
        """Each arrival is a single or a batch, in the proportion of their rates."""
        if self.rng.random() * self.per_s() < self.process.scenario.batches_per_s:
            self._batch(due)
        else:
            self._single(due)

    def _single(self, due: float) -> None:
        scenario = self.process.scenario
        absurd = self.rng.random() < scenario.absurd_share
        value = ABSURD_VALUE if absurd else points_of_match(self.rng)
        submission = (self.process.crowd.somebody(self.rng), self.process.match_id(), value)
        answer = self._submit("submit", due, submission, absurd=absurd, first=None)
        if answer is Answer.UNKNOWN:
            gevent.sleep(_RETRY_AFTER_S)
        elif self.rng.random() >= scenario.resend_share:
            return
        self._submit("resend", self.process.now(), submission, absurd=absurd, first=answer)

    def _submit(
        self, kind: str, due: float, submission: tuple[str, str, int], *, absurd: bool, first: Answer | None
    ) -> Answer:
        """Send and book one submission; `first`: what it was answered before."""
        body = _body(submission)
        (ticket,) = self.process.ledger.sending([submission])
        sent = self.process.now()
        told = told_single(*self.request("POST", "/scores", kind, body))
        done = self.process.now()
        self.process.ledger.answered(ticket, told.answer, durable=told.durable)
        self.process.measured.record(kind, due, sent, done, _wrong(told, absurd=absurd, first=first))
        if told.answer is Answer.ACKNOWLEDGED:
            self.process.seen.append(submission[0])
        return told.answer

    def _batch(self, due: float) -> None:
        submissions = [
            (self.process.crowd.somebody(self.rng), self.process.match_id(), points_of_match(self.rng))
            for _ in range(self.process.scenario.batch_size)
        ]
        body = b"[" + b",".join(map(_body, submissions)) + b"]"
        tickets = self.process.ledger.sending(submissions)
        sent = self.process.now()
        told = told_batch(*self.request("POST", "/scores:batch", "batch", body), len(submissions))
        done = self.process.now()
        for (player, _, _), ticket, one in zip(submissions, tickets, told, strict=True):
            self.process.ledger.answered(ticket, one.answer, durable=one.durable)
            if one.answer is Answer.ACKNOWLEDGED:
                self.process.seen.append(player)
        failure = next((wrong for one in told if (wrong := _wrong(one, absurd=False, first=None))), "")
        self.process.measured.record("batch", due, sent, done, failure)


class Player(OpenLoopUser):
    """Looks where players stand who played a moment ago; before anybody has, at the top."""

    def per_s(self) -> float:
        """All kinds of reads."""
        return self.process.scenario.reads_per_s

    def send(self, due: float) -> None:
        """One read, of a kind drawn by the rates."""
        rates: Mapping[str, float] = self.process.scenario.read_rates
        (kind,) = self.rng.choices(list(rates), list(rates.values()))
        player = self.rng.choice(self.process.seen) if self.process.seen else ""
        if not player:
            kind = "top"
        sent = self.process.now()
        status, body = self._read(kind, player)
        self.process.measured.record(kind, due, sent, self.process.now(), wrong_with_read(kind, status, body, player))

    def _read(self, kind: str, player: str) -> tuple[int, bytes]:
        match kind:
            case "rank":
                return self.request("GET", f"/scores/{player}", kind)
            case "neighbours":
                return self.request("GET", f"/scores/{player}/surrounding?offset=4", kind)
            case "lookup":
                friends = {player, *(self.rng.choice(self.process.seen) for _ in range(_FRIENDS - 1))}
                return self.request("POST", "/scores/lookup", kind, msgspec.json.encode({"user_ids": list(friends)}))
            case _:
                return self.request("GET", "/scores?limit=10", kind)


def _body(submission: tuple[str, str, int]) -> bytes:
    player, match_id, value = submission
    return msgspec.json.encode({"user_id": player, "match_id": match_id, "score": value})


def _wrong(told: Told, *, absurd: bool, first: Answer | None) -> str:
    """What is wrong with an answer, in a few words, given what was sent and answered before."""
    expected = {Answer.REFUSED} if absurd else {Answer.ACKNOWLEDGED}
    if first is Answer.UNKNOWN:
        expected |= {Answer.DUPLICATE}
    elif first is not None and not absurd:
        expected = {Answer.DUPLICATE}
    if told.answer in expected:
        return ""
    return told.reason or f"answered {told.answer.name.lower()}"


def _options(environment: Environment) -> Namespace:
    options: Namespace | None = environment.parsed_options
    assert options is not None
    return options
