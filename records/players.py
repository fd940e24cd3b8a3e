"""Players: who they are, and whether they are there.

Batches are one statement whatever their size (arrays, not thousands of parameters), and a bad item never spoils the
others. Ids are canonical, a UUID is lower-case, so that one player is not two; lookups take ids as they are kept.
"""

import re
import secrets
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict
from uuid import uuid4

from sqlalchemy import ARRAY, ColumnElement, Connection, Engine, Text, any_, cast, insert, literal, select, text
from sqlalchemy import update as update_rows

from records.engine import reading, transaction
from records.errors import InvalidRecord
from records.tables import users

MOST_AT_ONCE = 10_000
NAME_LENGTH = 64
URL_LENGTH = 2048

_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
#: Addresses of the API, where a player's would be (sharding/players.py has the same).
RESERVED = frozenset({"around", "lookup"})
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_COUNTRY = re.compile(r"[A-Z]{2}")
_URL = re.compile(r"https?://\S+")
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPlayer:
    """A player to be. Without an id, one is made (a random UUID); without a display name, it is the username.

    `country` is two capital letters (ISO 3166-1). Hidden players are ranked and not shown.
    """

    username: str
    id: str | None = None
    display_name: str | None = None
    avatar_url: str | None = None
    country: str | None = None
    hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """A player who is there."""

    id: str
    username: str
    display_name: str
    avatar_url: str | None
    country: str | None
    hidden: bool
    created_at: datetime


class PlayerChanges(TypedDict, total=False):
    """What may change of a player."""

    username: str
    display_name: str
    avatar_url: str | None
    country: str | None
    hidden: bool


@dataclass(frozen=True, slots=True)
class Creation:
    """What became of one item of a batch; `field` and `reason` say what is wrong with an invalid one."""

    status: Literal["created", "exists", "username_taken", "invalid"]
    id: str | None
    field: str | None = None
    reason: str | None = None


_CREATE = text(
    """
    INSERT INTO users (id, username, display_name, avatar_url, country, hidden)
    SELECT * FROM unnest(CAST(:id AS text[]), CAST(:username AS text[]), CAST(:display_name AS text[]),
                         CAST(:avatar_url AS text[]), CAST(:country AS text[]), CAST(:hidden AS boolean[]))
    ON CONFLICT DO NOTHING
    RETURNING id, username
    """
)


def create(engine: Engine, player: NewPlayer) -> Player:
    """Make a player. Conflict names the field that is taken (`id`, `username`), InvalidRecord one that is not fit."""
    row = checked_row(player)
    with transaction(engine) as connection:
        return Player(**connection.execute(insert(users).values(row).returning(users)).mappings().one())


def create_many(engine: Engine, players: Sequence[NewPlayer]) -> list[Creation]:
    """Make up to 10,000 players in one statement; what became of each, in the order given.

    `exists`: there is a player of that id, who stays as they are. `username_taken`: the name is another player's.
    """
    if len(players) > MOST_AT_ONCE:
        raise InvalidRecord(f"at most {MOST_AT_ONCE} players at once")
    checked = [_row_or_reason(player) for player in players]
    rows = [item for item in checked if isinstance(item, dict)]
    with transaction(engine) as connection:
        created = _insert(connection, rows)
        there = _existing(connection, [row["id"] for row in rows]) if len(created) < len(rows) else set()
    results = []
    for item in checked:
        if isinstance(item, Creation):
            results.append(item)
        elif (name := (item["id"], item["username"])) in created:
            created.remove(name)  # the same again, later in the batch, is one that exists
            results.append(Creation("created", item["id"]))
        else:
            results.append(Creation("exists" if item["id"] in there else "username_taken", item["id"]))
    return results


def register_missing(engine: Engine, ids: Iterable[str]) -> set[str]:
    """Register the players of these ids who are not there, on the fly; the ids of those that were not.

    Their username is their id. Where another player has taken that for a name, some characters are added to it.
    """
    wanted = {canonical_id(player_id) for player_id in ids}
    registered: set[str] = set()
    name = _id_as_name
    with transaction(engine) as connection:
        # In one order everywhere: two processes that register the same players never wait for each other in a circle.
        while missing := sorted(wanted - _existing(connection, wanted)):
            rows = [checked_row(NewPlayer(id=player_id, username=name(player_id))) for player_id in missing]
            registered.update(player_id for player_id, _ in _insert(connection, rows))
            name = _id_and_more_as_name
    return registered


def get(engine: Engine, player_id: str) -> Player | None:
    """The player of that id."""
    return profiles(engine, [player_id]).get(player_id)


def profiles(engine: Engine, ids: Collection[str]) -> dict[str, Player]:
    """The players of these ids, in one query; who is not there is left out."""
    if not ids:
        return {}
    with reading(engine) as connection:
        rows = connection.execute(select(users).where(_id_among(ids))).mappings().all()
        return {row["id"]: Player(**row) for row in rows}


def existing(engine: Engine, ids: Collection[str]) -> set[str]:
    """Those of these ids that are a player's, in one query."""
    if not ids:
        return set()
    with reading(engine) as connection:
        return _existing(connection, ids)


def page(engine: Engine, *, after: str = "", prefix: str = "", limit: int = 50) -> list[Player]:
    """Players by username, from the first one after `after` on; only those whose username begins with `prefix`."""
    following = select(users).where(users.c.username > after).order_by(users.c.username).limit(limit)
    if prefix:
        following = following.where(users.c.username.startswith(prefix, autoescape=True))
    with reading(engine) as connection:
        return [Player(**row) for row in connection.execute(following).mappings()]


def update(engine: Engine, player_id: str, changes: PlayerChanges) -> Player | None:
    """Change a player; None if there is none of that id. Conflict and InvalidRecord name the field."""
    _check(changes)
    if not changes:
        return get(engine, player_id)
    change = update_rows(users).where(users.c.id == player_id).values(**changes).returning(users)
    with transaction(engine) as connection:
        row = connection.execute(change).mappings().one_or_none()
    return None if row is None else Player(**row)


def canonical_id(player_id: str) -> str:
    """A player id as it is kept, or InvalidRecord (field `id`)."""
    if not _ID.fullmatch(player_id):
        raise InvalidRecord("a player id is 1 to 64 characters of A-Z a-z 0-9 . _ : -", field="id")
    if player_id in RESERVED:
        raise InvalidRecord(f"{player_id!r} is a word of the API and no player id", field="id")
    return player_id.lower() if _UUID.fullmatch(player_id) else player_id


def _insert(connection: Connection, rows: Sequence[dict[str, Any]]) -> set[tuple[str, str]]:
    """Id and username of those that were not there."""
    if not rows:
        return set()
    columns = {field: [row[field] for row in rows] for field in rows[0]}
    return {(row.id, row.username) for row in connection.execute(_CREATE, columns)}


def _id_as_name(player_id: str) -> str:
    return player_id


def _id_and_more_as_name(player_id: str) -> str:
    suffix = "#" + secrets.token_hex(3)
    return player_id[: NAME_LENGTH - len(suffix)] + suffix


def _existing(connection: Connection, ids: Collection[str]) -> set[str]:
    return set(connection.scalars(select(users.c.id).where(_id_among(ids))).all())


def _id_among(ids: Collection[str]) -> ColumnElement[bool]:
    return users.c.id == any_(cast(literal(list(ids), ARRAY(Text)), ARRAY(Text)))


def _row_or_reason(player: NewPlayer) -> dict[str, Any] | Creation:
    try:
        return checked_row(player)
    except InvalidRecord as error:
        return Creation("invalid", player.id, error.field, error.detail)


def checked_row(player: NewPlayer) -> dict[str, Any]:
    """A new player's row, complete; InvalidRecord for the first field that is not fit."""
    row = asdict(player)
    row["id"] = str(uuid4()) if player.id is None else canonical_id(player.id)
    row["display_name"] = player.username if player.display_name is None else player.display_name
    _check(row)
    return row


def _check(fields: Mapping[str, Any]) -> None:
    for name in ("username", "display_name"):
        value = fields.get(name, "-")
        if not 1 <= len(value) <= NAME_LENGTH or value != value.strip() or not _is_writable(value):
            raise InvalidRecord(
                f"1 to {NAME_LENGTH} characters, no control characters, no space at the ends", field=name
            )
    url, country = fields.get("avatar_url"), fields.get("country")
    if url is not None and not (len(url) <= URL_LENGTH and _URL.fullmatch(url) and _is_writable(url)):
        raise InvalidRecord(f"an http(s) URL of at most {URL_LENGTH} characters", field="avatar_url")
    if country is not None and not _COUNTRY.fullmatch(country):
        raise InvalidRecord("two capital letters, as in ISO 3166-1", field="country")


def _is_writable(value: str) -> bool:
    """Whether it holds no control characters. Other invisible ones may stay: emoji are made with them."""
    return value.isprintable() or not _CONTROL.intersection(map(unicodedata.category, value))
