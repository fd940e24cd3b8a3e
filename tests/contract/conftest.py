"""What the tests of records and workers share: a migrated database for each module, and boards that both sides know."""

from collections.abc import Iterator

import pytest
from played_boards import OpenBoard, open_played
from records_databases import migrated_database
from sqlalchemy import Engine

from runtime import failpoints
from sharding.leaderboard import Leaderboard


@pytest.fixture(scope="module")
def database(postgres_dsn: str) -> Iterator[Engine]:
    with migrated_database(postgres_dsn) as made:
        yield made


@pytest.fixture
def open_one(leaderboard: Leaderboard, database: Engine) -> OpenBoard:
    return lambda **given: open_played(leaderboard, database, **given)


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    """A failpoint that a test armed is no other's."""
    yield
    failpoints.arm("")
