"""What the children do: submit for the same few players and write down what they are told, or look after the board.

A writer's ledger has a submission before it is sent, so what the writer was at when it was killed is known: it stays
unknown, and the next writer sends half of those again, under the same match ids, as a player's client would.
"""

import random
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from loadtest.ledger import Answer, Ledger
from records.engine import connect
from records.errors import RecordsError
from runtime import logs
from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.errors import LeaderboardError, Outcome
from sharding.leaderboard import Leaderboard, RankMode, Result, Submission
from sharding.players import PlayerId
from sharding.submissions import Status
from workers.drain import drain_shards
from workers.schedule import SCHEDULE

from .rig import FURTHEST

#: (player, match id, value)
Sending = tuple[str, str, int]

THREADS = 3
_DEADLINE_S = 3.0
#: The share of submissions that are a player's first.
_NEW = 0.05
_AFTER_REFUSAL_S = 0.05
_ANSWERS = {
    Status.APPLIED: Answer.ACKNOWLEDGED,
    Status.DUPLICATE: Answer.DUPLICATE,
    Status.REFUSED: Answer.REFUSED,
    Status.UNKNOWN: Answer.UNKNOWN,
}
SWEEP_S = float(SCHEDULE["sweep"]["schedule"])


def writer(
    settings: Settings, failpoints: str, board: BoardPeriod, players: Sequence[str], path: Path, retries: list[Sending]
) -> None:
    """Submit until told to end (SIGTERM), `retries` first."""
    ended = _until_told(settings, path)
    leaderboard = _connect(msgspec.structs.replace(settings, failpoints=failpoints))
    ledger = Ledger(path)
    first = retries[:]

    def submit(number: int) -> None:
        rng = random.Random(f"{path.name}-{number}")
        points: dict[str, int] = {}
        count = 0
        while not ended.is_set():
            together = 1 if rng.random() < 0.6 else rng.randrange(2, 9)
            sendings = [first.pop() for _ in range(min(together, len(first)))] if first and number == 0 else []
            while len(sendings) < together:
                count += 1
                player = f"new-{path.stem}-{number}-{count}" if rng.random() < _NEW else rng.choice(players)
                value = rng.randrange(1, FURTHEST) * (-1 if points.get(player, 0) > 0 else 1)
                sendings.append((player, f"{path.stem}-{number}-{count}", value))
            results = send(leaderboard, ledger, board, sendings)
            for (player, _, _), result in zip(sendings, results, strict=True):
                if result is not None and result.points is not None:
                    points[player] = result.points
            if any(result is None or result.status is Status.REFUSED for result in results):
                ended.wait(_AFTER_REFUSAL_S)

    threads = [threading.Thread(target=submit, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def send(
    leaderboard: Leaderboard, ledger: Ledger, board: BoardPeriod, sendings: Sequence[Sending]
) -> list[Result | None]:
    """Submit, with every step in the ledger; None for each where the whole request was refused or is unknown."""
    tickets = ledger.sending(sendings)
    submissions = [Submission(PlayerId(player), value, match) for player, match, value in sendings]
    try:
        results: list[Result | None] = [
            *leaderboard.submit(board, submissions, Deadline.after(_DEADLINE_S), rank=RankMode.NONE)
        ]
    except LeaderboardError as error:
        answer = Answer.REFUSED if error.outcome is Outcome.NOT_APPLIED else Answer.UNKNOWN
        for ticket in tickets:
            ledger.answered(ticket, answer)
        return [None] * len(sendings)
    for ticket, result in zip(tickets, results, strict=True):
        assert result is not None
        ledger.answered(ticket, _ANSWERS[result.status], durable=result.durable)
    return results


def worker(settings: Settings, failpoints: str, board: BoardPeriod, path: Path) -> None:
    """Sweep and drain as beat would have it, until told to end (SIGTERM)."""
    ended = _until_told(settings, path)
    leaderboard = _connect(msgspec.structs.replace(settings, failpoints=failpoints))
    engine = connect(settings.postgres_dsn, pool_size=2)
    sweep_at = time.monotonic()
    while not ended.is_set():
        due = time.monotonic() >= sweep_at
        if due:
            sweep_at = time.monotonic() + SWEEP_S
        try:
            shard_map = leaderboard.maps.current(board, Deadline.after(_DEADLINE_S))
            if due:
                leaderboard.rebalancer.sweep(shard_map, Deadline.after(_DEADLINE_S))
            for shard in shard_map.shards():
                drain_shards(leaderboard, engine, shard_map, [shard], 500, Deadline.after(_DEADLINE_S))
        except (LeaderboardError, RecordsError):
            continue  # a node is down; the next round tries again
        finally:
            ended.wait(0.2)


def _connect(settings: Settings) -> Leaderboard:
    return Leaderboard.connect(settings, known_players=lambda _, players: players)


def _until_told(settings: Settings, path: Path) -> threading.Event:
    """An event that SIGTERM sets; what this child logs goes to a file."""
    logs.configure(settings, process=path.stem, stream=path.with_name("children.log").open("a", buffering=1))
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    return ended
