"""Opening a board's periods: from the rules in PostgreSQL to shards that take submissions.

The first map of a period comes from the settings. PostgreSQL decides which map that is (the first to insert wins), then
the shards' heads are written and the map is published, so whoever runs this, and however often, the same map results.

A map that PostgreSQL has and Redis lacks was never published, unless the audit has games of that period: then the
board's data are lost, and opening empty shards would hide it. Such a board stays closed until it is rebuilt.
"""

from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import Engine

from records import audit, boards, partitions, shard_maps
from records.engine import connect
from records.periods import FOREVER, months_around
from runtime.deadlines import Deadline
from runtime.settings import Settings
from sharding.boards import Board, Operator
from sharding.errors import ShardLost, UnknownBoard
from sharding.leaderboard import Leaderboard
from sharding.periods import Period, PeriodKind, following, names_around, period_at
from sharding.scores import Order
from sharding.shard_map import ShardMap, expected_cuts, ranges_cut_at

log = structlog.get_logger()

#: The next period is opened this long before it starts.
AHEAD = timedelta(days=1)
_DEADLINE_S = 20.0


def rules_of(board: boards.Board) -> Board:
    """A board's rules, as ranking knows them."""
    return Board(
        name=board.name,
        kind=PeriodKind(board.period_kind),
        operator=Operator(board.operator),
        order=Order(board.order),
        lowest=board.min_value,
        highest=board.max_value,
        open_registration=board.registration == "open",
    )


def first_map(board: Board, period: Period, settings: Settings) -> ShardMap:
    """The map with which a period starts: ranges cut where the settings expect the players to be."""
    cuts = expected_cuts(settings.shards, settings.median_points, settings.points_sigma, board.order)
    return ShardMap(
        board=board,
        period=period,
        generation=1,
        version=1,
        ranges=ranges_cut_at(cuts),
        retry_window_ms=settings.retry_window_s * 1000,
        partitions=settings.directory_partitions,
        buckets=settings.directory_buckets,
    )


def open_period(leaderboard: Leaderboard, engine: Engine, board: Board, period: Period, settings: Settings) -> None:
    """Make sure that this period of the board takes submissions."""
    shard_map = first_map(board, period, settings)
    deadline = Deadline.after(_DEADLINE_S)
    known = shard_maps.latest(engine, board.name, period.name)
    if known is not None:
        try:
            published = leaderboard.maps.published(shard_map.name, deadline)
        except UnknownBoard:
            if audit.has_games(engine, board.name, period.name):
                log.error("board_lost", board=board.name, period=period.name, next_step="rangeboard rebuild")
                return
        else:
            if published.version >= known.version:
                return
    document = shard_maps.insert_first(engine, board.name, period.name, shard_map.document())
    try:
        leaderboard.maps.publish(ShardMap.from_document(document), deadline)
    except ShardLost as error:  # a newer map waits for the rebuild; other boards do not
        log.error(
            "shard_lost", board=board.name, period=period.name, reason=error.detail, next_step="rangeboard rebuild"
        )
        return
    log.info("period_opened", board=board.name, period=period.name, shards=len(list(shard_map.shards())))


def open_all(leaderboard: Leaderboard, engine: Engine, settings: Settings, now: datetime) -> None:
    """Open the current period of every board, and the next one where it starts soon."""
    known = boards.list_all(engine)
    months = months_around(now.date())
    if any(board.period_kind == "forever" for board in known):
        months.append(FOREVER)
    partitions.ensure(engine, months)
    for board in known:
        rules = rules_of(board)
        current = period_at(rules.kind, now)
        open_period(leaderboard, engine, rules, current, settings)
        coming = following(current)
        if coming is not None and coming.start - now <= AHEAD:
            open_period(leaderboard, engine, rules, coming, settings)


def open_current(settings: Settings) -> None:
    """Open what is to be open now, from a process without connections (`rangeboard up`, `rangeboard migrate`)."""
    engine = connect(settings.postgres_dsn, pool_size=1)
    leaderboard = Leaderboard.connect(settings, known_players=lambda _, players: players)
    try:
        open_all(leaderboard, engine, settings, datetime.now(UTC))
    finally:
        leaderboard.close()
        engine.dispose()


def open_boards(engine: Engine, now: datetime) -> list[tuple[str, str]]:
    """Board and period names that may hold data not stored or not at rest yet: this period, those beside it."""
    names = []
    for board in boards.list_all(engine):
        names += [(board.name, period) for period in names_around(PeriodKind(board.period_kind), now, AHEAD)]
    return names
