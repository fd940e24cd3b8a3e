"""Lines of the stack's logs made readable, whichever program wrote them: values in, values out.

JSON events become `time event field=value`, lines of Redis and PostgreSQL lose their dates. Of what Redis notes, only
what changes the cluster is shown: a single failover fills a hundred lines of its files.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

LONGEST_VALUE = 160  # of an event's field; the file has all of it

#: What Redis notes of the cluster's health; its warnings are shown anyway.
_NOTEWORTHY = re.compile(
    r"Marking node .* as failing|Failover election won|Cluster state changed|is now a replica"
    r"|Synchronization with replica|Ready to accept connections"
)
#: Warnings of Redis about the machine, which a stack on loopback can do without.
_NO_CONCERN = re.compile(
    r"Memory overcommit|Missing implement of connection type|ready to exit|TCP backlog|Transparent Huge"
)
_REDIS = re.compile(r"^\d+:[A-Z] \d+ \w+ \d{4} (?P<time>[\d:]{8})\.\d+ (?P<sign>[.\-*#]) (?P<text>.*)$")
_POSTGRES = re.compile(r"^\d{4}-\d\d-\d\d (?P<time>[\d:]{8})\.\d+ UTC \[\d+\] (?P<severity>[A-Z]+\d?): +(?P<text>.*)$")
_EXIT = re.compile(r"^\S+ (?P<time>[\d:]{8}),\d+ \w+ exited: (?P<name>\S+) \((?P<how>.*); (?:not )?expected\)$")
_SPAWN = re.compile(r"^\S+ (?P<time>[\d:]{8}),\d+ \w+ spawned: '(?P<name>[^']+)' with pid (?P<pid>\d+)$")
_GAVE_UP = re.compile(r"^\S+ (?P<time>[\d:]{8}),\d+ \w+ gave up: (?P<name>\S+) .*$")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log, as a person should see it."""

    text: str
    level: str = "info"
    time: str = ""  # HH:MM:SS, where the line has one


def readable(line: str) -> Line | None:
    """What a line says, whichever of the programs wrote it; None if nobody needs to see it."""
    if not line.strip():
        return None
    if line.startswith("{"):
        try:
            event = json.loads(line)
        except ValueError:
            return Line(line)
        return _event(event) if isinstance(event, dict) else Line(line)
    if match := _REDIS.match(line):
        warning = match["sign"] == "#" and not _NO_CONCERN.search(match["text"])
        shown = warning or _NOTEWORTHY.search(match["text"])
        return Line(match["text"], "warning" if warning else "info", match["time"]) if shown else None
    if match := _POSTGRES.match(line):
        level = {"LOG": "info", "WARNING": "warning", "ERROR": "error", "FATAL": "error", "PANIC": "error"}
        return Line(match["text"], level.get(match["severity"], "info"), match["time"])
    return Line(line)


def supervision(line: str) -> Line | None:
    """What a line of the supervisor's log says about a process that died or came back, if it does."""
    if match := _EXIT.match(line):
        return Line(f"{match['name']} died: {match['how']}; it is being restarted", "error", match["time"])
    if match := _GAVE_UP.match(line):
        return Line(f"{match['name']} keeps dying and is given up: see its log", "error", match["time"])
    if match := _SPAWN.match(line):
        return Line(f"{match['name']} started, pid {match['pid']}", "info", match["time"])
    return None


def _event(event: dict[str, Any]) -> Line:
    at = str(event.pop("at", ""))
    level = str(event.pop("level", "info"))
    name = str(event.pop("event", ""))
    trace = event.pop("exception", None)
    event.pop("process", None)
    fields = [f"{field}={_value(value)}" for field, value in event.items()]
    if trace:
        fields.append(f"exception={_raised(trace)}")
    return Line(" ".join([name, *fields]), level, at[11:19])


def _value(value: object) -> str:
    text = value if isinstance(value, str) and " " not in value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _raised(trace: object) -> str:
    """The last exception of a structured trace; the file has all of it."""
    if isinstance(trace, list) and trace and isinstance(trace[0], dict):
        return f"{trace[0].get('exc_type')}: {trace[0].get('exc_value')}"
    return _value(trace)
