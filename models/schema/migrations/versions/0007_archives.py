"""What has left for archives: which files, what each wallet opens with since, and first answers that need an entry."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ARCHIVES = """
CREATE TABLE archives (
    id           bigint NOT NULL,
    archived_at  timestamptz NOT NULL DEFAULT now(),
    before       timestamptz NOT NULL,
    entries      bigint NOT NULL,
    transfers    bigint NOT NULL,
    moved        numeric NOT NULL,
    made         numeric NOT NULL,
    digest       bytea NOT NULL,
    CONSTRAINT archives_pkey PRIMARY KEY (id),
    CONSTRAINT archives_id_positive CHECK (id > 0),
    CONSTRAINT archives_counts_not_negative CHECK (entries > 0 AND transfers >= 0),
    CONSTRAINT archives_digest_is_sha256 CHECK (length(digest) = 32)
);
COMMENT ON TABLE archives IS 'Files that entries and transfers have left for, numbered without gaps.';

CREATE TABLE openings (
    wallet_id  bigint NOT NULL,
    seq        bigint NOT NULL,
    balance    bigint NOT NULL,
    last_at    timestamptz NOT NULL,
    archive    bigint NOT NULL,
    CONSTRAINT openings_pkey PRIMARY KEY (wallet_id),
    CONSTRAINT openings_seq_positive CHECK (seq > 0),
    CONSTRAINT openings_balance_not_negative CHECK (balance >= 0)
);
COMMENT ON TABLE openings IS 'Where a wallet''s entries begin since older ones have left: after this one, with this.';

CREATE TABLE receipts (
    transfer_id  bigint NOT NULL,
    balance      bigint NOT NULL,
    CONSTRAINT receipts_pkey PRIMARY KEY (transfer_id),
    CONSTRAINT receipts_balance_not_negative CHECK (balance >= 0)
);
COMMENT ON TABLE receipts IS 'The balance in the first answer to an idempotency key, once the entry has left.';
"""


def upgrade() -> None:
    """Create the tables, all empty: nothing has left."""
    op.execute(ARCHIVES)
