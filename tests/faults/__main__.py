"""Run a fault scenario at any size: `make faults ARGS="killed_in_moves --times 1000"`; exit code 1 if it is not
clean, or took longer than is promised.

`--large` is the size that docs/how-to/fault-tests.md tells of. The last line is the row of its table.
"""

import argparse
import json
import logging
import signal
import sys
import tempfile
from pathlib import Path

import structlog

from .rig import rigged
from .scenarios import LARGE, SCENARIOS


def main() -> int:
    """Parse, run, print the report as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("scenario", choices=sorted(SCENARIOS))
    parser.add_argument("--large", action="store_true", help="as in docs/how-to/fault-tests.md")
    parser.add_argument("--times", type=int, default=10, help="how often harm is done")
    parser.add_argument("--seconds", type=float, help="of load for each harm; not for killed_in_moves")
    parser.add_argument("--home", type=Path, help="where servers and ledgers live; default: a temporary directory")
    parser.add_argument("--ack-replicas", type=int, default=1, help="0: answer before a replica has the write")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end too
    with tempfile.TemporaryDirectory(prefix="rangeboard-faults-") as temporary:
        with rigged(given.home or Path(temporary), ack_replicas=given.ack_replicas) as rig:
            sizes = (given.times,) if given.seconds is None else (given.times, given.seconds)
            report = SCENARIOS[given.scenario](rig, *(LARGE[given.scenario] if given.large else sizes))
        print(json.dumps(report.told(), indent=2))
        print(report.row())
    return 0 if report.clean and report.prompt else 1


if __name__ == "__main__":
    raise SystemExit(main())
