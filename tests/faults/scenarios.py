"""The faults, each as a function of its size: traffic, harm, rest, and then the books.

Whatever the fault was, the books are the same: every submission that was ever answered as counted is in the audit once
and in the player's points once, everybody is in one shard, in its range, where the directory says, and nobody is on the
way any more.
"""

import itertools
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from waiting import wait_until

from loadtest import ledger
from loadtest.checker import Anomaly, Verdict, check
from loadtest.games import Games
from loadtest.ledger import Answer, Entry, Ledger
from runtime.deadlines import Deadline
from sharding.errors import LeaderboardError
from sharding.players import PlayerId, member_of
from sharding.scores import pack
from sharding.scrub import Repairs
from sharding.submissions import Status
from workers.drain import drain_shards
from workers.scrub import scrub
from workers.verify import verify

from . import traffic
from .census import Census, Misplacement, census
from .children import Child, end, fork, wait
from .rig import CUTS, PLAYERS, Rig

HANDOFF_POINTS = ("begun", "departed", "arrived", "pointed", "finished")
WRITERS = 3
_KILL = "kill@0.15"
#: No point of the code, but a moment: the parent kills the child.
ANYWHERE = "anywhere=kill"
#: Writers that share their players: a player may only have so many events in a retry window.
_ERA = 50
_HOME_S = 20.0
WRITERS_DIE = [*(f"handoff.{point}={_KILL}" for point in HANDOFF_POINTS), f"write.claimed={_KILL}", ANYWHERE]
WORKERS_DIE = [ANYWHERE, f"drain.stored={_KILL}"]
#: Seconds of load for each harm.
LOAD_S = 6.0
PAUSE_S = 10.0
_RESUMED_S = 30.0
#: Writes go on this soon after any harm, and stragglers are home this soon after the traffic has ended.
PROMISED_S = 5.0
_LAG_S = 1.2
_COUNTED = frozenset({Answer.ACKNOWLEDGED, Answer.DUPLICATE})


@dataclass(slots=True, kw_only=True)
class Report:
    """What a scenario did and found. Times in seconds."""

    scenario: str
    harm: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    #: from the end of the traffic until nobody was leaving or out of range
    home_after_s: float = 0.0
    #: from each harm until a write to a shard that it hit was acknowledged
    resumed_after_s: list[float] = field(default_factory=list)
    books: Verdict | None = None
    where: Census | None = None  # before the scrub
    audit_agrees: bool = False
    scrubbed: Repairs | None = None
    #: acknowledged with the remark that no replica has it; and of those, gone
    not_durable: int = 0
    lost_not_durable: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, counted twice, or is out of its place."""
        assert self.books is not None
        assert self.where is not None
        assert self.scrubbed is not None
        repaired = self.scrubbed.total + self.scrubbed.missing + self.scrubbed.passed_over
        return self.books.clean and not self.where.found and self.audit_agrees and repaired == 0

    @property
    def prompt(self) -> bool:
        """Whether writes went on, and stragglers were home, as soon as is promised."""
        return max([self.home_after_s, *self.resumed_after_s]) <= PROMISED_S

    def told(self) -> dict[str, Any]:
        """The figures, for a person or a machine."""
        assert self.books is not None
        assert self.where is not None
        return {
            "scenario": self.scenario,
            "clean": self.clean,
            "prompt": self.prompt,
            "harm": self.harm,
            "seconds": round(self.seconds, 1),
            "submissions": self.books.sent,
            "answers": {answer.name.lower(): count for answer, count in self.books.answers.items()},
            "not_durable": self.not_durable,
            "lost_of_those": self.lost_not_durable,
            "unknown_that_count": self.books.unknown_counted,
            "anomalies": {str(kind): count for kind, count in self.books.anomalies.items() if count},
            "misplacements": {str(kind): number for kind in Misplacement if (number := self.where.count(kind))},
            "audit_agrees": self.audit_agrees,
            "scrub": asdict(self.scrubbed) if self.scrubbed else None,
            "home_after_s": round(self.home_after_s, 2),
            "resumed_after_s": [round(value, 2) for value in self.resumed_after_s],
            "examples": [str(example) for example in [*self.books.examples[:5], *self.where.found[:5]]],
        }

    def row(self) -> str:
        """The figures as a row of the table in docs/how-to/fault-tests.md."""
        assert self.books is not None
        assert self.where is not None
        harm = ", ".join(f"{count:,} {name}" for name, count in self.harm.items())
        lost, twice = self.books.anomalies.get(Anomaly.LOST, 0), self.books.anomalies.get(Anomaly.DUPLICATED, 0)
        times = self.resumed_after_s
        resumed = f"{min(times):.1f} to {max(times):.1f} s" if times else "-"
        in_two_shards = self.where.count(Misplacement.IN_TWO_SHARDS)
        figures = (self.books.sent, self.books.answers[Answer.ACKNOWLEDGED], lost, twice, in_two_shards)
        cells = [f"`{self.scenario}`", harm, *(f"{figure:,}" for figure in figures), resumed]
        return f"| {' | '.join(cells)} |"


class Traffic:
    """The children of one scenario: writers and a worker, each replaced as soon as it is dead."""

    def __init__(self, rig: Rig, home: Path, writers: Iterator[str], workers: Iterator[str]) -> None:
        """`writers` and `workers`: the failpoints with which the next of each is armed."""
        self.rig = rig
        self.home = home
        self.deaths: Counter[str] = Counter()
        self.children: dict[Child, Path] = {}
        self.owed: deque[traffic.Sending] = deque()
        self.paths: list[Path] = []
        self._points = {"writer": writers, "worker": workers}
        self._numbers = itertools.count()
        self._armed: dict[Child, str] = {}
        self._doomed: dict[Child, float] = {}
        self._rng = random.Random(0)
        home.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Fork all of them."""
        for _ in range(WRITERS):
            self._fork_writer()
        self._fork_worker()

    def replace_dead(self, timeout_s: float) -> int:
        """Wait for deaths, and put others in their place; how many there were."""
        dead = wait(self.children, timeout_s)
        for child in dead:
            self._bury(child)
            (self._fork_writer if child.name == "writer" else self._fork_worker)()
        return len(dead)

    def kill_the_doomed(self) -> None:
        """Kill those whom no failpoint will, at a moment that was drawn when they were born."""
        for child, at in list(self._doomed.items()):
            if time.monotonic() >= at:
                child.signal(signal.SIGKILL)
                del self._doomed[child]

    def run_for(self, seconds: float) -> None:
        """Let them go on for a while; who dies, dies of a failpoint."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.replace_dead(min(left, 0.05))
            self.kill_the_doomed()

    def end(self) -> None:
        """End all of them, in good order where they are not dead already."""
        children = list(self.children)
        end(children, timeout_s=15)
        for child in children:
            self._bury(child)

    def _bury(self, child: Child) -> None:
        path = self.children.pop(child)
        self._doomed.pop(child, None)
        if child.died_of == signal.SIGKILL:
            self.deaths[self._armed.pop(child)] += 1
        if child.name == "writer" and path.exists():
            unsettled = [entry for entry in _entries([path]) if entry.answer is Answer.UNKNOWN]
            self.owed.extend((entry.player, entry.match_id, entry.value) for entry in unsettled)

    def _fork_writer(self) -> None:
        path = self.home / f"w{next(self._numbers)}"
        self.paths.append(path)
        retries = [sending for sending in self.owed if self._rng.random() < 0.5]
        self.owed.clear()
        point = next(self._points["writer"])
        rig, era = self.rig, len(self.paths) // _ERA
        players = [str(player) if era == 0 else f"{player}-{era}" for player in PLAYERS]
        body = partial(traffic.writer, rig.settings, point, rig.shard_map.name, players, path, retries)
        self._add(fork("writer", body), path, point)

    def _fork_worker(self) -> None:
        path = self.home / f"worker{next(self._numbers)}"
        point = next(self._points["worker"])
        body = partial(traffic.worker, self.rig.settings, point, self.rig.shard_map.name, path)
        self._add(fork("worker", body), path, point)

    def _add(self, child: Child, path: Path, point: str) -> None:
        self.children[child] = path
        self._armed[child] = point.partition("=")[0]
        if point == ANYWHERE:
            self._doomed[child] = time.monotonic() + self._rng.uniform(0.05, 0.5)


@contextmanager
def running(rig: Rig, name: str, writers: Sequence[str] = ("",), workers: Sequence[str] = ("",)) -> Iterator[Traffic]:
    """Traffic on a new board, with these failpoints in turn; ended, whatever happens."""
    rig.new_board()
    home = rig.home / "ledgers" / f"{rig.shard_map.board.name}-{name}"
    children = Traffic(rig, home, itertools.cycle(writers), itertools.cycle(workers))
    children.start()
    try:
        yield children
    finally:
        children.end()


def killed_in_moves(rig: Rig, times: int) -> Report:
    """Writers die at the steps of a move, so many times in all. Others die anywhere at all, and so do the workers."""
    report = Report(scenario="killed_in_moves")
    began = time.monotonic()
    with running(rig, report.scenario, WRITERS_DIE, WORKERS_DIE) as children:
        while sum(children.deaths[f"handoff.{point}"] for point in HANDOFF_POINTS) < times:
            children.replace_dead(0.05)
            children.kill_the_doomed()
        for child in children.children:  # whom these leave on the way, nobody but the sweeper will bring home
            child.signal(signal.SIGKILL)
    report.harm = dict(children.deaths)
    return _settled(rig, children, report, began)


def primary_killed(rig: Rig, times: int, load_s: float = LOAD_S) -> Report:
    """kill -9 of a primary; it comes back when its replica has long taken over."""
    return _under_load(rig, "primary_killed", times, load_s, rig.servers.kill, rig.servers.start)


def primary_restarted(rig: Rig, times: int, load_s: float = LOAD_S) -> Report:
    """kill -9 of a primary that a supervisor restarts at once, before anybody has missed it.

    Its file has what it confirmed. A file that does not, because the disk was busy, is why nodes wait: decision 0009.
    """

    def strike(name: str) -> None:
        rig.write_through(name)
        rig.servers.kill(name)
        rig.servers.start(name)

    return _under_load(rig, "primary_restarted", times, load_s, strike, lambda _: None)


def primary_paused(rig: Rig, times: int, load_s: float = 2 * PAUSE_S) -> Report:
    """SIGSTOP of a primary for half of the load: it comes back not knowing that it is none any more."""
    return _under_load(rig, "primary_paused", times, load_s, rig.pause, rig.go_on)


def replica_lost(rig: Rig, times: int, load_s: float = LOAD_S) -> Report:
    """kill -9 of a replica, which comes back later."""
    lost: list[str] = []

    def strike(name: str) -> None:
        lost.append(rig.replica_of(name))
        rig.servers.kill(lost[-1])

    return _under_load(rig, "replica_lost", times, load_s, strike, lambda _: rig.servers.start(lost[-1]))


def primary_killed_with_lagging_replica(rig: Rig, times: int, load_s: float = LOAD_S) -> Report:
    """kill -9 of a primary whose replica has heard nothing for a while: what was not confirmed is taken back.

    The replica is stopped first, and killed with its primary: what the kernel keeps for it must not reach it.
    """

    def strike(name: str) -> None:
        replica = rig.replica_of(name)
        rig.write_through(replica)
        rig.pause(replica)
        time.sleep(_LAG_S)
        rig.servers.kill(name)
        rig.servers.kill(replica)
        rig.servers.start(replica)
        rig.promote_in_any_case(replica)

    return _under_load(rig, "primary_killed_with_lagging_replica", times, load_s, strike, rig.servers.start)


def storm(rig: Rig, times: int, load_s: float = LOAD_S) -> Report:
    """kill -9 of a primary, while writers and workers die at every step of a move."""
    return _under_load(rig, "storm", times, load_s, rig.servers.kill, rig.servers.start, WRITERS_DIE, WORKERS_DIE)


def slot_migrated(rig: Rig, times: int, load_s: float = LOAD_S) -> Report:
    """The slots of shards wander from primary to primary."""
    turns = itertools.count()

    def strike(name: str) -> None:
        shards = [shard for shard in rig.shard_map.shards() if rig.primary_of(shard) == name]
        primaries = {rig.primary_of(shard) for shard in rig.shard_map.shards()} - {name}
        slot = rig.shard_map.keys(shards[next(turns) % len(shards)]).slot
        rig.migrate(slot, name, sorted(primaries)[next(turns) % len(primaries)])

    return _under_load(rig, "slot_migrated", times, load_s, strike, lambda _: None)


def _under_load(
    rig: Rig,
    name: str,
    times: int,
    load_s: float,
    strike: Callable[[str], None],
    heal: Callable[[str], None],
    writers: Sequence[str] = ("",),
    workers: Sequence[str] = ("",),
) -> Report:
    """Strike at a primary so many times, with `load_s` seconds of load for each, and heal it in the middle of them."""
    report = Report(scenario=name)
    rng = random.Random(0)
    placed: set[PlayerId] = set()
    began = time.monotonic()
    with running(rig, name, writers, workers) as children, Ledger(children.home / "probe") as probe:
        children.paths.append(children.home / "probe")
        for turn in range(times):
            shard = rng.choice(list(rig.shard_map.shards()))
            _write_to(rig, shard, probe, f"before-{turn}", placed)
            children.run_for(load_s / 4)
            victim = rig.primary_of(shard)
            struck = time.monotonic()
            strike(victim)
            _write_to(rig, shard, probe, f"after-{turn}", placed)
            report.resumed_after_s.append(time.monotonic() - struck)
            children.run_for(struck + load_s / 2 - time.monotonic())
            heal(victim)
            children.run_for(load_s / 4)
            rig.wait_healed()
    report.harm = {name: times, **children.deaths}
    return _settled(rig, children, report, began)


def _write_to(rig: Rig, shard: int, probe: Ledger, match: str, placed: set[PlayerId]) -> None:
    """Write to one shard until it is acknowledged; the row stays there, because the submission is worth nothing."""
    player = PlayerId(f"probe-{shard}")
    order = rig.shard_map.board.order
    middle = next(
        points
        for points in range(CUTS[0] - 50, CUTS[-1] + 51, 50)
        if points % 100 and rig.shard_map.shard_for(pack(points, 0, order), member_of(player)) == shard
    )
    sending = (player, match, 0 if player in placed else middle)

    def taken() -> bool:
        result = traffic.send(rig.leaderboard, probe, rig.shard_map.name, [sending])[0]
        return result is not None and result.status in {Status.APPLIED, Status.DUPLICATE}

    wait_until(taken, _RESUMED_S)
    placed.add(player)


# -- the books


def _entries(paths: Sequence[Path]) -> list[Entry]:
    return list(ledger.read(path for path in paths if path.exists() and path.stat().st_size))


def _without_promise(entry: Entry) -> Entry:
    """An acknowledgement that says itself that no replica has the write promises nothing."""
    return entry if entry.durable or entry.answer is Answer.REFUSED else replace(entry, answer=Answer.UNKNOWN)


def _settled(rig: Rig, children: Traffic, report: Report, began: float) -> Report:
    """Come to rest as a running system would, then compare everything with everything."""
    report.home_after_s = _come_home(rig)
    board = rig.shard_map
    for shard in board.shards():
        wait_until(partial(_drained, rig, shard), 30)
    report.seconds = time.monotonic() - began
    report.where = census(rig.leaderboard, board)
    entries = _entries(children.paths)
    players = {entry.player for entry in entries}
    points: dict[str, int | None] = {player: report.where.points.get(player) for player in players}  # type: ignore[call-overload]
    games = Games(rig.settings.postgres_dsn, board.board.name, board.period.name)
    try:
        rows = games.rows(sorted(players))
    finally:
        games.close()
    report.books = check(map(_without_promise, entries), points, rows)
    counted = {(row.player, row.match_id) for row in rows}
    told = {(entry.player, entry.match_id) for entry in entries if entry.answer in _COUNTED and not entry.durable}
    report.not_durable, report.lost_not_durable = len(told), len(told - counted)
    report.scrubbed = scrub(rig.patient, rig.engine, board, Deadline.after(300), players_per_s=1e6)
    report.audit_agrees = verify(rig.patient, rig.engine, board, lambda _: None).agrees
    return report


def _come_home(rig: Rig) -> float:
    """Sweep as often as beat does, until nobody is leaving or out of range; how long that took."""
    start, sweep_at = time.monotonic(), time.monotonic() + traffic.SWEEP_S

    def home() -> bool:
        nonlocal sweep_at
        try:
            if time.monotonic() >= sweep_at:
                sweep_at = time.monotonic() + traffic.SWEEP_S
                rig.leaderboard.rebalancer.sweep(rig.shard_map, Deadline.after(5))
            views = rig.leaderboard.shards(rig.shard_map.name, Deadline.after(5))
        except LeaderboardError:
            return False
        return sum(view.strays + view.leaving for view in views) == 0

    wait_until(home, _HOME_S)
    return time.monotonic() - start


def _drained(rig: Rig, shard: int) -> bool:
    deadline = Deadline.after(10)
    try:
        drain_shards(rig.leaderboard, rig.engine, rig.shard_map, [shard], 500, deadline)
        return rig.leaderboard.outbox.lengths([rig.shard_map.keys(shard)], deadline) == [0]
    except LeaderboardError:
        return False


#: The sizes that docs/how-to/fault-tests.md tells of: how often harm is done, and the seconds of load for each.
LARGE: dict[str, tuple[int] | tuple[int, float]] = {
    "killed_in_moves": (1000,),
    "primary_killed": (20, 30.0),
    "primary_restarted": (12, LOAD_S),
    "primary_paused": (20, 30.0),
    "primary_killed_with_lagging_replica": (20, LOAD_S),
    "replica_lost": (20, 30.0),
    "slot_migrated": (20, 30.0),
    "storm": (15, LOAD_S),
}

SCENARIOS: dict[str, Callable[..., Report]] = {
    scenario.__name__: scenario
    for scenario in (
        killed_in_moves,
        primary_killed,
        primary_killed_with_lagging_replica,
        primary_restarted,
        primary_paused,
        replica_lost,
        slot_migrated,
        storm,
    )
}
