"""A transfer that is planned, called off, taken back, or sent with others: the columns and the word for it."""

from models.schema.migrations import online

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

CHECKS = {
    "status_known": "status IN ('pending', 'posted', 'rejected', 'failed', 'canceled')",
    "reverses_another": "reverses <> id",
    "reversed_within_amount": "reversed_amount BETWEEN 1 AND amount",
}


def upgrade() -> None:
    """Add the columns, empty. What was recorded is looked through for the checks while the service goes on."""
    online.one_by_one(
        [
            """
ALTER TABLE transfers
    ADD COLUMN IF NOT EXISTS not_before timestamptz,
    ADD COLUMN IF NOT EXISTS reverses bigint,
    ADD COLUMN IF NOT EXISTS reversed_amount bigint,
    ADD COLUMN IF NOT EXISTS bulk_id bigint
"""
        ]
    )
    for name, rule in CHECKS.items():
        online.add_check("transfers", name, rule)
