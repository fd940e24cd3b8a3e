"""API keys: who may call, and for what.

A secret is `rb_` and 32 url-safe characters: 192 random bits, so it is kept as a plain SHA-256 (a slow hash protects
guessable passwords, and would cost every request) and looked up by it. It is shown once, when it is made; afterwards a
key is spoken of by its short public id. Revoking is final.
"""

import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal

from sqlalchemy import Engine, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from records.engine import reading, transaction
from records.errors import InvalidRecord
from records.tables import api_keys

Scope = Literal["scores:write", "scores:read", "admin"]

_SECRET = re.compile(r"rb_[A-Za-z0-9_-]{22,128}")
_SECRET_BYTES = 24
_ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, without its secret."""

    id: str
    name: str
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None


def create(engine: Engine, name: str, scopes: Collection[Scope]) -> tuple[str, str]:
    """Make a key: its id, and the secret, which is kept nowhere. InvalidRecord (field `scopes`) for unknown ones."""
    secret = "rb_" + secrets.token_urlsafe(_SECRET_BYTES)
    return ensure(engine, secret, name, scopes).id, secret


def ensure(engine: Engine, secret: str, name: str, scopes: Collection[Scope]) -> ApiKey:
    """The key with this secret, made if it is not there, with this name and these scopes.

    A revoked key stays revoked, and as it was. InvalidRecord if the secret is not of the form of one.
    """
    if not _SECRET.fullmatch(secret):
        raise InvalidRecord("a secret is rb_ and at least 22 url-safe characters", field="secret")
    given = {"name": name, "scopes": sorted(set(scopes))}
    row = {"id": secrets.token_hex(_ID_BYTES), "secret_hash": _hash(secret), **given}
    same = insert(api_keys).values(row)
    same = same.on_conflict_do_update(index_elements=["secret_hash"], set_=given, where=api_keys.c.revoked_at.is_(None))
    with transaction(engine) as connection:
        connection.execute(same)
        return _key(connection.execute(select(api_keys).where(api_keys.c.secret_hash == row["secret_hash"])).one())


def find(engine: Engine, secret: str) -> ApiKey | None:
    """The key with this secret, unless it is revoked."""
    if not _SECRET.fullmatch(secret):
        return None
    hashed = _hash(secret)
    valid = select(api_keys).where(api_keys.c.secret_hash == hashed, api_keys.c.revoked_at.is_(None))
    with reading(engine) as connection:
        row = connection.execute(valid).one_or_none()
    # The index compares hashes in a time that tells something of the hash, from which no secret can be made; the
    # comparison that decides takes the same time whatever it is given.
    if row is None or not secrets.compare_digest(row.secret_hash, hashed):
        return None
    return _key(row)


def list_all(engine: Engine) -> list[ApiKey]:
    """All keys, revoked ones too, oldest first."""
    with reading(engine) as connection:
        return [_key(row) for row in connection.execute(select(api_keys).order_by(api_keys.c.created_at))]


def revoke(engine: Engine, key_id: str) -> bool:
    """Revoke a key, from now on; False if there is none of that id that could be revoked."""
    ended = update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
    with transaction(engine) as connection:
        return connection.execute(ended.values(revoked_at=func.now())).rowcount == 1


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(row.id, row.name, frozenset(row.scopes), row.created_at, row.revoked_at)
