"""Many submissions in one request: a JSON array or one JSON object a line, plain or compressed (encodings.py).

One bad item never spoils the others: each is decoded by itself, and what is wrong with it becomes its own result. (To
decode all of them in one pass would save a twentieth of a microsecond for each.) Those that are well formed go to their
boards together, in company with other batches (sharding/coalescer.py); where there is no room for them, the request is
refused as a whole. The body is bounded before and after decompression, so is the number of items; decoding and
answering thousands of them gives way to other requests in between.
"""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from secrets import token_hex
from typing import Any

import msgspec

from api import schemas
from api.auth import Scope
from api.boards import Asked
from api.encodings import ENCODINGS, IDENTITY, decompressed
from api.endpoints import BASE, Endpoint
from api.metrics import count_submission
from api.problems import Malformed, RequestError, TooLarge, UnsupportedMediaType
from api.requests import JSON, Call, is_json, misfit, read_bytes
from api.scores import Admission
from sharding.boards import BoardPeriod
from sharding.errors import LeaderboardError, Overloaded
from sharding.leaderboard import Leaderboard
from sharding.submissions import RankMode, Result, Status, Submission, failure

PATH = f"{BASE}/scores:batch"
NDJSON = "application/x-ndjson"
MOST_ITEMS = 10_000
#: How the reason of an item begins that may be taken a moment later: the same match id is safe.
TRY_AGAIN = "try again: "
#: Items after which others have a turn.
_TURN = 500
#: An array with more commas than so many submissions have is not even taken apart: 8 MB of `[1,1,…` would take 340 MB.
_MOST_COMMAS = 20 * MOST_ITEMS

_array = msgspec.json.Decoder(list[msgspec.Raw])
_item = msgspec.json.Decoder(schemas.NewScore)
_line = re.compile(rb"[^ \t\r\n][^\n]*")


class _Unmatched(schemas.NewScore, frozen=True, kw_only=True, gc=False):
    """A submission whose match id nobody has looked at: by its pattern, that takes longer than to decode the rest."""

    match_id: str | None = None


_unmatched = msgspec.json.Decoder(_Unmatched)


class BatchAnswers:
    """What is answered to batches."""

    def __init__(self, leaderboard: Leaderboard, admission: Callable[[], Admission]) -> None:
        """`admission` says what counts at the moment, and where."""
        self._leaderboard = leaderboard
        self._admission = admission

    def endpoints(self) -> list[Endpoint]:
        """The address of batches."""
        return [
            Endpoint(
                method="POST",
                path=PATH,
                answer=self.submit,
                summary=f"Submit up to {MOST_ITEMS:,} scores, as a JSON array or as {NDJSON}, plain or compressed",
                query=schemas.BatchQuery,
                takes=list[schemas.NewScore],
                reads=read_items,
                lines=NDJSON,
                encodings=ENCODINGS,
                gives=schemas.BatchSubmitted,
                scope=Scope.WRITE,
            )
        ]

    def submit(self, call: Call[schemas.BatchQuery, Sequence[bytes | msgspec.Raw]]) -> schemas.BatchSubmitted:
        """Apply each submission, once."""
        results: list[Result | None] = [None] * len(call.body)
        admission, request_id = self._admission(), call.request_id
        by_board: defaultdict[BoardPeriod, tuple[list[int], list[Submission]]] = defaultdict(lambda: ([], []))
        last: Asked | None = None
        for index, raw in _giving_way(call.body):
            try:
                body = _decoded(raw)
                asked, submission = admission.admit(body, body.match_id or token_hex(16), request_id)
            except (msgspec.DecodeError, UnicodeDecodeError, LeaderboardError) as error:
                results[index] = _refused(error)
            else:
                if asked is not last:  # nearly always it is
                    last = asked
                    indexes, submissions = by_board[asked.name]
                indexes.append(index)
                submissions.append(submission)
        for name, (indexes, submissions) in by_board.items():
            told = self._apply(name, submissions, call, alone=len(by_board) == 1)
            for index, result in zip(indexes, told, strict=True):
                results[index] = result
        return _answer([result for result in results if result is not None], listed=call.query.results == "list")

    def _apply(
        self, name: BoardPeriod, submissions: list[Submission], call: Call[Any, Any], *, alone: bool
    ) -> list[Result]:
        """What became of a board's submissions; Overloaded where they are `alone`, and too many wait already."""
        try:
            return self._leaderboard.submit(name, submissions, call.deadline, rank=RankMode.NONE)
        except LeaderboardError as error:
            if alone and isinstance(error, Overloaded):
                raise
            return [failure(error) for _ in submissions]


def read_items(environ: Mapping[str, Any], most_bytes: int) -> Sequence[bytes | msgspec.Raw]:
    """The items of a body, each still as it was sent."""
    media_type = environ.get("CONTENT_TYPE", "")
    is_lines = media_type.partition(";")[0].strip().lower() == NDJSON
    if not is_lines and media_type != JSON and not is_json(media_type):
        raise UnsupportedMediaType(f"send Content-Type: {JSON} or {NDJSON}, in UTF-8")
    encoding = environ.get("HTTP_CONTENT_ENCODING", IDENTITY)
    body = decompressed(read_bytes(environ, most_bytes), encoding, most_bytes)
    items = _lines_of(body) if is_lines else _members_of(body)
    if len(items) > MOST_ITEMS:
        raise TooLarge(f"at most {MOST_ITEMS:,} submissions")
    if not items:
        raise Malformed("there is no submission in it")
    return items


def _lines_of(body: bytes) -> list[bytes]:
    """The lines that are not blank; one more than may be at the most."""
    return [line.group() for line in islice(_line.finditer(body), MOST_ITEMS + 1)]


def _members_of(body: bytes) -> list[msgspec.Raw]:
    """The members of the array."""
    if body.count(b",") > _MOST_COMMAS:
        raise TooLarge(f"at most {MOST_ITEMS:,} submissions, with {_MOST_COMMAS:,} commas at the most")
    try:
        return _array.decode(body)
    except msgspec.ValidationError as error:
        raise misfit(str(error), "field") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error
    except RecursionError as error:
        raise Malformed("nested too deeply") from error


def _giving_way(items: Sequence[bytes | msgspec.Raw]) -> Iterator[tuple[int, bytes | msgspec.Raw]]:
    """The items with their indexes; other greenlets have a turn now and then."""
    for index, item in enumerate(items):
        if index % _TURN == _TURN - 1:
            time.sleep(0)
        yield index, item


def _decoded(item: bytes | msgspec.Raw) -> schemas.NewScore:
    """The submission that an item is. Raises what is said of one that is none."""
    try:
        body = _unmatched.decode(item)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _item.decode(item)
    match_id = body.match_id
    if match_id is None or (
        match_id.isascii() and match_id.isprintable() and 0 < len(match_id) <= schemas.MATCH_ID_LENGTH
    ):
        return body
    return _item.decode(item)


def _refused(error: Exception) -> Result:
    """The result of an item that is not well formed, or cannot count."""
    if isinstance(error, LeaderboardError):
        return failure(error)
    told: RequestError = (
        misfit(str(error), "field") if isinstance(error, msgspec.ValidationError) else Malformed(str(error))
    )
    return Result(Status.REFUSED, error=LeaderboardError(told.detail, field=told.field))


def _answer(results: Sequence[Result], *, listed: bool) -> schemas.BatchSubmitted:
    statuses = [result.status for result in results]
    counts = {status: statuses.count(status) for status in Status}
    for status, how_many in counts.items():
        if how_many:
            count_submission(status, how_many)
    answer = schemas.BatchSubmitted(
        applied=counts[Status.APPLIED],
        duplicates=counts[Status.DUPLICATE],
        refused=counts[Status.REFUSED],
        unknown=counts[Status.UNKNOWN],
    )
    if listed:
        answer.results = [_result(result) for result in results]
    return answer


def _result(result: Result) -> schemas.BatchResult:
    status: Any = result.status  # which is text
    points, error = result.points, result.error
    score = points if points is not None else msgspec.UNSET
    if error is None:
        return schemas.BatchResult(status=status, score=score)
    reason = f"{error.field}: {error.detail}" if error.field else error.detail
    return schemas.BatchResult(status=status, score=score, reason=TRY_AGAIN + reason if error.retryable else reason)
