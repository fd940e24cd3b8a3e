"""The judgement: the books before the figures, and no figures of a load that was not there."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from loadtest.checker import Anomaly, Verdict
from loadtest.ledger import Answer
from loadtest.measurements import Measurements, latency_of, together
from loadtest.scenario import Scenario
from loadtest.verdict import Limits, Outcome, judge

SCENARIO = Scenario(run="load1", dau=864_000, fraction=0.1, seconds=10, players=100)
BOOKS = Verdict(
    sent=500,
    matches=500,
    players=90,
    answers={answer: 500 if answer is Answer.ACKNOWLEDGED else 0 for answer in Answer},
    not_durable=0,
    unknown_counted=0,
    rows=500,
    taken_back=0,
    anomalies=dict.fromkeys(Anomaly, 0),
    examples=(),
)
LIMITS = Limits(write_p99_ms=100, read_p99_ms=50, failed_percent=0.1, unsent_percent=1, late_p99_ms=20)


def measured() -> Measurements:
    """A run in which everything went well: 50 submissions and 20 reads a second for ten seconds."""
    whole = Measurements(due=700, cpu_s=2.0, wall_s=10.0)
    for number in range(500):
        whole.record("submit", 100 + number / 50, 100 + number / 50, 100 + number / 50 + 0.01)
    for number in range(200):
        whole.record("rank", 100 + number / 20, 100 + number / 20, 100 + number / 20 + 0.005)
        whole.late.record(0.001)
    return whole


def outcome(run: Measurements, books: Verdict = BOOKS, processes: int = 1) -> Outcome:
    return judge(SCENARIO, run, books, LIMITS, processes).outcome


def test_a_run_in_order_passes() -> None:
    judgement = judge(SCENARIO, measured(), BOOKS, LIMITS, 1)
    assert judgement.outcome is Outcome.PASSED == 0
    assert all(criterion.held for criterion in judgement.criteria)


@pytest.mark.parametrize("anomaly", Anomaly)
def test_one_anomaly_of_any_kind_fails_it(anomaly: Anomaly) -> None:
    books = replace(BOOKS, anomalies=BOOKS.anomalies | {anomaly: 1})
    judgement = judge(SCENARIO, measured(), books, LIMITS, 1)
    assert judgement.outcome is Outcome.LEDGER_NOT_CLEAN == 1
    assert anomaly.value in judgement.why


def late(run: Measurements) -> None:
    for _ in range(100):
        run.late.record(0.5)


def fail_some(run: Measurements) -> None:
    for _ in range(2):
        run.record("rank", 101, 101, 101.001, "503 Busy")


def slow_reads(run: Measurements) -> None:
    for _ in range(10):
        run.record("top", 101, 101, 101.09)


def slow_writes(run: Measurements) -> None:
    for _ in range(10):
        run.record("batch", 101, 101, 101.2)


def unsent(run: Measurements) -> None:
    run.unsent = 8


def few(run: Measurements) -> None:
    run.due = 500


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (few, Outcome.NOT_GENERATED),
        (unsent, Outcome.NOT_GENERATED),
        (late, Outcome.NOT_GENERATED),
        (fail_some, Outcome.THRESHOLD_MISSED),
        (slow_reads, Outcome.THRESHOLD_MISSED),
        (slow_writes, Outcome.THRESHOLD_MISSED),
    ],
)
def test_each_limit_counts(spoil: Callable[[Measurements], None], expected: Outcome) -> None:
    run = measured()
    spoil(run)
    assert outcome(run) is expected
    assert judge(SCENARIO, run, BOOKS, LIMITS, 1).why


def test_the_books_come_first_and_the_load_before_the_figures() -> None:
    run = measured()
    fail_some(run)
    assert outcome(run) is Outcome.THRESHOLD_MISSED
    unsent(run)
    assert outcome(run) is Outcome.NOT_GENERATED
    assert outcome(run, replace(BOOKS, anomalies=BOOKS.anomalies | {Anomaly.LOST: 1})) is Outcome.LEDGER_NOT_CLEAN


def test_a_generator_process_that_died_fails_the_run() -> None:
    assert outcome(measured(), processes=2) is Outcome.NOT_GENERATED
    assert "died" in judge(SCENARIO, measured(), BOOKS, LIMITS, 2).why
    assert outcome(Measurements()) is Outcome.NOT_GENERATED


def test_an_empty_ledger_fails_the_run() -> None:
    assert outcome(measured(), replace(BOOKS, sent=0)) is Outcome.NOT_GENERATED


@pytest.mark.parametrize(
    ("cpu_s", "unsent", "why"),
    [(9.8, 100, "busy themselves"), (2.0, 100, "the service or the connections"), (2.0, 0, "something else")],
)
def test_what_stood_in_the_way_is_named(cpu_s: float, unsent: int, why: str) -> None:
    run = measured()
    run.cpu_s, run.unsent = cpu_s, unsent
    late(run)
    assert why in judge(SCENARIO, run, BOOKS, LIMITS, 1).why


def test_measurements_of_several_processes_add_up() -> None:
    one, other = measured(), measured()
    other.record("rank", 101, 101, 101.001, "503 Busy")
    other.notes.append("the ledger is full")
    whole = together([one, other])
    assert whole.processes == 2
    assert whole.due == 1400
    assert whole.requests == 1401
    assert whole.failed == 1
    assert whole.cpu_s == 4.0
    assert whole.wall_s == 10.0
    assert whole.kinds["rank"].reasons == {"503 Busy": 1}
    assert whole.kinds["submit"].seconds[103].answered == 100
    assert latency_of(whole.kinds.values()).total == 1401
    assert latency_of(whole.kinds.values(), 103).total == 140
    with pytest.raises(ValueError, match="no process"):
        together([])


def test_latency_counts_from_when_it_was_due() -> None:
    """A request that waited a second for a connection took a second, however fast it was then."""
    run = Measurements()
    run.record("rank", 100.0, 101.0, 101.01)
    assert run.kinds["rank"].latency.longest == pytest.approx(1.01)
    assert run.kinds["rank"].service.longest == pytest.approx(0.01)


def test_reasons_are_bounded() -> None:
    run = Measurements()
    for number in range(1000):
        run.record("rank", 100, 100, 101, f"reason {number} " + "x" * 1000)
    reasons = run.kinds["rank"].reasons
    assert len(reasons) < 50
    assert sum(reasons.values()) == 1000
    assert max(map(len, reasons)) < 100
