"""Compressed bodies, read without trusting what they say of themselves.

A few kilobytes can stand for gigabytes, so a body is decompressed a slice at a time and not beyond the limit; other
requests have a turn in between. It must be whole: one gzip member or one zstd frame, to its last byte, with nothing
behind it. A zstd frame also says how much memory it wants to look back into; more than the 8 MiB of RFC 9659 is refused
before any of it is taken.

zstd is the standard library's from Python 3.14 on, and that module's backport before (docs/decisions/0001).
"""

import sys
import time
import zlib
from collections.abc import Mapping
from typing import Protocol

from api.problems import Malformed, TooLarge, UnsupportedMediaType

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

IDENTITY = "identity"
#: What is taken besides a plain body.
ENCODINGS = ("gzip", "zstd")

_GZIP_ONLY = zlib.MAX_WBITS | 16
_WINDOW: Mapping[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
#: A few milliseconds' work.
_SLICE_BYTES = 512 * 1024


class _Stream(Protocol):
    """What zlib and zstd have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def decompressed(body: bytes, encoding: str, most_bytes: int) -> bytes:
    """The body as it was before this Content-Encoding.

    UnsupportedMediaType for an encoding that is not taken, TooLarge if it is longer than `most_bytes`, Malformed if it
    is not in that encoding, not whole, or more than one.
    """
    encoding = encoding.lower()
    if encoding == IDENTITY:
        return body
    if encoding not in ENCODINGS:
        taken = ", ".join(ENCODINGS)
        raise UnsupportedMediaType(
            f"send the body plain or with one Content-Encoding of these: {taken}", headers={"Accept-Encoding": taken}
        )
    stream: _Stream = zlib.decompressobj(_GZIP_ONLY) if encoding == "gzip" else zstd.ZstdDecompressor(options=_WINDOW)
    try:
        plain = _slice_by_slice(stream, body, most_bytes)
    except (zlib.error, zstd.ZstdError) as error:
        limits = "" if encoding == "gzip" else " with a window of at most 8 MiB"
        raise Malformed(f"the body cannot be read as {encoding}{limits}: {error}") from error
    if stream.unused_data:
        raise Malformed(f"something follows the end of the body's {encoding}")
    return plain


def _slice_by_slice(stream: _Stream, body: bytes, most_bytes: int) -> bytes:
    slices: list[bytes] = []
    size, rest = 0, body
    while not stream.eof:
        if slices:
            time.sleep(0)
        slices.append(stream.decompress(rest, _SLICE_BYTES))
        rest = getattr(stream, "unconsumed_tail", b"")  # zlib gives back what it has not read; zstd keeps it
        size += len(slices[-1])
        if size > most_bytes:
            raise TooLarge(f"at most {most_bytes} bytes, decompressed")
        if not slices[-1] and not stream.eof:
            raise Malformed("the compressed body is cut off")
    return b"".join(slices)
