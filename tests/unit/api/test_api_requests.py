"""What a client sends is taken exactly as documented, or refused with the name of the field."""

import io

import msgspec
import pytest

from api.problems import Malformed, RequestTimeout, TooLarge, UnsupportedMediaType
from api.requests import decode_json, decode_query, new_request_id, read_json, request_id_of
from api.schemas import NewScore, NewUsers, PageQuery

_score = msgspec.json.Decoder(NewScore)
_users = msgspec.json.Decoder(NewUsers)

GOOD = b'{"user_id": "ann", "score": 1}'


def test_a_score_is_taken_as_it_is_written() -> None:
    body = b'{"user_id": "Ann-1", "score": -3, "match_id": "m 1", "board": "cup", "played_at": "2026-11-23T10:00:00Z"}'
    score = decode_json(_score, body)
    assert (score.user_id, score.score, score.match_id, score.board) == ("Ann-1", -3, "m 1", "cup")
    assert score.played_at is not None
    assert score.played_at.isoformat() == "2026-11-23T10:00:00+00:00"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b"null", None),
        (b"[]", None),
        (b'"text"', None),
        (b'{"user_id": "ann", "score": 1', None),
        (b'{"user_id": "ann", "score": 1} {}', None),
        (b'\xef\xbb\xbf{"user_id": "ann", "score": 1}', None),
        (b'{"user_id": "\xff", "score": 1}', None),
        (b'{"user_id": "\\ud800", "score": 1}', None),
        (b'{"user_id": "ann"}', "score"),
        (b'{"score": 1}', "user_id"),
        (b'{"user_id": "ann", "score": 1, "points": 2}', "points"),
        (b'{"user_id": "ann", "score": 1, "month": "2026-11"}', "month"),
        (b'{"user_id": 7, "score": 1}', "user_id"),
        (b'{"user_id": null, "score": 1}', "user_id"),
        (b'{"user_id": "ann", "score": "1"}', "score"),
        (b'{"user_id": "ann", "score": true}', "score"),
        (b'{"user_id": "ann", "score": null}', "score"),
        (b'{"user_id": "ann", "score": 1.0}', "score"),
        (b'{"user_id": "ann", "score": 1e3}', "score"),
        (b'{"user_id": "ann", "score": NaN}', "score"),
        (b'{"user_id": "ann", "score": -Infinity}', "score"),
        (b'{"user_id": "ann", "score": 01}', "score"),
        (b'{"user_id": "ann", "score": 9223372036854775808}', "score"),
        (b'{"user_id": "ann", "score": ' + b"9" * 5000 + b"}", "score"),
        (b'{"user_id": "ann", "score": ' + b"[" * 100_000, "score"),
        (b'{"user_id": "ann", "score": 1, "score": 2}', "score"),
        (b'{"user_id": "ann", "score": 1, "sc\\u006fre": 2}', "score"),
        (b'{"user_id": "ann", "score": 1, "match_id": ""}', "match_id"),
        (b'{"user_id": "ann", "score": 1, "match_id": "' + b"m" * 129 + b'"}', "match_id"),
        (b'{"user_id": "ann", "score": 1, "match_id": "m\\n"}', "match_id"),
        (b'{"user_id": "ann", "score": 1, "match_id": "m\\u0000"}', "match_id"),
        ('{"user_id": "ann", "score": 1, "match_id": "é"}'.encode(), "match_id"),
        (b'{"user_id": "ann", "score": 1, "played_at": "2026-11-23"}', "played_at"),
        (b'{"user_id": "ann", "score": 1, "played_at": "2026-11-23T10:00:00"}', "played_at"),
        (b'{"user_id": "ann", "score": 1, "played_at": "2026-02-30T10:00:00Z"}', "played_at"),
        (b'{"user_id": "ann", "score": 1, "played_at": 1764000000}', "played_at"),
    ],
)
def test_a_malformed_body_is_refused_and_the_field_named(body: bytes, field: str | None) -> None:
    with pytest.raises(Malformed) as refused:
        decode_json(_score, body)
    assert refused.value.field == field
    assert refused.value.detail


def test_the_place_in_a_batch_is_named() -> None:
    with pytest.raises(Malformed) as refused:
        decode_json(_users, b'[{"username": "ann"}, {"username": "bob", "country": "Austria"}]')
    assert refused.value.field == "[1].country"


def test_a_long_name_of_an_unknown_field_is_not_echoed_whole() -> None:
    with pytest.raises(Malformed) as refused:
        decode_json(_score, b'{"user_id": "ann", "score": 1, "' + b"x" * 100_000 + b'": 1}')
    assert len(refused.value.detail) < 500
    assert len(refused.value.field or "") < 100


@pytest.mark.parametrize("media_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_json_is_taken(media_type: str) -> None:
    assert read_json(_environ(GOOD, CONTENT_TYPE=media_type), 1000) == GOOD


@pytest.mark.parametrize(
    "media_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
def test_another_media_type_is_refused(media_type: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        read_json(_environ(GOOD, CONTENT_TYPE=media_type), 1000)


def test_an_encoded_body_is_refused() -> None:
    with pytest.raises(UnsupportedMediaType):
        read_json(_environ(GOOD, HTTP_CONTENT_ENCODING="gzip"), 1000)


def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    unread = _Unreadable()
    with pytest.raises(TooLarge):
        read_json(_environ(GOOD, CONTENT_LENGTH="1001", stream=unread), 1000)
    assert not unread.was_read


def test_a_body_without_a_length_is_read_no_further_than_allowed() -> None:
    endless = _Endless()
    with pytest.raises(TooLarge):
        read_json(_environ(b"", CONTENT_LENGTH="", stream=endless), 1000)
    assert endless.given == 1001


def test_a_body_that_ends_early_is_refused() -> None:
    with pytest.raises(Malformed):
        read_json(_environ(GOOD, CONTENT_LENGTH=str(len(GOOD) + 1)), 1000)


@pytest.mark.parametrize("length", ["-1", "1e3", "٣", "0x10"])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    with pytest.raises(Malformed):
        read_json(_environ(GOOD, CONTENT_LENGTH=length), 1000)


@pytest.mark.parametrize(("error", "refusal"), [(TimeoutError(), RequestTimeout), (ValueError("bad chunk"), Malformed)])
def test_a_body_that_cannot_be_read_is_the_clients_fault(error: Exception, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        read_json(_environ(GOOD, stream=_Unreadable(error)), 1000)


def test_query_parameters_have_defaults() -> None:
    assert decode_query(PageQuery, "") == PageQuery(limit=10, offset=0, board="global")
    assert decode_query(PageQuery, "min_score=-7&limit=1") == PageQuery(min_score=-7, limit=1)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=", "limit"),
        ("limit=ten", "limit"),
        ("limit=%20" + "7", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("limit=1.0", "limit"),
        ("limit=1e1", "limit"),
        ("min_score=1e3", "min_score"),
        ("min_score=-1.0", "min_score"),
        ("max_score=null", "max_score"),
        ("partial=null", "partial"),
        ("offset=-1", "offset"),
        ("offset=1000000001", "offset"),
        ("limit=1&limit=2", "limit"),
        ("page=2", "page"),
        ("%ff=1", None),
        ("&".join(f"a{index}=1" for index in range(40)), None),
    ],
)
def test_a_malformed_query_is_refused_and_the_parameter_named(query: str, field: str | None) -> None:
    with pytest.raises(Malformed) as refused:
        decode_query(PageQuery, query)
    assert refused.value.field == field


@pytest.mark.parametrize("given", ["a", "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "x" * 64])
def test_a_fit_request_id_is_kept(given: str) -> None:
    assert request_id_of({"HTTP_X_REQUEST_ID": given}) == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a,b", "a\n", "<script>", "é"])
def test_an_unfit_request_id_is_replaced(given: str) -> None:
    made = request_id_of({"HTTP_X_REQUEST_ID": given})
    assert made != given
    assert len(made) == 32


def test_request_ids_differ() -> None:
    assert len({new_request_id() for _ in range(1000)}) == 1000


def _environ(body: bytes, *, stream: object = None, **headers: str) -> dict[str, object]:
    given = {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body))} | headers
    return {"wsgi.input": stream or io.BytesIO(body), "wsgi.input_terminated": True} | given


class _Unreadable:
    """A stream that fails, or that must not be read."""

    def __init__(self, error: Exception | None = None) -> None:
        self.was_read = False
        self._error = error

    def read(self, _size: int) -> bytes:
        self.was_read = True
        if self._error is not None:
            raise self._error
        return b""


class _Endless:
    """A stream that gives whatever is asked for."""

    def __init__(self) -> None:
        self.given = 0

    def read(self, size: int) -> bytes:
        self.given += size
        return b"x" * size
