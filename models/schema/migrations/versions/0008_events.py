"""Events: a row for each transaction that has decided transfers, and how far these are numbered."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

EVENTS = """
CREATE TABLE event_batches (
    id          bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    transfers   bigint[] NOT NULL,
    position    bigint,
    created_at  timestamptz NOT NULL,
    snapshots   jsonb,
    CONSTRAINT event_batches_pkey PRIMARY KEY (id),
    CONSTRAINT event_batches_not_empty CHECK (cardinality(transfers) > 0),
    CONSTRAINT event_batches_position_positive CHECK (position > 0),
    CONSTRAINT event_batches_snapshot_each CHECK (jsonb_array_length(snapshots) = cardinality(transfers))
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 1000
);
COMMENT ON TABLE event_batches IS
    'A row for each transaction that ended transfers or brought some back: which, in the order decided.';
CREATE UNIQUE INDEX event_batches_position ON event_batches (position) WHERE position IS NOT NULL;
COMMENT ON INDEX event_batches_position IS 'readers: on from an event';
CREATE INDEX event_batches_unnumbered ON event_batches (id) WHERE position IS NULL;
COMMENT ON INDEX event_batches_unnumbered IS 'relay: what is to be numbered';

CREATE TABLE event_head (
    is_only       boolean NOT NULL DEFAULT true,
    last_event    bigint NOT NULL DEFAULT 0,
    forgotten     bigint NOT NULL DEFAULT 0,
    newest_batch  bigint NOT NULL DEFAULT 0,
    settled       bigint NOT NULL DEFAULT 0,
    mark          bigint NOT NULL DEFAULT 0,
    mark_xid      bigint NOT NULL DEFAULT 0,
    CONSTRAINT event_head_pkey PRIMARY KEY (is_only),
    CONSTRAINT event_head_only_one CHECK (is_only),
    CONSTRAINT event_head_in_order CHECK (
        0 <= forgotten AND forgotten <= last_event AND 0 <= settled AND settled <= mark AND mark <= newest_batch
    )
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE event_head IS 'How far events are numbered, and which are forgotten. One row.';
INSERT INTO event_head DEFAULT VALUES;
"""
GUARDS = """
CREATE TRIGGER event_batches_numbered AFTER UPDATE OF position ON event_batches
    FOR EACH ROW WHEN (OLD.position IS NOT NULL)
    EXECUTE FUNCTION refuse_change('an event keeps its number');
CREATE TRIGGER event_batches_kept AFTER DELETE ON event_batches
    FOR EACH ROW WHEN (OLD.position IS NULL OR OLD.created_at > now() - interval '1 day')
    EXECUTE FUNCTION refuse_change('what has no number yet, or is of the last day, stays');
CREATE TRIGGER event_head_forward AFTER UPDATE ON event_head
    FOR EACH ROW WHEN (NEW.last_event < OLD.last_event OR NEW.forgotten < OLD.forgotten OR NEW.settled < OLD.settled)
    EXECUTE FUNCTION refuse_change('numbers only grow');
"""


def upgrade() -> None:
    """Create the tables: nothing has happened yet, for what is over has no event."""
    op.execute(EVENTS)
    op.execute(GUARDS)
