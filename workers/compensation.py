"""Taking back what was applied twice.

A shard recognises a retry for one to two retry windows. A match that is reported again after that is applied again, and
it is the audit log that notices: the event is there already, out of another outbox entry. What a board that adds gained
by that is taken back, by a submission of the opposite value, which goes the way of every submission.

Its match id is made of the outbox entry that is to be taken back, so taking it back twice is one more thing that the
shard recognises; and should that come too late as well, the audit notices that in turn, and takes back the taking back.
No client can send such a match id: it holds a character that match ids of the API may not have.

On a board that keeps the best there is nothing to take back: the same value once more changes nothing. Where the last
one counts, the value that was reported again is what the player said last, and `verify` tells where that differs. It
also tells of a player who was removed from the board between a match and its late report: what that brought back.
"""

from collections.abc import Iterable

from records.audit import AuditRow
from sharding.players import PlayerId
from sharding.submissions import OWN_MARK, REMOVAL, Submission

KIND = "compensation"


def compensations(surplus: Iterable[AuditRow]) -> list[Submission]:
    """The submissions that take back these applications, one for each."""
    return [
        Submission(
            player=PlayerId(row.user_id),
            value=-row.value,
            match_id=f"{OWN_MARK}{row.shard}:{row.entry_id}:{row.entry_item}",
            request_id=row.match_id[:100],
            kind=KIND,
        )
        for row in surplus
        if row.operator == "add" and row.value and row.kind != REMOVAL
    ]
