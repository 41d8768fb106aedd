"""Webhooks: where events are sent, and how it went with each."""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

WEBHOOKS = """
CREATE TABLE webhooks (
    id                bigint NOT NULL,
    url               text NOT NULL,
    types             text[] NOT NULL,
    user_id           bigint,
    secret            bytea,
    old_secret        bytea,
    old_secret_until  timestamptz,
    upto              bigint NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now(),
    disabled_at       timestamptz,
    why               text,
    failing_since     timestamptz,
    failures          integer NOT NULL DEFAULT 0,
    quiet_until       timestamptz,
    fresh_at          timestamptz,
    deleted_at        timestamptz,
    CONSTRAINT webhooks_pkey PRIMARY KEY (id),
    CONSTRAINT webhooks_id_positive CHECK (id > 0),
    CONSTRAINT webhooks_url_length CHECK (char_length(url) BETWEEN 1 AND 2048),
    CONSTRAINT webhooks_types_few CHECK (cardinality(types) BETWEEN 1 AND 20),
    CONSTRAINT webhooks_counters_not_negative CHECK (upto >= 0 AND failures >= 0),
    CONSTRAINT webhooks_disabled_has_why CHECK ((disabled_at IS NULL) = (why IS NULL)),
    CONSTRAINT webhooks_deleted_has_no_secret CHECK ((deleted_at IS NULL) = (secret IS NOT NULL)),
    CONSTRAINT webhooks_secret_length CHECK (length(secret) BETWEEN 24 AND 64),
    CONSTRAINT webhooks_old_secret_ends CHECK ((old_secret IS NULL) = (old_secret_until IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE webhooks IS 'Where events are sent, and up to which one they have been planned.';
"""
DELIVERIES = """
CREATE TABLE webhook_deliveries (
    webhook_id       bigint NOT NULL,
    event_id         bigint NOT NULL,
    number           bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    type             text NOT NULL,
    body             text,
    status           text NOT NULL DEFAULT 'pending',
    attempts         integer NOT NULL DEFAULT 0,
    claims           integer NOT NULL DEFAULT 0,
    log              jsonb NOT NULL DEFAULT '[]',
    created_at       timestamptz NOT NULL,
    next_attempt_at  timestamptz NOT NULL,
    held_until       timestamptz,
    ended_at         timestamptz,
    CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (webhook_id, event_id),
    CONSTRAINT webhook_deliveries_status_known CHECK (status IN ('pending', 'delivered', 'failed')),
    CONSTRAINT webhook_deliveries_final_has_ended_at CHECK ((status = 'pending') = (ended_at IS NULL)),
    CONSTRAINT webhook_deliveries_final_is_not_held CHECK (status = 'pending' OR held_until IS NULL),
    CONSTRAINT webhook_deliveries_counters_not_negative CHECK (attempts >= 0 AND claims >= 0),
    CONSTRAINT webhook_deliveries_log_is_array CHECK (jsonb_typeof(log) = 'array')
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 1000
);
COMMENT ON TABLE webhook_deliveries IS 'An event on its way to one receiver, and how its attempts ended.';
CREATE INDEX webhook_deliveries_by_status ON webhook_deliveries (webhook_id, status, number);
COMMENT ON INDEX webhook_deliveries_by_status IS 'administrators: a page of the newest, by their status';
CREATE INDEX webhook_deliveries_fresh ON webhook_deliveries (webhook_id) WHERE status = 'pending' AND attempts = 0;
COMMENT ON INDEX webhook_deliveries_fresh IS 'fan-out: how many are planned ahead';
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, next_attempt_at)
    WHERE status = 'pending' AND held_until IS NULL;
COMMENT ON INDEX webhook_deliveries_due IS 'feeder: what is due, and held by nobody';
CREATE INDEX webhook_deliveries_held ON webhook_deliveries (webhook_id, held_until) WHERE held_until IS NOT NULL;
COMMENT ON INDEX webhook_deliveries_held IS 'feeder: what somebody holds';
CREATE INDEX webhook_deliveries_tests ON webhook_deliveries (webhook_id) WHERE status = 'pending' AND body IS NOT NULL;
COMMENT ON INDEX webhook_deliveries_tests IS 'feeder: tests, which also those that are disabled get';
CREATE INDEX webhook_deliveries_ended ON webhook_deliveries (ended_at) WHERE ended_at IS NOT NULL;
COMMENT ON INDEX webhook_deliveries_ended IS 'tidying: what is old';
"""


def upgrade() -> None:
    """Create the tables: nobody is told of anything yet."""
    op.execute(WEBHOOKS)
    op.execute(DELIVERIES)
