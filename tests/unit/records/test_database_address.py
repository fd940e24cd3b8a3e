"""How the address of the database is read, before anything connects."""

import pytest
from psycopg2.extensions import parse_dsn

from records import engine
from records.errors import InvalidRecord

DEFAULTS = {"connect_timeout_s": 3, "statement_timeout_ms": 30_000, "application_name": "rangeboard"}


def test_deadlines_and_name_are_added():
    read = parse_dsn(engine.complete_address("postgresql://ann@db.example:5433/games", **DEFAULTS))
    assert read.items() >= {
        "user": "ann", "host": "db.example", "port": "5433", "dbname": "games",
        "connect_timeout": "3", "application_name": "rangeboard",
    }.items()  # fmt: skip
    assert "-c statement_timeout=30000" in read["options"]


def test_what_the_address_says_itself_wins():
    """PostgreSQL takes the last of several options."""
    given = "host=/run/db dbname=games connect_timeout=9 options='-c statement_timeout=5'"
    read = parse_dsn(engine.complete_address(given, **DEFAULTS))
    assert (read["host"], read["connect_timeout"]) == ("/run/db", "9")
    assert read["options"].endswith("-c statement_timeout=5")


@pytest.mark.parametrize("dsn", ["mysql://x", "nonsense", "postgresql://h/db?colour=red"])
def test_what_is_no_address_is_refused(dsn):
    with pytest.raises(InvalidRecord) as refused:
        engine.connect(dsn)
    assert refused.value.field == "dsn"
