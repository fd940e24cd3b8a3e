"""The capacity model: arithmetic that is shown as it was done, and a page that says what it says."""

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.capacity import FORMULAS, MOST_PLAYERS, Assumptions, assumed, plan
from loadtest.capacity_page import renewed
from loadtest.costs import Costs, Measured, measured
from loadtest.workload import Workload

PAGE = Path(__file__).parents[3] / "docs" / "capacity.md"
COSTS = Measured(
    on="a day",
    machine="paper",
    how="thinking",
    memory=[],
    costs=Costs(
        api_us_per_submission=1000,
        api_us_per_batched=40,
        api_us_per_move=200,
        api_us_per_read=500,
        api_us_per_read_and_shard=1,
        primary_us_per_submission=50,
        primary_us_per_batched=8,
        primary_us_per_move=100,
        primary_us_per_read=20,
        primary_us_per_read_and_shard=2,
        worker_us_per_row=10,
        postgres_us_per_row=20,
        bytes_per_row=100,
        bytes_per_entry=30,
        bytes_per_epoch=20,
        bytes_per_tombstone=64,
        bytes_per_recent_player=50,
        bytes_per_recent_event=10,
        bytes_per_outbox_row=200,
        bytes_per_game=300,
        bytes_per_user=250,
        bytes_per_snapshot=100,
    ),
)
WORKLOAD = Workload(matches=8.64, top=0.864, rank=0.864, neighbours=0, lookup=0, peak=4, monthly=3)
ASSUMED = Assumptions(primary_gb=10, primary_full=0.5, shards_per_primary=11)


def test_a_plan_by_hand() -> None:
    """Ten million players: 1,000 submissions/s, 4,000 at the peak, and 800 reads/s."""
    found = plan(10_000_000, workload=WORKLOAD, assumptions=ASSUMED, costs=COSTS)
    assert found["submissions_per_s"] == pytest.approx(1000)
    assert found["peak_submissions_per_s"] == pytest.approx(4000)
    assert found["peak_reads_per_s"] == pytest.approx(800)
    assert found["board_players"] == 30_000_000
    assert found["players_gb"] == pytest.approx(3.0 + 0.9 + 0.6)
    assert found["write_cores"] == pytest.approx(0.2)
    assert found["shards"] == 16  # one primary would do: 11, and not below the default
    assert found["moves_per_submission"] == pytest.approx(7.5 / 86.4)
    assert found["tombstones_gb"] == pytest.approx(1000 * 7.5 / 86.4 * 172_800 * 64 / 1e9)
    assert found["recent_gb"] == pytest.approx((10_000_000 * 50 + 4000 * 7200 * 10) / 1e9)
    assert found["outbox_gb"] == pytest.approx(4000 * 900 * 200 / 1e9)
    assert found["memory_gb"] == pytest.approx(4.5 + 0.96 + 0.788 + 0.72)
    assert found["redis_cores"] == pytest.approx(0.2 + 4000 * 7.5 / 86.4 * 100e-6 + 800 * 20e-6)
    assert (found["primaries_for_memory"], found["primaries_for_cpu"]) == (2, 1)
    assert (found["primaries"], found["nodes"]) == (3, 6)
    assert found["cluster_memory_gb"] == pytest.approx(2 * 6.968)
    assert found["directory_buckets"] == 150_000
    assert found["api_cores"] == pytest.approx(4.0 + 0.4 + 4000 * 7.5 / 86.4 * 200e-6)
    assert found["api_pods"] == 5
    assert found["worker_cores"] == pytest.approx(0.04)
    assert found["worker_pods"] == 2
    assert found["rows_per_day"] == pytest.approx(86_400_000)
    assert found["rows_per_month"] == pytest.approx(2_592_000_000)
    assert found["games_gb_per_day"] == pytest.approx(25.92)
    assert found["games_tb"] == pytest.approx(25.92 * 90 / 1000)
    assert found["snapshots_tb"] == pytest.approx(30e6 * 24 * 100 / 1e12)
    assert found["storage_tb"] == pytest.approx(25.92 * 90 / 1000 + 0.0075 + 0.072)
    assert found.notes == []


def test_many_shards_move_more_players_and_are_all_asked() -> None:
    """A hundred million: 45 GB of players need nine primaries, so 99 shards, 49 crossings in 86.4 matches."""
    found = plan(100_000_000, workload=WORKLOAD, assumptions=ASSUMED, costs=COSTS)
    assert found["shards"] == 99
    assert found["moves_per_submission"] == pytest.approx(49 / 86.4)
    assert found["read_cores"] == pytest.approx(8000 * (20 + 83 * 2) * 1e-6)


def test_batches_cost_what_batches_cost() -> None:
    found = plan(10_000_000, workload=WORKLOAD, assumptions=Assumptions(batch_share=0.75), costs=COSTS)
    assert found["write_cores"] == pytest.approx(0.05 + 0.024)
    assert found["api_cores"] == pytest.approx(1.0 + 0.12 + 0.4 + found["moves_per_s"] * 200e-6)


def test_what_is_scarce_decides_the_number_of_primaries() -> None:
    by_memory = plan(100_000_000, workload=WORKLOAD, assumptions=ASSUMED, costs=COSTS)
    assert by_memory["primaries"] == by_memory["primaries_for_memory"] > by_memory["primaries_for_cpu"]
    dear = msgspec.structs.replace(COSTS.costs, primary_us_per_submission=3000)
    by_cpu = plan(100_000_000, workload=WORKLOAD, costs=msgspec.structs.replace(COSTS, costs=dear))
    assert by_cpu["primaries"] == by_cpu["primaries_for_cpu"] > by_cpu["primaries_for_memory"]


def test_what_goes_beyond_its_parts_is_said() -> None:
    notes = plan(MOST_PLAYERS, workload=WORKLOAD, assumptions=ASSUMED, costs=COSTS).notes
    assert any("shards" in note for note in notes)
    assert any("PostgreSQL" in note for note in notes)


def test_what_is_shown_is_what_was_computed() -> None:
    """A step's arithmetic, worked out anew, gives the step's value but for the digits that are not shown."""
    for step in plan(5_000_000, costs=COSTS).steps:
        written = step.arithmetic.replace("·", "*").replace(", ", "; ").replace(",", "").replace("; ", ", ")
        rounded = 1 if "ceil" in written else 0
        shown = eval(written, {"max": max, "min": min, "ceil": math.ceil})
        assert shown == pytest.approx(step.value, rel=0.003, abs=rounded), step.key


def test_the_textbooks_figures_are_the_textbooks() -> None:
    small, large = plan(5_000_000, costs=COSTS), plan(500_000_000, costs=COSTS)
    assert (small["textbook_submissions_per_s"], small["textbook_peak_per_s"]) == (500, 2500)
    assert large["textbook_peak_per_s"] == 250_000
    assert large["textbook_memory_gb"] == pytest.approx(65)


@given(st.integers(1, MOST_PLAYERS), st.integers(1, MOST_PLAYERS))
def test_more_players_never_need_less(some: int, more: int) -> None:
    less, greater = plan(min(some, more), costs=COSTS), plan(max(some, more), costs=COSTS)
    for one, other in zip(less.steps, greater.steps, strict=True):
        if one.key != "maxmemory_gb":  # of one node: more players may need another node, and then less on each
            assert one.value <= other.value * (1 + 1e-9), one.key


@given(st.integers(1, MOST_PLAYERS), st.floats(1, 1000))
def test_the_peak_is_no_lower_than_the_average_and_costs_no_less(players: int, peak: float) -> None:
    flat = plan(players, workload=Workload(peak=1), costs=COSTS)
    found = plan(players, workload=Workload(peak=peak), costs=COSTS)
    assert found["peak_submissions_per_s"] >= found["submissions_per_s"]
    for key in ("api_pods", "primaries", "worker_pods", "memory_gb"):
        assert found[key] >= flat[key] * (1 - 1e-9)


def test_every_input_is_used_and_has_words() -> None:
    formulas = " ".join(line.text for line in FORMULAS)
    for one in plan(1, costs=COSTS).inputs:
        assert one.name in formulas
        assert one.words


@pytest.mark.parametrize("players", [0, -1, -(10**12)])
def test_a_plan_needs_players(players: int) -> None:
    with pytest.raises(ValueError, match=r"^A plan needs at least one daily player, not .*\.$"):
        plan(players, costs=COSTS)


def test_a_plan_is_for_people() -> None:
    with pytest.raises(ValueError, match=r"^There are not 8,000,000,001 people to play; "):
        plan(MOST_PLAYERS + 1, costs=COSTS)


def test_an_unknown_step_is_an_error() -> None:
    with pytest.raises(KeyError):
        plan(1, costs=COSTS)["wishes"]


def test_assumptions_are_given_as_text() -> None:
    workload, assumptions = assumed({"peak": "3", "batch_share": "0.5", "replicas": "2"})
    assert (workload.peak, workload.matches) == (3, 10)
    assert (assumptions.batch_share, assumptions.replicas) == (0.5, 2)


@pytest.mark.parametrize(
    ("given_text", "said"),
    [
        ({"zeal": "1"}, "There is no assumption 'zeal'"),
        ({"peak": "0.5"}, "peak: Expected `float` >= 1"),
        ({"matches": "0"}, "matches: Expected `float` > 0"),
        ({"replicas": "many"}, "replicas: Expected `int`"),
        ({"primary_gb": "nan"}, "primary_gb: "),
        ({"utilisation": "inf"}, "utilisation: "),
    ],
)
def test_an_assumption_that_makes_no_sense_is_named(given_text: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        assumed(given_text)


def test_the_costs_in_the_file_are_whole() -> None:
    """The file that `make costs` wrote is one that this version reads; no cost is zero or missing."""
    found = measured()
    assert found.on
    assert found.memory
    assert [board.players for board in found.memory] == sorted(board.players for board in found.memory)


def test_the_page_says_what_the_model_says() -> None:
    """`make capacity` writes the tables anew."""
    assert PAGE.read_text() == renewed(PAGE.read_text())
