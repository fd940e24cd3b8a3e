"""The first schema: players, boards, audit log, snapshots, shard maps, keys."""

from alembic import op

revision = "0001"
down_revision = None

# Constraints are named <table>_<column>_<kind>, PostgreSQL's own way where it names columns: errors are told from them.
_PEOPLE_AND_BOARDS = """
CREATE TABLE users (
    id           text COLLATE "C" CONSTRAINT users_id_key PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9._:-]{1,64}$'),
    username     text COLLATE "C" NOT NULL UNIQUE CHECK (char_length(username) BETWEEN 1 AND 64),
    display_name text NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 64),
    avatar_url   text CHECK (char_length(avatar_url) <= 2048),
    country      text COLLATE "C" CHECK (country ~ '^[A-Z]{2}$'),
    hidden       boolean NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN users.hidden IS 'ranked, and not shown';

CREATE TABLE boards (
    name               text COLLATE "C" CONSTRAINT boards_name_key PRIMARY KEY
                       CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,31}$'),
    period_kind        text COLLATE "C" NOT NULL CHECK (period_kind IN ('month', 'week', 'day', 'forever')),
    operator           text COLLATE "C" NOT NULL CHECK (operator IN ('add', 'best', 'set')),
    "order"            text COLLATE "C" NOT NULL CHECK ("order" IN ('desc', 'asc')),
    min_value          bigint,
    max_value          bigint CONSTRAINT boards_max_value_check CHECK (min_value <= max_value),
    registration       text COLLATE "C" NOT NULL CHECK (registration IN ('registered', 'open')),
    players_may_report boolean NOT NULL DEFAULT false,
    created_at         timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN boards.min_value IS 'least value of one submission; NULL is no bound';
COMMENT ON COLUMN boards.max_value IS 'greatest value of one submission; NULL is no bound';
COMMENT ON COLUMN boards.registration IS 'open: a player is registered by the first submission';

INSERT INTO boards (name, period_kind, operator, "order", min_value, max_value, registration)
VALUES ('global', 'month', 'add', 'desc', -1000000, 1000000, 'registered');
"""

# The audit log takes all the writes, so it has one index and no check that a statement of ours could not break.
#
# The key names an event where it counts: event ids are made of player and match, and one match may count on several
# boards, and in several periods. It holds the partition key, as PostgreSQL asks of a unique key, and the player, as
# Citus asks to distribute by player. The player comes first, because "all of this player's games" is the one other
# question (verify, erasure, the admin panel) and then needs no index of its own; the month comes last, because within
# a partition it tells nothing apart. A fold reads whole partitions and wants no index at all.
#
# Columns of eight bytes first, then four, two and text: none is lost to alignment, in a table of billions of rows.
_AUDIT = """
CREATE TABLE games (
    event_id     bigint NOT NULL,
    value        bigint NOT NULL,
    points_after bigint NOT NULL,
    played_at    timestamptz,
    received_at  timestamptz NOT NULL,
    month        date NOT NULL,
    shard        integer NOT NULL,
    entry_item   smallint NOT NULL,
    user_id      text COLLATE "C" NOT NULL,
    board        text COLLATE "C" NOT NULL,
    period       text COLLATE "C" NOT NULL,
    operator     text COLLATE "C" NOT NULL,
    kind         text COLLATE "C" NOT NULL,
    entry_id     text COLLATE "C" NOT NULL,
    match_id     text COLLATE "C" NOT NULL,
    request_id   text COLLATE "C",
    PRIMARY KEY (user_id, board, period, event_id, month)
) PARTITION BY RANGE (month);
COMMENT ON TABLE games IS 'the audit log: every submission that counted, append-only';
COMMENT ON COLUMN games.value IS 'what was submitted';
COMMENT ON COLUMN games.points_after IS 'the points that the player had then';
COMMENT ON COLUMN games.received_at IS 'by the clock of the shard, in milliseconds';
COMMENT ON COLUMN games.month IS 'in which the period starts; 1970-01 for a board that never starts anew';
COMMENT ON COLUMN games.entry_id IS 'outbox entry, <ms>-<sequence>, unique within a shard of a board period';
COMMENT ON COLUMN games.entry_item IS 'which submission of that entry, from 0';

CREATE TABLE audit_quarantine (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    board          text COLLATE "C" NOT NULL,
    period         text COLLATE "C" NOT NULL,
    shard          integer NOT NULL,
    entry_id       text COLLATE "C" NOT NULL,
    payload        bytea NOT NULL,
    reason         text NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (board, period, shard, entry_id)
);
COMMENT ON TABLE audit_quarantine IS 'outbox entries that could not be read';
"""

# Final ranks are read by place (a page of a month) and by player (their history). The rank is not unique by an index:
# Citus could not keep one that lacks the player, and the archive verifies its ranks itself.
_SNAPSHOTS = """
CREATE TABLE leaderboard_snapshots (
    rank    bigint NOT NULL,
    points  bigint NOT NULL,
    month   date NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    board   text COLLATE "C" NOT NULL,
    period  text COLLATE "C" NOT NULL,
    PRIMARY KEY (user_id, board, period, month)
) PARTITION BY RANGE (month);
CREATE INDEX ON leaderboard_snapshots (board, period, rank);

CREATE TABLE archives (
    board      text COLLATE "C" NOT NULL REFERENCES boards,
    period     text COLLATE "C" NOT NULL,
    shard      integer NOT NULL,
    state      text COLLATE "C" NOT NULL,
    players    bigint,
    points     numeric,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (board, period, shard)
);
COMMENT ON TABLE archives IS 'how far the archive of each shard of a board period is';
"""

# Versions of a map count on through its generations, so the key alone decides between two who publish at once.
_MAPS_AND_KEYS = """
CREATE TABLE shard_maps (
    board      text COLLATE "C" NOT NULL REFERENCES boards,
    period     text COLLATE "C" NOT NULL,
    version    integer NOT NULL CHECK (version >= 1),
    generation integer NOT NULL CHECK (generation >= 1),
    document   jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (board, period, version)
);

CREATE TABLE api_keys (
    id          text COLLATE "C" PRIMARY KEY,
    secret_hash text COLLATE "C" NOT NULL UNIQUE,
    name        text NOT NULL,
    scopes      text[] COLLATE "C" NOT NULL CHECK (scopes <@ '{scores:write,scores:read,admin}' AND scopes <> '{}'),
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz
);
COMMENT ON COLUMN api_keys.secret_hash IS 'SHA-256 of the secret, in hex';
"""


def upgrade() -> None:
    """Make the tables, and the default board."""
    for statements in (_PEOPLE_AND_BOARDS, _AUDIT, _SNAPSHOTS, _MAPS_AND_KEYS):
        op.execute(statements)
