"""Databases for the tests of records: each test module has one of its own, on the session's PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg2
from psycopg2.extensions import make_dsn
from sqlalchemy import Engine, text

from records import engine, migrations


@contextmanager
def empty_database(postgres_dsn: str) -> Iterator[str]:
    """The address of a database that holds nothing."""
    name = f"records_{uuid4().hex}"
    server = psycopg2.connect(postgres_dsn)
    server.autocommit = True
    try:
        with server.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
            yield make_dsn(postgres_dsn, dbname=name)
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        server.close()


@contextmanager
def migrated_database(postgres_dsn: str) -> Iterator[Engine]:
    """An engine on a database of the newest version."""
    with empty_database(postgres_dsn) as dsn:
        migrations.upgrade(dsn)
        database = engine.connect(dsn, pool_size=20)
        try:
            yield database
        finally:
            database.dispose()


def scalar(database: Engine, statement: str, **parameters: object) -> object:
    """The one value that a statement answers."""
    with database.begin() as connection:
        return connection.execute(text(statement), parameters).scalar_one()
