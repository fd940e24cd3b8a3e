r"""Rows as the text that PostgreSQL's `COPY FROM STDIN` reads: one line a row, a tab between values.

The drain's speed is decided here. A batch is formatted without looking at its values, one `%` in C for each row, and
then a few scans of the whole text tell whether that was right: as many tabs and newlines as it must have, no backslash.
Only a batch that holds something special is written again, value by value.

`%s` writes None as `None`, so that is what stands for NULL (the option `NULL 'None'` of the COPY). A text that reads
`None` is therefore special too, and written `\None`, which COPY takes for the text.
"""

import re
from collections.abc import Sequence
from operator import itemgetter

from records.errors import InvalidRecord

#: What stands for NULL; to be named in the COPY.
NULL = "None"

Value = int | str | None
_ESCAPES = {ord("\\"): r"\\", ord("\t"): r"\t", ord("\n"): r"\n", ord("\r"): r"\r"}
_UNFIT = re.compile("[\x00\ud800-\udfff]")
_SPECIAL = re.compile("[\\\\\t\n\r\x00\ud800-\udfff]|\\ANone\\Z")


def encode(rows: Sequence[tuple[Value, ...]], fields: Sequence[str], nullable: Sequence[str] = ()) -> bytes:
    """Rows of these fields, as the lines to copy.

    None may stand in the nullable fields only. A text with a NUL, or with half of a surrogate pair, is one that
    PostgreSQL cannot hold: InvalidRecord says in which field and row.
    """
    template = "\t".join(["%s"] * len(fields)) + "\n"
    text = "".join([template % row for row in rows])
    if not _is_plain(text, rows, len(fields), [fields.index(field) for field in nullable]):
        text = "".join([template % _escaped(row, index, fields) for index, row in enumerate(rows)])
    return text.encode()


def is_fit(value: str) -> bool:
    """Whether PostgreSQL can hold a text."""
    return not _UNFIT.search(value)


def _is_plain(text: str, rows: Sequence[tuple[Value, ...]], width: int, nullable: Sequence[int]) -> bool:
    """Whether no value holds a character, or is a text, that means something to COPY."""
    return (
        text.count("\n") == len(rows)
        and text.count("\t") == len(rows) * (width - 1)
        and not any(special in text for special in "\\\r\0")
        and (text.isascii() or not _UNFIT.search(text))
        and text.count(NULL) == sum(list(map(itemgetter(field), rows)).count(None) for field in nullable)
    )


def _escaped(row: tuple[Value, ...], index: int, fields: Sequence[str]) -> tuple[Value, ...]:
    return tuple(
        _escape(value, field, index) if isinstance(value, str) and _SPECIAL.search(value) else value
        for field, value in zip(fields, row, strict=True)
    )


def _escape(value: str, field: str, index: int) -> str:
    if _UNFIT.search(value):
        raise InvalidRecord("a character that PostgreSQL cannot hold", field=field, index=index)
    return "\\" + NULL if value == NULL else value.translate(_ESCAPES)
