"""Logs are events: a static name, identifiers as fields, one line each.

`configure` is called once per process. What the libraries log through the standard library takes the same path and gets
the same form, so that one parser reads everything. Context that belongs to a request or a task (`request_id`, `task`)
is bound once with `structlog.contextvars.bind_contextvars` and appears on every event inside it.

Lines go to standard error: standard output belongs to commands that answer with `--json`.
"""

import logging
import sys
from typing import TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from runtime.settings import Settings

QUIET = ("celery.beat", "celery.app.trace", "celery.worker.strategy")
"""Loggers that announce every tick as news: below warning they are heard at level `debug` only."""

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(settings: Settings, process: str = "api", stream: TextIO | None = None) -> None:
    """Send every event of this process to `stream` (default: standard error), named after its `process`.

    `settings.log_format` chooses JSON or lines for a person, `settings.log_level` the least level shown. Handlers that
    libraries made for themselves are removed: their loggers pass events on to the root.
    """
    out = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        _named_after(process),
    ]
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=out.isatty(), timestamp_key="at")]
        if settings.log_format == "console"
        else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(_json)]
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    for logger in [logging.getLogger(name) for name in logging.root.manager.loggerDict]:
        logger.handlers.clear()
        logger.propagate = True
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(LEVELS[settings.log_level])
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET if settings.log_level == "debug" else logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[settings.log_level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _named_after(process: str) -> Processor:
    def add_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("process", process)
        return event

    return add_process


def _json(event: EventDict, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
