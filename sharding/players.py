"""Player ids and how they are kept in Redis.

A player id is 1-64 characters of `A-Z a-z 0-9 . _ : -`, and none of the words in RESERVED, which the API has addresses
for. As a *member* of Redis keys a UUID packs into its 16 bytes and any other id is its own ASCII text. Packing is
injective: only UUIDs of the RFC 9562 variant are packed, and those have a ninth byte of 0x80-0xBF, which no ASCII text
has. Upper-case UUIDs name the same player as lower-case ones.

Members order players whose packed scores are equal, so the order of members *is* the last tie-break of a ranking.
"""

import hashlib
import re
from typing import NewType

from sharding.errors import InvalidValue

PlayerId = NewType("PlayerId", str)
Member = NewType("Member", bytes)

ID_PATTERN = r"[A-Za-z0-9._:-]{1,64}"
_ID = re.compile(ID_PATTERN)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_UUID_BYTES = 16
#: `GET /scores/around` is about a score, so nobody may be called that.
RESERVED = frozenset({"around", "lookup"})


def parse_player_id(text: str) -> PlayerId:
    """The player that `text` names; InvalidValue if it is no player id."""
    if len(text) == 36 and _UUID.fullmatch(text):
        return PlayerId(text.lower())
    if not _ID.fullmatch(text):
        raise InvalidValue("a player id is 1 to 64 characters of A-Z a-z 0-9 . _ : -", field="user_id")
    if text in RESERVED:
        raise InvalidValue(f"{text!r} is a word of the API and no player id", field="user_id")
    return PlayerId(text)


def member_of(player: PlayerId) -> Member:
    """The player as it is kept in Redis."""
    if len(player) == 36 and player[19] in "89ab" and _UUID.fullmatch(player):
        return Member(bytes.fromhex(player.replace("-", "")))
    return Member(player.encode("ascii"))


def player_of(member: bytes) -> PlayerId:
    """The player that a member of a Redis key stands for."""
    if len(member) == _UUID_BYTES and 0x80 <= member[8] < 0xC0:
        text = member.hex()  # `str(UUID(bytes=member))` takes five times as long, and the drain does it for every row
        return PlayerId(f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}")
    return PlayerId(member.decode("ascii"))


def member_hash(member: bytes) -> int:
    """32 bits that spread players evenly: what directory buckets and hash splits are cut by.

    SHA-1, because a function in Redis can compute it too (`redis.sha1hex`); nothing here is a secret.
    """
    return int.from_bytes(hashlib.sha1(member, usedforsecurity=False).digest()[:4], "big")
