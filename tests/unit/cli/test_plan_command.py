"""`rangeboard plan` answers people and programs, and refuses nonsense in one sentence."""

import json

import pytest
from click.testing import CliRunner

from cli.main import main


def test_it_prints_the_arithmetic_and_what_it_rests_on() -> None:
    result = CliRunner(env={"COLUMNS": "160"}).invoke(main, ["plan", "--dau", "5000000"])
    assert result.exit_code == 0, result.output
    assert "5,000,000 · 10 / 86,400" in result.output
    assert "assumption" in result.output
    assert "Costs were measured on" in result.output


def test_it_answers_programs() -> None:
    result = CliRunner().invoke(main, ["plan", "--dau", "500000000", "--json", "--assume", "matches=2"])
    found = json.loads(result.output)
    assert found["daily_players"] == 500_000_000
    assert found["results"]["rows_per_day"] == 1_000_000_000
    assert {one["name"]: one["kind"] for one in found["inputs"]}["bytes_per_row"] == "cost"
    assert found["steps"][0]["arithmetic"] == "500,000,000 · 2 / 86,400"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dau", "0"], "A plan needs at least one daily player, not 0."),
        (["--dau", "-5"], "A plan needs at least one daily player, not -5."),
        (["--dau", "90000000000"], "There are not 90,000,000,000 people to play; plan for 8,000,000,000 at the most."),
        (["--dau", "5", "--assume", "peak=0"], "peak: Expected `float` >= 1.0."),
        (["--dau", "5", "--assume", "peak"], "--assume takes NAME=VALUE, such as peak=3, and not 'peak'."),
    ],
)
def test_nonsense_is_refused_in_one_sentence(words: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["plan", *words])
    assert result.exit_code == 1
    assert result.output == f"{said}\n"
