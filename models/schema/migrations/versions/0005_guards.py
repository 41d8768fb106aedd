"""What the service may write, and still not in any way: what was answered as final stays, and so does what was found.

Each guard is a trigger whose condition is false for all that the service does, so that it costs the look at one row.
They bind everybody but the owner of the table, who could switch them off as well: to mend books by hand is his to do.
AFTER, and not BEFORE: a row is then not locked once more for it, and no other trigger has the last word.
"""

from alembic import op

from models.schema.migrations import online

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FUNCTIONS = """
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_has_role((SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE') THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '%: %', TG_TABLE_NAME, TG_ARGV[0]
        USING ERRCODE = 'insufficient_privilege', TABLE = TG_TABLE_NAME, CONSTRAINT = TG_NAME;
END $$;
COMMENT ON FUNCTION refuse_change() IS 'guards: refuses a change of a row to everybody but the owner of the table';

-- The numbers stand here and are no arguments: whoever can make a trigger on some table may give any.
CREATE OR REPLACE FUNCTION forget_old_audits() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    DELETE FROM audits WHERE id IN (
        SELECT id FROM (
            SELECT id, ok, finished_at, row_number() OVER (PARTITION BY ok ORDER BY id DESC) AS place
            FROM audits WHERE finished_at IS NOT NULL
        ) AS finished
        WHERE place > 100 AND (ok OR finished_at < now() - interval '90 days')
    );
    RETURN NULL;
END $$;
COMMENT ON FUNCTION forget_old_audits() IS
    'audits: of each verdict the newest 100 stay; one that found something stays for 90 days at least';
REVOKE ALL ON FUNCTION refuse_change(), forget_old_audits() FROM PUBLIC;
"""

TRANSFERS = """
CREATE OR REPLACE TRIGGER transfers_final
    AFTER UPDATE OF status, reason, attempts, generation, source_seq, destination_seq, completed_at ON transfers
    FOR EACH ROW WHEN (
        (OLD.status IN ('posted', 'rejected', 'canceled')
            AND (OLD.status, OLD.reason, OLD.attempts, OLD.source_seq, OLD.destination_seq, OLD.completed_at)
                IS DISTINCT FROM
                (NEW.status, NEW.reason, NEW.attempts, NEW.source_seq, NEW.destination_seq, NEW.completed_at))
        OR ((NEW.generation <> OLD.generation OR (OLD.status = 'failed' AND NEW.status <> 'failed'))
            AND NOT (OLD.status = 'failed' AND NEW.status = 'pending' AND NEW.generation = OLD.generation + 1))
    )
    EXECUTE FUNCTION refuse_change('what is final stays so; what failed is pending again only in its next generation')
"""
WALLETS = """
CREATE OR REPLACE TRIGGER wallets_versioned AFTER UPDATE OF balance, version ON wallets
    FOR EACH ROW WHEN (NEW.version < OLD.version OR (NEW.version = OLD.version AND NEW.balance <> OLD.balance))
    EXECUTE FUNCTION refuse_change('a version only grows, and a balance changes only with it')
"""
AUDITS = """
CREATE OR REPLACE TRIGGER audits_finished AFTER UPDATE ON audits
    FOR EACH ROW WHEN (OLD.finished_at IS NOT NULL)
    EXECUTE FUNCTION refuse_change('what an audit came to stays as it is')
"""
OLD_AUDITS = """
CREATE OR REPLACE TRIGGER audits_forgotten AFTER INSERT OR UPDATE ON audits
    FOR EACH ROW WHEN (NEW.finished_at IS NOT NULL) EXECUTE FUNCTION forget_old_audits()
"""
NODES = """
CREATE OR REPLACE TRIGGER snowflake_nodes_reserved AFTER UPDATE OF reserved_until_ms ON snowflake_nodes
    FOR EACH ROW WHEN (NEW.reserved_until_ms < OLD.reserved_until_ms AND (OLD.holder IS NULL OR NEW.holder IS NOT NULL))
    EXECUTE FUNCTION refuse_change('an instant is given back only together with its node')
"""
KEPT_EVICTIONS = """
CREATE OR REPLACE TRIGGER kept_evictions_versioned AFTER UPDATE OF version ON kept_evictions
    FOR EACH ROW WHEN (NEW.version < OLD.version)
    EXECUTE FUNCTION refuse_change('the version of an eviction only grows')
"""


def upgrade() -> None:
    """Create the functions, and then each trigger by itself: payments hold locks on several of these tables."""
    op.execute(FUNCTIONS)
    online.one_by_one([TRANSFERS, WALLETS, AUDITS, OLD_AUDITS, NODES, KEPT_EVICTIONS])
