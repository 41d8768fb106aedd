"""What is pending is found by when it became due, and vacuum keeps up with tables of any size."""

from models.schema.migrations import online

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# PostgreSQL waits for a fifth of a table's rows to change, which a hundred million rows do in months.
VACUUM = (
    """
ALTER TABLE wallets SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 1000
)
""",
    """
ALTER TABLE transfers SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 50000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 500000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 1000,
    autovacuum_freeze_min_age = 0
)
""",
    """
ALTER TABLE entries SET (
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 500000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 1000,
    autovacuum_freeze_min_age = 0
)
""",
    "ALTER TABLE kept_evictions SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)",
    "ALTER TABLE snowflake_nodes SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)",
    "ALTER TABLE audits SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)",
)


def upgrade() -> None:
    """Index what is pending anew, beside whatever goes on, and set the thresholds."""
    # By the instant at which each became due: what is settled lies before what is still to come, so whoever looks may
    # begin where the last look ended, and what is due later is in nobody's way.
    online.create_index(
        "transfers_due", "transfers (coalesce(next_attempt_at, created_at), id) WHERE status = 'pending'"
    )
    online.drop_index("transfers_pending")
    online.one_by_one(["COMMENT ON INDEX transfers_due IS 'relay: what is pending, in the order in which it is due'"])
    online.one_by_one(VACUUM)
