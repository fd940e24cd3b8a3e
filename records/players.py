"""Players: who they are, and whether they are there.

Batches are one statement whatever their size (arrays, not thousands of parameters), and a bad item never spoils the
others. Ids are canonical, a UUID is lower-case, so that one player is not two; lookups take ids as they are kept.
"""

import re
import secrets
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict
from uuid import uuid4

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Engine,
    Text,
    any_,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    text,
)
from sqlalchemy import update as update_rows
from sqlalchemy.dialects.postgresql import insert as insert_rows

from records.engine import reading, transaction
from records.errors import InvalidRecord
from records.tables import erasures, users, visibility_changes

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

    `country` is two capital letters (ISO 3166-1). Hidden players collect points, and are left out of every ranking.
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


# Periods that are not at rest wait. The event id is made of the match id, so it would lead back to whoever knows that.
_FORGET = (
    text(
        """
        UPDATE games SET user_id = :pseudonym, match_id = '', request_id = NULL,
                         event_id = ('x' || substr(md5(gen_random_uuid()::text), 1, 16))::bit(64)::bigint
        WHERE user_id = :id AND (board, period) NOT IN
              (SELECT * FROM unnest(CAST(:boards AS text[]), CAST(:periods AS text[])))
        """
    ),
    text(
        """
        UPDATE leaderboard_snapshots SET user_id = :pseudonym
        WHERE user_id = :id AND (board, period) NOT IN
              (SELECT * FROM unnest(CAST(:boards AS text[]), CAST(:periods AS text[])))
        """
    ),
)
_NAMED = (
    text("SELECT EXISTS (SELECT FROM games WHERE user_id = :id)"),
    text("SELECT EXISTS (SELECT FROM leaderboard_snapshots WHERE user_id = :id)"),
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


def hidden_among(engine: Engine, ids: Collection[str]) -> set[str]:
    """Those of these ids that are a hidden player's, in one query."""
    if not ids:
        return set()
    with reading(engine) as connection:
        return set(connection.scalars(select(users.c.id).where(_id_among(ids), users.c.hidden)).all())


def page(engine: Engine, *, after: str = "", prefix: str = "", limit: int = 50) -> list[Player]:
    """Players by username, from the first one after `after` on; only those whose username begins with `prefix`."""
    following = select(users).where(users.c.username > after).order_by(users.c.username).limit(limit)
    if prefix:
        following = following.where(users.c.username.startswith(prefix, autoescape=True))
    with reading(engine) as connection:
        return [Player(**row) for row in connection.execute(following).mappings()]


def update(engine: Engine, player_id: str, changes: PlayerChanges) -> Player | None:
    """Change a player; None if there is none of that id. Conflict and InvalidRecord name the field.

    That a player is hidden, or no more, is kept for a while (`visibility_changes`), until all boards have heard of it.
    """
    _check(changes)
    if not changes:
        return get(engine, player_id)
    change = update_rows(users).where(users.c.id == player_id).values(**changes).returning(users)
    with transaction(engine) as connection:
        row = connection.execute(change).mappings().one_or_none()
        if row is not None and "hidden" in changes:
            noted = insert_rows(visibility_changes).values(user_id=player_id, changed_at=func.clock_timestamp())
            now = {"changed_at": noted.excluded.changed_at}
            connection.execute(noted.on_conflict_do_update(index_elements=["user_id"], set_=now))
    return None if row is None else Player(**row)


def erase(engine: Engine, player_id: str) -> bool:
    """Erase the person; False if there is no player of that id, and none who is being erased.

    Who is to be forgotten stays written down (`erasures`) until nothing else names them.
    """
    pseudonym = f"erased-{secrets.token_hex(12)}"
    with transaction(engine) as connection:
        erased = connection.execute(delete(users).where(users.c.id == player_id)).rowcount
        if erased:
            row = insert_rows(erasures).values(user_id=player_id, pseudonym=pseudonym)
            connection.execute(row.on_conflict_do_nothing())
            connection.execute(delete(visibility_changes).where(visibility_changes.c.user_id == player_id))
            return True
        asked = select(erasures.c.user_id).where(erasures.c.user_id == player_id)
        return connection.execute(asked).one_or_none() is not None


def erasures_pending(engine: Engine, *, most: int) -> list[str]:
    """Who is being erased, the longest ago first."""
    oldest = select(erasures.c.user_id).order_by(erasures.c.asked_at).limit(most)
    with reading(engine) as connection:
        return list(connection.scalars(oldest))


def forget(engine: Engine, player_id: str, *, keep: Collection[tuple[str, str]]) -> bool:
    """Give the records of an erased player to their pseudonym; whether nothing names the player any more.

    Games keep value, time and place; who, in which match and by which request is gone. `keep`: boards and periods that
    are not at rest, whose records have to wait.
    """
    among = erasures.c.user_id == player_id
    waiting = {"boards": [board for board, _ in keep], "periods": [period for _, period in keep]}
    with transaction(engine) as connection:
        pseudonym = connection.execute(select(erasures.c.pseudonym).where(among).with_for_update()).scalar_one_or_none()
        if pseudonym is None:
            return True
        given = {"id": player_id, "pseudonym": pseudonym, **waiting}
        for statement in _FORGET:
            connection.execute(statement, given)
        left = any(connection.execute(statement, {"id": player_id}).scalar_one() for statement in _NAMED)
        if not left:
            connection.execute(delete(erasures).where(among))
        return not left


def visibility_changed(engine: Engine, *, most: int) -> dict[str, bool]:
    """Players who were hidden (True) or shown again (False) lately, the longest ago first. Who was erased is shown."""
    changed = visibility_changes.c
    lately = (
        select(changed.user_id, func.coalesce(users.c.hidden, False).label("hidden"))
        .select_from(visibility_changes.outerjoin(users, users.c.id == changed.user_id))
        .order_by(changed.changed_at)
        .limit(most)
    )
    with reading(engine) as connection:
        return {row.user_id: row.hidden for row in connection.execute(lately)}


def visibility_settled(engine: Engine, ids: Collection[str], *, after_s: float) -> None:
    """Let go of changes of these players that are older than this: everybody has heard of them."""
    changed = visibility_changes.c
    among = changed.user_id == any_(cast(literal(list(ids), ARRAY(Text)), ARRAY(Text)))
    old = changed.changed_at < func.now() - timedelta(seconds=after_s)
    with transaction(engine) as connection:
        connection.execute(delete(visibility_changes).where(among, old))


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
