"""The shard maps, with their history: the one place where two who would publish a map are told apart.

Versions of a board period's map count 1, 2, 3, … on through all its generations, and the key (board, period, version)
admits one of each. A document is taken as it is; only its own `generation` and `version` are read.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Select, select
from sqlalchemy.dialects.postgresql import distinct_on, insert

from records.engine import reading, transaction
from records.errors import Conflict, InvalidRecord
from records.tables import shard_maps

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredMap:
    """One version of a map."""

    board: str
    period: str
    version: int
    generation: int
    document: Document
    created_at: datetime


def insert_first(engine: Engine, board: str, period: str, document: Document) -> Document:
    """Publish version 1, unless the board period has a map; returns the newest there is, this one or another's.

    Of many who try at once one wins, and all get the same answer. InvalidRecord if there is no such board.
    """
    first = _row(board, period, document, version=1)
    with transaction(engine) as connection:
        connection.execute(insert(shard_maps).values(first).on_conflict_do_nothing())
        return StoredMap(**connection.execute(_newest(board, period)).mappings().one()).document


def append(engine: Engine, board: str, period: str, expected_version: int, document: Document) -> StoredMap:
    """Publish the version after `expected_version`; Conflict (field `version`) if that is not the newest any more."""
    row = _row(board, period, document, version=expected_version + 1)
    appended = insert(shard_maps).values(row).on_conflict_do_nothing().returning(shard_maps)
    with transaction(engine) as connection:
        newest = connection.execute(_newest(board, period)).one_or_none()
        if newest is not None and newest.version == expected_version:
            if newest.generation > row["generation"]:
                raise InvalidRecord(f"generation {newest.generation} has begun", field="generation")
            stored = connection.execute(appended).mappings().one_or_none()
            if stored is not None:
                return StoredMap(**stored)
    raise Conflict(f"version {expected_version} is not the newest map of {board} {period}", field="version")


def latest(engine: Engine, board: str, period: str) -> StoredMap | None:
    """The newest map of a board period."""
    with reading(engine) as connection:
        row = connection.execute(_newest(board, period)).mappings().one_or_none()
    return None if row is None else StoredMap(**row)


def latest_all(engine: Engine, periods: Collection[str]) -> list[StoredMap]:
    """The newest map of every board in these periods (the open ones), by board and period."""
    maps = shard_maps.c
    newest = (
        select(shard_maps)
        .where(maps.period.in_(periods))
        .order_by(maps.board, maps.period, maps.version.desc())
        .ext(distinct_on(maps.board, maps.period))
    )
    with reading(engine) as connection:
        return [StoredMap(**row) for row in connection.execute(newest).mappings()]


def history(engine: Engine, board: str, period: str) -> list[StoredMap]:
    """All maps of a board period, oldest first."""
    maps = shard_maps.c
    with reading(engine) as connection:
        rows = connection.execute(_versions(board, period).order_by(maps.version)).mappings()
        return [StoredMap(**row) for row in rows]


def _versions(board: str, period: str) -> Select[Any]:
    return select(shard_maps).where(shard_maps.c.board == board, shard_maps.c.period == period)


def _newest(board: str, period: str) -> Select[Any]:
    return _versions(board, period).order_by(shard_maps.c.version.desc()).limit(1)


def _row(board: str, period: str, document: Document, *, version: int) -> dict[str, Any]:
    if document.get("version") != version:
        raise InvalidRecord(f"the document is version {document.get('version')}, not {version}", field="version")
    generation = document.get("generation")
    if not isinstance(generation, int):
        raise InvalidRecord("the document has no generation", field="generation")
    return {"board": board, "period": period, "version": version, "generation": generation, "document": document}
