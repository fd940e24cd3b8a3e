"""The tables, for building queries. The schema itself is what `migrations/versions` say; a test holds the two together.

Text that is compared, and never sorted for a person, is collated "C": that is byte order, the order in which Redis
breaks ties; it is faster than a language's, and an upgrade of the system's locales does not spoil its indexes.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()

_word = Text(collation="C")
_moment = DateTime(timezone=True)

users = Table(
    "users",
    metadata,
    Column("id", _word, primary_key=True),
    Column("username", _word, nullable=False, unique=True),
    Column("display_name", Text, nullable=False),
    Column("avatar_url", Text),
    Column("country", _word),
    Column("hidden", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", _moment, nullable=False, server_default=func.now()),
    Index("users_hidden_idx", "id", postgresql_where=text("hidden")),
)

#: Who was hidden or shown again lately: boards are held to it until nobody can have missed it.
visibility_changes = Table(
    "visibility_changes",
    metadata,
    Column("user_id", _word, primary_key=True),
    Column("changed_at", _moment, nullable=False, server_default=func.now()),
)

boards = Table(
    "boards",
    metadata,
    Column("name", _word, primary_key=True),
    Column("period_kind", _word, nullable=False),
    Column("operator", _word, nullable=False),
    Column("order", _word, nullable=False),
    Column("min_value", BigInteger),
    Column("max_value", BigInteger),
    Column("registration", _word, nullable=False),
    Column("players_may_report", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", _moment, nullable=False, server_default=func.now()),
)

games = Table(
    "games",
    metadata,
    Column("event_id", BigInteger, nullable=False),
    Column("value", BigInteger, nullable=False),
    Column("points_after", BigInteger, nullable=False),
    Column("played_at", _moment),
    Column("received_at", _moment, nullable=False),
    Column("month", Date, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("entry_item", SmallInteger, nullable=False),
    Column("user_id", _word, nullable=False),
    Column("board", _word, nullable=False),
    Column("period", _word, nullable=False),
    Column("operator", _word, nullable=False),
    Column("kind", _word, nullable=False),
    Column("entry_id", _word, nullable=False),
    Column("match_id", _word, nullable=False),
    Column("request_id", _word),
    PrimaryKeyConstraint("user_id", "board", "period", "event_id", "month"),
    Index("games_removals_idx", "board", "period", "user_id", postgresql_where=text("kind = 'removal'")),
    postgresql_partition_by="RANGE (month)",
)

#: Erasures under way: who is to be forgotten, and the name that is to stand in the audit instead.
erasures = Table(
    "erasures",
    metadata,
    Column("user_id", _word, primary_key=True),
    Column("pseudonym", _word, nullable=False, unique=True),
    Column("asked_at", _moment, nullable=False, server_default=func.now()),
)

audit_quarantine = Table(
    "audit_quarantine",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("board", _word, nullable=False),
    Column("period", _word, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("entry_id", _word, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("quarantined_at", _moment, nullable=False, server_default=func.now()),
    UniqueConstraint("board", "period", "shard", "entry_id"),
)

leaderboard_snapshots = Table(
    "leaderboard_snapshots",
    metadata,
    Column("rank", BigInteger, nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("month", Date, nullable=False),
    Column("user_id", _word, nullable=False),
    Column("board", _word, nullable=False),
    Column("period", _word, nullable=False),
    PrimaryKeyConstraint("user_id", "board", "period", "month"),
    Index("leaderboard_snapshots_board_period_rank_idx", "board", "period", "rank"),
    postgresql_partition_by="RANGE (month)",
)

archives = Table(
    "archives",
    metadata,
    Column("board", _word, ForeignKey("boards.name"), nullable=False),
    Column("period", _word, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("state", _word, nullable=False),
    Column("players", BigInteger),
    Column("points", Numeric),
    Column("changed_at", _moment, nullable=False, server_default=func.now()),
    Column("submissions", BigInteger),
    PrimaryKeyConstraint("board", "period", "shard"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", _word, primary_key=True),
    Column("kind", _word, nullable=False),
    Column("board", _word, nullable=False),
    Column("period", _word, nullable=False),
    Column("asked", JSONB, nullable=False),
    Column("state", _word, nullable=False),
    Column("done", BigInteger, nullable=False, server_default=text("0")),
    Column("total", BigInteger),
    Column("asked_at", _moment, nullable=False, server_default=func.now()),
    Column("started_at", _moment),
    Column("finished_at", _moment),
    Column("result", JSONB),
    Column("problem", JSONB),
    Index("jobs_active_key", "kind", "board", "period", unique=True, postgresql_where=text("finished_at IS NULL")),
    Index("jobs_asked_at_idx", "asked_at"),
)

shard_maps = Table(
    "shard_maps",
    metadata,
    Column("board", _word, ForeignKey("boards.name"), nullable=False),
    Column("period", _word, nullable=False),
    Column("version", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("document", JSONB, nullable=False),
    Column("created_at", _moment, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("board", "period", "version"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", _word, primary_key=True),
    Column("secret_hash", _word, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(_word), nullable=False),
    Column("created_at", _moment, nullable=False, server_default=func.now()),
    Column("revoked_at", _moment),
)
