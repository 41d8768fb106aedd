"""Evictions of cached reads that could not reach Redis, until somebody has done them."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEPT_EVICTIONS = """
CREATE TABLE kept_evictions (
    wallet_id  bigint NOT NULL,
    version    bigint NOT NULL,
    CONSTRAINT kept_evictions_pkey PRIMARY KEY (wallet_id)
);
COMMENT ON TABLE kept_evictions IS 'Wallets whose cached reads are still to be dropped; models/cache.py does it.';
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(KEPT_EVICTIONS)
