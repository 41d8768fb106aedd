"""What was answered as final never reverts by the service's role, whatever it has been made to say."""

from collections.abc import Iterator

import psycopg2.errors
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

from models.audit import record
from models.audit.audit import Finding, Progress
from models.ledger import attempts, cancellation, events
from models.ledger.attempts import Seen
from models.ledger.orders import Orders
from models.ledger.transfer import Status
from models.schema import grants
from models.schema.tables import GUARDS
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from ops.local.roles import SERVICE
from tests.books import check_books
from tests.models.actions.acts import act
from tests.models.audit.auditing import begun
from tests.models.ledger.ordering import bounded_engine, deposit, later, post_now, reversal, transfer

FOUND = Finding(invariant="running_balance", count=1, ids=["1-2"], detail="why")
AGAIN = "status = 'pending', reason = NULL, source_seq = NULL, destination_seq = NULL, completed_at = NULL"

# Triggers that guard nothing: they delete what is old.
FORGETTING = {"audits_forgotten": "audits", "actions_forgotten": "actions"}
# And these: they write down what transfers are found by.
KEEPING = {"transfers_reference_noted": "transfers", "transfers_reference_forgotten": "transfers"}
# What the service may not change in any way, and could not if it had the privilege.
FOR_GOOD = ("actions", "action_outcomes", "freezes")

REFUSED = [
    # Posted: the relay would find it, and move the money once more.
    ("UPDATE transfers SET AGAIN WHERE status = 'posted'", "transfers_final"),
    ("UPDATE transfers SET AGAIN, generation = generation + 1 WHERE status = 'posted'", "transfers_final"),
    (
        """UPDATE transfers SET status = 'failed', reason = 'x', source_seq = NULL, destination_seq = NULL
           WHERE status = 'posted'""",
        "transfers_final",
    ),
    ("UPDATE transfers SET destination_seq = 7 WHERE status = 'posted'", "transfers_final"),
    ("UPDATE transfers SET completed_at = completed_at - interval '1 day' WHERE status = 'posted'", "transfers_final"),
    ("UPDATE transfers SET attempts = 0 WHERE status = 'posted'", "transfers_final"),
    # Given back: what was counted could be given back once more.
    ("UPDATE transfers SET reversed_amount = NULL WHERE reversed_amount > 0", "transfers_given_back"),
    ("UPDATE transfers SET reversed_amount = reversed_amount - 1 WHERE reversed_amount > 0", "transfers_given_back"),
    ("UPDATE transfers SET reversed_amount = 1 WHERE reverses IS NOT NULL", "transfers_given_back"),
    ("UPDATE transfers SET reversed_amount = 1 WHERE status = 'pending'", "transfers_given_back"),
    ("UPDATE transfers SET reversed_amount = reversed_amount + 1 WHERE reversed_amount > 0", None),
    # Rejected, and failed.
    ("UPDATE transfers SET AGAIN WHERE status = 'rejected'", "transfers_final"),
    ("UPDATE transfers SET reason = 'wallet_not_found' WHERE status = 'rejected'", "transfers_final"),
    ("UPDATE transfers SET AGAIN WHERE status = 'failed'", "transfers_final"),
    ("UPDATE transfers SET AGAIN, generation = generation + 2 WHERE status = 'failed'", "transfers_final"),
    (
        """UPDATE transfers SET status = 'posted', reason = NULL, source_seq = 9, destination_seq = 9
           WHERE status = 'failed'""",
        "transfers_final",
    ),
    # Canceled.
    ("UPDATE transfers SET AGAIN WHERE status = 'canceled'", "transfers_final"),
    ("UPDATE transfers SET AGAIN, generation = generation + 1 WHERE status = 'canceled'", "transfers_final"),
    (
        "UPDATE transfers SET status = 'posted', source_seq = 9, destination_seq = 9 WHERE status = 'canceled'",
        "transfers_final",
    ),
    # Another life that nobody gave it: a worker that comes late could fail it.
    ("UPDATE transfers SET generation = generation + 1 WHERE status = 'pending'", "transfers_final"),
    ("UPDATE transfers SET generation = 1, status = 'failed' WHERE status = 'failed'", None),  # changes nothing
    ("UPDATE wallets SET balance = balance + 1 WHERE id = 1", "wallets_versioned"),
    ("UPDATE wallets SET balance = 0, version = version - 1 WHERE id = 1", "wallets_versioned"),
    ("UPDATE audits SET findings = '[]', ok = true WHERE NOT ok", "audits_finished"),
    ("UPDATE audits SET finished_at = NULL, ok = NULL, cursor = '{}' WHERE NOT ok", "audits_finished"),
    ("UPDATE snowflake_nodes SET reserved_until_ms = 0 WHERE reserved_until_ms > 0", "snowflake_nodes_reserved"),
    ("UPDATE kept_evictions SET version = 0", "kept_evictions_versioned"),
    # A reader would see an event twice, or never.
    ("UPDATE event_batches SET position = position + 1000 WHERE position IS NOT NULL", "event_batches_numbered"),
    ("UPDATE event_batches SET position = NULL WHERE position IS NOT NULL", "event_batches_numbered"),
    ("DELETE FROM event_batches WHERE position IS NULL", "event_batches_kept"),
    ("DELETE FROM event_batches WHERE position IS NOT NULL", "event_batches_kept"),
    ("UPDATE actions SET who = 'somebody else'", "actions_stay"),
    ("DELETE FROM actions", "actions_stay"),
    ("UPDATE action_outcomes SET outcome = 'unchanged'", "action_outcomes_stay"),
    ("DELETE FROM action_outcomes", "action_outcomes_stay"),
    ("UPDATE freezes SET reason = 'another'", "freezes_stay"),
    ("DELETE FROM freezes", "freezes_stay"),
    ("UPDATE event_head SET last_event = last_event - 1", "event_head_forward"),
    ("UPDATE event_head SET forgotten = forgotten - 1", "event_head_forward"),
    ("UPDATE event_head SET settled = settled - 1, last_event = last_event + 1", "event_head_forward"),
]


@pytest.fixture
def service(service_database_url: str, engine: Engine) -> Iterator[Engine]:
    """The service's way to books with one transfer of each status, an audit that found something, and an eviction."""
    with bounded_engine(service_database_url) as service:
        snowflake = Snowflake(NodeLease(service))
        orders = Orders(service, snowflake)
        orders.execute(deposit(1, 100))
        orders.execute(deposit(2, 1))
        paid = orders.execute(transfer(1, 2, 10)).transfer_id
        rejected, failed, pending, canceled = (
            orders.accept(later(1, 2, cents)).transfer_id for cents in (90, 80, 70, 60)
        )
        orders.execute(transfer(1, 2, 3))
        orders.execute(reversal(2, 1, paid, 2))
        # Some are numbered, and somebody else has forgotten some.
        for _ in range(3):
            events.number(service, most=1)
        with engine.begin() as connection:
            aged = "UPDATE event_batches SET created_at = now() - interval '2 days' WHERE position = 1"
            connection.execute(text(aged))
            connection.execute(text("UPDATE event_head SET mark = newest_batch, settled = newest_batch"))
        assert events.forget(service, older_than_days=1, limit=1) == 1
        post_now(service, [rejected])
        assert cancellation.cancel(service, canceled)
        with service.begin() as connection:
            attempts.spend(connection, {failed: Seen(0, 1)}, {failed: None}, error="e")
            connection.execute(text("INSERT INTO kept_evictions VALUES (1, 3)"))
            frozen = "INSERT INTO freezes (wallet_id, debits, credits, reason, by) VALUES (1, false, false, 'a', 'b')"
            connection.execute(text(frozen))
        act(service)
        record.record(service, begun(findings={"running_balance": FOUND}))
        outcomes = attempts.find_outcomes(service, [rejected, failed, pending, canceled])
        assert [outcomes[each].status for each in (rejected, failed, pending, canceled)] == [
            Status.REJECTED,
            Status.FAILED,
            Status.PENDING,
            Status.CANCELED,
        ]
        yield service
        snowflake.release()


@pytest.fixture
def too_much(engine: Engine, service: Engine) -> Iterator[None]:
    """Somebody has granted the service more than it should have."""
    del service  # asked for to be there
    with engine.begin() as connection:
        for table in FOR_GOOD:
            connection.execute(text(f"GRANT UPDATE, DELETE ON {table} TO {SERVICE}"))
    yield
    grants.give(engine, SERVICE)


@pytest.mark.usefixtures("too_much")
@pytest.mark.parametrize(("statement", "guard"), REFUSED)
def test_the_service_may_not(service: Engine, statement: str, guard: str | None) -> None:
    with service.connect() as connection:
        if guard is None:
            assert connection.execute(text(statement.replace("AGAIN", AGAIN))).rowcount
            return
        with pytest.raises(ProgrammingError) as refused:
            connection.execute(text(statement.replace("AGAIN", AGAIN)))
    error = refused.value.orig
    assert isinstance(error, psycopg2.errors.InsufficientPrivilege)
    assert (error.diag.constraint_name, error.diag.table_name) == (guard, GUARDS[guard])
    check_books(service)


def test_every_guard_has_been_tried() -> None:
    assert {guard for _, guard in REFUSED} - {None} == GUARDS.keys()


def test_all_there_are_are_known(service: Engine) -> None:
    query = text("SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal")
    with service.connect() as connection:
        assert dict(map(tuple, connection.execute(query))) == {**GUARDS, **FORGETTING, **KEEPING}


@pytest.mark.parametrize("statement", ["DELETE FROM audits", "TRUNCATE audits", "UPDATE audits SET started_at = now()"])
def test_the_service_may_not_touch_the_record_of_audits(service: Engine, statement: str) -> None:
    with service.connect() as connection, pytest.raises(ProgrammingError) as refused:
        connection.execute(text(statement))
    assert isinstance(refused.value.orig, psycopg2.errors.InsufficientPrivilege)


def test_the_service_audits_all_the_same_and_the_oldest_are_forgotten(service: Engine) -> None:
    for _ in range(record.KEPT + 1):
        progress = record.begin_or_resume(service, first_check="books", interval_s=0)
        assert isinstance(progress, Progress)
        assert record.save(service, progress)
        assert record.finish(service, progress)
    with service.connect() as connection:
        kept = connection.execute(text("SELECT ok, count(*) FROM audits GROUP BY ok")).all()
    assert dict(map(tuple, kept)) == {True: record.KEPT, False: 1}


def test_what_the_service_does_with_nodes_and_evictions_it_still_may(service: Engine) -> None:
    with service.begin() as connection:
        connection.execute(text("SELECT FROM kept_evictions FOR UPDATE"))
        connection.execute(text("UPDATE kept_evictions SET version = version + 1"))
        connection.execute(text("DELETE FROM kept_evictions"))
    lease = Snowflake(NodeLease(service))
    lease.next_id()
    lease.release()


def test_the_owner_may_mend_books_by_hand_and_take_old_rows_away(service: Engine, engine: Engine) -> None:
    del service
    with engine.begin() as connection:
        connection.execute(text("UPDATE transfers SET AGAIN".replace("AGAIN", AGAIN)))
        connection.execute(text("UPDATE wallets SET balance = balance + 1"))
        connection.execute(text("DELETE FROM transfers WHERE status = 'rejected'"))
        connection.execute(text("DELETE FROM audits"))
        connection.rollback()
    # As long as it is the owner who does it.
    with engine.connect() as connection:
        connection.execute(text(f"SET LOCAL ROLE {SERVICE}"))
        with pytest.raises(ProgrammingError, match="transfers: what is final stays so"):
            connection.execute(text("UPDATE transfers SET AGAIN".replace("AGAIN", AGAIN)))
