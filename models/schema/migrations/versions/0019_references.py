"""What transfers are found by, of what their callers call them, moves out of the row that a posting updates.

An index on transfers gets a second entry when a transfer is posted, for that update is never heap-only. Here each has
its entries once. Two triggers write the table and nobody else does, so processes of an older version, and those that
archive, keep it as well, whatever is being copied meanwhile. The three indexes that this replaces go last: whoever
finds them gone knows that all was copied. No version that was released looks for them.
"""

from models.schema.migrations import online

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# Rows of a statement: well under a second.
SLICE = 10_000

TABLE = """
CREATE TABLE IF NOT EXISTS transfer_references (
    transfer_id  bigint NOT NULL,
    created_at   timestamptz NOT NULL,
    source       bigint,
    destination  bigint,
    reference    text NOT NULL
) WITH (
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 500000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 1000,
    autovacuum_freeze_min_age = 0
)
"""
# A primary key, which has no condition, could serve whoever asks for a user's as well, and would walk through
# everybody's for him. So there is none; who replicates rows can tell them apart all the same.
INDEXES = (
    """
CREATE UNIQUE INDEX IF NOT EXISTS transfer_references_by_reference
    ON transfer_references (reference, created_at, transfer_id) WHERE reference > ''
""",
    """
CREATE INDEX IF NOT EXISTS transfer_references_by_source
    ON transfer_references (source, reference, created_at, transfer_id) WHERE source IS NOT NULL
""",
    """
CREATE INDEX IF NOT EXISTS transfer_references_by_destination
    ON transfer_references (destination, reference, created_at, transfer_id) WHERE destination IS NOT NULL
""",
    "ALTER TABLE transfer_references REPLICA IDENTITY FULL",
)
COMMENTS = {
    "TABLE transfer_references": "Derived from transfers, by triggers alone: a row for each that has a reference,"
    " written once.",
    "INDEX transfer_references_by_reference": "listing: what anybody has moved under a reference, newest first; audit",
    "INDEX transfer_references_by_source": "listing: what a user has paid under a reference, newest first",
    "INDEX transfer_references_by_destination": "listing: what a user was paid under a reference, newest first",
    "FUNCTION note_reference()": "transfers: what has a reference is found by it",
    "FUNCTION forget_reference()": "transfers: what leaves takes its reference along",
}
FUNCTIONS = (
    """
CREATE OR REPLACE FUNCTION note_reference() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO transfer_references (transfer_id, created_at, source, destination, reference)
    VALUES (NEW.id, NEW.created_at, NEW.source, NEW.destination, NEW.reference);
    RETURN NULL;
END $$
""",
    """
CREATE OR REPLACE FUNCTION forget_reference() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    DELETE FROM transfer_references
    WHERE reference = OLD.reference AND reference > '' AND created_at = OLD.created_at AND transfer_id = OLD.id;
    RETURN NULL;
END $$
""",
    "REVOKE ALL ON FUNCTION note_reference(), forget_reference() FROM PUBLIC",
)
TRIGGERS = (
    """
CREATE OR REPLACE TRIGGER transfers_reference_noted AFTER INSERT ON transfers
    FOR EACH ROW WHEN (NEW.reference IS NOT NULL) EXECUTE FUNCTION note_reference()
""",
    """
CREATE OR REPLACE TRIGGER transfers_reference_forgotten AFTER DELETE ON transfers
    FOR EACH ROW WHEN (OLD.reference IS NOT NULL) EXECUTE FUNCTION forget_reference()
""",
)
# Along the index that it replaces. What leaves for an archive meanwhile is copied before that, and then forgotten, or
# not at all: that is what the lock on the row is for, which no posting waits for.
COPY = f"""
WITH slice AS MATERIALIZED (
    SELECT reference, created_at, id FROM transfers
    WHERE reference > '' AND (reference, created_at, id) > (:reference, CAST(:created_at AS timestamptz), :id)
    ORDER BY reference, created_at, id LIMIT {SLICE}
), copied AS (
    INSERT INTO transfer_references (transfer_id, created_at, source, destination, reference)
    SELECT t.id, t.created_at, source, destination, t.reference FROM slice, LATERAL (
        SELECT * FROM transfers WHERE id = slice.id LIMIT 1 FOR KEY SHARE
    ) AS t
    ON CONFLICT DO NOTHING
)
SELECT reference, created_at, id FROM slice ORDER BY reference DESC, created_at DESC, id DESC LIMIT 1
"""  # noqa: S608 - made of a constant
BEGIN = {"reference": "", "created_at": "-infinity", "id": 0}
COPIED_ALONG = "transfers_by_reference"
REPLACED = ("transfers_by_source_reference", "transfers_by_destination_reference", COPIED_ALONG)


def upgrade() -> None:
    """Create the table, have it kept from then on, copy what there is, and drop what it replaces."""
    online.one_by_one([TABLE, *INDEXES, *FUNCTIONS, *TRIGGERS])
    online.one_by_one(f"COMMENT ON {thing} IS '{comment}'" for thing, comment in COMMENTS.items())
    if online.has_index(COPIED_ALONG):
        online.in_slices(COPY, BEGIN)
    for name in REPLACED:
        online.drop_index(name)
