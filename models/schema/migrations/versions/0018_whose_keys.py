"""Keys of administrators are no wallet's: whose a key is, and the index that finds it, by the key alone, too."""

from models.schema.migrations import online

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

COLUMN = "ALTER TABLE transfers ADD COLUMN IF NOT EXISTS key_owner bigint"
RULE = "key_owner IS NULL OR (key_owner = 0 AND idempotency_key IS NOT NULL AND reverses IS NOT NULL)"
# The key comes first. So processes of older versions, which ask for it and for the payer or depositor, have an index,
# too, when theirs is gone.
INDEX = "transfers (idempotency_key, coalesce(key_owner, source, destination)) WHERE idempotency_key IS NOT NULL"
COMMENT = (
    "COMMENT ON INDEX transfers_by_key IS 'keys: the first answer to a key of its owner; listing: all under a key'"
)


def upgrade() -> None:
    """Add the column, empty, and build the new index before the old one goes: at no time is a key good twice."""
    online.one_by_one([COLUMN])
    online.add_check("transfers", "key_owner_of_reversal", RULE)
    online.create_index("transfers_by_key", INDEX, unique=True)
    online.one_by_one([COMMENT])
    online.drop_index("transfers_idempotency_key")
