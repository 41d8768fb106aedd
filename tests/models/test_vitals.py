"""What PostgreSQL tells at a glance is what there is."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, func, insert, text, update

from models import vitals
from models.database.engine import create_bounded_engine
from models.ledger import events
from models.ledger.attempts import BEGINNING
from models.schema.tables import snowflake_nodes, transfers
from models.snowflake.ids import Snowflake
from models.snowflake.leases import LEASE_S, NodeLease
from models.vitals import Backlog, EventBacklog
from ops.local.processes import wait_for
from tests.models.ledger.ordering import come
from tests.patience import PATIENCE_S


@pytest.fixture
def idle_nodes(engine: Engine) -> Engine:
    """A database in which nobody holds a node."""
    with engine.begin() as connection:
        connection.execute(update(snowflake_nodes).values(holder=None, expires_at=text("'-infinity'")))
    return engine


def record(connection: Connection, first_id: int, count: int, *, status: str, age_s: float = 0) -> None:
    """Record transfers that stand like this."""
    final = {} if status == "pending" else {"completed_at": func.now()}
    reason = {"reason": "attempts_exhausted"} if status == "failed" else {}
    for transfer_id in range(first_id, first_id + count):
        connection.execute(
            insert(transfers).values(
                id=transfer_id,
                kind="transfer",
                source=1,
                destination=2,
                amount=1,
                status=status,
                created_at=func.now() - timedelta(seconds=age_s),
                **final,
                **reason,
            )
        )


def test_an_empty_database_has_no_backlog(engine: Engine) -> None:
    assert vitals.find_backlog(engine) == Backlog(pending=0, oldest_pending_s=0.0, dead_letters=0)


def test_the_backlog_is_counted_and_the_oldest_has_its_age(engine: Engine) -> None:
    with engine.begin() as connection:
        record(connection, 10, 3, status="pending", age_s=60)
        record(connection, 5, 1, status="pending", age_s=600)
        record(connection, 20, 2, status="failed", age_s=6_000)
    found = vitals.find_backlog(engine)
    assert (found.pending, found.dead_letters) == (4, 2)
    assert 600 <= found.oldest_pending_s < 660


def test_what_is_planned_is_no_backlog_before_its_instant_and_as_old_as_that_afterwards(engine: Engine) -> None:
    with engine.begin() as connection:
        record(connection, 10, 3, status="pending", age_s=6_000)
        record(connection, 20, 1, status="pending", age_s=60)
    come(engine, 10, 11, seconds=3_600)
    come(engine, 12, seconds=-120)
    found = vitals.find_backlog(engine)
    assert (found.pending, found.planned) == (2, 2)
    assert 120 <= found.oldest_pending_s < 180


def test_a_row_of_the_future_is_of_no_age(engine: Engine) -> None:
    with engine.begin() as connection:
        record(connection, 10, 1, status="pending", age_s=-3_600)
    assert vitals.find_backlog(engine).oldest_pending_s == 0.0


def test_events_are_counted_until_they_have_numbers(engine: Engine) -> None:
    assert vitals.find_event_backlog(engine) == EventBacklog(events=0, oldest_s=0.0)
    with engine.begin() as connection:
        happened = text(
            "INSERT INTO event_batches (transfers, created_at) VALUES (:ids, now() - :age * interval '1 s')"
        )
        connection.execute(happened, [{"ids": [1, 2, 3], "age": 60}, {"ids": [4], "age": 600}])
    found = vitals.find_event_backlog(engine)
    assert found.events == 4
    assert 600 <= found.oldest_s < 660
    assert events.number(engine, most=1) == 1
    assert vitals.find_event_backlog(engine).events == 1
    assert events.number(engine, most=1) == 1
    assert vitals.find_event_backlog(engine) == EventBacklog(events=0, oldest_s=0.0)


def test_counting_looks_at_partial_indexes_and_stops_at_its_bound(engine: Engine, connection: Connection) -> None:
    del engine
    connection.execute(text("SET LOCAL enable_seqscan = off"))
    asked = {"most": 100, "due": BEGINNING.due, "id": BEGINNING.id}
    plan = "\n".join(row[0] for row in connection.execute(text(f"EXPLAIN {vitals._BACKLOG.text}"), asked))
    assert "transfers_due" in plan
    assert "transfers_failed" in plan
    assert plan.count("Limit") == 2


def test_our_sessions_are_counted_by_kind_and_state(engine: Engine) -> None:
    own = create_bounded_engine(
        engine.url.render_as_string(hide_password=False),
        timeouts_ms={"lock_timeout": 5_000, "statement_timeout": 5_000, "idle_in_transaction_session_timeout": 20_000},
        pool_size=4,
        application_name="wallet-testkind",
    )
    connections = [own.connect() for _ in range(3)]
    for connection in connections:
        connection.execute(text("SELECT 1"))  # begins a transaction
    connections.pop().close()
    found = vitals.find_sessions(engine)
    assert found.connections["testkind", "in_use"] == 2
    assert found.connections["testkind", "idle"] == 1
    assert all(service != "tests" for service, _ in found.connections)
    for connection in connections:
        connection.close()
    own.dispose()


def test_who_waits_for_a_lock_is_counted(engine: Engine) -> None:
    told = threading.Event()

    def wait() -> None:
        with engine.begin() as connection:
            told.set()
            connection.execute(text("LOCK TABLE wallets"))

    assert vitals.find_sessions(engine).lock_waits == 0
    with engine.connect() as holder, ThreadPoolExecutor(1) as pool:
        holder.execute(text("LOCK TABLE wallets"))
        waiter = pool.submit(wait)
        told.wait()
        assert wait_for(lambda: vitals.find_sessions(engine).lock_waits == 1, PATIENCE_S)
        holder.rollback()
        waiter.result()


def test_the_leases_that_run_are_counted_and_those_that_ran_out_are_not(idle_nodes: Engine) -> None:
    assert vitals.find_leases(idle_nodes) == (0, None)
    generators = [Snowflake(NodeLease(idle_nodes, lease_s=lease_s)) for lease_s in (LEASE_S, 10 * LEASE_S)]
    for generator in generators:
        generator.next_id()
    with idle_nodes.begin() as connection:
        ran_out = {"holder": uuid.uuid4(), "expires_at": func.now() - timedelta(seconds=1)}
        connection.execute(update(snowflake_nodes).where(snowflake_nodes.c.node == 1_000).values(**ran_out))
    found = vitals.find_leases(idle_nodes)
    assert found.held == 2
    assert found.first_ends_in_s is not None
    assert 0 < found.first_ends_in_s <= LEASE_S
    for generator in generators:
        generator.release()
    assert vitals.find_leases(idle_nodes).held == 0
