"""A lease has one holder at a time, and none once the holder is gone."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from psycopg2.extensions import make_dsn
from records_databases import scalar
from sqlalchemy import text
from waiting import wait_until

from records.engine import transaction
from records.errors import RecordsUnavailable
from records.leases import lease

pytestmark = pytest.mark.servers


def is_free(database, name):
    with lease(database, name) as held:
        return held is not None


def test_one_holder_at_a_time(database):
    """Who comes second is told so at once; another name is another lease."""
    with lease(database, "drain:1") as held:
        assert held is not None
        assert not is_free(database, "drain:1")
        assert is_free(database, "drain:2")
    assert is_free(database, "drain:1")


def test_of_many_who_try_together_one_gets_it(database):
    with ThreadPoolExecutor(8) as pool, ExitStack() as held_until_here:
        tries = [pool.submit(held_until_here.enter_context, lease(database, "drain:1")) for _ in range(8)]
        assert sum(one.result() is not None for one in tries) == 1


def test_work_that_fails_frees_it(database):
    """Also when it fails in the middle of a transaction."""
    with pytest.raises(ZeroDivisionError), lease(database, "drain:1") as held:
        assert held.execute(text("SELECT 1")).scalar_one() / 0
    assert is_free(database, "drain:1")


def test_a_killed_process_frees_it(database, postgres_dsn):
    """No expiry has to be waited for."""
    hold = """
import sys, time
from records import engine
from records.leases import lease
with lease(engine.connect(sys.argv[1]), "drain:1") as held:
    print(held is not None, flush=True)
    sys.stdin.read()
"""
    with database.connect() as connection:
        dsn = make_dsn(postgres_dsn, dbname=connection.connection.driver_connection.info.dbname)
    holder = subprocess.Popen([sys.executable, "-c", hold, dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"True\n"
    assert not is_free(database, "drain:1")
    holder.kill()
    holder.communicate()
    wait_until(lambda: is_free(database, "drain:1"))


def test_a_lost_lease_fails_the_work(database):
    """What is written through the lease's connection cannot be written without the lease."""

    def lose_it_and_write():
        with lease(database, "drain:1") as held, transaction(held):
            pid = held.execute(text("SELECT pg_backend_pid()")).scalar_one()
            assert scalar(database, "SELECT pg_terminate_backend(:pid, 5000)", pid=pid)
            assert is_free(database, "drain:1")
            held.execute(text("UPDATE boards SET max_value = 5"))

    with pytest.raises(RecordsUnavailable):
        lose_it_and_write()
    assert is_free(database, "drain:1")
    assert scalar(database, "SELECT count(*) FROM boards WHERE max_value = 5") == 0
