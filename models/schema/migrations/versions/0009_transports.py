"""What a transport without a look-up by id needs to be told, and whose turn it is to do what one process does."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TRANSPORTS = """
CREATE TABLE turns (
    name        text NOT NULL,
    holder      uuid NOT NULL,
    expires_at  timestamptz NOT NULL,
    CONSTRAINT turns_pkey PRIMARY KEY (name)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE turns IS 'Who does what only one process at a time is to do, and until when.';

CREATE TABLE sendings (
    transfer_id  bigint NOT NULL,
    sent_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sendings_pkey PRIMARY KEY (transfer_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE sendings IS 'When the relay last sent a pending transfer to the workers, of those that it sent.';

CREATE TABLE holdings (
    place      text NOT NULL,
    first      bigint NOT NULL,
    holder     uuid NOT NULL,
    transfers  bigint[] NOT NULL,
    CONSTRAINT holdings_pkey PRIMARY KEY (place)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE holdings IS 'What a worker took in hand last, by the partition and the offset that it took it from.';

CREATE TABLE announcements (
    topic  text NOT NULL,
    upto   bigint NOT NULL,
    CONSTRAINT announcements_pkey PRIMARY KEY (topic)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE announcements IS 'Up to which event others have been told, by the topic.';
"""


def upgrade() -> None:
    """Create the tables, all empty."""
    op.execute(TRANSPORTS)
