"""What a number of daily players asks of the machines: arithmetic on measured costs, every line of it shown.

Pure. A plan is a table of formulas over named inputs; the same text is computed and printed (`formulas.py`), so what
is shown cannot differ from what was calculated. Inputs are of three kinds: what players do (`workload.py`), what each
act costs, as measured (`costs.py`), and `Assumptions`, which are decisions; whoever decides otherwise passes others.

What it cannot know: costs were measured with the load generator, the service and all its servers on the same cores.
Faster machines, or busier ones, move the results in proportion. It plans for the busiest second of an average day.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from loadtest import formulas
from loadtest.costs import Costs, Measured, measured
from loadtest.workload import Workload

#: More than there are people.
MOST_PLAYERS = 8_000_000_000
#: What one board's map takes (the setting RANGEBOARD_SHARDS).
_MOST_SHARDS = 4096
#: Above it the nodes of a Redis Cluster are busy telling each other of each other.
_MOST_NODES = 1000
#: A large PostgreSQL server.
_MOST_POSTGRES_CORES = 32

_Factor = Annotated[float, Meta(ge=0, le=1)]
_Amount = Annotated[float, Meta(gt=0, le=1e9)]
_Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class Assumptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Decisions that a plan rests on."""

    batch_share: Annotated[_Factor, Meta(description="of submissions, sent in batches; 0 is the dearest way")] = 0
    utilisation: Annotated[
        float, Meta(gt=0, le=1, description="of a core at the peak; half is kept for failures and surprises")
    ] = 0.5
    cores_per_pod: Annotated[_Count, Meta(description="cores of an API pod, a gunicorn process on each")] = 2
    processes_per_worker: Annotated[_Count, Meta(description="Celery processes of a worker pod")] = 2
    least_pods: Annotated[_Count, Meta(description="pods of anything: one may always be restarting")] = 2
    replicas: Annotated[int, Meta(ge=0, le=5, description="of a primary: the least that survives a failure")] = 1
    primary_gb: Annotated[
        _Amount, Meta(description="GB: the largest primary that one likes to copy after a failure")
    ] = 24
    primary_full: Annotated[float, Meta(gt=0, le=1, description="of it; the rest is for forks, buffers and growth")] = (
        0.6
    )
    least_primaries: Annotated[_Count, Meta(description="with fewer nobody is left to elect a new one")] = 3
    least_shards: Annotated[int, Meta(ge=16, le=4096, description="the setting's default")] = 16
    shards_per_primary: Annotated[_Count, Meta(description="something to balance with; exact ranks ask each")] = 2
    players_per_bucket: Annotated[_Amount, Meta(description="small enough that a directory bucket stays compact")] = 200
    least_buckets: Annotated[_Count, Meta(description="the setting's default")] = 16_384
    retry_s: Annotated[_Amount, Meta(description="s: two windows of an hour in which a retry is recognised")] = 7_200
    tombstone_s: Annotated[_Amount, Meta(description="s: the longest that a shard remembers who moved away")] = 172_800
    outage_s: Annotated[_Amount, Meta(description="s that PostgreSQL may be away at the busiest time")] = 900
    audit_months: Annotated[_Amount, Meta(description="months of the audit log that are kept")] = 3
    snapshot_months: Annotated[_Amount, Meta(description="months of final rankings that are kept")] = 24


class Formula(NamedTuple):
    """A line of the plan: `key = text`, in `unit`. It may name inputs, `dau`, and the keys above it."""

    part: str
    key: str
    what: str
    unit: str
    text: str


# fmt: off
FORMULAS = (
    Formula("Traffic", "submissions_per_s", "submissions, average", "/s", "dau * matches / 86400"),
    Formula("Traffic", "peak_submissions_per_s", "submissions, peak", "/s", "submissions_per_s * peak"),
    Formula("Traffic", "peak_reads_per_s", "reads, peak", "/s",
            "dau * (rank + neighbours + top + lookup) / 86400 * peak"),
    Formula("Traffic", "singles_per_s", "submissions one by one, peak", "/s",
            "peak_submissions_per_s * (1 - batch_share)"),
    Formula("Traffic", "batched_per_s", "submissions in batches, peak", "/s", "peak_submissions_per_s * batch_share"),
    Formula("Traffic", "board_players", "players on the board of a month", "players", "dau * monthly"),

    Formula("Redis: players", "rows_gb", "rows", "GB", "board_players * bytes_per_row / 1e9"),
    Formula("Redis: players", "directory_gb", "directory", "GB", "board_players * bytes_per_entry / 1e9"),
    Formula("Redis: players", "epochs_gb", "epochs, as if all had moved", "GB",
            "board_players * bytes_per_epoch / 1e9"),
    Formula("Redis: players", "players_gb", "all that is kept of players", "GB", "rows_gb + directory_gb + epochs_gb"),

    Formula("Redis: shards", "write_cores", "CPU of primaries at the peak, for submissions alone", "cores",
            "(singles_per_s * primary_us_per_submission + batched_per_s * primary_us_per_batched) / 1e6"),
    Formula("Redis: shards", "shards", "RANGEBOARD_SHARDS", "shards",
            "max(least_shards, shards_per_primary"
            " * max(ceil(players_gb / primary_gb / primary_full), ceil(write_cores / utilisation)))"),
    Formula("Redis: shards", "matches_of_a_month", "matches of an average player in a month", "matches",
            "matches * 30 / monthly"),
    Formula("Redis: shards", "moves_per_submission",
            "moves: the average player crosses half of the cuts in a month", "each",
            "min(1, (shards - 1) / 2 / matches_of_a_month)"),
    Formula("Redis: shards", "moves_per_s", "moves, peak", "/s", "peak_submissions_per_s * moves_per_submission"),

    Formula("Redis: what passes", "tombstones_gb", "tombstones of moves", "GB",
            "submissions_per_s * moves_per_submission * tombstone_s * bytes_per_tombstone / 1e9"),
    Formula("Redis: what passes", "recent_gb", "recent events, at the peak", "GB",
            "(min(dau, peak_submissions_per_s * retry_s) * bytes_per_recent_player"
            " + peak_submissions_per_s * retry_s * bytes_per_recent_event) / 1e9"),
    Formula("Redis: what passes", "outbox_gb", "outboxes while PostgreSQL is away", "GB",
            "peak_submissions_per_s * outage_s * bytes_per_outbox_row / 1e9"),

    Formula("Redis", "memory_gb", "memory of all primaries", "GB",
            "players_gb + tombstones_gb + recent_gb + outbox_gb"),
    Formula("Redis", "move_cores", "CPU of primaries at the peak, for moves", "cores",
            "moves_per_s * primary_us_per_move / 1e6"),
    Formula("Redis", "read_cores", "CPU of primaries at the peak, for reads, that ask every shard", "cores",
            "peak_reads_per_s * (primary_us_per_read + (shards - 16) * primary_us_per_read_and_shard) / 1e6"),
    Formula("Redis", "redis_cores", "CPU of primaries at the peak", "cores", "write_cores + move_cores + read_cores"),
    Formula("Redis", "primaries_for_memory", "primaries to hold it", "primaries",
            "ceil(memory_gb / primary_gb / primary_full)"),
    Formula("Redis", "primaries_for_cpu", "primaries to compute it, a thread each", "primaries",
            "ceil(redis_cores / utilisation)"),
    Formula("Redis", "primaries", "primaries", "primaries",
            "max(least_primaries, primaries_for_memory, primaries_for_cpu)"),
    Formula("Redis", "nodes", "nodes, with replicas", "nodes", "primaries * (1 + replicas)"),
    Formula("Redis", "maxmemory_gb", "MAXMEMORY of a node; its pod gets twice that", "GB",
            "memory_gb / primaries / primary_full"),
    Formula("Redis", "cluster_memory_gb", "memory of all nodes", "GB", "memory_gb * (1 + replicas)"),
    Formula("Redis", "directory_buckets", "RANGEBOARD_DIRECTORY_BUCKETS", "buckets",
            "max(least_buckets, ceil(board_players / players_per_bucket))"),

    Formula("API", "api_cores", "CPU at the peak", "cores",
            "(singles_per_s * api_us_per_submission + batched_per_s * api_us_per_batched"
            " + peak_reads_per_s * (api_us_per_read + (shards - 16) * api_us_per_read_and_shard)"
            " + moves_per_s * api_us_per_move) / 1e6"),
    Formula("API", "api_pods", "API pods", "pods", "max(least_pods, ceil(api_cores / utilisation / cores_per_pod))"),

    Formula("Workers", "worker_cores", "CPU of the drain at the peak", "cores",
            "peak_submissions_per_s * worker_us_per_row / 1e6"),
    Formula("Workers", "worker_pods", "worker pods", "pods",
            "max(least_pods, ceil(worker_cores / utilisation / processes_per_worker))"),

    Formula("PostgreSQL", "postgres_cores", "CPU at the peak", "cores",
            "peak_submissions_per_s * postgres_us_per_row / 1e6"),
    Formula("PostgreSQL", "rows_per_day", "audit rows a day", "rows", "dau * matches"),
    Formula("PostgreSQL", "rows_per_month", "audit rows a month", "rows", "rows_per_day * 30"),
    Formula("PostgreSQL", "games_gb_per_day", "audit log, a day", "GB", "rows_per_day * bytes_per_game / 1e9"),
    Formula("PostgreSQL", "games_tb", "audit log, the months that are kept", "TB",
            "rows_per_month * audit_months * bytes_per_game / 1e12"),
    Formula("PostgreSQL", "users_gb", "the players of a month", "GB", "board_players * bytes_per_user / 1e9"),
    Formula("PostgreSQL", "snapshots_tb", "final rankings, the months that are kept", "TB",
            "board_players * snapshot_months * bytes_per_snapshot / 1e12"),
    Formula("PostgreSQL", "storage_tb", "storage in all", "TB", "games_tb + users_gb / 1000 + snapshots_tb"),

    Formula("Textbook", "textbook_submissions_per_s", "its submissions, average (a day of 100,000 s)", "/s",
            "dau * 10 / 100000"),
    Formula("Textbook", "textbook_peak_per_s", "its submissions, peak", "/s", "textbook_submissions_per_s * 5"),
    Formula("Textbook", "textbook_memory_gb", "its memory (26 bytes a monthly player)", "GB", "dau * 5 * 26 / 1e9"),
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Step:
    """A line that was worked out. `arithmetic` is its formula with numbers in place of the names."""

    part: str
    key: str
    what: str
    value: float
    unit: str
    formula: str
    arithmetic: str


@dataclass(frozen=True, slots=True)
class Input:
    """Something that a plan rests on. `kind`: workload, assumption or cost."""

    kind: str
    name: str
    value: float
    words: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What so many daily players need."""

    dau: int
    steps: tuple[Step, ...]
    inputs: tuple[Input, ...]
    #: where the costs come from
    on: str
    machine: str
    how: str

    def __getitem__(self, key: str) -> float:
        """The value of a step; KeyError if there is none of that name."""
        for step in self.steps:
            if step.key == key:
                return step.value
        raise KeyError(key)

    @property
    def notes(self) -> list[str]:
        """What goes beyond what one of its parts takes, a sentence each."""
        notes = []
        if self["shards"] > _MOST_SHARDS:
            notes.append(f"A board takes {_MOST_SHARDS:,} shards: spread the players over several boards or clusters.")
        if self["nodes"] > _MOST_NODES:
            notes.append(f"One Redis Cluster should not have more than {_MOST_NODES:,} nodes: use several.")
        if self["primaries"] > self["shards"]:
            notes.append(
                "There are more primaries than shards, and one without a shard helps little: what costs most is that an"
                " exact rank asks every shard, so let players see ranks that are a moment old, or spread them over"
                " several boards."
            )
        if self["postgres_cores"] > _MOST_POSTGRES_CORES:
            notes.append(
                "One PostgreSQL server does not write this audit log: distribute `games` by player, with Citus."
            )
        return notes

    def as_json(self) -> dict[str, Any]:
        """Everything, for a machine."""
        return {
            "daily_players": self.dau,
            "results": {step.key: step.value for step in self.steps},
            "notes": self.notes,
            "measured": {"on": self.on, "machine": self.machine, "how": self.how},
            "inputs": [msgspec.to_builtins(one) for one in self.inputs],
            "steps": [msgspec.to_builtins(one) for one in self.steps],
        }


def plan(
    dau: int,
    *,
    workload: Workload | None = None,
    assumptions: Assumptions | None = None,
    costs: Measured | None = None,
) -> Plan:
    """The plan for so many daily players; ValueError, in one sentence, for a number that nobody has."""
    if dau < 1:
        raise ValueError(f"A plan needs at least one daily player, not {dau:,}.")
    if dau > MOST_PLAYERS:
        raise ValueError(f"There are not {dau:,} people to play; plan for {MOST_PLAYERS:,} at the most.")
    known = costs or measured()
    inputs = (
        *_inputs("workload", workload or Workload()),
        *_inputs("assumption", assumptions or Assumptions()),
        *_inputs("cost", known.costs),
    )
    names: dict[str, float] = {"dau": dau, **{one.name: one.value for one in inputs}}
    steps = []
    for line in FORMULAS:
        names[line.key] = formulas.value(line.text, names)
        arithmetic = formulas.with_numbers(line.text, names)
        steps.append(Step(line.part, line.key, line.what, names[line.key], line.unit, line.text, arithmetic))
    return Plan(dau, tuple(steps), inputs, known.on, known.machine, known.how)


def assumed(given: Mapping[str, str]) -> tuple[Workload, Assumptions]:
    """Workload and assumptions with some of them given as text; ValueError, in one sentence, for what does not fit."""
    kinds = (Workload, Assumptions)
    known = {name: kind for kind in kinds for name in _descriptions(kind)}
    for name in given:
        if name not in known:
            raise ValueError(f"There is no assumption {name!r}; there are {', '.join(sorted(known))}.")
    workload, assumptions = (
        _converted(kind, {name: text for name, text in given.items() if known[name] is kind}) for kind in kinds
    )
    return workload, assumptions


def _converted(kind: Any, given: Mapping[str, str]) -> Any:
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        raise ValueError(f"{path.rstrip('`')}: {reason}.") from error


def _inputs(kind: str, holder: Workload | Assumptions | Costs) -> tuple[Input, ...]:
    words = _descriptions(type(holder))
    return tuple(Input(kind, name, getattr(holder, name), said) for name, said in words.items())


def _descriptions(kind: type) -> dict[str, str]:
    """The fields of a class, with what each is said to be."""
    schema = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
    return {name: about["description"] for name, about in schema.items()}
