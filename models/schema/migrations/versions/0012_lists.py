"""Transfers are found by what people know of them, each by an index: whose, with whom, by which name, how it stands."""

from models.schema.migrations import online

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# By their names: what they are on, and which query of models/ledger/listing.py they are for. Conditions that hold of
# every id and every reference have to be said by whoever wants the index: so no other plan takes it for its own.
INDEXES = {
    "transfers_by_source": (
        "transfers (source, created_at, id) WHERE source > 0",
        "listing: what a user has paid, newest first",
    ),
    "transfers_by_destination": (
        "transfers (destination, created_at, id) WHERE destination > 0",
        "listing: what a user was paid, newest first",
    ),
    "transfers_by_parties": (
        "transfers (source, destination, created_at, id) WHERE source IS NOT NULL AND destination IS NOT NULL",
        "listing: what one user has paid another, newest first",
    ),
    "transfers_by_source_reference": (
        "transfers (source, reference, created_at, id) WHERE reference IS NOT NULL",
        "listing: what a user has paid under a reference, newest first",
    ),
    "transfers_by_destination_reference": (
        "transfers (destination, reference, created_at, id) WHERE reference IS NOT NULL",
        "listing: what a user was paid under a reference, newest first",
    ),
    "transfers_by_reference": (
        "transfers (reference, created_at, id) WHERE reference > ''",
        "listing: what anybody has moved under a reference, newest first",
    ),
    "transfers_by_status": (
        "transfers (status, created_at, id) WHERE status <> 'posted' AND id > 0",
        "listing: what is not posted, by how it stands, newest first",
    ),
    "transfers_by_bulk": (
        "transfers (bulk_id, created_at, id) WHERE bulk_id IS NOT NULL",
        "listing: what was sent together, newest first",
    ),
}


def upgrade() -> None:
    """Build the indexes beside whatever goes on."""
    for name, (on, comment) in INDEXES.items():
        online.create_index(name, on)
        online.one_by_one([f"COMMENT ON INDEX {name} IS '{comment}'"])
