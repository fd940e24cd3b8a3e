"""What all tasks share: how they are declared, and their log."""

from typing import Any

import structlog

log = structlog.get_logger()

#: Ticks come again by themselves, so a failed one is not retried: it is logged, and the next one tries.
TASK: dict[str, Any] = {"ignore_result": True, "max_retries": 0}
