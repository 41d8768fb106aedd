"""The ledger: wallets, transfers, entries, and the leases of Snowflake nodes."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Written out, and not made from models/tables.py, which moves on while a migration stays as it was applied.
LEDGER = """
CREATE TABLE wallets (
    id          bigint NOT NULL,
    balance     bigint NOT NULL DEFAULT 0,
    version     bigint NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT wallets_pkey PRIMARY KEY (id),
    CONSTRAINT wallets_id_positive CHECK (id > 0),
    CONSTRAINT wallets_balance_not_negative CHECK (balance >= 0),
    CONSTRAINT wallets_version_not_negative CHECK (version >= 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE wallets IS 'A user''s account. version counts its entries, balance is the newest''s balance_after.';

CREATE TABLE transfers (
    id               bigint NOT NULL,
    kind             text NOT NULL,
    source           bigint,
    destination      bigint,
    amount           bigint NOT NULL,
    status           text NOT NULL DEFAULT 'pending',
    reason           text,
    attempts         integer NOT NULL DEFAULT 0,
    generation       integer NOT NULL DEFAULT 1,
    lost_leases      integer NOT NULL DEFAULT 0,
    source_seq       bigint,
    destination_seq  bigint,
    last_error       text,
    next_attempt_at  timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    completed_at     timestamptz,
    idempotency_key  text,
    request_hash     bytea,
    trace            text,
    CONSTRAINT transfers_pkey PRIMARY KEY (id),
    CONSTRAINT transfers_id_positive CHECK (id > 0),
    CONSTRAINT transfers_amount_positive CHECK (amount > 0),
    CONSTRAINT transfers_kind_known CHECK (kind IN ('deposit', 'withdrawal', 'transfer')),
    CONSTRAINT transfers_status_known CHECK (status IN ('pending', 'posted', 'rejected', 'failed')),
    CONSTRAINT transfers_source_fits_kind CHECK ((source IS NULL) = (kind = 'deposit')),
    CONSTRAINT transfers_destination_fits_kind CHECK ((destination IS NULL) = (kind = 'withdrawal')),
    CONSTRAINT transfers_parties_differ CHECK (source <> destination),
    CONSTRAINT transfers_final_has_completed_at CHECK ((status = 'pending') = (completed_at IS NULL)),
    CONSTRAINT transfers_refusal_has_reason CHECK ((status IN ('rejected', 'failed')) = (reason IS NOT NULL)),
    CONSTRAINT transfers_source_entry_iff_posted
        CHECK ((status = 'posted' AND source IS NOT NULL) = (source_seq IS NOT NULL)),
    CONSTRAINT transfers_destination_entry_iff_posted
        CHECK ((status = 'posted' AND destination IS NOT NULL) = (destination_seq IS NOT NULL)),
    CONSTRAINT transfers_counters_not_negative CHECK (attempts >= 0 AND lost_leases >= 0 AND generation >= 1),
    CONSTRAINT transfers_idempotency_key_length CHECK (char_length(idempotency_key) BETWEEN 1 AND 255),
    CONSTRAINT transfers_key_has_hash CHECK ((idempotency_key IS NULL) = (request_hash IS NULL))
);
COMMENT ON TABLE transfers IS 'A movement of money: the job''s record, the outbox and the idempotency store in a row.';

CREATE UNIQUE INDEX transfers_idempotency_key ON transfers (coalesce(source, destination), idempotency_key)
    WHERE idempotency_key IS NOT NULL;
COMMENT ON INDEX transfers_idempotency_key IS 'models/orders.py: the first answer to this user''s key';
CREATE INDEX transfers_pending ON transfers (id) INCLUDE (next_attempt_at) WHERE status = 'pending';
COMMENT ON INDEX transfers_pending IS 'jobs/relay.py: what is pending and due, oldest first';
CREATE INDEX transfers_failed ON transfers (id) WHERE status = 'failed';
COMMENT ON INDEX transfers_failed IS 'jobs/dead_letters.py: what failed, newest first';

CREATE TABLE entries (
    wallet_id      bigint NOT NULL,
    seq            bigint NOT NULL,
    transfer_id    bigint NOT NULL,
    counterparty   bigint,
    type           smallint NOT NULL,
    amount         bigint NOT NULL,
    balance_after  bigint NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT entries_pkey PRIMARY KEY (wallet_id, seq),
    CONSTRAINT entries_seq_positive CHECK (seq > 0),
    CONSTRAINT entries_type_known CHECK (type BETWEEN 1 AND 3),
    CONSTRAINT entries_amount_not_zero CHECK (amount <> 0),
    CONSTRAINT entries_sign_fits_type CHECK ((type = 1 AND amount > 0) OR (type = 2 AND amount < 0) OR type = 3),
    CONSTRAINT entries_counterparty_iff_transfer CHECK ((type = 3) = (counterparty IS NOT NULL)),
    CONSTRAINT entries_counterparty_is_another CHECK (counterparty <> wallet_id),
    CONSTRAINT entries_balance_not_negative CHECK (balance_after >= 0)
);
COMMENT ON TABLE entries IS 'Immutable. One signed row on one wallet for every transfer posted; seq has no gaps.';
COMMENT ON INDEX entries_pkey IS 'models/history.py: a page of the whole history';

CREATE INDEX entries_by_type ON entries (wallet_id, type, seq);
COMMENT ON INDEX entries_by_type IS 'models/history.py: a page of a filtered history';

CREATE TABLE snowflake_nodes (
    node               smallint NOT NULL,
    holder             uuid,
    expires_at         timestamptz NOT NULL DEFAULT '-infinity',
    reserved_until_ms  bigint NOT NULL DEFAULT 0,
    CONSTRAINT snowflake_nodes_pkey PRIMARY KEY (node),
    CONSTRAINT snowflake_nodes_node_fits_10_bits CHECK (node BETWEEN 0 AND 1023)
);
COMMENT ON TABLE snowflake_nodes IS 'Who may issue ids as which node, and up to which instant.';
INSERT INTO snowflake_nodes (node) SELECT generate_series(0, 1023);
"""


def upgrade() -> None:
    """Create everything."""
    op.execute(LEDGER)
