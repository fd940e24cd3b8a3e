"""The scenario: rates that add up, arrivals that wait for nobody, players that every process knows."""

import random
from collections import Counter
from dataclasses import replace

import msgspec
import pytest

from loadtest.scenario import Crowd, Scenario, arrivals
from loadtest.workload import Workload

SCENARIO = Scenario(run="load1", dau=5_000_000, fraction=0.1, seconds=180, players=1000, lookup=True)


def test_the_textbooks_peak_is_what_its_players_do() -> None:
    """It counts a day as 100,000 seconds and comes to 2,500 submissions/s; a day of 86,400 has 2,894."""
    assert Workload().submissions_per_s(5_000_000) * 0.864 == pytest.approx(2500)
    assert Workload().submissions_per_s(5_000_000, peak=False) * 0.864 == pytest.approx(500)
    assert Workload().submissions_per_s(500_000_000) * 0.864 == pytest.approx(250_000)


@pytest.mark.parametrize("batch_share", [0.0, 0.3, 1.0])
def test_batches_carry_their_share_of_the_submissions(batch_share: float) -> None:
    scenario = replace(SCENARIO, batch_share=batch_share, batch_size=50)
    carried = scenario.singles_per_s + 50 * scenario.batches_per_s
    assert carried == pytest.approx(scenario.submissions_per_s) == pytest.approx(289.35, abs=0.01)


def test_reads_follow_the_workload_and_their_factor() -> None:
    assert SCENARIO.reads_per_s == pytest.approx(Workload().reads_per_s(500_000))
    assert replace(SCENARIO, reads=0.0).reads_per_s == 0
    assert replace(SCENARIO, reads=3.0).reads_per_s == pytest.approx(3 * SCENARIO.reads_per_s)
    assert "lookup" not in replace(SCENARIO, lookup=False).read_rates


@pytest.mark.parametrize(
    "wrong",
    [
        {"dau": 0},
        {"players": 0},
        {"seconds": 0},
        {"fraction": 0},
        {"fraction": 1.01},
        {"batch_share": 1.1},
        {"batch_size": 0},
        {"batch_size": 10_001},
        {"reads": -1},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        replace(SCENARIO, **wrong)


def test_it_travels_to_the_processes_as_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(SCENARIO), type=Scenario) == SCENARIO


def test_arrivals_are_a_poisson_process() -> None:
    """As many as asked for, ascending, and as irregular as chance: the variance of counts is their mean."""
    due = list(arrivals(50, 2000, random.Random(7)))
    assert due == sorted(due)
    assert due[-1] < 2000
    assert len(due) == pytest.approx(100_000, rel=0.02)
    counts = Counter(int(at) for at in due)
    mean = len(due) / 2000
    variance = sum((counts[second] - mean) ** 2 for second in range(2000)) / 2000
    assert variance == pytest.approx(mean, rel=0.15)


def test_parts_of_a_rate_add_up_to_it() -> None:
    parts = [len(list(arrivals(100 / 4, 500, random.Random(part)))) for part in range(4)]
    assert sum(parts) == pytest.approx(50_000, rel=0.03)


def test_without_a_rate_nothing_arrives() -> None:
    assert list(arrivals(0, 100, random.Random(1))) == []


def test_every_process_knows_the_same_players() -> None:
    assert Crowd("load1", 50).players == Crowd("load1", 50).players
    assert len(set(Crowd("load1", 5000).players) | set(Crowd("load2", 5000).players)) == 10_000


def test_zeal_is_heavy_tailed() -> None:
    """The keenest hundredth plays about an eighth of the matches, and yet most players play."""
    crowd, rng = Crowd("load1", 10_000), random.Random(3)
    played = Counter(crowd.somebody(rng) for _ in range(200_000))
    keenest = sum(count for _, count in played.most_common(100))
    assert 0.08 < keenest / 200_000 < 0.2
    assert len(played) > 9_000
