"""The connections of one worker process, made when they are first needed: always after the fork."""

from functools import cache

import msgspec
from sqlalchemy import Engine

from records.engine import connect
from runtime.settings import Settings, load
from sharding.leaderboard import Leaderboard


@cache
def settings() -> Settings:
    """The settings of this process."""
    return load()


@cache
def engine() -> Engine:
    """PostgreSQL."""
    # A job may hold three for leases (its own, its place, its board's), one for what it streams, one for what it
    # writes, one to make a partition.
    return connect(settings().postgres_dsn, pool_size=6, application_name="rangeboard-worker")


@cache
def leaderboard() -> Leaderboard:
    """The boards. Workers move players and drain outboxes, but never meet one for the first time."""
    return Leaderboard.connect(small(settings()), known_players=lambda _, players: players)


def small(given: Settings) -> Settings:
    """Settings of a process that goes through whole boards: who is where is not worth remembering there."""
    return msgspec.structs.replace(given, directory_cache=0)
