"""Wallets that are frozen: two columns that are read with the lock, and the record of why, when and by whom."""

from models.schema.migrations import online

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE wallets
    ADD COLUMN IF NOT EXISTS debits_frozen boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS credits_frozen boolean NOT NULL DEFAULT false
"""
FREEZES = """
CREATE TABLE IF NOT EXISTS freezes (
    id         bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    wallet_id  bigint NOT NULL,
    debits     boolean NOT NULL,
    credits    boolean NOT NULL,
    reason     text,
    by         text NOT NULL,
    at         timestamptz NOT NULL DEFAULT statement_timestamp(),
    CONSTRAINT freezes_pkey PRIMARY KEY (id),
    CONSTRAINT freezes_reason_length CHECK (char_length(reason) BETWEEN 1 AND 500),
    CONSTRAINT freezes_frozen_has_reason CHECK (reason IS NOT NULL OR NOT (debits OR credits)),
    CONSTRAINT freezes_by_length CHECK (char_length(by) BETWEEN 1 AND 200)
)
"""
COMMENT = """
COMMENT ON TABLE freezes IS 'Append-only. Which sides of a wallet were frozen or not from then on, why, and by whom.'
"""
GUARD = """
CREATE OR REPLACE TRIGGER freezes_stay AFTER UPDATE OR DELETE ON freezes
    FOR EACH ROW EXECUTE FUNCTION refuse_change('what was frozen stays as it is written')
"""


def upgrade() -> None:
    """Add the columns, false everywhere without a row being written anew, and what goes with them."""
    online.one_by_one([COLUMNS, FREEZES, COMMENT, GUARD])
    online.create_index("wallets_frozen", "wallets (id) WHERE debits_frozen OR credits_frozen")
    online.create_index("freezes_of_wallet", "freezes (wallet_id, id)")
