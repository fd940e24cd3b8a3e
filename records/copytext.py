r"""Rows as the text that PostgreSQL's `COPY FROM STDIN` reads: one line a row, a tab between values.

A batch is formatted without looking at its values, one `%` in C for each row, and then a few scans of the whole text
tell whether that was right: as many tabs and newlines as it must have, no backslash. Only a batch that holds something
special is written again, value by value. What many rows share is formatted once.

`%s` writes None as `None`, so that is what stands for NULL (the option `NULL 'None'` of the COPY). A text that reads
`None` is therefore special too, and written `\None`, which COPY takes for the text.
"""

import re
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

from records.errors import InvalidRecord

#: What stands for NULL; to be named in the COPY.
NULL = "None"

Value = int | str | None
_ESCAPES = {ord("\\"): r"\\", ord("\t"): r"\t", ord("\n"): r"\n", ord("\r"): r"\r"}
_UNFIT = re.compile("[\x00\ud800-\udfff]")
_SPECIAL = re.compile("[\\\\\t\n\r\x00\ud800-\udfff]|\\ANone\\Z")


class Part(NamedTuple):
    """Rows of one width, and the values that follow in each of them."""

    rows: Sequence[tuple[Value, ...]]
    shared: tuple[Value, ...] = ()


def encode(
    parts: Sequence[Part], fields: Sequence[str], nullable: Sequence[str] = (), *, ordered: bool = False
) -> bytes:
    """Rows of these fields, as the lines to copy. `ordered`: by the bytes of their first fields.

    None may stand in the nullable fields only, and in none that is shared. A text with a NUL, or with half of a
    surrogate pair, is one that PostgreSQL cannot hold: InvalidRecord says in which field and row.
    """
    lines = _lines(parts)
    text = "".join(lines)
    if not _is_plain(text, parts, fields, nullable):
        lines = _lines(list(_escaped(parts, fields)))
    if ordered:
        lines.sort()
    return "".join(lines).encode()


def is_fit(value: str) -> bool:
    """Whether PostgreSQL can hold a text."""
    return not _UNFIT.search(value)


def _lines(parts: Sequence[Part]) -> list[str]:
    lines: list[str] = []
    for rows, shared in parts:
        if rows:
            own = "\t".join(["%s"] * len(rows[0]))
            end = "".join([f"\t{value}" for value in shared]) + "\n"
            lines += [own % row + end for row in rows]
    return lines


def _is_plain(text: str, parts: Sequence[Part], fields: Sequence[str], nullable: Sequence[str]) -> bool:
    """Whether no value holds a character, or is a text, that means something to COPY."""
    count = sum(len(part.rows) for part in parts)
    return (
        text.count("\n") == count
        and text.count("\t") == count * (len(fields) - 1)
        and not any(special in text for special in "\\\r\0")
        and (text.isascii() or not _UNFIT.search(text))
        and text.count(NULL) == sum(_nulls(parts, fields.index(field)) for field in nullable)
    )


def _nulls(parts: Sequence[Part], field: int) -> int:
    value = itemgetter(field)
    return sum(list(map(value, part.rows)).count(None) for part in parts)


def _escaped(parts: Sequence[Part], fields: Sequence[str]) -> Iterator[Part]:
    index = 0
    for rows, shared in parts:
        escaped = []
        for row in rows:
            escaped.append(_escaped_row((*row, *shared), index, fields))
            index += 1
        yield Part(escaped)


def _escaped_row(row: tuple[Value, ...], index: int, fields: Sequence[str]) -> tuple[Value, ...]:
    return tuple(
        _escape(value, field, index) if isinstance(value, str) and _SPECIAL.search(value) else value
        for field, value in zip(fields, row, strict=True)
    )


def _escape(value: str, field: str, index: int) -> str:
    if _UNFIT.search(value):
        raise InvalidRecord("a character that PostgreSQL cannot hold", field=field, index=index)
    return "\\" + NULL if value == NULL else value.translate(_ESCAPES)
