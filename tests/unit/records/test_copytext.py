"""What COPY reads is what was written, whatever the texts hold."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from records import copytext
from records.errors import InvalidRecord

FIELDS = ("number", "maybe_number", "word", "maybe_word", "shared_number", "shared_word")
NULLABLE = ("maybe_number", "maybe_word")

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["None", "None\n", r"\None", r"\N", r"\.", "NoneNone", "", "\\", "\\t", "\r\n", "%s", "%"]
)
numbers = st.integers(-(2**63), 2**63 - 1)
rows = st.tuples(numbers, st.none() | numbers, texts, st.none() | texts)
parts = st.builds(copytext.Part, st.lists(rows, max_size=20), st.tuples(numbers, texts))

UNESCAPED = {"t": "\t", "n": "\n", "r": "\r", "b": "\b", "f": "\f", "v": "\v"}


def read_as_copy_does(lines: bytes) -> list[tuple[str | None, ...]]:
    """The rules of PostgreSQL's documentation of COPY's text format, with the option NULL 'None'."""
    assert lines == b"" or lines.endswith(b"\n")
    return [
        tuple(
            None if raw == "None" else re.sub(r"\\(.)", lambda found: UNESCAPED.get(found[1], found[1]), raw)
            for raw in line.split("\t")
        )
        for line in lines.decode().split("\n")[:-1]
    ]


@given(st.lists(parts, max_size=3))
@example([copytext.Part([(1, None, "None", None)], (1, "a"))])
@example([copytext.Part([(1, 2, "None", None), (1, None, "a", "b")], (1, "a"))])
@example([copytext.Part([(1, None, "a", None)], (1, "None"))])
def test_every_row_reads_back(given_parts):
    """Each value comes back as it was: numbers as their digits, None as NULL, a text that looks like NULL as a text."""
    expected = [
        tuple(None if value is None else str(value) for value in (*row, *part.shared))
        for part in given_parts
        for row in part.rows
    ]
    assert read_as_copy_does(copytext.encode(given_parts, FIELDS, NULLABLE)) == expected
    ordered = copytext.encode(given_parts, FIELDS, NULLABLE, ordered=True)
    assert sorted(read_as_copy_does(ordered), key=str) == sorted(expected, key=str)


def test_ordered_lines_come_in_the_order_of_their_first_field():
    words = ["b", "a", "é", "a1", "B"]
    lines = copytext.encode([copytext.Part([(word,)], (1,)) for word in words], ("word", "number"), ordered=True)
    assert [row[0] for row in read_as_copy_does(lines)] == ["B", "a", "a1", "b", "é"]


@pytest.mark.parametrize("unfit", ["a\0b", "\ud800", "é\udfff"])
@pytest.mark.parametrize("others", ["plain", "back\\slash"])
def test_a_character_that_postgresql_cannot_hold_is_named_by_field_and_row(unfit, others):
    """The drain must know which entry to put aside, also when other rows need escaping."""
    good, bad = (1, None, others, None), (1, None, "w", unfit)
    parts = [copytext.Part([good], (1, "a")), copytext.Part([good, bad, good], (1, "a"))]
    with pytest.raises(InvalidRecord) as refused:
        copytext.encode(parts, FIELDS, NULLABLE)
    assert (refused.value.field, refused.value.index) == ("maybe_word", 2)
    with pytest.raises(InvalidRecord) as refused:
        copytext.encode([copytext.Part([good], (1, unfit))], FIELDS, NULLABLE)
    assert (refused.value.field, refused.value.index) == ("shared_word", 0)
