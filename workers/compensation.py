"""Taking back what was applied twice.

A shard recognises a retry for one to two retry windows. A match that is reported again after that is applied again, and
it is the audit log that notices: the event is there already, out of another outbox entry. What a board that adds gained
by that is taken back, by a submission of the opposite value, which goes the way of every submission.

Its match id is made of the outbox entry that is to be taken back, so taking it back twice is one more thing that the
shard recognises; and should that come too late as well, the audit notices that in turn, and takes back the taking back.
No client can send such a match id: it holds a character that match ids of the API may not have.

On a board that keeps the best there is nothing to take back: the same value once more changes nothing.

On a board that sets, the points have become what they once were. First the audit log gets the repetition as an event of
its own, so that it tells what the shard did; then the points are set back to what the last report before it had said,
by a submission like any other. Not if the row is not what the repetition made of it any more: then somebody has said
something newer, and that holds. (A report of the very same value within the second or so until the drain comes cannot
be told from the repetition, and is set back with it.)

A player who was removed between a match and its late report is back with it; `verify` tells where that differs.
"""

from collections.abc import Iterable

from records.audit import AuditRow
from sharding.players import PlayerId
from sharding.submissions import EVENT_ID_BYTES, OWN_MARK, REMOVAL, Submission

KIND = "compensation"
#: Begins the match ids of repetitions, on boards that set.
REPETITION = f"{OWN_MARK}again:"


def compensations(surplus: Iterable[AuditRow]) -> list[Submission]:
    """The submissions that take back these applications, one for each."""
    return [
        Submission(
            player=PlayerId(row.user_id),
            value=-row.value,
            match_id=f"{OWN_MARK}{_application(row)}",
            request_id=row.match_id[:100],
            kind=KIND,
        )
        for row in surplus
        if row.operator == "add" and row.value and row.kind != REMOVAL
    ]


def repetitions(surplus: Iterable[AuditRow]) -> list[AuditRow]:
    """On a board that sets: these applications as events of their own, under match ids of this system."""
    found = []
    for row in surplus:
        if row.operator == "set" and row.kind == "submission":
            mark = f"{REPETITION}{_application(row)}"
            event = Submission(PlayerId(row.user_id), row.value, mark).event()
            event_id = int.from_bytes(event[:EVENT_ID_BYTES], "big", signed=True)
            found.append(row._replace(event_id=event_id, match_id=mark, request_id=row.match_id[:100]))
    return found


def setting_back(repetition: AuditRow, value: int) -> Submission:
    """The submission that sets the points back to what they were before a repetition."""
    return Submission(
        player=PlayerId(repetition.user_id),
        value=value,
        match_id=f"{OWN_MARK}{_application(repetition)}",
        request_id=repetition.request_id or "",
    )


def _application(row: AuditRow) -> str:
    return f"{row.shard}:{row.entry_id}:{row.entry_item}"
