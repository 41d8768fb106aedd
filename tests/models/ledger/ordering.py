"""Orders as the tests of the ledger give them, and what they look at afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2.extensions
from sqlalchemy import Engine, text

from models.database.engine import create_bounded_engine
from models.ledger.transfer import Kind, Order

PATIENCE_S = 30.0


def deposit(user_id: int, amount_cents: int, *, key: str | None = None) -> Order:
    return Order(
        call="deposit/v1",
        kind=Kind.DEPOSIT,
        source=None,
        destination=user_id,
        amount_cents=amount_cents,
        idempotency_key=key,
    )


def withdrawal(user_id: int, amount_cents: int, *, key: str | None = None) -> Order:
    return Order(
        call="withdraw/v1",
        kind=Kind.WITHDRAWAL,
        source=user_id,
        destination=None,
        amount_cents=amount_cents,
        idempotency_key=key,
    )


def transfer(
    source: int, destination: int, amount_cents: int, *, key: str | None = None, call: str = "transfer/v1"
) -> Order:
    return Order(
        call=call,
        kind=Kind.TRANSFER,
        source=source,
        destination=destination,
        amount_cents=amount_cents,
        idempotency_key=key,
    )


def later(source: int, destination: int, amount_cents: int, *, key: str | None = None) -> Order:
    """A transfer as v2 orders it: to be accepted, and posted by a job."""
    return transfer(source, destination, amount_cents, key=key, call="transfer/v2")


def balances(engine: Engine) -> dict[int, int]:
    """The balance of every wallet there is."""
    with engine.connect() as connection:
        return {row.id: row.balance for row in connection.execute(text("SELECT id, balance FROM wallets"))}


def count_transfers(engine: Engine) -> int:
    with engine.connect() as connection:
        count: int = connection.execute(text("SELECT count(*) FROM transfers")).scalar_one()
        return count


def count_waiting(engine: Engine) -> int:
    """How many sessions of this database wait for a lock right now."""
    query = text("""
        SELECT count(*) FROM pg_locks WHERE NOT granted
        AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())
    """)
    # Anew each time: pg_stat_activity stands still within a transaction.
    with engine.connect() as connection:
        count: int = connection.execute(query).scalar_one()
        return count


@contextmanager
def bounded_engine(
    url: str, *, lock_ms: int = 2_000, statement_ms: int = 5_000, idle_ms: int = 10_000, pool_size: int = 5
) -> Iterator[Engine]:
    """An engine as the service makes it, with bounds of its own while it lasts.

    What psycopg2 waits by is process-wide and keeps the largest bound that it was given: put it back afterwards.
    """
    waiting = psycopg2.extensions.get_wait_callback()
    psycopg2.extensions.set_wait_callback(None)
    timeouts_ms = {
        "lock_timeout": lock_ms,
        "statement_timeout": statement_ms,
        "idle_in_transaction_session_timeout": idle_ms,
    }
    sqlalchemy_url = url.replace("postgresql://", "postgresql+psycopg2://")
    engine = create_bounded_engine(
        sqlalchemy_url, timeouts_ms=timeouts_ms, pool_size=pool_size, application_name="bounded"
    )
    try:
        yield engine
    finally:
        engine.dispose()
        psycopg2.extensions.set_wait_callback(waiting)
