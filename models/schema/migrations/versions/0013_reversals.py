"""Giving back: where the reversals of a transfer are found, and that what was given back only grows."""

from models.schema.migrations import online

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

GUARD = """
CREATE OR REPLACE TRIGGER transfers_given_back AFTER UPDATE OF reversed_amount ON transfers
    FOR EACH ROW WHEN (
        NEW.reversed_amount IS DISTINCT FROM OLD.reversed_amount
        AND (NEW.reversed_amount > coalesce(OLD.reversed_amount, 0) AND NEW.status = 'posted' AND NEW.reverses IS NULL)
            IS NOT TRUE
    )
    EXECUTE FUNCTION refuse_change('what was given back only grows, of what was posted and is no reversal')
"""


def upgrade() -> None:
    """Build the index beside whatever goes on, and then the guard."""
    online.create_index("transfers_reverses", "transfers (reverses) WHERE reverses IS NOT NULL")
    online.one_by_one([GUARD])
