"""Jobs that are asked for over HTTP, and the submissions of a period that is closed."""

from alembic import op

revision = "0003"
down_revision = "0002"

# `finished_at` says whether a job is active, so that the index which admits one of each at a time needs no list of
# states.
_JOBS = """
CREATE TABLE jobs (
    id          text COLLATE "C" PRIMARY KEY,
    kind        text COLLATE "C" NOT NULL,
    board       text COLLATE "C" NOT NULL,
    period      text COLLATE "C" NOT NULL,
    asked       jsonb NOT NULL,
    state       text COLLATE "C" NOT NULL,
    done        bigint NOT NULL DEFAULT 0,
    total       bigint,
    asked_at    timestamptz NOT NULL DEFAULT now(),
    started_at  timestamptz,
    finished_at timestamptz,
    result      jsonb,
    problem     jsonb
);
CREATE UNIQUE INDEX jobs_active_key ON jobs (kind, board, period) WHERE finished_at IS NULL;
CREATE INDEX ON jobs (asked_at);
COMMENT ON TABLE jobs IS 'long jobs asked for over HTTP: how far they are, and how they ended';
COMMENT ON COLUMN jobs.asked IS 'what the job was asked to do, besides board and period';
COMMENT ON COLUMN jobs.done IS 'how many players are done, of total';
"""

_SUBMISSIONS = """
ALTER TABLE archives ADD COLUMN submissions bigint;
COMMENT ON COLUMN archives.submissions IS 'of the whole: how many had been applied when it was closed';
"""


def upgrade() -> None:
    """Make the table, and the column."""
    op.execute(_JOBS)
    op.execute(_SUBMISSIONS)
