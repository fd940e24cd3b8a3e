"""Failpoints: off unless armed, and armed by name only."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import failpoints
from runtime.failpoints import FailpointReached


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def test_where_none_is_armed_nothing_happens() -> None:
    failpoints.arm("")
    failpoints.reach("handoff.departed")


def test_only_the_one_that_is_named_is_reached() -> None:
    failpoints.arm("handoff.departed=raise, handoff.arrived=raise@1")
    failpoints.reach("handoff.pointed")
    for name in ("handoff.departed", "handoff.arrived"):
        with pytest.raises(FailpointReached, match=name):
            failpoints.reach(name)


def test_arming_again_takes_the_others_away() -> None:
    failpoints.arm("handoff.departed=raise")
    failpoints.arm("handoff.arrived=raise")
    failpoints.reach("handoff.departed")


@pytest.mark.parametrize(("probability", "least", "most"), [("0", 0, 0), ("0.5", 50, 150), ("1", 200, 200)])
def test_the_probability_is_kept(probability: str, least: int, most: int) -> None:
    failpoints.arm(f"a=raise@{probability}")
    reached = 0
    for _ in range(200):
        try:
            failpoints.reach("a")
        except FailpointReached:
            reached += 1
    assert least <= reached <= most


def test_kill_is_sigkill_to_this_process() -> None:
    child = os.fork()
    if child == 0:
        try:
            failpoints.arm("a=kill")
            failpoints.reach("a")
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_every_point_of_the_code_has_a_name_that_settings_know() -> None:
    """And no name is known that the code never reaches: a fault test armed with it would prove nothing."""
    root = Path(failpoints.__file__).parent.parent
    packages = ("api", "cli", "records", "runtime", "sharding", "workers")
    sources = [path.read_text() for package in packages for path in (root / package).rglob("*.py")]
    reached = {name for source in sources for name in re.findall(r'failpoints\.reach\("([^"]+)"\)', source)}
    assert reached == set(failpoints.NAMES)


@pytest.mark.parametrize("text", ["a", "a=", "=kill", "a=stop", "a=kill@often", "a=kill b=kill"])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="failpoint"):
        failpoints.arm(text)
