"""Whatever a program writes, a person reads one short line, or none."""

import json

import pytest

from cli.log_lines import LONGEST_VALUE, Line, readable, supervision


def test_an_event_becomes_its_name_and_fields():
    event = {"event": "period_opened", "level": "info", "at": "2026-11-23T14:56:38.9Z", "process": "api", "shards": 16}
    assert readable(json.dumps(event)) == Line("period_opened shards=16", "info", "14:56:38")


def test_an_exception_is_shown_by_its_kind_and_words():
    trace = [{"exc_type": "ShardUnavailable", "exc_value": "no answer", "frames": [{"lineno": 1}] * 50}]
    line = readable(json.dumps({"event": "failed", "level": "error", "exception": trace}))
    assert line == Line("failed exception=ShardUnavailable: no answer", "error", "")


def test_a_long_field_is_cut():
    line = readable(json.dumps({"event": "odd", "detail": "x" * 10_000}))
    assert line is not None
    assert len(line.text) < LONGEST_VALUE + 20


@pytest.mark.parametrize("broken", ['{"event": "half', "{}x", "[1, 2]", "plain words"])
def test_what_is_no_event_is_shown_as_it_is(broken):
    assert readable(broken) == Line(broken)


def test_a_warning_of_redis_is_shown():
    line = readable("17622:M 23 Nov 2026 14:59:05.120 # Error writing to the AOF file: no space")
    assert line == Line("Error writing to the AOF file: no space", "warning", "14:59:05")


def test_a_failover_is_shown_and_its_details_are_not():
    assert readable("1:S 23 Nov 2026 14:59:03.1 * Failover election won: I'm the new primary.") is not None
    assert readable("1:S 23 Nov 2026 14:59:03.1 * Discarding previously cached primary state.") is None


def test_a_warning_about_the_machine_is_not_shown():
    assert readable("1:M 23 Nov 2026 14:59:03.1 # WARNING Memory overcommit must be enabled! Without it, …") is None


def test_postgres_loses_its_date_and_keeps_its_severity():
    line = readable('2026-11-23 14:56:35.285 UTC [14960] ERROR:  relation "games" does not exist')
    assert line == Line('relation "games" does not exist', "error", "14:56:35")


def test_an_empty_line_is_nothing():
    assert readable("  ") is None


def test_a_crash_names_the_process_and_the_signal():
    line = supervision("2026-11-23 14:59:00,123 WARN exited: redis-2 (terminated by SIGKILL; not expected)")
    assert line == Line("redis-2 died: terminated by SIGKILL; it is being restarted", "error", "14:59:00")


def test_an_exit_code_is_named():
    line = supervision("2026-11-23 14:59:00,123 WARN exited: api (exit status 3; not expected)")
    assert line == Line("api died: exit status 3; it is being restarted", "error", "14:59:00")


def test_a_restart_and_a_surrender_are_named():
    started = supervision("2026-11-23 14:59:00,123 INFO spawned: 'redis-2' with pid 77")
    given_up = supervision(
        "2026-11-23 14:59:00,123 INFO gave up: api entered FATAL state, too many start retries too quickly"
    )
    assert started == Line("redis-2 started, pid 77", "info", "14:59:00")
    assert given_up == Line("api keeps dying and is given up: see its log", "error", "14:59:00")


def test_the_rest_of_the_supervisors_log_is_nothing():
    assert supervision("2026-11-23 14:59:00,123 INFO success: api entered RUNNING state, process has stayed up") is None
