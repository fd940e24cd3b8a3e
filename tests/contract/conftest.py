"""What the tests of records and workers share: boards that both sides know, and failpoints that are nobody's."""

from collections.abc import Iterator

import pytest
from played_boards import OpenBoard, open_played
from sqlalchemy import Engine

from runtime import failpoints
from sharding.leaderboard import Leaderboard


@pytest.fixture
def open_one(leaderboard: Leaderboard, database: Engine) -> OpenBoard:
    return lambda **given: open_played(leaderboard, database, **given)


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    """A failpoint that a test armed is no other's."""
    yield
    failpoints.arm("")
