"""The checker: does what counts at the end agree with what was sent and answered?

Pure: ledger entries and a final state in, a verdict out. The final state is every player's points as the API tells
them, and the players' rows of the audit log `games`, both read when no submission is under way and the audit has
caught up. Points are added up (the board's operator is `add`).

What a clean verdict proves, about the players of the ledger and the period that was read:

- every submission that was ever answered "applied" or "counted before" is in the audit log once: none is *lost*, none
  *duplicated*, and with the value that was sent (none *altered*);
- nothing else is there: no row that was never sent (*phantom*), none that was only ever *refused*; an unknown one
  is there once or not at all;
- the points that players see are exactly the sum of their rows (no *wrong points*): what the audit has once was not
  applied twice in Redis, and no application missed the audit.

What it does not prove: anything about other players (a submission booked to a stranger shows as lost here and as
nothing there), about ranks and ties, about the order of submissions, or about what held *during* the run: a loss that
was repaired before the end is clean, and so is an acknowledged submission that only its primary had, unless the run
killed that primary. Rows that take back a surplus (`compensation`) are summed and told, not held against anybody.

Without the audit log the checker is weaker, and says so: it proves only that each player's points are explained by
some choice among that player's unknown submissions. A loss and a phantom of the same value would cancel out.

Memory: about 300 bytes for a submission.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from loadtest.ledger import Answer, Entry

#: Examples kept of each anomaly: enough to look them up, few enough to read.
_EXAMPLES = 5
#: More sums than this are not enumerated: the interval they span is used in their place.
_MOST_SUMS = 4096


class Anomaly(StrEnum):
    """What can be wrong. The definitions, for one match of one player."""

    LOST = "lost"  # answered as counted, and no row
    PHANTOM = "phantom"  # a row that was never sent
    DUPLICATED = "duplicated"  # more than one row
    ALTERED = "altered"  # a row with another value than any that was sent and not refused
    REFUSED_BUT_COUNTED = "refused but counted"  # every sending was refused, and there is a row
    APPLIED_TWICE = "answered as applied twice"  # two sendings were both told that they were the first
    WRONG_POINTS = "wrong points"  # the player's points are not the sum of the rows


class Row(NamedTuple):
    """A row of `games`: a submission that counted, or the taking back of one."""

    player: str
    match_id: str
    value: int
    kind: str = "submission"


@dataclass(frozen=True, slots=True)
class Finding:
    """One anomaly, where it is, and what is known of it. `match_id` is empty where a player's points are wrong."""

    anomaly: Anomaly
    player: str
    match_id: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found. `sent` counts sendings, `matches` what they were about, the answers are those to sendings."""

    sent: int
    matches: int
    players: int
    answers: Mapping[Answer, int]
    not_durable: int  # acknowledged, and said to be on the primary alone
    unknown_counted: int | None  # matches that nobody answered for, and that count; None without the audit log
    rows: int | None  # None: without the audit log
    taken_back: int
    anomalies: Mapping[Anomaly, int]
    examples: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing was found. An empty ledger is not clean: it proves nothing."""
        return self.sent > 0 and not any(self.anomalies.values())


@dataclass(slots=True)
class _Match:
    """What is known of one match of one player from the ledger."""

    applied: int = 0  # sendings answered as the first to count
    certain: bool = False  # some sending was answered as counted
    values: tuple[int, ...] = ()  # of sendings that were not refused: what a row may hold
    refused: int = 0


@dataclass(slots=True)
class _Findings:
    counts: Counter[Anomaly] = field(default_factory=Counter)
    examples: list[Finding] = field(default_factory=list)

    def add(self, anomaly: Anomaly, player: str, match_id: str, detail: str) -> None:
        self.counts[anomaly] += 1
        if self.counts[anomaly] <= _EXAMPLES:
            self.examples.append(Finding(anomaly, player, match_id, detail))


def check(entries: Iterable[Entry], points: Mapping[str, int | None], rows: Iterable[Row] | None = None) -> Verdict:
    """Compare the ledger with the final state.

    `points`: of every player of the ledger, None for those who are not on the board; ValueError if one is missing, for
    who was not looked at is not proven. `rows`: all rows of these players; None if the audit log cannot be read.
    """
    matches: dict[tuple[str, str], _Match] = {}
    answers: Counter[Answer] = Counter()
    not_durable = 0
    for entry in entries:
        _book(matches.setdefault((entry.player, entry.match_id), _Match()), entry)
        answers[entry.answer] += 1
        not_durable += entry.answer is Answer.ACKNOWLEDGED and entry.durable is False
    players = {player for player, _ in matches}
    if unseen := players - points.keys():
        raise ValueError(f"the points of {len(unseen)} players of the ledger are missing, such as {min(unseen)}")
    findings = _Findings()
    for (player, match_id), match in matches.items():
        if match.applied > 1:
            findings.add(Anomaly.APPLIED_TWICE, player, match_id, f"{match.applied} sendings")
    held = None if rows is None else list(rows)
    unknown_counted = None
    if held is None:
        _check_points_alone(matches, points, findings)
    else:
        unknown_counted = _check_rows(matches, held, findings)
        _check_points(points, held, findings)
    return Verdict(
        sent=answers.total(),
        matches=len(matches),
        players=len(players),
        answers={answer: answers[answer] for answer in Answer},
        not_durable=not_durable,
        unknown_counted=unknown_counted,
        rows=None if held is None else len(held),
        taken_back=sum(row.kind == "compensation" for row in held or ()),
        anomalies={anomaly: findings.counts[anomaly] for anomaly in Anomaly},
        examples=tuple(findings.examples),
    )


def _book(match: _Match, entry: Entry) -> None:
    if entry.answer is Answer.REFUSED:
        match.refused += 1
        return
    match.applied += entry.answer is Answer.ACKNOWLEDGED
    match.certain = match.certain or entry.answer is not Answer.UNKNOWN
    if entry.value not in match.values:
        match.values += (entry.value,)


def _check_rows(matches: Mapping[tuple[str, str], _Match], rows: Sequence[Row], findings: _Findings) -> int:
    """Hold rows and matches against each other; gives how many unknown matches count."""
    held: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.kind != "compensation":
            held[row.player, row.match_id].append(row)
    unknown_counted = 0
    for key, match in matches.items():
        found = held.pop(key, [])
        if not found:
            if match.certain:
                findings.add(Anomaly.LOST, *key, f"value {match.values}")
            continue
        if len(found) > 1:
            findings.add(Anomaly.DUPLICATED, *key, f"{len(found)} rows")
        if not match.values:
            findings.add(Anomaly.REFUSED_BUT_COUNTED, *key, f"refused {match.refused} times, counts {found[0].value}")
            continue
        unknown_counted += not match.certain
        for row in found:
            if row.value not in match.values or row.kind != "submission":
                findings.add(Anomaly.ALTERED, *key, f"sent {match.values}, counts {row.value} ({row.kind})")
    for (player, match_id), found in held.items():
        for row in found:
            findings.add(Anomaly.PHANTOM, player, match_id, f"counts {row.value} ({row.kind})")
    return unknown_counted


def _check_points(points: Mapping[str, int | None], rows: Sequence[Row], findings: _Findings) -> None:
    """Hold the points that players see against the sum of their rows."""
    sums: dict[str, int] = defaultdict(int)
    for row in rows:
        sums[row.player] += row.value
    for player in points.keys() | sums.keys():
        seen, expected = points.get(player), sums.get(player)
        if seen != expected:
            detail = f"{_told(seen)}, the rows say {_told(expected)}"
            findings.add(Anomaly.WRONG_POINTS, player, "", detail)


def _check_points_alone(
    matches: Mapping[tuple[str, str], _Match], points: Mapping[str, int | None], findings: _Findings
) -> None:
    """Hold the points that players see against what the ledger allows."""
    choices: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    must_be_there: set[str] = set()
    for (player, _), match in matches.items():
        if match.values:
            choices[player].append(match.values if match.certain else (0, *match.values))
        if match.certain:
            must_be_there.add(player)
    for player, seen in points.items():
        if seen is None:
            explained = player not in must_be_there
        else:
            explained = player in choices and _reachable(seen, choices[player])
        if not explained:
            findings.add(Anomaly.WRONG_POINTS, player, "", f"{_told(seen)}, which no choice of unknown ones explains")


def _reachable(total: int, choices: Sequence[tuple[int, ...]]) -> bool:
    """Whether taking one value of each choice can give the total; beyond `_MOST_SUMS`, whether it lies in between."""
    certain = sum(values[0] for values in choices if len(values) == 1)
    open_ones = [values for values in choices if len(values) > 1]
    sums = {certain}
    for values in open_ones:
        sums = {reached + value for reached in sums for value in values}
        if len(sums) > _MOST_SUMS:
            return certain + sum(map(min, open_ones)) <= total <= certain + sum(map(max, open_ones))
    return total in sums


def _told(points: int | None) -> str:
    return "not on the board" if points is None else f"{points} points"
