"""What the service's role may do with each table: what its statements need, and nothing else.

Whoever breaks into the service can then take part in the business of the day, but cannot rewrite what has happened:
no entry changes, no transfer changes its parties or its amount, nothing is deleted from the ledger or from the records
of audits and of administrators' acts, no trigger and no constraint goes away. Of what it may change, triggers hold what
has to stay: see :data:`models.schema.tables.GUARDS`. A table that a migration adds is added here (a test says so).
"""

from collections.abc import Mapping

from sqlalchemy import Connection, Engine, inspect, text

from models.schema.migrations.exclusive import alone

# By table; a table that this database does not have is passed over.
PRIVILEGES: Mapping[str, str] = {
    "wallets": "SELECT, INSERT, UPDATE (balance, version, debits_frozen, credits_frozen)",
    # When it was is the database's word.
    "freezes": "SELECT, INSERT (wallet_id, debits, credits, reason, by)",
    "transfers": (
        "SELECT, INSERT, UPDATE (status, reason, attempts, generation, lost_leases, source_seq, destination_seq,"
        " last_error, next_attempt_at, completed_at, reversed_amount)"
    ),
    # Triggers of the owner's keep it.
    "transfer_references": "SELECT",
    "entries": "SELECT, INSERT",
    "bulks": "SELECT, INSERT, UPDATE (posted, rejected, failed, canceled, completed_at)",
    # What leaves, and what is kept of it, is the owner's alone to say (models/ledger/archives.py).
    "archives": "SELECT",
    "openings": "SELECT",
    "receipts": "SELECT",
    # UPDATE alone: a node that was deleted and made anew would issue the same ids again.
    "snowflake_nodes": "SELECT, UPDATE (holder, expires_at, reserved_until_ms)",
    "kept_evictions": "SELECT, INSERT, UPDATE (version), DELETE",
    "turns": "SELECT, INSERT, UPDATE",
    "sendings": "SELECT, INSERT, UPDATE (sent_at), DELETE",
    "holdings": "SELECT, INSERT, UPDATE",
    "announcements": "SELECT, INSERT, UPDATE (upto)",
    # The oldest are forgotten by a trigger of the owner's.
    "audits": "SELECT, INSERT, UPDATE (finished_at, ok, wallets, entries, transfers, findings, cursor)",
    # Only the columns that say something: when it was is the database's word.
    "actions": "SELECT, INSERT (who, what, subject, origin)",
    "action_outcomes": "SELECT, INSERT (action_id, outcome)",
    "event_batches": "SELECT, INSERT (transfers, created_at, snapshots), UPDATE (position), DELETE",
    "event_head": "SELECT, UPDATE (last_event, forgotten, newest_batch, settled, mark, mark_xid)",
    "webhooks": (
        "SELECT, INSERT, UPDATE (secret, old_secret, old_secret_until, upto, disabled_at, why, failing_since,"
        " failures, quiet_until, fresh_at, deleted_at), DELETE"
    ),
    "webhook_deliveries": (
        "SELECT, INSERT, UPDATE (status, attempts, claims, log, next_attempt_at, held_until, ended_at), DELETE"
    ),
    # For /readyz.
    "alembic_version": "SELECT",
}


def give(engine: Engine, role: str) -> None:
    """Give a role exactly these privileges, in one transaction: whoever works as it meanwhile misses none. Idempotent.

    What the owner makes *beside* our tables (the table or sequence that a trigger of his writes to) the role may use:
    a trigger runs with the privileges of whoever caused it, and would else break every payment.

    Args:
        engine: connects as the owner of the tables.
        role: an existing role, other than the owner.
    """
    # Two that change the privileges of one table at once, or those and its columns, would fail.
    with alone(engine) as connection, connection.begin():
        name = connection.dialect.identifier_preparer.quote(role)
        connection.execute(text(f"GRANT USAGE ON SCHEMA public TO {name}"))
        for kind, usage in (("TABLES", "SELECT, INSERT, UPDATE, DELETE"), ("SEQUENCES", "ALL"), ("SCHEMAS", "USAGE")):
            connection.execute(text(f"ALTER DEFAULT PRIVILEGES GRANT {usage} ON {kind} TO {name}"))
        connection.execute(text(f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {name}"))
        for table in PRIVILEGES.keys() & _tables(connection):
            connection.execute(text(f"REVOKE ALL ON {table} FROM {name}, PUBLIC"))
            connection.execute(text(f"GRANT {PRIVILEGES[table]} ON {table} TO {name}"))


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names(schema="public"))
