"""How long the audit log is kept.

A month may go once it is older than the settings keep, and once every ranking it is needed for is stored and verified:
until then it is what a board is rebuilt from. Boards that never start anew are kept in a month of their own, which
never goes, and final rankings stay for ever.
"""

from datetime import date

import structlog
from sqlalchemy import Engine

from records import archives, partitions
from records.periods import FOREVER, month_of, months_around

log = structlog.get_logger()


def drop_old_months(engine: Engine, kept: int, today: date) -> list[date]:
    """Drop the months of the audit log before the last `kept` (0: keep all); those that were dropped.

    A month that a ranking without a verified archive still needs is kept, and named in the log.
    """
    if not kept:
        return []
    first_kept = months_around(today, before=kept - 1, after=0)[0]
    old = [month for month in partitions.months_of_audit(engine) if month != FOREVER and month < first_kept]
    needed = {month_of(period) for _, period in archives.unarchived(engine)}
    for month in sorted(needed.intersection(old)):
        log.warning("month_still_needed", month=f"{month:%Y-%m}", next_step="rangeboard archive")
    dropped = [month for month in old if month not in needed]
    for month in dropped:
        partitions.drop_audit(engine, month)
        log.info("month_dropped", month=f"{month:%Y-%m}")
    return dropped
