"""Who may call: API keys, sent as `Authorization: Bearer rb_...`.

A key has scopes; `admin` includes the others. Keys are looked up by their hash in PostgreSQL and remembered for a few
seconds, wrong ones too, so neither a busy client nor a guessing one makes a query per request, and known clients go on
while PostgreSQL is away. A revoked key is refused everywhere within ten seconds.
"""

from collections.abc import Callable
from enum import StrEnum

from api.caches import Cache
from api.problems import Forbidden, Unauthorized
from records.api_keys import ApiKey

_FRESH_S = 5.0
_MOST_REMEMBERED = 10_000
_LONGEST_SECRET = 256
_REALM = 'Bearer realm="rangeboard"'


class Scope(StrEnum):
    """What a key allows."""

    WRITE = "scores:write"
    READ = "scores:read"
    ADMIN = "admin"


class Keys:
    """The keys that this process has seen lately."""

    def __init__(self, find: Callable[[str], ApiKey | None]) -> None:
        """`find` gives the valid key with a secret, or None."""
        self._keys = Cache(find, fresh_s=_FRESH_S, most=_MOST_REMEMBERED)

    def check(self, authorization: str | None, scope: Scope) -> None:
        """Unauthorized without a valid key, Forbidden if it lacks the scope; RecordsError if nobody can tell."""
        if not authorization:
            raise Unauthorized("send an API key: Authorization: Bearer <key>", headers={"WWW-Authenticate": _REALM})
        scheme, _, secret = authorization.partition(" ")
        key = self._keys.get(secret) if scheme.lower() == "bearer" and len(secret) <= _LONGEST_SECRET else None
        if key is None:
            raise Unauthorized(
                "this is no valid API key", headers={"WWW-Authenticate": f'{_REALM}, error="invalid_token"'}
            )
        if scope not in key.scopes and Scope.ADMIN not in key.scopes:
            raise Forbidden(
                f"the API key lacks the scope {scope}",
                headers={"WWW-Authenticate": f'{_REALM}, error="insufficient_scope", scope="{scope}"'},
            )
