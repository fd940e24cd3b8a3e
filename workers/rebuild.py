"""A board made anew from the audit log: all of it, or one shard that was lost.

The whole board goes into a new generation, whose keys nobody reads until its map is published. So the order is: the old
shards stop taking submissions, their outboxes are drained, the audit log is folded and loaded, the count is compared,
the map is recorded and published, and the old keys expire. Until the map is published nothing has happened: on an error
the old shards open again, and after a crash the next attempt clears away what the last one loaded. After the map is
recorded nothing can go wrong: whoever opens periods publishes a recorded map, should the rebuild die in between.

A row comes back as it was: its points, the time they were reached, in tie-break units, and the events of the retry
window. What had not been drained when the data were lost is lost; the audit log cannot tell of it.

One lost shard is loaded in place. Its players are those whom the directory places there, and those whom the directory
lost as well and no other shard has. The others go on serving. With a shard a partition of the directory is lost, which
has entries of players of all shards; with a node, more of them. All such entries are made anew from where the rows are;
then the partitions get their marks back, until which nobody claims a place there (lua/directory.lua).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice

import structlog
from sqlalchemy import Engine

from records import archives, audit, players, shard_maps
from records.audit import Replayed
from records.errors import RecordsError
from records.leases import lease
from runtime import failpoints
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.directory import FIRST_EPOCH, Entry
from sharding.errors import DirectoryLost, LeaderboardError, RebuildRefused, UnknownBoard
from sharding.functions import FROZEN, OPEN, REBUILDING
from sharding.leaderboard import Leaderboard
from sharding.lifecycle import LoadedRow, State, Totals
from sharding.players import Member, PlayerId, member_of
from sharding.shard_map import ShardMap
from workers.draining import drain_now
from workers.patience import patiently
from workers.rows import row_of

log = structlog.get_logger()

#: Told how many of how many players are done.
Report = Callable[[int, int], None]

_BATCH = 5_000
_AT_ONCE = 4
_STEP_S = 60.0
_DRAIN_S = 3600.0
_OLD_KEYS_LIVE_MS = 600_000


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did, or would do: players, the sum of their points, submissions; the map that is current then."""

    players: int
    points: int
    games: int
    generation: int
    version: int
    shard: int | None = None


@dataclass(frozen=True, slots=True)
class _Loss:
    """What is lost: the rows of a shard, or not; partitions of the directory. `others`: shards that have their rows."""

    shard_map: ShardMap
    shard: int
    rows: bool
    partitions: Sequence[int]
    others: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Found:
    """Rows of a lost shard, and entries of a lost part of the directory."""

    rows: list[tuple[Replayed, LoadedRow]]
    entries: dict[Member, Entry]

    @property
    def players(self) -> int:
        """How many of the rows are players', and not marks."""
        return sum(row.packed is not None for _, row in self.rows)


class Rebuild:
    """Rebuilds one board period."""

    def __init__(self, leaderboard: Leaderboard, engine: Engine, name: BoardPeriod) -> None:
        self._leaderboard = leaderboard
        self._engine = engine
        self._name = name

    def plan(self) -> Rebuilt:
        """What a rebuild would bring back; changes nothing."""
        latest = self._latest()
        found = audit.totals(self._engine, self._name.board, self._name.period)
        return Rebuilt(found.players, found.points, found.games, latest.generation + 1, latest.version + 1)

    def whole(self, report: Report, *, force: bool = False) -> Rebuilt:
        """Rebuild the board into a new generation. RebuildRefused if it is in use, unless `force`."""
        with lease(self._engine, f"lifecycle:{self._name}") as held:
            if held is None:
                raise RebuildRefused(f"{self._name} is being rebuilt or archived already")
            latest = self._latest()
            published = self._published()
            old = published or latest  # a map that is lost leaves shards that still have what is not drained
            before = self._leaderboard.lifecycle.states(old, _soon())
            state = self._state()
            if published is not None and OPEN in before.values() and not force:
                raise RebuildRefused(f"{self._name} is in use: to rebuild it all the same takes --force")
            try:
                patiently(partial(self._set_state, old, REBUILDING))
                built = self._build(latest, old, report, state)
            except BaseException:
                self._give_back(old, state)
                raise
            at_ms = _now_ms() + _OLD_KEYS_LIVE_MS
            patiently(lambda: self._leaderboard.lifecycle.expire(old, at_ms, _soon()))
            log.info("board_rebuilt", board=str(self._name), players=built.players, generation=built.generation)
            return built

    def _build(self, latest: ShardMap, old: ShardMap, report: Report, state: State) -> Rebuilt:
        """Load a new generation and publish it."""
        states = self._leaderboard.lifecycle.states(old, _soon())
        self._drain(old, [shard for shard, found in states.items() if found is not None])
        fresh = replace(latest, generation=latest.generation + 1, version=latest.version + 1, retiring=())
        patiently(lambda: self._leaderboard.lifecycle.prepare(fresh, _soon()))
        failpoints.reach("rebuild.prepared")
        expected = audit.totals(self._engine, self._name.board, self._name.period)
        totals = self._load_all(fresh, expected.players, report)
        loaded = self._leaderboard.lifecycle.count(fresh, _soon())
        if loaded != expected.players:
            raise RebuildRefused(f"{loaded} rows were loaded, and the audit log has {expected.players} players")
        patiently(lambda: self._leaderboard.directory.open(fresh, _soon()))
        failpoints.reach("rebuild.loaded")
        patiently(partial(self._set_state, fresh, state, totals=totals))
        shard_maps.append(self._engine, self._name.board, self._name.period, latest.version, fresh.document())
        failpoints.reach("rebuild.recorded")
        patiently(lambda: self._leaderboard.maps.replace(fresh, _soon()))
        failpoints.reach("rebuild.published")
        return Rebuilt(expected.players, expected.points, expected.games, fresh.generation, fresh.version)

    def _drain(self, old: ShardMap, shards: Sequence[int]) -> None:
        # What was applied twice need not be taken back: it is not in the audit log, so it does not come back.
        drain_now(self._leaderboard, self._engine, old, Deadline.after(_DRAIN_S), compensate=False, shards=shards)

    def _load_all(self, fresh: ShardMap, expected: int, report: Report) -> dict[int, Totals]:
        """Load every row of the audit log; what each shard's head is to count."""
        totals: dict[int, Totals] = dict.fromkeys(fresh.shards(), Totals())
        done = 0
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            pending: set[Future[int]] = set()
            for batch in _batches(self._replay(fresh)):
                window = _window(fresh)
                rows: dict[int, list[LoadedRow]] = defaultdict(list)
                hidden = players.hidden_among(self._engine, [replayed.user_id for replayed in batch])
                for replayed in batch:
                    row = row_of(fresh, replayed, window, hidden=replayed.user_id in hidden)
                    shard = row.home(fresh)
                    if _is_worth_keeping(row):
                        rows[shard].append(row)
                    totals[shard] = totals[shard].plus(replayed.games, _shown_points(row, replayed))
                if len(pending) >= _AT_ONCE:
                    finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                    done += sum(future.result() for future in finished)
                    report(min(done, expected), expected)
                pending.add(pool.submit(self._load, fresh, rows, window, len(batch)))
            done += sum(future.result() for future in pending)
        report(expected, expected)
        return totals

    def _load(self, fresh: ShardMap, rows: dict[int, list[LoadedRow]], window: int, count: int) -> int:
        patiently(lambda: self._leaderboard.lifecycle.load(fresh, rows, window, _soon()))
        return count

    def _replay(self, shard_map: ShardMap) -> Iterator[Replayed]:
        since = datetime.now(UTC) - timedelta(milliseconds=2 * shard_map.retry_window_ms)
        return audit.replay(self._engine, self._name.board, self._name.period, since=since)

    # -- one shard

    def shard(self, shard: int, report: Report) -> Rebuilt:
        """Bring back what was lost in one shard's slot, while the others serve; and all that the directory has lost.

        RebuildRefused if nothing of that slot is lost, or if it is none of the board's.
        """
        with lease(self._engine, f"lifecycle:{self._name}") as held:
            if held is None:
                raise RebuildRefused(f"{self._name} is being rebuilt or archived already")
            loss = self._loss(shard)
            shard_map = loss.shard_map
            self._drain(shard_map, loss.others)
            if loss.rows:
                patiently(lambda: self._leaderboard.lifecycle.prepare(shard_map, _soon(), shards=[shard]))
            expected = audit.totals(self._engine, self._name.board, self._name.period)
            totals, count, done = Totals(), 0, 0
            for batch in _batches(self._replay(shard_map)):
                window = _window(shard_map)
                found = self._lost_of(loss, batch, window)
                self._point(shard_map, found.entries)
                self._load(shard_map, {shard: [row for _, row in found.rows]}, window, len(batch))
                for replayed, row in found.rows:
                    totals = totals.plus(replayed.games, _shown_points(row, replayed))
                count += found.players
                done += len(batch)
                report(min(done, expected.players), expected.players)
            failpoints.reach("rebuild.shard_loaded")
            patiently(lambda: self._leaderboard.directory.open(shard_map, _soon(), partitions=loss.partitions))
            if loss.rows:
                patiently(partial(self._set_state, shard_map, self._state(), shards=[shard], totals={shard: totals}))
            log.info("shard_rebuilt", board=str(self._name), shard=shard, players=count, partitions=loss.partitions)
            return Rebuilt(count, totals.points, totals.submissions, shard_map.generation, shard_map.version, shard)

    def plan_shard(self, shard: int) -> Rebuilt:
        """What `shard` would bring back, of what is stored by now; refuses what that refuses, and changes nothing."""
        loss = self._loss(shard)
        totals, count = Totals(), 0
        for batch in _batches(self._replay(loss.shard_map)):
            found = self._lost_of(loss, batch, _window(loss.shard_map))
            for replayed, row in found.rows:
                totals = totals.plus(replayed.games, _shown_points(row, replayed))
            count += found.players
        shard_map = loss.shard_map
        return Rebuilt(count, totals.points, totals.submissions, shard_map.generation, shard_map.version, shard)

    def _loss(self, shard: int) -> "_Loss":
        """What is lost in the slot of a shard, where a partition of the directory lies too, and of the directory."""
        shard_map = self._published()
        if shard_map is None:
            raise RebuildRefused(f"{self._name} is lost as a whole: rebuild all of it")
        states = self._leaderboard.lifecycle.states(shard_map, _soon())
        unmarked = self._leaderboard.directory.lost_partitions(shard_map, _soon())
        partitions = [partition for partition, error in unmarked.items() if isinstance(error, DirectoryLost)]
        rows = shard in states and states[shard] in {None, REBUILDING}
        if shard not in states and shard not in partitions:
            raise RebuildRefused(f"{self._name} has no shard {shard}")
        if not rows and shard not in partitions:
            raise RebuildRefused(f"shard {shard} of {self._name} is there, in state {states[shard]}")
        others = [other for other, state in states.items() if state is not None and not (rows and other == shard)]
        return _Loss(shard_map, shard, rows, partitions, others)

    def _lost_of(self, loss: "_Loss", batch: Sequence[Replayed], window: int) -> "_Found":
        """What is to be put back of these players: rows into the lost shard, entries into the directory."""
        shard_map, shard = loss.shard_map, loss.shard
        members = [member_of(PlayerId(replayed.user_id)) for replayed in batch]
        entries = self._entries(shard_map, members)
        unknown = [member for member in members if member not in entries]
        here = [member for member in members if loss.rows and member in entries and entries[member].shard == shard]
        # Who is in another shard all the same was on the way there, or is missing from a directory that was lost too.
        asked = [*here, *unknown]
        lifecycle = self._leaderboard.lifecycle
        elsewhere = lifecycle.holders(shard_map, asked, loss.others, _soon()) if asked else {}
        nowhere = [member for member in unknown if member not in elsewhere]
        # Shards are not asked at one moment: whoever moved from one to the other in between has an entry by now.
        moved = self._entries(shard_map, nowhere)
        nowhere = [member for member in nowhere if member not in moved]
        followed = lifecycle.followed(shard_map, nowhere, loss.others, _soon()) if nowhere else {}
        hidden = players.hidden_among(self._engine, [replayed.user_id for replayed in batch])
        found = _Found([], {member: entry for member, entry in elsewhere.items() if member not in entries})
        placed, lost = set(here) - set(elsewhere), set(nowhere)
        for member, replayed in zip(members, batch, strict=True):
            if member not in placed and member not in lost:
                continue
            row = row_of(shard_map, replayed, window, hidden=replayed.user_id in hidden)
            if member in placed:  # also the mark of a removed player: the directory leads to it
                found.rows.append((replayed, row._replace(epoch=entries[member].epoch)))
                continue
            # The last tombstone has the epoch under which the row lived. A lower one could not move where it is known.
            epoch = followed[member].epoch if member in followed else FIRST_EPOCH
            home = row.home(shard_map)
            if loss.rows and home == shard and _is_worth_keeping(row):
                found.rows.append((replayed, row._replace(epoch=epoch)))
            elif row.packed is not None:
                # The row is in another lost shard, or in none. Under this epoch nobody begins it anew: it is rebuilt
                # with that shard, or restored by the scrub.
                found.entries[member] = Entry(home, max(epoch, FIRST_EPOCH + 1))
        return found

    def _entries(self, shard_map: ShardMap, members: Sequence[Member]) -> dict[Member, Entry]:
        """What the directory has of players, also where it is lost."""
        located = self._leaderboard.directory.locate(shard_map, members, _soon(), fresh=True, lost_is_none=True)
        if located.failed:
            raise next(iter(located.failed.values()))
        return located.entries

    def _point(self, shard_map: ShardMap, entries: Mapping[Member, Entry]) -> None:
        pointed = self._leaderboard.directory.point(shard_map, entries, _soon())
        if pointed.failed:
            raise next(iter(pointed.failed.values()))

    # -- maps and states

    def _state(self) -> State:
        """The state that the board's shards are to be in."""
        closing = archives.of_period(self._engine, self._name.board, self._name.period)
        return FROZEN if archives.WHOLE in closing else OPEN

    def _latest(self) -> ShardMap:
        if archives.is_archived(self._engine, self._name.board, self._name.period):
            raise RebuildRefused(f"{self._name} is archived: its final ranking is read from PostgreSQL")
        stored = shard_maps.latest(self._engine, self._name.board, self._name.period)
        if stored is None:
            raise RebuildRefused(f"{self._name} was never opened: there is nothing to rebuild")
        return ShardMap.from_document(stored.document)

    def _published(self) -> ShardMap | None:
        try:
            return self._leaderboard.maps.published(self._name, _soon())
        except UnknownBoard:
            return None

    def _set_state(
        self,
        shard_map: ShardMap,
        state: State,
        *,
        shards: Sequence[int] | None = None,
        totals: Mapping[int, Totals] | None = None,
    ) -> None:
        self._leaderboard.lifecycle.set_state(shard_map, state, _soon(), shards=shards, totals=totals)

    def _give_back(self, old: ShardMap, state: State) -> None:
        """The rebuild failed: let the old shards play on. Not if the new map is recorded, or if that cannot be told."""
        with suppress(LeaderboardError, RecordsError):
            if self._latest().generation == old.generation:
                patiently(partial(self._set_state, old, state))


def _is_worth_keeping(row: LoadedRow) -> bool:
    """Not the mark of a player who was removed so long ago that no retry is known any more: nothing is as good."""
    return row.packed is not None or bool(row.recent or row.before)


def _shown_points(row: LoadedRow, replayed: Replayed) -> int:
    return 0 if row.hidden else replayed.points or 0


def _batches(replayed: Iterable[Replayed]) -> Iterator[list[Replayed]]:
    rows = iter(replayed)
    while batch := list(islice(rows, _BATCH)):
        yield batch


def _window(shard_map: ShardMap) -> int:
    return _now_ms() // shard_map.retry_window_ms


def _now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


def _soon() -> Deadline:
    return Deadline.after(_STEP_S)
