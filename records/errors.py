"""What can go wrong with a record; the driver's own exception stays as `__cause__`.

The docstring of a class is its message. Whatever was not committed did not happen, and every write of this package may
be repeated, so after a `retryable` error the same call is safe to make again.
"""

from collections.abc import Iterable
from datetime import date


class RecordsError(Exception):
    """Something about a record went wrong."""

    #: whether the same call may succeed a moment later
    retryable = False

    def __init__(self, detail: str = "", *, field: str | None = None) -> None:
        self.detail = detail or (self.__doc__ or "").strip()
        self.field = field
        super().__init__(self.detail)


class RecordsUnavailable(RecordsError):
    """PostgreSQL cannot be reached, or did not answer in time."""

    retryable = True


class WrongSchema(RecordsError):
    """The database is not migrated, or was migrated by another version of Rangeboard."""


class Conflict(RecordsError):
    """Another record has this value, or the record changed meanwhile; `field` says which."""


class InvalidRecord(RecordsError):
    """A value does not fit its column; `field` names it, `index` its place in a sequence that was given."""

    def __init__(self, detail: str = "", *, field: str | None = None, index: int | None = None) -> None:
        super().__init__(detail, field=field)
        self.index = index


class MissingPartition(RecordsError):
    """No partition holds these months; `partitions.ensure(engine, error.months)` makes them."""

    def __init__(self, months: Iterable[date] = ()) -> None:
        self.months = tuple(sorted(months))
        named = ", ".join(f"{month:%Y-%m}" for month in self.months)
        super().__init__(f"no partition for {named}" if named else "", field="month")
