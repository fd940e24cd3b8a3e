"""A log is followed through its rotations, and nobody sees half a line."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from cli.following import Follower, Screen
from cli.log_lines import Line


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "api.log"


@pytest.fixture
def follower(log: Path) -> Iterator[Follower]:
    """Of a log that has a line already."""
    log.write_text("old\n")
    follower = Follower(log)
    yield follower
    follower.close()


def test_only_what_is_written_from_now_on_is_given(log, follower):
    with log.open("a") as file:
        file.write("one\ntwo\n")
    assert list(follower.lines()) == ["one", "two"]
    assert list(follower.lines()) == []


def test_half_a_line_waits_for_its_other_half(log, follower):
    with log.open("a") as file:
        file.write("whole\nha")
        file.flush()
        assert list(follower.lines()) == ["whole"]
        file.write("lf\n")
    assert list(follower.lines()) == ["half"]


def test_nothing_is_lost_when_the_file_is_rotated(log, follower):
    with log.open("a") as file:
        file.write("before\n")
    log.rename(log.with_suffix(".1"))
    log.write_text("after\n")
    assert list(follower.lines()) == ["before", "after"]


def test_a_file_that_comes_later_is_read_from_its_start(log):
    follower = Follower(log)
    assert list(follower.lines()) == []
    log.write_text("first\n")
    assert list(follower.lines()) == ["first"]
    follower.close()


def test_lines_stand_after_the_name_of_their_process_and_are_plain_without_a_terminal():
    out = io.StringIO()
    Screen(Console(file=out), ["api", "redis-1"]).show("api", [None, Line("[ready] :x:", "error", "14:59:00")])
    assert out.getvalue() == "api     14:59:00 [ready] :x:\n"


def test_colours_are_for_terminals():
    out = io.StringIO()
    Screen(Console(file=out, force_terminal=True, color_system="standard"), ["api"]).show("api", [Line("x", "error")])
    assert "\x1b[31m" in out.getvalue()
