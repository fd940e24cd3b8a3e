"""The jobs that go through a whole board hold a small part of it at a time, whatever its size."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from played_boards import Played, open_played
from sqlalchemy import Engine

import sharding.lifecycle
import workers.drain
import workers.rebuild
import workers.verify
from cli.servers import ServerSet
from records import audit
from runtime.settings import Settings
from sharding.leaderboard import Leaderboard, Submission
from sharding.periods import PeriodKind, period_at
from sharding.players import PlayerId
from workers import resources
from workers.archive import Archive
from workers.rebuild import Rebuild
from workers.verify import verify

pytestmark = pytest.mark.servers

#: Far apart: how many batches are on their way at the peak is chance, and is a hundred thousand bytes.
SMALL, LARGE = 2_000, 16_000
#: Less than anything that a job could keep of each player: the id alone takes more than twice as much.
BYTES_A_PLAYER = 24
#: What the jobs hold at a time, in rows: much less than the smaller board has on one shard.
AT_ONCE = 100


@pytest.fixture
def worker(servers: ServerSet) -> Iterator[Leaderboard]:
    """The boards as a worker has them."""
    leaderboard = Leaderboard.connect(resources.small(servers.settings), known_players=lambda _, players: players)
    yield leaderboard
    leaderboard.close()


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (workers.rebuild, workers.verify):
        monkeypatch.setattr(module, "_BATCH", AT_ONCE)
    monkeypatch.setattr(workers.rebuild, "_AT_ONCE", 1)
    monkeypatch.setattr(workers.drain, "_BYTES_AT_ONCE", 100 * AT_ONCE)
    monkeypatch.setattr(workers.drain, "_FIRST_ENTRIES", 1)
    monkeypatch.setattr(sharding.lifecycle, "CHUNK", AT_ONCE)
    monkeypatch.setattr(audit, "_ROWS_A_FETCH", AT_ONCE)


def jobs(board: Played) -> dict[str, Callable[[], object]]:
    rebuild = Rebuild(board.leaderboard, board.engine, board.name)
    archive = Archive(board.leaderboard, board.engine, Settings())
    return {
        "drain": board.drain,
        "verify": lambda: verify(board.leaderboard, board.engine, board.now(), lambda _: None),
        "rebuild": lambda: rebuild.whole(lambda *_: None, force=True),
        "archive": lambda: archive.close(board.name, datetime.now(UTC), lambda *_: None),
    }


def peaks(leaderboard: Leaderboard, engine: Engine, players: int) -> dict[str, int]:
    """The bytes that Python held at most, in each job, above what it held before."""
    past = period_at(PeriodKind.DAY, datetime.now(UTC) - timedelta(days=3))
    board = open_played(leaderboard, engine, period_kind="day", period=past, cuts=(10, 20, 30))
    for first in range(0, players, 4 * AT_ONCE):  # about so many in an entry of the outbox
        numbers = range(first, min(first + 4 * AT_ONCE, players))
        board.submit([Submission(PlayerId(f"player-{number:06d}"), number % 40, "m") for number in numbers])
    found = {}
    for name, job in jobs(board).items():
        gc.collect()
        tracemalloc.start()
        try:
            job()
            found[name] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    return found


def test_the_memory_of_a_worker_does_not_follow_the_size_of_the_board(worker: Leaderboard, database: Engine) -> None:
    """Eight times the players take as much, in every job."""
    peaks(worker, database, 4 * AT_ONCE)  # what is made once stays out of it
    small, large = peaks(worker, database, SMALL), peaks(worker, database, LARGE)
    grown = {name: (large[name] - small[name]) / (LARGE - SMALL) for name in small}
    print(grown)
    assert {name: more for name, more in grown.items() if more > BYTES_A_PLAYER} == {}
