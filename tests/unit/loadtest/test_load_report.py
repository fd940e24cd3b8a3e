"""The report: one well-formed page that needs nothing else, shows what was measured, and says what failed."""

import random
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from io import StringIO
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from loadtest.checker import Anomaly, Finding, Verdict
from loadtest.ledger import Answer
from loadtest.measurements import Measurements
from loadtest.plots import COLOURS, Axis, Line, bar_chart, line_chart, standalone
from loadtest.report import render
from loadtest.result import Result
from loadtest.scenario import Scenario
from loadtest.screen import show
from loadtest.verdict import Limits, judge

SCENARIO = Scenario(run="load1", dau=864_000, fraction=0.1, seconds=20, players=100, lookup=True)
KINDS = ("submit", "batch", "resend", "rank", "neighbours", "top", "lookup")
NASTY = "503 <script>alert('x')</script>"


def result(*, dirty: bool = False, empty: bool = False) -> Result:
    """A run of all kinds of requests; `dirty`: with a loss and a failure."""
    rng = random.Random(1)
    measured = Measurements(due=1400, cpu_s=3.0, wall_s=20.0)
    for number in range(0 if empty else 1400):
        due = number / 70
        measured.record(KINDS[number % len(KINDS)], due, due, due + rng.lognormvariate(-5, 1))
    if dirty:
        measured.record("rank", 3, 3, 3.1, NASTY)
    books = Verdict(
        sent=600,
        matches=590,
        players=99,
        answers=dict.fromkeys(Answer, 150),
        not_durable=0,
        unknown_counted=3,
        rows=580,
        taken_back=0,
        anomalies=dict.fromkeys(Anomaly, 0) | {Anomaly.LOST: int(dirty)},
        examples=(Finding(Anomaly.LOST, "ada", "match-1", "value (5,)"),) if dirty else (),
    )
    return Result(
        service="http://127.0.0.1:8080",
        started_at=datetime(2026, 11, 23, 15, 0, tzinfo=UTC),
        machine="2 cores",
        scenario=SCENARIO,
        connections=32,
        measured=measured,
        books=books,
        judgement=judge(SCENARIO, measured, books, Limits(), 1),
        cpu_s={"api": 8.0, "redis primaries": 2.0},
        settled_s=1.5,
    )


class Page(HTMLParser):
    """A page's elements, its text, and whether they nest."""

    VOID = frozenset({"meta"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("shown", [result(), result(dirty=True), result(empty=True)], ids=["clean", "dirty", "empty"])
def test_the_page_is_well_formed_and_stands_alone(shown: Result) -> None:
    source = render(shown)
    page = Page(source)
    assert not {"script", "link", "img", "iframe"} & set(page.seen)
    assert not re.search(r"src=|url\(|@import", source)
    for svg in re.findall(r"<svg.*?</svg>", source, re.DOTALL):
        ET.fromstring(svg)
    assert all(f"--c{number}:" in source for number in range(COLOURS))


def test_the_page_shows_every_kind_and_the_verdict() -> None:
    source = render(result())
    page = Page(source)
    assert "Passed." in page.text
    assert all(kind in page.text for kind in KINDS)
    assert source.count("<svg") == 4


def test_the_page_tells_what_went_wrong_without_running_it() -> None:
    page = Page(render(result(dirty=True)))
    assert "Ledger not clean." in page.text
    assert "match-1" in page.text
    assert NASTY in page.text


@pytest.mark.parametrize("dirty", [False, True])
def test_the_terminal_says_the_same(dirty: bool) -> None:
    output = StringIO()
    shown = result(dirty=dirty)
    show(shown, Console(file=output, width=120))
    text = output.getvalue()
    assert shown.judgement.why[:60] in text
    assert ("match-1" in text) is dirty
    assert "redis primaries" in text
    assert "\x1b[" not in text, "colours are for terminals"


def polylines(svg: str) -> list[list[tuple[float, float]]]:
    tree = ET.fromstring(svg)
    return [
        [(float(x), float(y)) for x, y in (point.split(",") for point in line.attrib["points"].split())]
        for line in tree.iter("polyline")
    ]


def test_a_line_is_drawn_where_its_points_are() -> None:
    """Higher values higher up, later ones further right, all of them inside of the picture."""
    svg = line_chart("t", [Line("a", [(0, 0), (5, 50), (10, 100)])], Axis("x"), Axis("y"))
    ((first, middle, last),) = polylines(svg)
    assert first[0] < middle[0] < last[0]
    assert first[1] > middle[1] > last[1]
    assert middle[0] - first[0] == pytest.approx(last[0] - middle[0], abs=0.2)
    width, height = map(float, ET.fromstring(svg).attrib["viewBox"].split()[2:])
    assert all(0 <= x <= width and 0 <= y <= height for x, y in (first, middle, last))


def test_on_a_logarithmic_axis_factors_are_distances() -> None:
    ((one, ten, hundred),) = polylines(
        line_chart("t", [Line("a", [(0, 1), (1, 10), (2, 100)])], Axis("x"), Axis("y", log=True))
    )
    assert one[1] - ten[1] == pytest.approx(ten[1] - hundred[1], abs=0.2)


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [5.0], [1e-9, 1e9], [7.0, 7.0, 7.0]])
@pytest.mark.parametrize("log", [False, True])
def test_odd_data_still_make_a_picture(values: list[float], log: bool) -> None:
    line = Line("<&>", [(float(number), value) for number, value in enumerate(values)])
    ET.fromstring(line_chart("<&>", [line], Axis("x"), Axis("y", log=log)))


def test_a_chart_can_be_a_file_of_its_own() -> None:
    """It brings its colours along, for light and dark, and has the size of the chart."""
    svg = standalone(line_chart("t", [Line("a", [(0, 1), (1, 2)])], Axis("x"), Axis("y")))
    tree = ET.fromstring(svg)
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    assert tree.attrib["viewBox"] == f"0 0 {tree.attrib['width']} {tree.attrib['height']}"
    assert all(f"--c{number}:" in svg for number in range(COLOURS))
    assert "prefers-color-scheme: dark" in svg


def test_no_data_is_said() -> None:
    assert "no data" in line_chart("t", [Line("a", [])], Axis("x"), Axis("y"))
    ET.fromstring(bar_chart("t", []))


def test_bars_are_as_long_as_their_values() -> None:
    tree = ET.fromstring(bar_chart("t", [("a", 10.0, "ten"), ("b", 5.0, "five"), ("c", 0.0, "nothing")]))
    ten, five, nothing = (float(bar.attrib["width"]) for bar in tree.iter("rect"))
    assert ten == pytest.approx(2 * five)
    assert nothing <= 1


def test_rates_are_of_the_time_in_which_requests_were_due() -> None:
    """Not of the time until the last answer came."""
    shown = result()
    shown.measured.wall_s = 99
    assert shown.requests_per_s == 70
    assert shown.submissions_per_s == 30
