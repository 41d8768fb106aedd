"""The record of audits."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

AUDITS = """
CREATE TABLE audits (
    id           bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    started_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    ok           boolean,
    wallets      bigint NOT NULL DEFAULT 0,
    entries      bigint NOT NULL DEFAULT 0,
    transfers    bigint NOT NULL DEFAULT 0,
    findings     jsonb NOT NULL DEFAULT '[]',
    cursor       jsonb,
    CONSTRAINT audits_pkey PRIMARY KEY (id),
    CONSTRAINT audits_finished_has_verdict CHECK ((finished_at IS NULL) = (ok IS NULL)),
    CONSTRAINT audits_under_way_has_cursor CHECK ((finished_at IS NULL) = (cursor IS NOT NULL)),
    CONSTRAINT audits_counts_not_negative CHECK (wallets >= 0 AND entries >= 0 AND transfers >= 0)
);
COMMENT ON TABLE audits IS 'What audits of the books came to, and where the one under way stands.';
CREATE UNIQUE INDEX audits_under_way ON audits ((true)) WHERE finished_at IS NULL;
COMMENT ON INDEX audits_under_way IS 'models/audits.py: there is one audit under way at most';
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(AUDITS)
