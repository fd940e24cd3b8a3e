"""The names of boards."""

import pytest

from sharding.boards import BoardPeriod, parse_board_name
from sharding.errors import InvalidValue


@pytest.mark.parametrize("name", ["global", "a", "0", "eu-west_1", "x" * 32, "2026-11"])
def test_names(name: str) -> None:
    assert parse_board_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "x" * 33, "Global", "-a", "_a", "a b", "a\n", "a:b", "{a}", "a/b", "\u00e9", "a\u0661", "a.b"],
)
def test_anything_else_is_refused_and_the_field_named(name: str) -> None:
    """Neither a colon nor a brace: names stand in keys, between the one and behind the other."""
    with pytest.raises(InvalidValue) as refused:
        parse_board_name(name)
    assert refused.value.field == "board"


def test_a_board_period_is_named_for_both() -> None:
    assert str(BoardPeriod("global", "2026-11")) == "global:2026-11"
