"""Waits for connections and locks are counted where they happen."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from observe import metrics_files
from ops.local.processes import wait_for
from tests.models.ledger.ordering import bounded_engine
from tests.patience import PATIENCE_S
from tests.samples import Samples


def count(name: str) -> float:
    return Samples.of(metrics_files.exposition()).value(name)


def test_who_finds_no_connection_free_is_counted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.database.pool.TIMEOUT_S", PATIENCE_S)
    url = engine.url.render_as_string(hide_password=False)
    before = count("wallet_db_pool_waits_total")
    with bounded_engine(url, lock_ms=5_000, statement_ms=5_000) as own, ThreadPoolExecutor(1) as pool:
        held = [own.connect() for _ in range(own.pool.size())]  # type: ignore[attr-defined]
        assert count("wallet_db_pool_waits_total") == before
        waiter = pool.submit(lambda: own.connect().close())
        assert wait_for(lambda: count("wallet_db_pool_waits_total") == before + 1, PATIENCE_S)
        held.pop().close()
        waiter.result()
        for connection in held:
            connection.close()
    assert count("wallet_db_pool_waits_total") == before + 1


def test_a_statement_that_gives_up_on_a_lock_is_counted_and_no_other_fault(engine: Engine) -> None:
    url = engine.url.render_as_string(hide_password=False)
    before = count("wallet_db_lock_timeouts_total")
    with bounded_engine(url, lock_ms=50, statement_ms=5_000) as own, engine.connect() as holder:
        holder.execute(text("LOCK TABLE wallets"))
        with own.connect() as waiter, pytest.raises(DBAPIError):
            waiter.execute(text("LOCK TABLE wallets"))
        with own.connect() as other, pytest.raises(DBAPIError):
            other.execute(text("SELECT 1/0"))
        holder.rollback()
    assert count("wallet_db_lock_timeouts_total") == before + 1
