"""Where the time went, in words."""

from bench import cpu

TAKEN = {
    "API": 20.0,
    "primaries": 17.25,
    "replicas": 0.01,
    "drain's worker": 8.0,
    "drain's PostgreSQL": 9.5,
    "rest": 0.5,
}


def test_the_drain_is_told_together_and_what_is_nothing_is_left_out() -> None:
    assert cpu.told(TAKEN) == "API 20.0, primaries 17.2, drain 17.5 (worker 8.0 + PostgreSQL 9.5), rest 0.5"


def test_the_distance_to_the_peak_is_that_of_all_parts_together() -> None:
    said = cpu.distance({"API": 15.0, "primaries": 10.0, "worker": 5.0, "PostgreSQL": 10.0})
    assert "takes 40.0 µs of CPU" in said
    assert "2 cores give 50,000 submissions/s" in said
    assert "250,000/s take 10.0 such cores" in said


def test_workers_that_drain_nothing_of_what_is_measured_are_told_by_themselves() -> None:
    assert cpu.told({"API": 346.0, "worker": 53.0}) == "API 346, worker 53.0"
