"""The items of a batch's body: as they were sent, no more than may be, and no memory for those beyond."""

import io
import tracemalloc

import pytest

from api.batches import MOST_ITEMS, NDJSON, read_items
from api.problems import Malformed, TooLarge
from api.requests import JSON

MOST_BYTES = 8_388_608


def items_of(body: bytes, media_type: str) -> list[bytes]:
    environ = {"CONTENT_TYPE": media_type, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    return [bytes(item) for item in read_items(environ, MOST_BYTES)]


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b'[{"a": 1}, 7 ,null]', JSON),
        (b'{"a": 1}\n7\nnull', NDJSON),
        (b'\n \t\r\n  {"a": 1}\n\r\n7\n\n\nnull\n\n', NDJSON),
    ],
)
def test_items_are_as_they_were_sent(body: bytes, media_type: str) -> None:
    assert items_of(body, media_type) == [b'{"a": 1}', b"7", b"null"]


def test_a_line_keeps_what_stands_in_it() -> None:
    assert items_of(b'{"a": "b c"} \r\n7', NDJSON) == [b'{"a": "b c"} \r', b"7"]


@pytest.mark.parametrize("media_type", [JSON, NDJSON])
def test_as_many_as_may_be_and_no_more(media_type: str) -> None:
    item = b'{"user_id":"ann","score":1,"match_id":"a,b,c,d","board":"global","played_at":"2026-11-23T00:00:00Z"}'

    def body(count: int) -> bytes:
        return b"[" + b",".join([item] * count) + b"]" if media_type == JSON else b"\n".join([item] * count)

    assert len(items_of(body(MOST_ITEMS), media_type)) == MOST_ITEMS
    with pytest.raises(TooLarge):
        items_of(body(MOST_ITEMS + 1), media_type)


@pytest.mark.parametrize(
    ("body", "media_type", "refusal"),
    [
        (b"[" + b"1," * 4_000_000 + b"1]", JSON, TooLarge),
        (b"[" * 8_000_000, JSON, Malformed),
        (b"," * 8_000_000, JSON, TooLarge),
        (b"1\n" * 4_000_000, NDJSON, TooLarge),
        (b"\n" * 8_000_000, NDJSON, Malformed),
        (b"12\n\n" * 2_000_000, NDJSON, TooLarge),
    ],
)
def test_what_is_refused_takes_no_more_memory_than_it_has(
    body: bytes, media_type: str, refusal: type[Exception]
) -> None:
    """Four million ones in an array were 340 MB as objects."""
    tracemalloc.start()
    try:
        with pytest.raises(refusal):
            items_of(body, media_type)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * MOST_BYTES
