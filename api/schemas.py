"""The forms of the contract: what bodies and queries hold, and what answers hold.

The same types decode, encode and describe themselves in `/openapi.json`. Fields that are not named here are refused.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from msgspec import UNSET, Meta, UnsetType

from records.boards import Operator, Order, PeriodKind, Registration
from records.jobs import Kind as JobKind
from records.jobs import State as JobState
from records.players import MOST_AT_ONCE, NAME_LENGTH, URL_LENGTH
from sharding.players import ID_PATTERN
from sharding.reader import RankStyle
from sharding.rebalancing import GENTLE_PER_S
from sharding.submissions import RankMode

UserId = Annotated[
    str,
    Meta(
        description="1 to 64 characters of A-Z a-z 0-9 . _ : - ; a UUID may be in capitals and means the same",
        extra_json_schema={"pattern": f"^{ID_PATTERN}$"},
    ),
]
# Ends with a look ahead because Python's `$` also matches before a last newline.
MATCH_ID_LENGTH = 128
MATCH_ID_PATTERN = rf"^[ -~]{{1,{MATCH_ID_LENGTH}}}$(?!\n)"
MatchId = Annotated[str, Meta(pattern=MATCH_ID_PATTERN, description="1 to 128 printable ASCII characters")]
BoardName = Annotated[
    str,
    Meta(
        description="1 to 32 characters of a-z 0-9 _ -, no _ or - first",
        examples=["global"],
        extra_json_schema={"pattern": r"^[a-z0-9][a-z0-9_-]{0,31}$"},
    ),
]
Month = Annotated[str, Meta(description="YYYY-MM", extra_json_schema={"pattern": r"^[0-9]{4}-[0-9]{2}$"})]
PeriodName = Annotated[
    str,
    Meta(
        description="YYYY-MM-DD, YYYY-Www, YYYY-MM or all, as the board has it",
        extra_json_schema={"pattern": r"^([0-9]{4}-([0-9]{2}(-[0-9]{2})?|W[0-9]{2})|all)$"},
    ),
]
JobId = Annotated[str, Meta(description="As the job's address has it")]
WebAddress = Annotated[
    str,
    Meta(max_length=URL_LENGTH, description="http or https", extra_json_schema={"pattern": r"^https?://\S+$"}),
]
# 64 bits: beyond them a number is malformed, within them the board's bounds decide.
Score = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1, description="Points of this submission")]
Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339, with its offset from UTC")]


class _Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Answer(msgspec.Struct, kw_only=True):
    pass


class _OnBoard(_Answer, kw_only=True):
    """Names the board and its period: `month` where the board starts anew each month, else `period`."""

    board: str
    month: Month | UnsetType = UNSET
    period: PeriodName | UnsetType = UNSET


# -- scores


class NewScore(_Form, frozen=True, kw_only=True, gc=False):
    """One submission. (user_id, match_id) counts once, however often it is sent."""

    user_id: UserId
    score: Score
    match_id: MatchId | None = None
    board: BoardName = "global"
    played_at: Annotated[Moment | None, Meta(description="Decides which period the match counts in")] = None


class ScoreQuery(_Form, frozen=True, kw_only=True):
    """How to answer a submission."""

    rank: Annotated[RankMode, Meta(description="recent: counts at most a second old")] = RankMode.RECENT


class Submitted(_OnBoard, kw_only=True):
    """What became of a submission; `score` is the player's, as it is now: null after a removal from the board."""

    user_id: str
    score: int | None
    rank: int | None
    rank_is: Annotated[Literal["exact", "recent", "none"], Meta(description="How the rank was counted")]
    applied: Annotated[bool, Meta(description="false: this match had been counted before")]
    durable: Annotated[bool, Meta(description="A replica has it too")]
    match_id: str


class Removed(_OnBoard, kw_only=True):
    """A player is off the board. `score`: what was taken away; null if this very removal was made before."""

    user_id: str
    score: int | None
    durable: Annotated[bool, Meta(description="A replica has it too")]


class BatchQuery(_Form, frozen=True, kw_only=True):
    """How to answer a batch."""

    results: Annotated[Literal["list", "summary"], Meta(description="summary: leave the list of results out")] = "list"


class BatchResult(_Answer, kw_only=True, gc=False):
    """What became of one submission. `score` is the player's, as it is now; `reason` says why it does not count: it
    begins with `try again:` where the same submission may be taken a little later, and else it is in vain to send it.
    """

    status: Literal["applied", "duplicate", "refused", "unknown"]
    score: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class BatchSubmitted(_Answer, kw_only=True):
    """What became of a batch, in the order sent."""

    applied: int
    duplicates: int
    refused: int
    unknown: int
    results: list[BatchResult] | UnsetType = UNSET


class BoardQuery(_Form, frozen=True, kw_only=True):
    """Which board, and which period of it; without one, the current one."""

    board: BoardName = "global"
    month: Month | None = None
    period: PeriodName | None = None


class PartialQuery(BoardQuery, frozen=True, kw_only=True):
    """Whether to go without shards that do not answer."""

    partial: Annotated[
        Literal["ok"] | None, Meta(description="ok: rather than 503, an answer that leaves out what is missing")
    ] = None


class StatsQuery(PartialQuery, frozen=True, kw_only=True):
    """Which board to look at as a whole."""


class LookupQuery(PartialQuery, frozen=True, kw_only=True):
    """Where to look players up."""


class RankQuery(PartialQuery, frozen=True, kw_only=True):
    """How to number players with equal points, too."""

    rank_style: Annotated[
        RankStyle, Meta(description="Equal points: ordinal 1234, competition 1224, dense 1223 (first 1,000 players)")
    ] = RankStyle.ORDINAL


class PageQuery(RankQuery, frozen=True, kw_only=True):
    """Which part of the ranking: from an offset on, behind a cursor, or between two scores."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    offset: Annotated[int, Meta(ge=0, le=10**9)] = 0
    cursor: Annotated[str | None, Meta(description="From an answer: the rows behind its last one")] = None
    min_score: Score | None = None
    max_score: Score | None = None


class StreamQuery(_Form, frozen=True, kw_only=True):
    """How much of the top, of the period that is open."""

    board: BoardName = "global"
    limit: Annotated[int, Meta(ge=1, le=100)] = 10


class AroundQuery(RankQuery, frozen=True, kw_only=True):
    """Around which score, and how many players in all."""

    score: Score
    limit: Annotated[int, Meta(ge=1, le=100)] = 9


class StandingQuery(RankQuery, frozen=True, kw_only=True):
    """How to rank a player."""


class SurroundingQuery(RankQuery, frozen=True, kw_only=True):
    """How many players on each side."""

    offset: Annotated[int, Meta(ge=1, le=10)] = 4


class Lookup(_Form, frozen=True, kw_only=True):
    """Players to look up."""

    user_ids: Annotated[list[UserId], Meta(min_length=1, max_length=500)]


RankIs = Annotated[
    Literal["exact", "recent", "partial"],
    Meta(description="recent: but for players changing just then; partial: missing shards are not counted"),
]


Final = Annotated[
    Literal[True] | UnsetType, Meta(description="The period is over, and read from its archive; as_of: since when")
]


class Ranked(TypedDict):
    """The members of a row."""

    rank: int
    user_id: str
    username: str | None
    display_name: str | None
    avatar_url: str | None
    score: int


class Entry(_Answer, kw_only=True):
    """A row of the ranking. Names are null where nobody knows them (any more)."""

    rank: int
    user_id: str
    username: str | None
    display_name: str | None
    avatar_url: str | None
    score: int
    is_current_user: bool | UnsetType = UNSET


class Entries(_OnBoard, kw_only=True):
    """Consecutive rows of the ranking, as it was at `as_of`. `names: unavailable`: they could not be asked for."""

    total_players: int
    as_of: datetime
    rank_is: RankIs
    missing_shards: int | UnsetType = UNSET
    matching_players: Annotated[int, Meta(description="Players between the two scores")] | UnsetType = UNSET
    entries: list[Entry]
    cursor: Annotated[str, Meta(description="For the rows behind the last one, whatever changes")] | UnsetType = UNSET
    next: Annotated[str, Meta(description="The address of the rows that follow")] | UnsetType = UNSET
    names: Literal["unavailable"] | UnsetType = UNSET
    final: Final = UNSET


class Standing(_OnBoard, kw_only=True):
    """A player's exact rank. `percentile`: the share of players who rank no better; the first has 100."""

    user_id: str
    display_name: str | None
    score: int
    rank: int
    rank_is: RankIs
    missing_shards: int | UnsetType = UNSET
    percentile: float
    total_players: int
    as_of: datetime
    names: Literal["unavailable"] | UnsetType = UNSET
    final: Final = UNSET


class LookedUpEntry(_Answer, kw_only=True):
    """One of the players asked for: the rank on the board, and the position among those asked for."""

    position: int
    rank: int
    user_id: str
    username: str | None
    display_name: str | None
    avatar_url: str | None
    score: int


class LookedUp(_OnBoard, kw_only=True):
    """The players asked for, best first, and those who are not on the board."""

    total_players: int
    as_of: datetime
    rank_is: RankIs
    missing_shards: int | UnsetType = UNSET
    entries: list[LookedUpEntry]
    not_found: list[str]
    not_reached: Annotated[list[str], Meta(description="Players whose shards did not answer")] | UnsetType = UNSET
    names: Literal["unavailable"] | UnsetType = UNSET
    final: Final = UNSET


class Stats(_OnBoard, kw_only=True):
    """A board at a glance."""

    total_players: int
    top_score: int | None
    average_score: float | None
    submissions: int
    shards: int
    missing_shards: Annotated[int, Meta(description="Shards that are not counted")] | UnsetType = UNSET
    final: Final = UNSET


class HistoryQuery(_Form, frozen=True, kw_only=True):
    """How many past periods, and before which one."""

    board: BoardName = "global"
    limit: Annotated[int, Meta(ge=1, le=100)] = 12
    before: Annotated[PeriodName | None, Meta(description="Only earlier ones; from an answer's next")] = None


class PastStanding(_Answer, kw_only=True):
    """A player's end in a period that is over. `percentile`: the share of players who ranked no better."""

    month: Month | UnsetType = UNSET
    period: PeriodName | UnsetType = UNSET
    rank: int
    score: int
    total_players: int
    percentile: float


class History(_Answer, kw_only=True):
    """A player's final ranks, the latest period first. Periods in which the player did not play are left out."""

    board: str
    user_id: str
    display_name: str | None
    entries: list[PastStanding]
    next: Annotated[str, Meta(description="The address of the periods before these")] | UnsetType = UNSET
    names: Literal["unavailable"] | UnsetType = UNSET


# -- players


class NewUser(_Form, frozen=True, kw_only=True):
    """A player to be; without an id one is made, without a display name it is the username."""

    username: Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH)]
    user_id: UserId | None = None
    display_name: Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH)] | None = None
    avatar_url: WebAddress | None = None
    country: Annotated[str, Meta(pattern=r"^[A-Z]{2}$(?!\n)", description="ISO 3166-1, two letters")] | None = None


NewUsers = Annotated[list[NewUser], Meta(min_length=1, max_length=MOST_AT_ONCE)]


class User(_Answer, kw_only=True):
    """A player."""

    user_id: str
    username: str
    display_name: str
    avatar_url: str | None
    country: str | None
    hidden: Annotated[bool, Meta(description="Collects points, and is left out of every ranking")]
    created_at: datetime


class UserChanges(_Form, frozen=True, kw_only=True):
    """What may change of a player; null takes a picture or a country away."""

    username: Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH)] | UnsetType = UNSET
    display_name: Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH)] | UnsetType = UNSET
    avatar_url: WebAddress | UnsetType | None = UNSET
    country: (
        Annotated[str, Meta(pattern=r"^[A-Z]{2}$(?!\n)", description="ISO 3166-1, two letters")] | UnsetType | None
    ) = UNSET
    hidden: Annotated[bool, Meta(description="Left out of every ranking, at once")] | UnsetType = UNSET


class Erased(_Answer, kw_only=True):
    """The person is gone, and off all open boards. The audit log gets a pseudonym within seconds."""

    user_id: str
    boards: Annotated[list[str], Meta(description="Boards and periods that the player was taken off just now")]


class UsersQuery(_Form, frozen=True, kw_only=True):
    """Which players, by username."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 50
    after: Annotated[
        str, Meta(max_length=NAME_LENGTH, pattern=r"^[^\x00]*$", description="The username before the first one")
    ] = ""
    prefix: Annotated[
        str, Meta(max_length=NAME_LENGTH, pattern=r"^[^\x00]*$", description="Only usernames that begin so")
    ] = ""


class Users(_Answer, kw_only=True):
    """Players, by username."""

    users: list[User]
    next: str | UnsetType = UNSET


class UserCreation(_Answer, kw_only=True):
    """What became of one player of a batch. `field` and `reason` say what is wrong with an invalid one."""

    status: Literal["created", "exists", "username_taken", "invalid"]
    user_id: str | None
    field: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class UserCreations(_Answer, kw_only=True):
    """What became of a batch, in the order sent."""

    created: int
    exists: int
    refused: int
    results: list[UserCreation]


# -- boards


class Board(_Answer, kw_only=True):
    """A board's rules. `lowest` and `highest` bound one submission; `current` is the period that is open now."""

    board: str
    period: PeriodKind
    current: str
    operator: Operator
    order: Order
    lowest: int | None
    highest: int | None
    registration: Registration


class NewBoard(_Form, frozen=True, kw_only=True):
    """A board to be. Its period, operator and order never change."""

    board: BoardName
    period: PeriodKind = "month"
    operator: Operator = "add"
    order: Order = "desc"
    lowest: Score | None = None
    highest: Score | None = None
    registration: Registration = "registered"


class BoardChanges(_Form, frozen=True, kw_only=True):
    """The rules that may change; null takes a bound away."""

    lowest: Score | UnsetType | None = UNSET
    highest: Score | UnsetType | None = UNSET
    registration: Registration | UnsetType = UNSET


class Boards(_Answer, kw_only=True):
    """All boards, by name."""

    boards: list[Board]


class PeriodsQuery(_Form, frozen=True, kw_only=True):
    """How many periods, and before which one."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 24
    before: Annotated[PeriodName | None, Meta(description="Only earlier ones; from an answer's next")] = None


class FinalPeriod(_Answer, kw_only=True):
    """A period that is over, and whose ranking is final since `closed_at`."""

    month: Month | UnsetType = UNSET
    period: PeriodName | UnsetType = UNSET
    total_players: Annotated[int, Meta(description="When it was closed; who is hidden since is counted")]
    closed_at: datetime


class FinalPeriods(_Answer, kw_only=True):
    """The periods of a board whose rankings are final, the latest first."""

    board: str
    periods: list[FinalPeriod]
    next: Annotated[str, Meta(description="The address of the periods before these")] | UnsetType = UNSET


# -- jobs and shards


class NewArchive(_Form, frozen=True, kw_only=True):
    """A period that is over, to be closed. The workers do it by themselves; asked for again, it does nothing."""

    period: PeriodName
    board: BoardName = "global"


class NewRebuild(_Form, frozen=True, kw_only=True):
    """A ranking to be made anew from the audit log; without a period, that of the current one."""

    board: BoardName = "global"
    period: PeriodName | None = None
    shard: Annotated[int, Meta(ge=0, le=2**31, description="Only this one, whose keys are lost")] | None = None
    force: Annotated[bool, Meta(description="Also a board in use; it takes no submissions meanwhile")] = False


class NewVerify(_Form, frozen=True, kw_only=True):
    """A ranking to be compared with the audit log; without a period, that of the current one."""

    board: BoardName = "global"
    period: PeriodName | None = None
    repair: Annotated[bool, Meta(description="Set rows that differ to what the audit log says")] = False


class NewRebalance(_Form, frozen=True, kw_only=True):
    """Where the ranges of the current period are to meet: points, increasing; each begins the better range."""

    cuts: Annotated[list[Score], Meta(max_length=1023)]
    board: BoardName = "global"
    players_per_s: Annotated[int, Meta(ge=1, le=10**7, description="The most to move")] = GENTLE_PER_S


class Progress(_Answer, kw_only=True):
    """How far a job is. `total` is null until it is known."""

    done: int
    total: int | None
    unit: Literal["players"] = "players"


class JobProblem(_Answer, kw_only=True):
    """Why a job did not come to its end."""

    type: str
    detail: str


class Job(_Answer, kw_only=True):
    """A long job. `refused`: the board does not allow it; `failed`: it may be asked for again, and goes on."""

    id: str
    kind: JobKind
    board: str
    period: str
    asked: Annotated[dict[str, Any], Meta(description="What else was asked for")]
    state: JobState
    progress: Progress
    asked_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    result: Annotated[dict[str, Any] | None, Meta(description="What the command prints with --json")]
    problem: JobProblem | None


class JobsQuery(_Form, frozen=True, kw_only=True):
    """How many jobs."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class Jobs(_Answer, kw_only=True):
    """The jobs that were asked for last, the latest first. One that has ended is kept for a week."""

    jobs: list[Job]


class Shard(_Answer, kw_only=True):
    """A shard. `best_points` and `worst_points` bound its rows, null at the ends; of a range split by player hash it is
    the `part`-th of `parts`. `outbox`: entries that the audit log does not have yet, and the oldest one's age.
    """

    shard: int
    slot: int
    node: str
    retiring: bool
    best_points: int | None
    worst_points: int | None
    part: int
    parts: int
    players: int
    strays: int
    leaving: int
    submissions: Annotated[int, Meta(description="Applied here since the period began: two looks give the load")]
    outbox: int
    lag_seconds: float | None
    version: int
    problem: Annotated[
        str | None, Meta(description="Why nobody can look into it: lost, or not reached. What is counted is 0 then")
    ] = None


class Shards(_OnBoard, kw_only=True):
    """A board period's map, and how its players spread over shards and nodes."""

    generation: int
    version: int
    total_players: int
    players_by_node: dict[str, int]
    as_of: datetime
    lost_partitions: Annotated[
        list[int],
        Meta(description="Partitions of the directory that are lost or not reached; `rebuild` takes them as `shard`"),
    ]
    shards: list[Shard]


# -- health


class Alive(_Answer, kw_only=True):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(_Answer, kw_only=True):
    """Whether requests can be served, and each thing this depends on: `ok`, or what is wrong with it."""

    status: Literal["ready", "degraded", "unavailable"]
    dependencies: dict[str, str]
