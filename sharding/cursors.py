"""Cursors: where in a ranking a reader was, handed out and taken back unchanged.

An offset counts from the top, so a page by offset repeats or leaves out players whenever somebody gets by meanwhile. A
cursor names the last row itself, packed score and member, so the next page begins right behind it whatever has changed
before it.

It is signed, with the board and period in what is signed: a cursor that was made up, altered, or given out for another
board or period is refused and never taken for a place. It holds nothing that its page did not show. The key is the
setting `cursor_secret`; without one it is derived from the address of PostgreSQL, password included, which all
processes of a deployment share. Whoever can compute that could read the board anyway, and a cursor allows nothing
else, so the derived key is good enough; it changes with the password, and cursors of before are refused then.
"""

import base64
import binascii
import hashlib
import hmac
import struct

from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.errors import InvalidValue
from sharding.merge import Placed
from sharding.players import Member
from sharding.scores import PackedScore

_PACKED = struct.Struct(">q")
_SIGNATURE_BYTES = 12
_LONGEST = 200


class Cursors:
    """Makes and reads cursors under one key."""

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.blake2b(secret, digest_size=32, person=b"cursors").digest()

    @classmethod
    def of(cls, settings: Settings) -> "Cursors":
        """The cursors of a deployment."""
        return cls((settings.cursor_secret or settings.postgres_dsn).encode())

    def write(self, name: BoardPeriod, last: Placed) -> str:
        """The cursor behind a row: 30 to 112 characters that need no escaping in a URL."""
        place = _PACKED.pack(last.packed) + last.member
        return base64.urlsafe_b64encode(self._signature(name, place) + place).rstrip(b"=").decode()

    def read(self, name: BoardPeriod, cursor: str) -> Placed:
        """The row that a cursor stands behind; InvalidValue if it was not given out for this board and period."""
        if len(cursor) > _LONGEST:
            raise _refused()
        try:
            content = base64.b64decode(
                cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True
            )
        except (ValueError, binascii.Error) as error:
            raise _refused() from error
        place = content[_SIGNATURE_BYTES:]
        if len(place) <= _PACKED.size:
            raise _refused()
        placed = Placed(PackedScore(_PACKED.unpack_from(place)[0]), Member(place[_PACKED.size :]))
        if not hmac.compare_digest(cursor, self.write(name, placed)):
            raise _refused()
        return placed

    def _signature(self, name: BoardPeriod, place: bytes) -> bytes:
        message = str(name).encode() + b"\0" + place
        return hashlib.blake2b(message, digest_size=_SIGNATURE_BYTES, key=self._key).digest()


def _refused() -> InvalidValue:
    return InvalidValue("this is no cursor of this board and period", field="cursor")
