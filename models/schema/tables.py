"""The tables, as SQLAlchemy Core sees them. Migrations make them; the rules stand in both and a test compares.

Entries and transfers carry no foreign keys. Each would cost a look-up and a row lock for every row posted, to guard
rows that one function alone writes while it holds the locks on all of their parents; the audit checks the same facts.
"""

from collections.abc import Mapping

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "ix": "%(table_name)s_%(column_0_label)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s",
    }
)

_timestamp = DateTime(timezone=True)

# When autovacuum comes. By itself PostgreSQL waits for a fifth of a table's rows to change, and to analyse for a tenth:
# the larger a table, the rarer, and the more there is to do at once.
_ANALYZE = {"autovacuum_analyze_scale_factor": "0.02", "autovacuum_analyze_threshold": "1000"}
# What only grows is seen to by what was added, whatever its size: vacuum skips the pages that it has been to. Rows that
# never change again are frozen then, and not all at once after the 200 millionth transaction.
_GROWING = {
    "autovacuum_vacuum_insert_scale_factor": "0",
    "autovacuum_vacuum_insert_threshold": "500000",
    **_ANALYZE,
    "autovacuum_freeze_min_age": "0",
}
# Small, and updated all the time.
_SMALL = {"autovacuum_vacuum_scale_factor": "0", "autovacuum_vacuum_threshold": "1000"}

wallets = Table(
    "wallets",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),  # the user's id
    Column("balance", BigInteger, nullable=False, server_default=text("0")),  # cents
    Column("version", BigInteger, nullable=False, server_default=text("0")),  # how many entries it has
    Column("created_at", _timestamp, nullable=False, server_default=func.now()),
    # What an administrator has forbidden: money that leaves, money that comes.
    Column("debits_frozen", Boolean, nullable=False, server_default=text("false")),
    Column("credits_frozen", Boolean, nullable=False, server_default=text("false")),
    CheckConstraint("id > 0", name="id_positive"),
    CheckConstraint("balance >= 0", name="balance_not_negative"),
    CheckConstraint("version >= 0", name="version_not_negative"),
    comment="A user's account. version counts its entries, balance is the newest's balance_after.",
    # Every posting updates rows in place: room on the page keeps those updates heap-only, off the index.
    postgresql_with={
        "fillfactor": "50",
        "autovacuum_vacuum_scale_factor": "0.02",
        "autovacuum_vacuum_threshold": "1000",
        **_ANALYZE,
    },
)

# models/vitals.py: how many are frozen.
Index("wallets_frozen", wallets.c.id, postgresql_where=wallets.c.debits_frozen | wallets.c.credits_frozen)

# models/ledger/freezes.py: the newest of a wallet says why it is as it is.
freezes = Table(
    "freezes",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("wallet_id", BigInteger, nullable=False),
    Column("debits", Boolean, nullable=False),  # frozen from then on
    Column("credits", Boolean, nullable=False),
    Column("reason", Text),
    Column("by", Text, nullable=False),
    Column("at", _timestamp, nullable=False, server_default=func.statement_timestamp()),
    CheckConstraint("char_length(reason) BETWEEN 1 AND 500", name="reason_length"),
    CheckConstraint("reason IS NOT NULL OR NOT (debits OR credits)", name="frozen_has_reason"),
    CheckConstraint('char_length("by") BETWEEN 1 AND 200', name="by_length"),
    comment="Append-only. Which sides of a wallet were frozen or not from then on, why, and by whom.",
)
Index("freezes_of_wallet", freezes.c.wallet_id, freezes.c.id)

transfers = Table(
    "transfers",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),  # a Snowflake, and the job's id
    Column("kind", Text, nullable=False),
    Column("source", BigInteger),
    Column("destination", BigInteger),
    Column("amount", BigInteger, nullable=False),  # cents
    Column("status", Text, nullable=False, server_default=text("'pending'")),
    Column("reason", Text),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("generation", Integer, nullable=False, server_default=text("1")),  # a requeue starts a new one
    Column("lost_leases", Integer, nullable=False, server_default=text("0")),  # workers that died holding it
    Column("source_seq", BigInteger),  # its entry on the source's wallet
    Column("destination_seq", BigInteger),  # its entry on the destination's wallet
    Column("last_error", Text),
    Column("next_attempt_at", _timestamp),
    Column("created_at", _timestamp, nullable=False, server_default=func.now()),
    Column("completed_at", _timestamp),
    Column("idempotency_key", Text),
    Column("request_hash", LargeBinary),
    Column("key_owner", BigInteger),  # 0: an administrator's key; null: that of whoever gave the order
    Column("trace", Text),
    # What the caller says of it; nothing here depends on it.
    Column("description", Text),
    Column("reference", Text),  # the caller's own name for it
    Column("metadata", JSONB(none_as_null=True)),
    Column("not_before", _timestamp),  # planned for then
    Column("reverses", BigInteger),  # the transfer that it gives back, or a part of
    Column("reversed_amount", BigInteger),  # cents: how much of it was given back since
    Column("bulk_id", BigInteger),  # what it was sent with
    CheckConstraint("id > 0", name="id_positive"),
    CheckConstraint("amount > 0", name="amount_positive"),
    CheckConstraint("kind IN ('deposit', 'withdrawal', 'transfer')", name="kind_known"),
    CheckConstraint("status IN ('pending', 'posted', 'rejected', 'failed', 'canceled')", name="status_known"),
    CheckConstraint("(source IS NULL) = (kind = 'deposit')", name="source_fits_kind"),
    CheckConstraint("(destination IS NULL) = (kind = 'withdrawal')", name="destination_fits_kind"),
    CheckConstraint("source <> destination", name="parties_differ"),
    CheckConstraint("(status = 'pending') = (completed_at IS NULL)", name="final_has_completed_at"),
    CheckConstraint("(status IN ('rejected', 'failed')) = (reason IS NOT NULL)", name="refusal_has_reason"),
    CheckConstraint(
        "(status = 'posted' AND source IS NOT NULL) = (source_seq IS NOT NULL)", name="source_entry_iff_posted"
    ),
    CheckConstraint(
        "(status = 'posted' AND destination IS NOT NULL) = (destination_seq IS NOT NULL)",
        name="destination_entry_iff_posted",
    ),
    CheckConstraint("attempts >= 0 AND lost_leases >= 0 AND generation >= 1", name="counters_not_negative"),
    CheckConstraint("char_length(idempotency_key) BETWEEN 1 AND 255", name="idempotency_key_length"),
    CheckConstraint("(idempotency_key IS NULL) = (request_hash IS NULL)", name="key_has_hash"),
    CheckConstraint(
        "key_owner IS NULL OR (key_owner = 0 AND idempotency_key IS NOT NULL AND reverses IS NOT NULL)",
        name="key_owner_of_reversal",
    ),
    CheckConstraint("char_length(description) BETWEEN 1 AND 140", name="description_length"),
    CheckConstraint("char_length(reference) BETWEEN 1 AND 64", name="reference_length"),
    CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata_is_object"),
    CheckConstraint("reverses <> id", name="reverses_another"),
    CheckConstraint("reversed_amount BETWEEN 1 AND amount", name="reversed_within_amount"),
    comment="A movement of money: the job's record, the outbox and the idempotency store in a row.",
    # Each v2 leaves a dead row. Vacuum reads all of the table's indexes for these, so it is to come when they are worth
    # it, and no look depends on its coming (models/ledger/frontier.py). The update that posts changes an index, so room
    # on the page would not make it heap-only.
    postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_threshold": "50000", **_GROWING},
)

# models/ledger/keys.py: the first answer to a key of its owner, who is whoever gave the order, or administrators.
# models/ledger/listing.py: all that anybody has ordered with a key.
Index(
    "transfers_by_key",
    transfers.c.idempotency_key,
    func.coalesce(transfers.c.key_owner, transfers.c.source, transfers.c.destination),
    unique=True,
    postgresql_where=transfers.c.idempotency_key.is_not(None),
)
# models/ledger/frontier.py: what is pending, in the order in which it became due, or will.
Index(
    "transfers_due",
    func.coalesce(transfers.c.next_attempt_at, transfers.c.created_at),
    transfers.c.id,
    postgresql_where=transfers.c.status == text("'pending'"),
)
# models/audit/books.py: what has given back a transfer.
Index("transfers_reverses", transfers.c.reverses, postgresql_where=transfers.c.reverses.is_not(None))
# jobs/dead_letters.py: what failed, newest first, a page at a time.
Index("transfers_failed", transfers.c.id, postgresql_where=transfers.c.status == text("'failed'"))
# models/ledger/listing.py: each by what a caller knows of it, newest first. Conditions that hold of every id have
# to be said by whoever wants the index: so no other plan takes it for its own.
_NEWEST = (transfers.c.created_at, transfers.c.id)
Index("transfers_by_source", transfers.c.source, *_NEWEST, postgresql_where=transfers.c.source > text("0"))
Index(
    "transfers_by_destination", transfers.c.destination, *_NEWEST, postgresql_where=transfers.c.destination > text("0")
)
Index(
    "transfers_by_parties",
    transfers.c.source,
    transfers.c.destination,
    *_NEWEST,
    postgresql_where=transfers.c.source.is_not(None) & transfers.c.destination.is_not(None),
)
Index(
    "transfers_by_status",
    transfers.c.status,
    *_NEWEST,
    postgresql_where=(transfers.c.status != text("'posted'")) & (transfers.c.id > text("0")),
)
Index("transfers_by_bulk", transfers.c.bulk_id, *_NEWEST, postgresql_where=transfers.c.bulk_id.is_not(None))

# Written once: an index on transfers has a second entry of each that is posted. There is no primary key: it could serve
# whoever asks for a user's as well, and would walk through everybody's for him.
transfer_references = Table(
    "transfer_references",
    metadata,
    Column("transfer_id", BigInteger, nullable=False),
    Column("created_at", _timestamp, nullable=False),
    Column("source", BigInteger),
    Column("destination", BigInteger),
    Column("reference", Text, nullable=False),
    comment="Derived from transfers, by triggers alone: a row for each that has a reference, written once.",
    postgresql_with=_GROWING,
)
# models/ledger/listing.py, models/audit/books.py. What holds of every reference has to be said, as above.
_CALLED = (transfer_references.c.reference, transfer_references.c.created_at, transfer_references.c.transfer_id)
Index(
    "transfer_references_by_reference",
    *_CALLED,
    unique=True,
    postgresql_where=transfer_references.c.reference > text("''"),
)
for _party in (transfer_references.c.source, transfer_references.c.destination):
    Index(f"transfer_references_by_{_party.name}", _party, *_CALLED, postgresql_where=_party.is_not(None))

entries = Table(
    "entries",
    metadata,
    # models/ledger/history.py: a page of the whole history is a range of this key.
    Column("wallet_id", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),  # the wallet's version just after it
    Column("transfer_id", BigInteger, nullable=False),
    Column("counterparty", BigInteger),  # the other wallet; null for deposits and withdrawals
    Column("type", SmallInteger, nullable=False),  # 1 deposit, 2 withdrawal, 3 transfer
    Column("amount", BigInteger, nullable=False),  # cents, signed
    Column("balance_after", BigInteger, nullable=False),  # cents
    Column("created_at", _timestamp, nullable=False, server_default=func.now()),
    CheckConstraint("seq > 0", name="seq_positive"),
    CheckConstraint("type BETWEEN 1 AND 3", name="type_known"),
    CheckConstraint("amount <> 0", name="amount_not_zero"),
    CheckConstraint("(type = 1 AND amount > 0) OR (type = 2 AND amount < 0) OR type = 3", name="sign_fits_type"),
    CheckConstraint("(type = 3) = (counterparty IS NOT NULL)", name="counterparty_iff_transfer"),
    CheckConstraint("counterparty <> wallet_id", name="counterparty_is_another"),
    CheckConstraint("balance_after >= 0", name="balance_not_negative"),
    comment="Immutable. One signed row on one wallet for every transfer posted; seq has no gaps.",
    postgresql_with=_GROWING,
)

# models/ledger/history.py with a type: a filtered page is a range of this one.
Index("entries_by_type", entries.c.wallet_id, entries.c.type, entries.c.seq)

bulks = Table(
    "bulks",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),  # a Snowflake
    Column("user_id", BigInteger, nullable=False),  # the payer of all of it
    Column("count", Integer, nullable=False),
    Column("amount", BigInteger, nullable=False),  # cents: the sum
    Column("atomic", Boolean, nullable=False),  # posted in one transaction, or not at all
    # How many of its transfers have ended so; the others are pending.
    Column("posted", Integer, nullable=False, server_default=text("0")),
    Column("rejected", Integer, nullable=False, server_default=text("0")),
    Column("failed", Integer, nullable=False, server_default=text("0")),
    Column("canceled", Integer, nullable=False, server_default=text("0")),
    Column("created_at", _timestamp, nullable=False, server_default=func.now()),
    Column("completed_at", _timestamp),
    CheckConstraint("id > 0", name="id_positive"),
    CheckConstraint("count > 0 AND amount > 0", name="sums_positive"),
    CheckConstraint(
        "posted >= 0 AND rejected >= 0 AND failed >= 0 AND canceled >= 0"
        " AND posted + rejected + failed + canceled <= count",
        name="counts_within",
    ),
    CheckConstraint(
        "(posted + rejected + failed + canceled = count) = (completed_at IS NOT NULL)", name="completed_when_counted"
    ),
    comment="Transfers that were sent together: how many, and how many of them have ended how.",
    # Counted in place, batch by batch.
    postgresql_with={"fillfactor": "50", **_SMALL},
)

archives = Table(
    "archives",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),  # from 1 on, without gaps
    Column("archived_at", _timestamp, nullable=False, server_default=func.now()),
    Column("before", _timestamp, nullable=False),  # what left was older
    Column("entries", BigInteger, nullable=False),  # how many left
    Column("transfers", BigInteger, nullable=False),
    Column("moved", Numeric, nullable=False),  # cents: the sum of these entries
    Column("made", Numeric, nullable=False),  # cents: deposits less withdrawals of these transfers
    Column("digest", LargeBinary, nullable=False),  # SHA-256 of the file
    CheckConstraint("id > 0", name="id_positive"),
    CheckConstraint("entries > 0 AND transfers >= 0", name="counts_not_negative"),
    CheckConstraint("length(digest) = 32", name="digest_is_sha256"),
    comment="Files that entries and transfers have left for, numbered without gaps.",
)

openings = Table(
    "openings",
    metadata,
    Column("wallet_id", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),  # of the newest entry that has left
    Column("balance", BigInteger, nullable=False),  # cents, just after it
    Column("last_at", _timestamp, nullable=False),  # when the newest of them was posted
    Column("archive", BigInteger, nullable=False),  # the last one that entries of this wallet left for
    CheckConstraint("seq > 0", name="seq_positive"),
    CheckConstraint("balance >= 0", name="balance_not_negative"),
    comment="Where a wallet's entries begin since older ones have left: after this one, with this.",
)

# models/ledger/orders.py: a replay gives the first answer, also when its entry has left.
receipts = Table(
    "receipts",
    metadata,
    Column("transfer_id", BigInteger, primary_key=True, autoincrement=False),
    Column("balance", BigInteger, nullable=False),  # cents, of whoever gave the order, just after it
    CheckConstraint("balance >= 0", name="balance_not_negative"),
    comment="The balance in the first answer to an idempotency key, once the entry has left.",
)

kept_evictions = Table(
    "kept_evictions",
    metadata,
    Column("wallet_id", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),  # nothing older may be cached
    comment="Wallets whose cached reads are still to be dropped, since Redis could not be told.",
    postgresql_with=_SMALL,
)

snowflake_nodes = Table(
    "snowflake_nodes",
    metadata,
    Column("node", SmallInteger, primary_key=True, autoincrement=False),
    Column("holder", Uuid),
    Column("expires_at", _timestamp, nullable=False, server_default=text("'-infinity'")),
    # Milliseconds since the Unix epoch: no id of this node lies beyond it, and its next holder starts above it.
    Column("reserved_until_ms", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("node BETWEEN 0 AND 1023", name="node_fits_10_bits"),
    comment="Who may issue ids as which node, and up to which instant.",
    postgresql_with=_SMALL,
)

turns = Table(
    "turns",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Uuid, nullable=False),
    Column("expires_at", _timestamp, nullable=False),
    comment="Who does what only one process at a time is to do, and until when.",
    postgresql_with=_SMALL,
)

sendings = Table(
    "sendings",
    metadata,
    Column("transfer_id", BigInteger, primary_key=True, autoincrement=False),
    Column("sent_at", _timestamp, nullable=False, server_default=func.now()),
    comment="When the relay last sent a pending transfer to the workers, of those that it sent.",
    postgresql_with=_SMALL,
)

holdings = Table(
    "holdings",
    metadata,
    Column("place", Text, primary_key=True),  # <topic>/<partition>
    Column("first", BigInteger, nullable=False),  # the offset
    Column("holder", Uuid, nullable=False),
    Column("transfers", ARRAY(BigInteger), nullable=False),
    comment="What a worker took in hand last, by the partition and the offset that it took it from.",
    postgresql_with=_SMALL,
)

announcements = Table(
    "announcements",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("upto", BigInteger, nullable=False),
    comment="Up to which event others have been told, by the topic.",
    postgresql_with=_SMALL,
)

audits = Table(
    "audits",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("started_at", _timestamp, nullable=False, server_default=func.now()),
    Column("finished_at", _timestamp),
    Column("ok", Boolean),  # null while it is under way
    Column("wallets", BigInteger, nullable=False, server_default=text("0")),  # how many were looked at
    Column("entries", BigInteger, nullable=False, server_default=text("0")),
    Column("transfers", BigInteger, nullable=False, server_default=text("0")),
    Column("findings", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("cursor", JSONB(none_as_null=True)),  # where to go on
    CheckConstraint("(finished_at IS NULL) = (ok IS NULL)", name="finished_has_verdict"),
    CheckConstraint("(finished_at IS NULL) = (cursor IS NOT NULL)", name="under_way_has_cursor"),
    CheckConstraint("wallets >= 0 AND entries >= 0 AND transfers >= 0", name="counts_not_negative"),
    comment="What audits of the books came to, and where the one under way stands.",
    postgresql_with=_SMALL,
)

# models/audit/record.py: there is one audit under way at most.
Index("audits_under_way", text("(true)"), unique=True, _table=audits, postgresql_where=audits.c.finished_at.is_(None))

# models/actions/record.py: pages of it are ranges of this key, and what is oldest has the lowest.
actions = Table(
    "actions",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", _timestamp, nullable=False, server_default=func.now()),
    Column("who", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("subject", Text, nullable=False),  # what it was done to
    Column("origin", Text, nullable=False),  # the address that it came from
    CheckConstraint(
        "char_length(who) BETWEEN 1 AND 200 AND char_length(what) BETWEEN 1 AND 200"
        " AND char_length(subject) BETWEEN 1 AND 200 AND char_length(origin) BETWEEN 1 AND 200",
        name="texts_length",
    ),
    comment="Append-only. What administrators did, written before it was begun.",
)

action_outcomes = Table(
    "action_outcomes",
    metadata,
    Column("action_id", BigInteger, primary_key=True, autoincrement=False),
    Column("outcome", Text, nullable=False),  # done, unchanged, or the code of a problem
    CheckConstraint("char_length(outcome) BETWEEN 1 AND 200", name="outcome_length"),
    comment="Append-only. What came of it; an action without one was begun, and no more is known.",
)

event_batches = Table(
    "event_batches",
    metadata,
    # Drawn while the locks of its transfers and wallets are held: two batches of one wallet are in order.
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("transfers", ARRAY(BigInteger), nullable=False),  # in the order decided
    Column("position", BigInteger),  # the id of its first event, once it is numbered
    Column("created_at", _timestamp, nullable=False),
    # The rows as they were, for what is not final: failed, or pending again. What is final is in transfers.
    Column("snapshots", JSONB(none_as_null=True)),
    CheckConstraint("cardinality(transfers) > 0", name="not_empty"),
    CheckConstraint("position > 0", name="position_positive"),
    CheckConstraint("jsonb_array_length(snapshots) = cardinality(transfers)", name="snapshot_each"),
    comment="A row for each transaction that ended transfers or brought some back: which, in the order decided.",
    # Each row is written, numbered and, after weeks, deleted.
    postgresql_with={"autovacuum_vacuum_scale_factor": "0", "autovacuum_vacuum_threshold": "10000", **_ANALYZE},
)

# models/ledger/events.py: on from an event, and the oldest to forget.
Index(
    "event_batches_position",
    event_batches.c.position,
    unique=True,
    postgresql_where=event_batches.c.position.is_not(None),
)
# models/ledger/events.py: what is to be numbered.
Index("event_batches_unnumbered", event_batches.c.id, postgresql_where=event_batches.c.position.is_(None))

event_head = Table(
    "event_head",
    metadata,
    Column("is_only", Boolean, primary_key=True, server_default=text("true")),
    Column("last_event", BigInteger, nullable=False, server_default=text("0")),  # the id of the newest event
    Column("forgotten", BigInteger, nullable=False, server_default=text("0")),  # events up to this one are gone
    Column("newest_batch", BigInteger, nullable=False, server_default=text("0")),  # of those that are numbered
    # No batch up to this one is without a number, or will be; up to the mark, once all of its xid and before are over.
    Column("settled", BigInteger, nullable=False, server_default=text("0")),
    Column("mark", BigInteger, nullable=False, server_default=text("0")),
    Column("mark_xid", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("is_only", name="only_one"),
    CheckConstraint(
        "0 <= forgotten AND forgotten <= last_event AND 0 <= settled AND settled <= mark AND mark <= newest_batch",
        name="in_order",
    ),
    comment="How far events are numbered, and which are forgotten. One row.",
    # Room on the page keeps its updates heap-only.
    postgresql_with={"fillfactor": "50", **_SMALL},
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("url", Text, nullable=False),
    Column("types", ARRAY(Text), nullable=False),  # of events; or an asterisk
    Column("user_id", BigInteger),  # only events of this user's transfers
    # What deliveries are signed with. They cannot be kept as hashes.
    Column("secret", LargeBinary),
    Column("old_secret", LargeBinary),
    Column("old_secret_until", _timestamp),  # until then it signs along
    Column("upto", BigInteger, nullable=False),  # events up to this one have their deliveries
    Column("created_at", _timestamp, nullable=False, server_default=func.now()),
    Column("disabled_at", _timestamp),
    Column("why", Text),
    Column("failing_since", _timestamp),  # the first failure after the last success
    Column("failures", Integer, nullable=False, server_default=text("0")),  # likewise; it rests longer each time
    Column("quiet_until", _timestamp),  # so long its receiver wants to hear nothing
    Column("fresh_at", _timestamp),  # while it fails: when the next event is tried for the first time
    Column("deleted_at", _timestamp),  # gone for everybody, and with the last of its deliveries for good
    CheckConstraint("id > 0", name="id_positive"),
    CheckConstraint("char_length(url) BETWEEN 1 AND 2048", name="url_length"),
    CheckConstraint("cardinality(types) BETWEEN 1 AND 20", name="types_few"),
    CheckConstraint("upto >= 0 AND failures >= 0", name="counters_not_negative"),
    CheckConstraint("(disabled_at IS NULL) = (why IS NULL)", name="disabled_has_why"),
    CheckConstraint("(deleted_at IS NULL) = (secret IS NOT NULL)", name="deleted_has_no_secret"),
    CheckConstraint("length(secret) BETWEEN 24 AND 64", name="secret_length"),
    CheckConstraint("(old_secret IS NULL) = (old_secret_until IS NULL)", name="old_secret_ends"),
    comment="Where events are sent, and up to which one they have been planned.",
    postgresql_with=_SMALL,
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("webhook_id", BigInteger, primary_key=True, autoincrement=False),
    Column("event_id", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, Identity(always=True), nullable=False),  # the order in which they were planned
    Column("type", Text, nullable=False),
    Column("body", Text),  # of what is in no feed: a test
    Column("status", Text, nullable=False, server_default=text("'pending'")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),  # since it was planned, or replayed
    Column("claims", Integer, nullable=False, server_default=text("0")),  # whoever sends it may tell of it by this
    Column("log", JSONB, nullable=False, server_default=text("'[]'::jsonb")),  # the last attempts
    Column("created_at", _timestamp, nullable=False),  # when the event happened
    Column("next_attempt_at", _timestamp, nullable=False),
    Column("held_until", _timestamp),  # on the queue, or being sent; after that nobody has it
    Column("ended_at", _timestamp),
    CheckConstraint("status IN ('pending', 'delivered', 'failed')", name="status_known"),
    CheckConstraint("(status = 'pending') = (ended_at IS NULL)", name="final_has_ended_at"),
    CheckConstraint("status = 'pending' OR held_until IS NULL", name="final_is_not_held"),
    CheckConstraint("attempts >= 0 AND claims >= 0", name="counters_not_negative"),
    CheckConstraint("jsonb_typeof(log) = 'array'", name="log_is_array"),
    comment="An event on its way to one receiver, and how its attempts ended.",
    postgresql_with={"autovacuum_vacuum_scale_factor": "0", "autovacuum_vacuum_threshold": "10000", **_ANALYZE},
)

# models/webhooks/history.py: a page of the newest, by their status.
Index(
    "webhook_deliveries_by_status",
    webhook_deliveries.c.webhook_id,
    webhook_deliveries.c.status,
    webhook_deliveries.c.number,
)
# models/webhooks/fan_out.py: how many are planned ahead.
Index(
    "webhook_deliveries_fresh",
    webhook_deliveries.c.webhook_id,
    postgresql_where=text("status = 'pending' AND attempts = 0"),
)
# models/webhooks/deliveries.py: what is due, and held by nobody; what somebody holds; tests.
Index(
    "webhook_deliveries_due",
    webhook_deliveries.c.webhook_id,
    webhook_deliveries.c.next_attempt_at,
    postgresql_where=text("status = 'pending' AND held_until IS NULL"),
)
Index(
    "webhook_deliveries_held",
    webhook_deliveries.c.webhook_id,
    webhook_deliveries.c.held_until,
    postgresql_where=webhook_deliveries.c.held_until.is_not(None),
)
Index(
    "webhook_deliveries_tests",
    webhook_deliveries.c.webhook_id,
    postgresql_where=text("status = 'pending' AND body IS NOT NULL"),
)
# models/webhooks/tidying.py: what is old.
Index(
    "webhook_deliveries_ended",
    webhook_deliveries.c.ended_at,
    postgresql_where=webhook_deliveries.c.ended_at.is_not(None),
)

# The triggers that refuse what no privilege can tell from the business of the day, and their tables. They bind
# everybody but the tables' owner.
GUARDS: Mapping[str, str] = {
    # What is posted, rejected or canceled stays so; what failed is pending again only in its next generation.
    "transfers_final": "transfers",
    # What was given back only grows, of what was posted and is no reversal.
    "transfers_given_back": "transfers",
    # A version only grows, and a balance changes only with it.
    "wallets_versioned": "wallets",
    # What an audit came to stays as it is.
    "audits_finished": "audits",
    # What was frozen, and what administrators did, stays as it is written.
    "freezes_stay": "freezes",
    "actions_stay": "actions",
    "action_outcomes_stay": "action_outcomes",
    # An instant is given back only together with its node.
    "snowflake_nodes_reserved": "snowflake_nodes",
    # The version of an eviction only grows.
    "kept_evictions_versioned": "kept_evictions",
    # An event keeps its number, and stays for a day at least; numbers only grow.
    "event_batches_numbered": "event_batches",
    "event_batches_kept": "event_batches",
    "event_head_forward": "event_head",
}
