"""Compressed bodies: what was compressed comes out, and no body takes more memory or time than its limit says."""

import gzip
import os
import sys
import time
import zlib
from collections.abc import Callable

import pytest

from api.encodings import ENCODINGS, decompressed
from api.problems import Malformed, TooLarge, UnsupportedMediaType

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MOST = 1_000_000
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}
#: a frame that may be skipped holds nothing
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"


def zstd_in_parts(plain: bytes, **options: int) -> bytes:
    """A frame that does not say how long it will be, as of one who streams."""
    named = {zstd.CompressionParameter[name]: value for name, value in options.items()}
    compressor = zstd.ZstdCompressor(options=named)
    return compressor.compress(plain) + compressor.flush()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [0, 1, 512 * 1024, 512 * 1024 + 1, MOST])
@pytest.mark.parametrize("fill", [lambda size: b"x" * size, os.urandom])
def test_what_was_compressed_comes_out(encoding: str, size: int, fill: Callable[[int], bytes]) -> None:
    plain = fill(size)
    assert decompressed(COMPRESS[encoding](plain), encoding, MOST) == plain
    assert decompressed(COMPRESS[encoding](plain), encoding.upper(), MOST) == plain


def test_a_plain_body_is_as_it_is() -> None:
    assert decompressed(b"[]", "identity", MOST) == b"[]"


def test_a_frame_of_unknown_length_comes_out() -> None:
    assert decompressed(zstd_in_parts(b"x" * 1000, window_log=23), "zstd", MOST) == b"x" * 1000


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_one_byte_too_many_is_refused(encoding: str) -> None:
    with pytest.raises(TooLarge):
        decompressed(COMPRESS[encoding](b"x" * (MOST + 1)), encoding, MOST)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_bomb_is_left_alone_once_it_is_too_large(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 MB no more is unpacked than the limit and a slice, and others have had a turn before each slice."""
    turns: list[float] = []
    monkeypatch.setattr(time, "sleep", turns.append)
    bomb = COMPRESS[encoding](b"\0" * 200_000_000)
    with pytest.raises(TooLarge):
        decompressed(bomb, encoding, 8 * MOST)
    assert turns == [0] * (8 * MOST // (512 * 1024))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_truncation_is_refused(encoding: str) -> None:
    whole = COMPRESS[encoding](b'[{"user_id": "ann", "score": 1}]')
    for length in range(len(whole)):
        with pytest.raises(Malformed):
            decompressed(whole[:length], encoding, MOST)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "behind",
    [b"\0", b"garbage", COMPRESS["gzip"](b"[]"), COMPRESS["zstd"](b"[]"), SKIPPABLE],
    ids=["a zero", "garbage", "more gzip", "more zstd", "a skippable frame"],
)
def test_nothing_may_follow(encoding: str, behind: bytes) -> None:
    with pytest.raises(Malformed):
        decompressed(COMPRESS[encoding](b"[]") + behind, encoding, MOST)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_is_in_no_such_encoding_is_refused(encoding: str) -> None:
    flipped = bytearray(COMPRESS[encoding](os.urandom(1000)))
    flipped[0] ^= 0xFF
    for body in (b"[]", b"garbage " * 100, zlib.compress(b"[]"), bytes(flipped)):
        with pytest.raises(Malformed) as refused:
            decompressed(body, encoding, MOST)
        assert encoding in refused.value.detail


def test_a_frame_that_wants_more_memory_than_the_web_allows_is_refused() -> None:
    with pytest.raises(Malformed) as refused:
        decompressed(zstd_in_parts(b"x" * 1000, window_log=24), "zstd", MOST)
    assert "8 MiB" in refused.value.detail


def test_a_body_behind_a_frame_to_skip_is_more_than_one() -> None:
    with pytest.raises(Malformed):
        decompressed(SKIPPABLE + zstd.compress(b"[]"), "zstd", MOST)


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, zstd", "x-gzip", "", "zst d"])
def test_another_encoding_is_refused_and_those_that_are_taken_are_named(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType) as refused:
        decompressed(b"[]", encoding, MOST)
    assert refused.value.headers["Accept-Encoding"] == "gzip, zstd"
