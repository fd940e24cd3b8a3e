"""Where shards live among the cluster's 16,384 slots.

A shard is bound to a slot, never to a node: nodes own slots, so resharding and failover move shards without anybody
here noticing. Slots follow the golden-ratio sequence, which stays evenly spread however many shards there are (no
count has to be known in advance, new shards fill the widest gap) and puts neighbours in rank far apart. Every board
starts the sequence elsewhere, so that the busy top shards of all boards do not meet on one node.
"""

import binascii
from functools import cache

SLOTS = 16384
_GOLDEN = 0.6180339887498949
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def key_slot(key: bytes) -> int:
    """The slot of a key, as the cluster computes it: CRC16 of the part in the first non-empty braces, if any."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


def shard_slot(board: str, index: int) -> int:
    """The slot of the board's shard (or directory partition) with this index."""
    offset = binascii.crc32(board.encode()) / 2**32
    return int((offset + (index + 1) * _GOLDEN) % 1.0 * SLOTS)


@cache
def tag(slot: int) -> str:
    """A short hash tag that lies in a slot: the least number, in base 36, that does."""
    return _tags()[slot]


@cache
def _tags() -> dict[int, str]:
    tags: dict[int, str] = {}
    number = 0
    while len(tags) < SLOTS:
        text = _base36(number)
        tags.setdefault(binascii.crc_hqx(text.encode(), 0) % SLOTS, text)
        number += 1
    return tags


def _base36(number: int) -> str:
    text = _DIGITS[number % 36]
    while number := number // 36:
        text = _DIGITS[number % 36] + text
    return text
