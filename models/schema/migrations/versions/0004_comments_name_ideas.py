"""Comments name the idea that a table or an index serves, and no file: files move."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COMMENTS = """
COMMENT ON TABLE kept_evictions IS 'Wallets whose cached reads are still to be dropped, since Redis could not be told.';
COMMENT ON INDEX transfers_idempotency_key IS 'orders: the first answer to this user''s key';
COMMENT ON INDEX transfers_pending IS 'relay: what is pending and due, oldest first';
COMMENT ON INDEX transfers_failed IS 'dead letters: what failed, newest first';
COMMENT ON INDEX entries_pkey IS 'history: a page of all of it';
COMMENT ON INDEX entries_by_type IS 'history: a page of a filtered one';
COMMENT ON INDEX audits_under_way IS 'audits: there is one under way at most';
"""


def upgrade() -> None:
    """Say it anew."""
    op.execute(COMMENTS)
