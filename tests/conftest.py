"""Real servers for the tests, started once a session from the wheels: no test talks to a stand-in."""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from records_databases import migrated_database
from sqlalchemy import Engine

from cli.servers import ServerSet
from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import Board
from sharding.cluster.formation import Library
from sharding.functions import LIBRARY_NAME, library_code
from sharding.leaderboard import Leaderboard
from sharding.periods import period_at
from sharding.scores import Order
from sharding.shard_map import Range, ShardMap, cut_after, ranges_cut_at

# An example that takes long was interrupted: nothing here is timed.
hypothesis_settings.register_profile("tests", deadline=None)
hypothesis_settings.load_profile("tests")


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerSet]:
    """A formed cluster of 3 primaries and 3 replicas, a broker, and an empty PostgreSQL."""
    home: Path = tmp_path_factory.mktemp("servers")
    # A busy moment of this machine is no defect of what is tested here; who tests silent nodes is less patient.
    patient = Settings(ack_timeout_ms=2_500, node_timeout_ms=2_500)
    running = ServerSet(home, settings=patient, library=Library(LIBRARY_NAME, library_code()))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def postgres_dsn(servers: ServerSet) -> str:
    """The superuser's address of an empty database; tests that need tables make databases of their own."""
    return servers.settings.postgres_dsn


@pytest.fixture(scope="module")
def database(postgres_dsn: str) -> Iterator[Engine]:
    """A migrated database for each module of tests."""
    with migrated_database(postgres_dsn) as made:
        yield made


@pytest.fixture(scope="session")
def leaderboard(servers: ServerSet) -> Iterator[Leaderboard]:
    """The boards of that cluster; every player exists."""
    board = Leaderboard.connect(servers.settings, known_players=lambda _, players: players)
    yield board
    board.close()


@pytest.fixture
def soon() -> Deadline:
    """Far enough away for anything that works."""
    return Deadline.after(10)


@pytest.fixture(scope="session")
def open_board(leaderboard: Leaderboard) -> Callable[..., ShardMap]:
    """Opens a board of its own for a test: `open_board(cuts=[10, 20], splits=1)`."""
    numbers = itertools.count(1)

    def open_one(
        cuts: list[int] | None = None, *, splits: int = 1, retry_window_ms: int = 3_600_000, **rules: object
    ) -> ShardMap:
        board = Board(name=f"test-{next(numbers)}", **rules)  # type: ignore[arg-type]
        ascending = sorted(cut_after(points, Order(board.order)) for points in (cuts or [10, 20]))
        plain = ranges_cut_at(ascending)
        ranges = [
            Range(part.low, part.high, tuple(range(index * splits, (index + 1) * splits)))
            for index, part in enumerate(plain)
        ]
        shard_map = ShardMap(
            board=board,
            period=period_at(board.kind, datetime.now(UTC)),
            generation=1,
            version=1,
            ranges=tuple(ranges),
            retry_window_ms=retry_window_ms,
            partitions=8,
            buckets=64,
        )
        return leaderboard.maps.publish(shard_map, Deadline.after(10))

    return open_one
