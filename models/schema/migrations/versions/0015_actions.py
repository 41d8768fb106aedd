"""The record of what administrators did: acts as they are begun, and what came of them."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

ACTIONS = """
CREATE TABLE actions (
    id       bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    at       timestamptz NOT NULL DEFAULT now(),
    who      text NOT NULL,
    what     text NOT NULL,
    subject  text NOT NULL,
    origin   text NOT NULL,
    CONSTRAINT actions_pkey PRIMARY KEY (id),
    CONSTRAINT actions_texts_length CHECK (
        char_length(who) BETWEEN 1 AND 200 AND char_length(what) BETWEEN 1 AND 200
        AND char_length(subject) BETWEEN 1 AND 200 AND char_length(origin) BETWEEN 1 AND 200
    )
);
COMMENT ON TABLE actions IS 'Append-only. What administrators did, written before it was begun.';

CREATE TABLE action_outcomes (
    action_id  bigint NOT NULL,
    outcome    text NOT NULL,
    CONSTRAINT action_outcomes_pkey PRIMARY KEY (action_id),
    CONSTRAINT action_outcomes_outcome_length CHECK (char_length(outcome) BETWEEN 1 AND 200)
);
COMMENT ON TABLE action_outcomes IS
    'Append-only. What came of it; an action without one was begun, and no more is known.';
"""
# More are forgotten at a time than are written. The numbers stand here and are no arguments, as in 0005.
FORGETTING = """
CREATE FUNCTION forget_old_actions() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    WITH oldest AS (
        SELECT id, at FROM actions ORDER BY id LIMIT 10
    ), gone AS (
        DELETE FROM actions WHERE id IN (SELECT id FROM oldest WHERE at < now() - interval '400 days') RETURNING id
    )
    DELETE FROM action_outcomes WHERE action_id IN (SELECT id FROM gone);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION forget_old_actions() IS 'actions: each stays for 400 days';
REVOKE ALL ON FUNCTION forget_old_actions() FROM PUBLIC;
CREATE TRIGGER actions_forgotten AFTER INSERT ON actions
    FOR EACH STATEMENT EXECUTE FUNCTION forget_old_actions();
"""
GUARDS = """
CREATE TRIGGER actions_stay AFTER UPDATE OR DELETE ON actions
    FOR EACH ROW EXECUTE FUNCTION refuse_change('what administrators did stays as it is written');
CREATE TRIGGER action_outcomes_stay AFTER UPDATE OR DELETE ON action_outcomes
    FOR EACH ROW EXECUTE FUNCTION refuse_change('what administrators did stays as it is written');
"""


def upgrade() -> None:
    """Create the tables: what was done before is in the logs only."""
    op.execute(ACTIONS)
    op.execute(FORGETTING)
    op.execute(GUARDS)
