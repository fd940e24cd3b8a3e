"""Every event of a process is one line of one form, whoever logged it."""

import io
import json
import logging
from datetime import UTC, datetime

import pytest
import structlog

from runtime.logs import configure
from runtime.settings import Settings


@pytest.fixture
def out():
    """Where the events go; logging is as it was afterwards."""
    root = logging.root
    handlers, level = root.handlers[:], root.level
    structlog.contextvars.clear_contextvars()
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def events(out):
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_an_event_is_a_json_object_with_time_level_and_process(out):
    configure(Settings(), "worker", out)
    structlog.get_logger().info("period_opened", board="global", shards=16)
    (event,) = events(out)
    at = datetime.fromisoformat(event.pop("at"))
    assert at.utcoffset() == UTC.utcoffset(None)
    assert event == {
        "event": "period_opened",
        "level": "info",
        "process": "worker",
        "board": "global",
        "shards": 16,
    }


def test_context_is_on_every_event_inside_it_also_on_those_of_libraries(out):
    configure(Settings(), "api", out)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger().info("one")
        logging.getLogger("some.library").warning("two %s", "words")
    structlog.get_logger().info("three")
    assert [(event["event"], event.get("request_id")) for event in events(out)] == [
        ("one", "r1"),
        ("two words", "r1"),
        ("three", None),
    ]


def test_extra_fields_of_the_standard_library_are_fields(out):
    configure(Settings(), "api", out)
    logging.getLogger("some.library").warning("slow", extra={"seconds": 3})
    (event,) = events(out)
    assert (event["logger"], event["seconds"]) == ("some.library", 3)


def test_below_the_level_nothing_is_shown(out):
    configure(Settings(log_level="warning"), "api", out)
    structlog.get_logger().info("hidden")
    logging.getLogger("some.library").info("hidden")
    structlog.get_logger().warning("shown")
    assert [event["event"] for event in events(out)] == ["shown"]


def test_every_tick_of_the_worker_is_no_news(out):
    configure(Settings(), "worker", out)
    logging.getLogger("celery.beat").info("Sending due task")
    assert events(out) == []
    configure(Settings(log_level="debug"), "worker", out)
    logging.getLogger("celery.beat").info("Sending due task")
    assert [event["event"] for event in events(out)] == ["Sending due task"]


def test_a_library_with_handlers_of_its_own_does_not_speak_twice(out):
    stranger = logging.getLogger("stranger")
    stranger.addHandler(logging.StreamHandler(out))
    stranger.propagate = False
    configure(Settings(), "api", out)
    stranger.warning("once")
    assert [event["event"] for event in events(out)] == ["once"]


def test_an_exception_is_structured_and_whatever_is_no_json_is_shown_as_text(out):
    configure(Settings(), "api", out)
    try:
        {}["gone"]
    except KeyError:
        structlog.get_logger().exception("failed", thing=object)
    (event,) = events(out)
    assert event["exception"][0]["exc_type"] == "KeyError"
    assert "object" in event["thing"]


def test_for_a_person_it_is_a_line_and_without_a_terminal_a_plain_one(out):
    configure(Settings(log_format="console"), "api", out)
    structlog.get_logger().info("period_opened", board="global")
    assert "period_opened" in out.getvalue()
    assert "board=global" in out.getvalue()
    assert "\x1b" not in out.getvalue()
