"""Migrations make the schema that models/schema/tables.py describes, once, however many start at once."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import STDOUT
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from models.schema import migrations, revision
from models.schema.migrations.exclusive import alone
from models.schema.tables import metadata
from ops.local.processes import wait_for
from tests.models.ledger.ordering import bounded_engine
from tests.nursery import Forked
from tests.patience import PATIENCE_S
from tests.project import ROOT
from tests.proxy import TcpProxy


@pytest.fixture
def empty_engine(empty_database_url: str) -> Iterator[Engine]:
    """An engine on a database without any tables."""
    with bounded_engine(empty_database_url, lock_ms=100, statement_ms=500) as engine:
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        yield engine


# Upgrading


UPGRADE = """
import sys
from models.schema import migrations
from tests.models.ledger.ordering import bounded_engine
with bounded_engine(sys.argv[1], lock_ms=10, statement_ms=10) as engine:
    migrations.upgrade(engine)
"""


def test_two_upgrades_at_once_both_succeed_and_wait_longer_than_payments_do(
    empty_engine: Engine, empty_database_url: str, tmp_path: Path
) -> None:
    """One as the service does it and one on Alembic's command line, both held back until the other is there too."""
    url = empty_database_url.replace("postgresql://", "postgresql+psycopg2://")
    commands = [
        [sys.executable, "-c", UPGRADE, empty_database_url],
        [sys.executable, "-m", "alembic", "-x", f"url={url}", "upgrade", "head"],
    ]
    said = [tmp_path / name for name in ("service", "alembic")]
    with ExitStack() as stack:
        with alone(empty_engine):
            upgrades = [
                stack.enter_context(
                    Forked(command, cwd=ROOT, stdout=stack.enter_context(file.open("w")), stderr=STDOUT)
                )
                for command, file in zip(commands, said, strict=True)
            ]
            assert wait_for(lambda: all("waiting for another" in file.read_text() for file in said), PATIENCE_S)
        statuses = [upgrade.wait(PATIENCE_S) for upgrade in upgrades]

    assert statuses == [0, 0], [file.read_text() for file in said]
    assert revision.readiness(empty_engine) == "ok"
    with empty_engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM snowflake_nodes")).scalar_one() == 1024


def test_a_second_upgrade_changes_nothing(empty_engine: Engine) -> None:
    migrations.upgrade(empty_engine)
    with empty_engine.begin() as connection:
        connection.execute(text("INSERT INTO wallets (id, balance) VALUES (1, 5)"))
    before = schema(empty_engine)
    migrations.upgrade(empty_engine)
    assert schema(empty_engine) == before
    with empty_engine.connect() as connection:
        assert connection.execute(text("SELECT balance FROM wallets")).scalar_one() == 5


def test_an_upgrade_that_breaks_off_leaves_nothing(empty_engine: Engine) -> None:
    with empty_engine.begin() as connection:
        connection.execute(text("CREATE TABLE snowflake_nodes ()"))  # in the way of the last table
    with pytest.raises(Exception, match="already exists"):
        migrations.upgrade(empty_engine)
    with empty_engine.connect() as connection:
        tables = text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert list(connection.execute(tables).scalars()) == ["snowflake_nodes"]


def test_a_key_of_before_0018_stays_whose_it_was_and_good_once(empty_engine: Engine) -> None:
    config = migrations._config()
    with alone(empty_engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0017")
        connection.commit()
    insert = text("""
        INSERT INTO transfers (id, kind, source, destination, amount, idempotency_key, request_hash)
        VALUES (:id, 'transfer', 1, 2, 5, 'k', 'hash')
    """)
    with empty_engine.begin() as connection:
        connection.execute(insert, {"id": 1})
    migrations.upgrade(empty_engine)
    with empty_engine.begin() as connection:
        assert connection.execute(text("SELECT key_owner FROM transfers")).scalar_one() is None
        assert connection.execute(text("SELECT to_regclass('transfers_idempotency_key')")).scalar_one() is None
        with pytest.raises(IntegrityError, match="transfers_by_key"):
            connection.execute(insert, {"id": 2})


def test_the_newest_revision_is_alembics_head() -> None:
    assert ScriptDirectory(str(ROOT / "models" / "schema" / "migrations")).get_heads() == [revision.NEWEST]


def test_readiness_tells_what_is_missing(empty_engine: Engine, postgres_proxy: TcpProxy) -> None:
    assert revision.readiness(empty_engine) == "not migrated"
    migrations.upgrade(empty_engine)
    assert revision.readiness(empty_engine) == "ok"
    with empty_engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'older'"))
    assert revision.readiness(empty_engine) == "not migrated"
    with empty_engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0003'"))
    assert revision.readiness(empty_engine) == "not migrated"
    postgres_proxy.refuse()
    with bounded_engine(postgres_proxy.url) as unreachable:
        assert revision.readiness(unreachable) == "unreachable"


# The same schema in both


def test_alembic_sees_no_difference(connection: Connection) -> None:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    assert compare_metadata(context, metadata) == []


COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
    WHERE table_schema = :schema AND table_name <> 'alembic_version'
"""
CONSTRAINTS = """
    SELECT c.conrelid::regclass::text, c.conname, pg_get_constraintdef(c.oid) FROM pg_constraint c
    JOIN pg_namespace n ON n.oid = c.connamespace WHERE n.nspname = :schema AND c.conname NOT LIKE 'alembic%'
"""
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = :schema AND tablename <> 'alembic_version'"
OPTIONS = """
    SELECT c.relname, c.reloptions FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.reloptions IS NOT NULL
"""


def described(connection: Connection, query: str, schema: str) -> list[str]:
    """What PostgreSQL's catalogue says, without the schema's name."""
    rows = connection.execute(text(query), {"schema": schema})
    return sorted(str(tuple(row)).replace(f"{schema}.", "") for row in rows)


@pytest.mark.parametrize(
    "query", [COLUMNS, CONSTRAINTS, INDEXES, OPTIONS], ids=["columns", "constraints", "indexes", "options"]
)
def test_the_tables_as_python_sees_them_are_those_that_the_migrations_made(connection: Connection, query: str) -> None:
    """To the letter, as PostgreSQL itself spells them: CHECK constraints and partial indexes above all."""
    connection.execute(text("CREATE SCHEMA mirror"))
    connection.execute(text("SET LOCAL search_path = mirror"))
    metadata.create_all(connection)
    mirrored = described(connection, query, "mirror")
    connection.execute(text("SET LOCAL search_path = public"))
    migrated = described(connection, query, "public")

    assert mirrored == migrated
    assert migrated


def schema(engine: Engine) -> list[list[str]]:
    with engine.connect() as connection:
        return [described(connection, query, "public") for query in (COLUMNS, CONSTRAINTS, INDEXES, OPTIONS)]


def test_there_is_one_head_of_the_events(connection: Connection) -> None:
    assert connection.execute(text("SELECT last_event FROM event_head")).scalars().all() == [0]


def test_every_snowflake_node_is_there(connection: Connection) -> None:
    nodes = list(connection.execute(text("SELECT node FROM snowflake_nodes ORDER BY node")).scalars())
    assert nodes == list(range(1024))


# Every constraint refuses what it is there to refuse

WALLET: dict[str, Any] = {"id": 1, "balance": 0, "version": 0}
DEPOSIT: dict[str, Any] = {"id": 1, "kind": "deposit", "destination": 1, "amount": 5}
WITHDRAWAL: dict[str, Any] = {"id": 1, "kind": "withdrawal", "source": 1, "amount": 5}
TRANSFER: dict[str, Any] = {"id": 1, "kind": "transfer", "source": 1, "destination": 2, "amount": 5}
NOW = "2026-01-01T00:00:00Z"
POSTED = TRANSFER | {"status": "posted", "completed_at": NOW, "source_seq": 1, "destination_seq": 1}
REJECTED = TRANSFER | {"status": "rejected", "completed_at": NOW, "reason": "balance_insufficient"}
KEYED = TRANSFER | {"idempotency_key": "k", "request_hash": b"hash"}
OF_ADMINISTRATORS = KEYED | {"key_owner": 0, "reverses": 9}
RECEIVED: dict[str, Any] = {
    "wallet_id": 1, "seq": 1, "transfer_id": 1, "counterparty": 2, "type": 3, "amount": 5, "balance_after": 5,
}  # fmt: skip
DEPOSITED = RECEIVED | {"type": 1, "counterparty": None}
WITHDRAWN = RECEIVED | {"type": 2, "counterparty": None, "amount": -5}
AUDIT: dict[str, Any] = {"cursor": {}}
AUDITED: dict[str, Any] = {"finished_at": NOW, "ok": True}
ARCHIVE: dict[str, Any] = {
    "id": 1, "before": NOW, "entries": 2, "transfers": 0, "moved": 2**64, "made": -1, "digest": b"d" * 32,
}  # fmt: skip
OPENING: dict[str, Any] = {"wallet_id": 1, "seq": 1, "balance": 0, "last_at": NOW, "archive": 1}
BULK: dict[str, Any] = {"id": 1, "user_id": 1, "count": 2, "amount": 3, "atomic": False}
BATCH: dict[str, Any] = {"transfers": [1, 2], "created_at": NOW}
HEAD: dict[str, Any] = {"last_event": 9, "forgotten": 2, "newest_batch": 7, "mark": 7, "settled": 5}
FREEZE: dict[str, Any] = {"wallet_id": 1, "debits": True, "credits": False, "reason": "why", "by": "admin"}
ACT: dict[str, Any] = {"who": "admin", "what": "audit.run", "subject": "all", "origin": "192.0.2.1"}
WEBHOOK: dict[str, Any] = {"id": 1, "url": "https://a.test", "types": ["*"], "upto": 0, "secret": b"s" * 32}
DELIVERY: dict[str, Any] = {
    "webhook_id": 1, "event_id": 1, "type": "transfer.posted", "created_at": NOW, "next_attempt_at": NOW,
}  # fmt: skip
DELIVERED = DELIVERY | {"status": "delivered", "ended_at": NOW}

FINE = [
    ("bulks", BULK),
    ("bulks", BULK | {"posted": 1, "rejected": 1, "completed_at": NOW}),
    ("wallets", WALLET),
    ("transfers", DEPOSIT),
    ("transfers", WITHDRAWAL),
    ("transfers", TRANSFER),
    ("transfers", POSTED),
    ("transfers", REJECTED),
    ("transfers", REJECTED | {"status": "failed"}),
    ("transfers", KEYED),
    ("transfers", KEYED | {"idempotency_key": "k" * 255}),
    ("transfers", OF_ADMINISTRATORS),
    ("entries", RECEIVED),
    ("entries", RECEIVED | {"amount": -5}),
    ("entries", DEPOSITED),
    ("entries", WITHDRAWN),
    ("audits", AUDIT),
    ("audits", AUDITED),
    ("archives", ARCHIVE),
    ("openings", OPENING),
    ("receipts", {"transfer_id": 1, "balance": 0}),
    ("event_batches", BATCH),
    ("event_batches", BATCH | {"position": 1, "snapshots": [{}, {}]}),
    ("event_head", HEAD),
    ("wallets", WALLET | {"debits_frozen": True, "credits_frozen": True}),
    ("freezes", FREEZE),
    ("freezes", FREEZE | {"reason": "x" * 500}),
    ("freezes", FREEZE | {"debits": False, "reason": None}),
    ("actions", ACT),
    ("actions", ACT | {"subject": "x" * 200}),
    ("action_outcomes", {"action_id": 1, "outcome": "done"}),
    ("webhooks", WEBHOOK),
    ("webhooks", WEBHOOK | {"old_secret": b"o" * 24, "old_secret_until": NOW, "disabled_at": NOW, "why": "gone"}),
    ("webhooks", WEBHOOK | {"secret": None, "deleted_at": NOW}),
    ("webhook_deliveries", DELIVERY | {"held_until": NOW}),
    ("webhook_deliveries", DELIVERED),
]
WRONG = [
    ("wallets", WALLET | {"id": 0}, "wallets_id_positive"),
    ("wallets", WALLET | {"balance": -1}, "wallets_balance_not_negative"),
    ("wallets", WALLET | {"version": -1}, "wallets_version_not_negative"),
    ("transfers", TRANSFER | {"id": 0}, "transfers_id_positive"),
    ("transfers", TRANSFER | {"amount": 0}, "transfers_amount_positive"),
    ("transfers", TRANSFER | {"amount": -5}, "transfers_amount_positive"),
    ("transfers", TRANSFER | {"kind": "gift"}, "transfers_kind_known"),
    ("transfers", REJECTED | {"status": "lost", "reason": None}, "transfers_status_known"),
    ("transfers", DEPOSIT | {"source": 2}, "transfers_source_fits_kind"),
    ("transfers", TRANSFER | {"source": None}, "transfers_source_fits_kind"),
    ("transfers", WITHDRAWAL | {"source": None, "destination": None}, "transfers_source_fits_kind"),
    ("transfers", WITHDRAWAL | {"destination": 2}, "transfers_destination_fits_kind"),
    ("transfers", TRANSFER | {"destination": None}, "transfers_destination_fits_kind"),
    ("transfers", TRANSFER | {"destination": 1}, "transfers_parties_differ"),
    ("transfers", TRANSFER | {"completed_at": NOW}, "transfers_final_has_completed_at"),
    ("transfers", POSTED | {"completed_at": None}, "transfers_final_has_completed_at"),
    ("transfers", TRANSFER | {"reason": "why"}, "transfers_refusal_has_reason"),
    ("transfers", POSTED | {"reason": "why"}, "transfers_refusal_has_reason"),
    ("transfers", REJECTED | {"reason": None}, "transfers_refusal_has_reason"),
    ("transfers", REJECTED | {"status": "failed", "reason": None}, "transfers_refusal_has_reason"),
    ("transfers", POSTED | {"source_seq": None}, "transfers_source_entry_iff_posted"),
    ("transfers", TRANSFER | {"source_seq": 1}, "transfers_source_entry_iff_posted"),
    ("transfers", POSTED | {"destination_seq": None}, "transfers_destination_entry_iff_posted"),
    ("transfers", REJECTED | {"destination_seq": 1}, "transfers_destination_entry_iff_posted"),
    ("transfers", TRANSFER | {"attempts": -1}, "transfers_counters_not_negative"),
    ("transfers", TRANSFER | {"lost_leases": -1}, "transfers_counters_not_negative"),
    ("transfers", TRANSFER | {"generation": 0}, "transfers_counters_not_negative"),
    ("transfers", KEYED | {"idempotency_key": ""}, "transfers_idempotency_key_length"),
    ("transfers", KEYED | {"idempotency_key": "k" * 256}, "transfers_idempotency_key_length"),
    ("transfers", KEYED | {"request_hash": None}, "transfers_key_has_hash"),
    ("transfers", TRANSFER | {"request_hash": b"hash"}, "transfers_key_has_hash"),
    ("transfers", OF_ADMINISTRATORS | {"key_owner": 1}, "transfers_key_owner_of_reversal"),
    ("transfers", OF_ADMINISTRATORS | {"reverses": None}, "transfers_key_owner_of_reversal"),
    ("transfers", TRANSFER | {"key_owner": 0, "reverses": 9}, "transfers_key_owner_of_reversal"),
    ("transfers", TRANSFER | {"description": ""}, "transfers_description_length"),
    ("transfers", TRANSFER | {"description": "d" * 141}, "transfers_description_length"),
    ("transfers", TRANSFER | {"reference": ""}, "transfers_reference_length"),
    ("transfers", TRANSFER | {"reference": "r" * 65}, "transfers_reference_length"),
    ("transfers", TRANSFER | {"metadata": ["k"]}, "transfers_metadata_is_object"),
    ("transfers", TRANSFER | {"reverses": TRANSFER["id"]}, "transfers_reverses_another"),
    ("transfers", TRANSFER | {"reversed_amount": 0}, "transfers_reversed_within_amount"),
    ("transfers", TRANSFER | {"reversed_amount": TRANSFER["amount"] + 1}, "transfers_reversed_within_amount"),
    ("bulks", BULK | {"id": 0}, "bulks_id_positive"),
    ("bulks", BULK | {"count": 0}, "bulks_sums_positive"),
    ("bulks", BULK | {"amount": 0}, "bulks_sums_positive"),
    ("bulks", BULK | {"posted": -1}, "bulks_counts_within"),
    ("bulks", BULK | {"posted": 2, "rejected": 1, "completed_at": NOW}, "bulks_counts_within"),
    ("bulks", BULK | {"posted": 1, "canceled": 1}, "bulks_completed_when_counted"),
    ("bulks", BULK | {"completed_at": NOW}, "bulks_completed_when_counted"),
    ("entries", RECEIVED | {"seq": 0}, "entries_seq_positive"),
    ("entries", RECEIVED | {"type": 4}, "entries_type_known"),
    ("entries", DEPOSITED | {"type": 0}, "entries_type_known"),
    ("entries", RECEIVED | {"amount": 0}, "entries_amount_not_zero"),
    ("entries", DEPOSITED | {"amount": -5}, "entries_sign_fits_type"),
    ("entries", WITHDRAWN | {"amount": 5}, "entries_sign_fits_type"),
    ("entries", RECEIVED | {"counterparty": None}, "entries_counterparty_iff_transfer"),
    ("entries", DEPOSITED | {"counterparty": 2}, "entries_counterparty_iff_transfer"),
    ("entries", RECEIVED | {"counterparty": 1}, "entries_counterparty_is_another"),
    ("entries", RECEIVED | {"balance_after": -1}, "entries_balance_not_negative"),
    ("snowflake_nodes", {"node": 1024}, "snowflake_nodes_node_fits_10_bits"),
    ("snowflake_nodes", {"node": -1}, "snowflake_nodes_node_fits_10_bits"),
    ("audits", AUDIT | {"ok": True}, "audits_finished_has_verdict"),
    ("audits", AUDITED | {"ok": None}, "audits_finished_has_verdict"),
    ("audits", AUDIT | {"cursor": None}, "audits_under_way_has_cursor"),
    ("audits", AUDITED | {"cursor": {}}, "audits_under_way_has_cursor"),
    ("audits", AUDIT | {"wallets": -1}, "audits_counts_not_negative"),
    ("audits", AUDIT | {"entries": -1}, "audits_counts_not_negative"),
    ("audits", AUDIT | {"transfers": -1}, "audits_counts_not_negative"),
    ("archives", ARCHIVE | {"id": 0}, "archives_id_positive"),
    ("archives", ARCHIVE | {"entries": 0}, "archives_counts_not_negative"),
    ("archives", ARCHIVE | {"transfers": -1}, "archives_counts_not_negative"),
    ("archives", ARCHIVE | {"digest": b"short"}, "archives_digest_is_sha256"),
    ("openings", OPENING | {"seq": 0}, "openings_seq_positive"),
    ("openings", OPENING | {"balance": -1}, "openings_balance_not_negative"),
    ("receipts", {"transfer_id": 1, "balance": -1}, "receipts_balance_not_negative"),
    ("event_batches", BATCH | {"transfers": []}, "event_batches_not_empty"),
    ("event_batches", BATCH | {"position": 0}, "event_batches_position_positive"),
    ("event_batches", BATCH | {"snapshots": [{}]}, "event_batches_snapshot_each"),
    ("freezes", FREEZE | {"reason": ""}, "freezes_reason_length"),
    ("freezes", FREEZE | {"reason": "x" * 501}, "freezes_reason_length"),
    ("freezes", FREEZE | {"reason": None}, "freezes_frozen_has_reason"),
    ("freezes", FREEZE | {"debits": False, "credits": True, "reason": None}, "freezes_frozen_has_reason"),
    ("freezes", FREEZE | {"by": ""}, "freezes_by_length"),
    ("freezes", FREEZE | {"by": "x" * 201}, "freezes_by_length"),
    *(("actions", ACT | {each: ""}, "actions_texts_length") for each in ACT),
    *(("actions", ACT | {each: "x" * 201}, "actions_texts_length") for each in ACT),
    ("action_outcomes", {"action_id": 1, "outcome": ""}, "action_outcomes_outcome_length"),
    ("event_head", HEAD | {"is_only": False}, "event_head_only_one"),
    ("event_head", HEAD | {"forgotten": 10}, "event_head_in_order"),
    ("event_head", HEAD | {"forgotten": -1}, "event_head_in_order"),
    ("event_head", HEAD | {"mark": 8}, "event_head_in_order"),
    ("event_head", HEAD | {"settled": 8}, "event_head_in_order"),
    ("webhooks", WEBHOOK | {"id": 0}, "webhooks_id_positive"),
    ("webhooks", WEBHOOK | {"url": ""}, "webhooks_url_length"),
    ("webhooks", WEBHOOK | {"url": "u" * 2049}, "webhooks_url_length"),
    ("webhooks", WEBHOOK | {"types": []}, "webhooks_types_few"),
    ("webhooks", WEBHOOK | {"types": ["*"] * 21}, "webhooks_types_few"),
    ("webhooks", WEBHOOK | {"upto": -1}, "webhooks_counters_not_negative"),
    ("webhooks", WEBHOOK | {"failures": -1}, "webhooks_counters_not_negative"),
    ("webhooks", WEBHOOK | {"disabled_at": NOW}, "webhooks_disabled_has_why"),
    ("webhooks", WEBHOOK | {"why": "gone"}, "webhooks_disabled_has_why"),
    ("webhooks", WEBHOOK | {"secret": None}, "webhooks_deleted_has_no_secret"),
    ("webhooks", WEBHOOK | {"deleted_at": NOW}, "webhooks_deleted_has_no_secret"),
    ("webhooks", WEBHOOK | {"secret": b"s" * 23}, "webhooks_secret_length"),
    ("webhooks", WEBHOOK | {"secret": b"s" * 65}, "webhooks_secret_length"),
    ("webhooks", WEBHOOK | {"old_secret": b"o" * 32}, "webhooks_old_secret_ends"),
    ("webhooks", WEBHOOK | {"old_secret_until": NOW}, "webhooks_old_secret_ends"),
    ("webhook_deliveries", DELIVERY | {"status": "lost"}, "webhook_deliveries_status_known"),
    ("webhook_deliveries", DELIVERY | {"ended_at": NOW}, "webhook_deliveries_final_has_ended_at"),
    ("webhook_deliveries", DELIVERY | {"status": "failed"}, "webhook_deliveries_final_has_ended_at"),
    ("webhook_deliveries", DELIVERED | {"held_until": NOW}, "webhook_deliveries_final_is_not_held"),
    ("webhook_deliveries", DELIVERY | {"attempts": -1}, "webhook_deliveries_counters_not_negative"),
    ("webhook_deliveries", DELIVERY | {"claims": -1}, "webhook_deliveries_counters_not_negative"),
    ("webhook_deliveries", DELIVERY | {"log": {}}, "webhook_deliveries_log_is_array"),
]


@pytest.mark.parametrize(("table", "row"), FINE)
def test_what_is_right_passes_every_constraint(connection: Connection, table: str, row: dict[str, Any]) -> None:
    _make_room(connection)
    connection.execute(metadata.tables[table].insert(), [row])


def _make_room(connection: Connection) -> None:
    """Take away what the migrations have put there."""
    connection.execute(text("DELETE FROM snowflake_nodes"))
    connection.execute(text("DELETE FROM event_head"))


@pytest.mark.parametrize(("table", "row", "constraint"), WRONG)
def test_every_constraint_refuses_what_is_wrong(
    connection: Connection, table: str, row: dict[str, Any], constraint: str
) -> None:
    # PostgreSQL names the first constraint in the order of the alphabet; the others may object besides.
    others = [name for other, _, name in WRONG if other == table and name != constraint]
    for name in dict.fromkeys(others):
        connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
    _make_room(connection)
    with pytest.raises(IntegrityError) as refused:
        connection.execute(metadata.tables[table].insert(), [row])
    assert refused.value.orig is not None
    assert refused.value.orig.diag.constraint_name == constraint  # type: ignore[attr-defined]


def test_every_check_has_been_tried(connection: Connection) -> None:
    query = text("SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0")
    assert set(connection.execute(query).scalars()) >= {constraint for _, _, constraint in WRONG}
    ours = text("SELECT conname FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace")
    assert set(connection.execute(ours).scalars()) == {constraint for _, _, constraint in WRONG}


@pytest.mark.parametrize(
    ("table", "first", "second", "constraint"),
    [
        ("wallets", WALLET, WALLET, "wallets_pkey"),
        ("transfers", TRANSFER, TRANSFER | {"amount": 6}, "transfers_pkey"),
        ("transfers", KEYED, KEYED | {"id": 2}, "transfers_by_key"),
        (
            "transfers",
            OF_ADMINISTRATORS,
            OF_ADMINISTRATORS | {"id": 2, "source": 3, "reverses": 8},
            "transfers_by_key",
        ),
        (
            "transfers",
            KEYED,
            DEPOSIT | {"id": 2, "idempotency_key": "k", "request_hash": b"other"},
            "transfers_by_key",
        ),
        ("entries", RECEIVED, RECEIVED | {"transfer_id": 2}, "entries_pkey"),
        ("snowflake_nodes", {"node": 5}, {"node": 5}, "snowflake_nodes_pkey"),
        ("audits", AUDIT, AUDIT, "audits_under_way"),
        ("archives", ARCHIVE, ARCHIVE, "archives_pkey"),
        ("bulks", BULK, BULK, "bulks_pkey"),
        ("openings", OPENING, OPENING, "openings_pkey"),
        ("event_batches", BATCH | {"position": 1}, BATCH | {"position": 1}, "event_batches_position"),
        ("event_head", HEAD, HEAD, "event_head_pkey"),
        (
            "action_outcomes",
            {"action_id": 1, "outcome": "done"},
            {"action_id": 1, "outcome": "unchanged"},
            "action_outcomes_pkey",
        ),
        ("webhooks", WEBHOOK, WEBHOOK, "webhooks_pkey"),
        ("webhook_deliveries", DELIVERY, DELIVERY | {"type": "transfer.failed"}, "webhook_deliveries_pkey"),
    ],
)
def test_what_must_be_unique_is(
    connection: Connection, table: str, first: dict[str, Any], second: dict[str, Any], constraint: str
) -> None:
    _make_room(connection)
    connection.execute(metadata.tables[table].insert(), [first])
    with pytest.raises(IntegrityError) as refused:
        connection.execute(metadata.tables[table].insert(), [second])
    assert refused.value.orig is not None
    assert refused.value.orig.diag.constraint_name == constraint  # type: ignore[attr-defined]


def test_a_key_is_unique_per_owner_and_absent_keys_are_not_compared(connection: Connection) -> None:
    rows = [KEYED, KEYED | {"id": 2, "source": 2, "destination": 1}, KEYED | {"id": 3, "idempotency_key": "l"}]
    rows = [{"key_owner": None, "reverses": None} | row for row in [*rows, OF_ADMINISTRATORS | {"id": 6}]]
    connection.execute(metadata.tables["transfers"].insert(), rows)
    connection.execute(metadata.tables["transfers"].insert(), [TRANSFER | {"id": 4}, TRANSFER | {"id": 5}])
