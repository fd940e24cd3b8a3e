"""How PostgreSQL's failures reach the rest: as our own errors, with the driver's as the cause, and in time."""

import time
from contextlib import ExitStack

import psycopg2
import pytest
from records_databases import empty_database, scalar
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from records import boards, engine, migrations
from records.engine import reading, transaction
from records.errors import RecordsUnavailable

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def dsn(postgres_dsn):
    with empty_database(postgres_dsn) as made:
        migrations.upgrade(made)
        yield made


@pytest.fixture
def database(dsn):
    made = engine.connect(dsn)
    yield made
    made.dispose()


def test_a_server_that_is_not_there_is_unavailable():
    with pytest.raises(RecordsUnavailable) as refused:
        boards.list_all(engine.connect("postgresql://postgres@127.0.0.1:1/none"))
    assert refused.value.retryable
    assert isinstance(refused.value.__cause__, psycopg2.OperationalError)


def test_a_statement_that_takes_too_long_is_ended(dsn):
    database = engine.connect(dsn, statement_timeout_ms=50)
    started = time.monotonic()
    with pytest.raises(RecordsUnavailable), reading(database) as connection:
        connection.execute(text("SELECT pg_sleep(20)"))
    assert time.monotonic() - started < 10
    database.dispose()


def test_who_finds_no_free_connection_is_told_in_time(dsn):
    database = engine.connect(dsn, pool_size=2, pool_timeout_s=0.05)
    with ExitStack() as busy:
        for _ in range(2):
            busy.enter_context(transaction(database))
        with pytest.raises(RecordsUnavailable, match="busy"):
            boards.list_all(database)
    assert boards.list_all(database)
    database.dispose()


def test_connections_that_the_server_ended_are_replaced(database, dsn):
    """A restart of PostgreSQL costs nobody an error who comes after it."""
    pooled = engine.connect(dsn, pool_size=1)
    pid = scalar(pooled, "SELECT pg_backend_pid()")
    assert scalar(database, "SELECT pg_terminate_backend(:pid, 5000)", pid=pid)
    assert boards.list_all(pooled)
    pooled.dispose()


def test_a_standby_is_unavailable_for_writes(database):
    """After a failover the old address may lead to one; a moment later it does not."""
    delete = "SET TRANSACTION READ ONLY; DELETE FROM users"
    with pytest.raises(RecordsUnavailable), transaction(database) as connection:
        connection.execute(text(delete))


def test_a_mistake_in_our_own_sql_stays_what_it_is(database):
    """It must not look like an outage that goes away by itself."""
    with pytest.raises(ProgrammingError), reading(database) as connection:
        connection.execute(text("SELECT FROM WHERE"))


def test_what_fails_in_a_transaction_did_not_happen(database):
    with pytest.raises(ZeroDivisionError), transaction(database) as connection:
        assert connection.execute(text("UPDATE boards SET max_value = 5")).rowcount / 0
    assert scalar(database, "SELECT count(*) FROM boards WHERE max_value = 5") == 0


def test_the_server_knows_who_is_connected(dsn):
    """And ends what a process of ours has forgotten."""
    database = engine.connect(dsn, application_name="rangeboard test")
    assert scalar(database, "SELECT current_setting('application_name')") == "rangeboard test"
    assert scalar(database, "SELECT current_setting('statement_timeout')") == "30s"
    database.dispose()
