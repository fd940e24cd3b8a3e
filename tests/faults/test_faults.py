"""Whatever is killed, nothing that was acknowledged is lost, nothing counts twice, and everybody is in one place.

Small versions; `docs/how-to/fault-tests.md` says how to run the large ones.
"""

from collections.abc import Callable

import pytest
from faults import scenarios
from faults.rig import Rig
from faults.scenarios import HANDOFF_POINTS, Report

pytestmark = pytest.mark.servers


def check(report: Report) -> None:
    assert report.clean, report.told()
    assert report.books is not None
    assert report.books.answers[scenarios.Answer.ACKNOWLEDGED] > 100, "there was traffic"


def test_killed_at_every_step_of_a_move(rig: Rig) -> None:
    """Writers, and workers that sweep and drain: what the dead leave on the way is home within five seconds."""
    report = scenarios.killed_in_moves(rig, 15)
    check(report)
    assert {f"handoff.{point}" for point in HANDOFF_POINTS} < report.harm.keys()
    assert report.home_after_s < 5


@pytest.mark.parametrize(
    ("scenario", "load_s"),
    [
        (scenarios.primary_killed, 3),
        (scenarios.primary_killed_with_lagging_replica, 3),
        (scenarios.primary_restarted, 3),
        (scenarios.primary_paused, 10),
        (scenarios.replica_lost, 3),
        (scenarios.slot_migrated, 3),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_under_load(rig: Rig, scenario: Callable[[Rig, int, float], Report], load_s: float) -> None:
    """Servers fail and come back, and writes go on within ten seconds.

    Five are promised, on a machine that does nothing else; that is for `make faults` to show, which fails past them. A
    machine that runs other tests meanwhile gets as much again.
    """
    report = scenario(rig, 1, load_s)
    check(report)
    assert max(report.resumed_after_s) < 2 * scenarios.PROMISED_S


@pytest.mark.parametrize(
    ("home_after_s", "resumed_after_s", "prompt"),
    [(0.0, [], True), (5.0, [5.0, 0.1], True), (5.1, [], False), (0.0, [0.1, 5.1], False)],
)
def test_a_run_that_was_too_slow_is_told_to_be(home_after_s: float, resumed_after_s: list[float], prompt: bool) -> None:
    """By this the command fails, however clean the books are."""
    report = Report(scenario="any", home_after_s=home_after_s, resumed_after_s=resumed_after_s)
    assert report.prompt is prompt
