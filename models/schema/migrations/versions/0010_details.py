"""What callers say of a transfer: a description, a reference of their own, and pairs of words."""

from models.schema.migrations import online

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

CHECKS = {
    "description_length": "char_length(description) BETWEEN 1 AND 140",
    "reference_length": "char_length(reference) BETWEEN 1 AND 64",
    "metadata_is_object": "jsonb_typeof(metadata) = 'object'",
}


def upgrade() -> None:
    """Add the columns, empty. What was recorded is looked through for the checks while the service goes on."""
    online.one_by_one(
        [
            """
ALTER TABLE transfers
    ADD COLUMN IF NOT EXISTS description text,
    ADD COLUMN IF NOT EXISTS reference text,
    ADD COLUMN IF NOT EXISTS metadata jsonb
"""
        ]
    )
    for name, rule in CHECKS.items():
        online.add_check("transfers", name, rule)
