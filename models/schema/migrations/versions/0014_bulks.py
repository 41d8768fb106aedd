"""Bulks: transfers that were sent together, and how many of them have ended how."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

BULKS = """
CREATE TABLE bulks (
    id bigint PRIMARY KEY,
    user_id bigint NOT NULL,
    count integer NOT NULL,
    amount bigint NOT NULL,
    atomic boolean NOT NULL,
    posted integer NOT NULL DEFAULT 0,
    rejected integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    canceled integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    CONSTRAINT bulks_id_positive CHECK (id > 0),
    CONSTRAINT bulks_sums_positive CHECK (count > 0 AND amount > 0),
    CONSTRAINT bulks_counts_within CHECK (
        posted >= 0 AND rejected >= 0 AND failed >= 0 AND canceled >= 0
        AND posted + rejected + failed + canceled <= count
    ),
    CONSTRAINT bulks_completed_when_counted CHECK (
        (posted + rejected + failed + canceled = count) = (completed_at IS NOT NULL)
    )
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE bulks IS 'Transfers that were sent together: how many, and how many of them have ended how.';
"""


def upgrade() -> None:
    """Make the table."""
    op.execute(BULKS)
