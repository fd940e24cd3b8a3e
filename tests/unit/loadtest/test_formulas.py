"""Formulas: computed and shown from one text."""

import pytest

from loadtest.formulas import number, value, with_numbers


def test_a_formula_is_computed_and_shown() -> None:
    names = {"players": 5_000_000, "each": 26}
    assert value("max(3, ceil(players * (each + 2) / 1e9))", names) == 3
    assert with_numbers("players * (each + 2)", names) == "5,000,000 · (26 + 2)"
    assert with_numbers("min(1, each / 2000)", names) == "min(1, 26 / 2,000)"


@pytest.mark.parametrize(("product", "rounded"), [("0.1 * 3 * 10", 3), ("3.0001", 4), ("3", 3), ("0", 0)])
def test_what_is_whole_but_for_rounding_is_whole(product: str, rounded: int) -> None:
    assert value(f"ceil({product})", {}) == rounded


@pytest.mark.parametrize("formula", ["players ** 2", "print(1)", "'text'", "players.real", "-players"])
def test_what_is_no_formula_is_refused(formula: str) -> None:
    with pytest.raises(ValueError, match="no formula"):
        value(formula, {"players": 1})


def test_a_name_that_there_is_not_is_an_error() -> None:
    with pytest.raises(KeyError):
        value("nobody + 1", {})


@pytest.mark.parametrize(
    ("figure", "shown"),
    [(0, "0"), (0.05, "0.05"), (12.345, "12.35"), (999.94, "999.9"), (1000, "1,000"), (2.5e9, "2,500,000,000")],
)
def test_numbers_are_for_people(figure: float, shown: str) -> None:
    assert number(figure) == shown
