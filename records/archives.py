"""How far the archive of each board period is: one row for each shard that is copied, one for the whole.

The whole is `closing` from the moment its shards are frozen, and `archived` once its final ranking is stored and
verified. A shard's row and its snapshots are of one transaction, so a shard is copied or it is not.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, Engine, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from records.engine import reading, transaction
from records.tables import archives, shard_maps

State = Literal["closing", "copied", "archived"]

#: In the place of a shard: the whole board period.
WHOLE = -1


@dataclass(frozen=True, slots=True)
class Archived:
    """The state of one shard, or of the whole; `points` is the sum over its players.

    `submissions` is told of the whole: how many had been applied when it was closed.
    """

    board: str
    period: str
    shard: int
    state: State
    players: int | None
    points: int | None
    changed_at: datetime
    submissions: int | None = None


def of_period(engine: Engine, board: str, period: str) -> dict[int, Archived]:
    """The states of a board period, by shard; nothing if its archive has not begun."""
    states = archives.c
    theirs = select(archives).where(states.board == board, states.period == period)
    with reading(engine) as connection:
        return {row["shard"]: _archived(**row) for row in connection.execute(theirs).mappings()}


def final(engine: Engine, board: str, period: str) -> Archived | None:
    """The board period as a whole, if its final ranking is stored and verified; then this never changes any more."""
    states = archives.c
    whole = select(archives).where(states.board == board, states.period == period, states.shard == WHOLE)
    with reading(engine) as connection:
        row = connection.execute(whole.where(states.state == "archived")).mappings().one_or_none()
    return None if row is None else _archived(**row)


def finals(engine: Engine, board: str, *, limit: int, before: str | None = None) -> list[Archived]:
    """The periods of a board whose final ranking is stored and verified, the latest first; only those before one."""
    states = archives.c
    whole = select(archives).where(states.board == board, states.shard == WHOLE, states.state == "archived")
    if before is not None:
        whole = whole.where(states.period < before)
    with reading(engine) as connection:
        rows = connection.execute(whole.order_by(states.period.desc()).limit(limit)).mappings().all()
    return [_archived(**row) for row in rows]


def is_archived(engine: Engine, board: str, period: str) -> bool:
    """Whether the final ranking of a board period is stored and verified."""
    return final(engine, board, period) is not None


def unarchived(engine: Engine) -> list[tuple[str, str]]:
    """Boards and periods that have, or had, a ranking and no verified archive; oldest period name first."""
    maps, states = shard_maps.c, archives.c
    done = (
        select(states.shard)
        .where(states.board == maps.board, states.period == maps.period)
        .where(states.shard == WHOLE, states.state == "archived")
    )
    wanted = select(maps.board, maps.period).distinct().where(~done.exists()).order_by(maps.period, maps.board)
    with reading(engine) as connection:
        return [(board, period) for board, period in connection.execute(wanted)]


def record(
    bind: Engine | Connection,
    board: str,
    period: str,
    shard: int,
    state: State,
    *,
    players: int | None = None,
    points: int | None = None,
    submissions: int | None = None,
) -> None:
    """Set the state of a shard, or of the whole. A connection that is given is in a transaction already."""
    told = {"state": state, "players": players, "points": points, "submissions": submissions}
    row = insert(archives).values({"board": board, "period": period, "shard": shard, **told})
    row = row.on_conflict_do_update(
        index_elements=["board", "period", "shard"], set_={**told, "changed_at": func.now()}
    )
    with _transaction(bind) as connection:
        connection.execute(row)


def forget(connection: Connection, board: str, period: str, shards: Sequence[int]) -> None:
    """Take back the states of shards, in the transaction that takes back what they stand for."""
    states = archives.c
    connection.execute(
        delete(archives).where(states.board == board, states.period == period, states.shard.in_(list(shards)))
    )


@contextmanager
def _transaction(bind: Engine | Connection) -> Iterator[Connection]:
    if isinstance(bind, Connection):
        yield bind
    else:
        with transaction(bind) as connection:
            yield connection


def _archived(**row: object) -> Archived:
    points = row.pop("points")
    return Archived(points=None if points is None else int(str(points)), **row)  # type: ignore[arg-type]
