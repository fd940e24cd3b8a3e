"""Removals, hidden players and erasures."""

from alembic import op

revision = "0002"
down_revision = "0001"

# Removals are few, and every fold asks for them: a partial index finds them without a look at the games, and costs the
# drain one comparison a row.
_STATEMENTS = """
CREATE INDEX games_removals_idx ON games (board, period, user_id) WHERE kind = 'removal';

COMMENT ON COLUMN users.hidden IS 'counted, and left out of every ranking';
CREATE INDEX users_hidden_idx ON users (id) WHERE hidden;

CREATE TABLE visibility_changes (
    user_id    text COLLATE "C" PRIMARY KEY,
    changed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE visibility_changes IS 'who was hidden or shown again lately: boards are held to it for a while';

CREATE TABLE erasures (
    user_id   text COLLATE "C" PRIMARY KEY,
    pseudonym text COLLATE "C" NOT NULL UNIQUE,
    asked_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE erasures IS 'players who are being forgotten; the row goes when nothing else names them';
"""


def upgrade() -> None:
    """Add what they need."""
    op.execute(_STATEMENTS)
