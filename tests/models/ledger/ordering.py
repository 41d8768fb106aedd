"""Orders as the tests of the ledger give them, and what they look at afterwards."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from threading import Event
from typing import Any

import psycopg2.extensions
from sqlalchemy import Engine, text

from models.database.engine import create_bounded_engine
from models.database.session import Session, Statement
from models.ledger.posting import COMMIT, Posting, post
from models.ledger.transfer import REST_CENTS, Kind, Order
from tests.patience import PATIENCE_S


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


def later(
    source: int, destination: int, amount_cents: int, *, key: str | None = None, not_before: datetime | None = None
) -> Order:
    """A transfer as v2 orders it: to be accepted, and posted by a job, not before an instant if there is one."""
    return replace(transfer(source, destination, amount_cents, key=key, call="transfer/v2"), not_before=not_before)


def come(engine: Engine, *transfer_ids: int, seconds: float = 0.0) -> None:
    """Let the instant come that transfers are planned for; or be some seconds away."""
    moved = (
        "UPDATE transfers SET not_before = now() + :s * interval '1 s', next_attempt_at = now() + :s * interval '1 s'"
        " WHERE id = ANY (:ids)"
    )
    with engine.begin() as connection:
        connection.execute(text(moved), {"ids": list(transfer_ids), "s": seconds})


def reversal(
    source: int | None,
    destination: int | None,
    original: int,
    amount_cents: int = REST_CENTS,
    *,
    key: str | None = None,
) -> Order:
    """What gives an original back to ``destination``, all that is left of it or a part."""
    kind = Kind.DEPOSIT if source is None else Kind.WITHDRAWAL if destination is None else Kind.TRANSFER
    return Order(
        call="transfers/reverse/v1",
        kind=kind,
        source=source,
        destination=destination,
        amount_cents=amount_cents,
        idempotency_key=key,
        reverses=original,
    )


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


def post_now(engine: Engine, transfer_ids: Sequence[int], **how: Any) -> Posting:
    """Post a batch of recorded transfers."""
    with Session(engine) as session:
        return post(session, transfer_ids, **how)


class _HeldSession(Session):
    """Sends its COMMIT by itself, and not before it is told to."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.has_written, self.may_commit = Event(), Event()

    def run(self, statement: Statement, *parameters: object, then: str = "") -> None:
        super().run(statement, *parameters)
        if then == COMMIT:
            self.has_written.set()
            assert self.may_commit.wait(PATIENCE_S)
            self.commit()


@contextmanager
def uncommitted(engine: Engine, transfer_ids: Sequence[int]) -> Iterator[Future[Posting]]:
    """Post a batch, all but its COMMIT; that comes at the end."""
    held = _HeldSession(engine)

    def post_slowly() -> Posting:
        with held as session:
            return post(session, transfer_ids)

    with ThreadPoolExecutor(1) as pool:
        posting = pool.submit(post_slowly)
        try:
            assert held.has_written.wait(PATIENCE_S)
            yield posting
        finally:
            held.may_commit.set()
        posting.result(PATIENCE_S)


@contextmanager
def row_lock(engine: Engine, *wallet_ids: int) -> Iterator[None]:
    """Somebody holds wallets for as long as this lasts."""
    with engine.connect() as holder:
        query = text("SELECT FROM wallets WHERE id = ANY (:ids) ORDER BY id FOR UPDATE")
        holder.execute(query, {"ids": list(wallet_ids)})
        try:
            yield
        finally:
            holder.rollback()


@contextmanager
def bounded_engine(
    url: str, *, lock_ms: int = 2_000, statement_ms: int = 30_000, idle_ms: int = 30_000, pool_size: int = 5
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


# What goes over the wire, for a proxy to lose


def is_look(data: bytes) -> bool:
    """What comes before the commit of an order that is posted."""
    return b"EXECUTE look_and_lock" in data


def is_acceptance(data: bytes) -> bool:
    return b"EXECUTE record_orders" in data


def never_arrives(
    request: Callable[[bytes], bool], *, and_then: Callable[[], object] = bool
) -> Callable[[bytes], bool]:
    """Cut the connection before the first such request reaches the server; every other one passes."""
    left = [request]

    def cut(data: bytes) -> bool:
        if left and left[0](data):
            left.clear()
            and_then()
            raise ConnectionResetError
        return False

    return cut
