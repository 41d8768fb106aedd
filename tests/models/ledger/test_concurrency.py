"""Many processes move the same money at once: nothing is lost, nobody dead-locks, and the books balance."""

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self

import pytest
from sqlalchemy import Connection, Engine, insert, text
from sqlalchemy.exc import DBAPIError

from models.database.faults import sqlstate
from models.ledger.orders import Orders
from models.ledger.transfer import Status
from models.schema.tables import transfers
from ops.local.processes import wait_for
from tests.books import check_books
from tests.models.ledger.ordering import balances, bounded_engine, count_waiting, deposit, later, post_now, uncommitted
from tests.nursery import Forked
from tests.patience import PATIENCE_S
from tests.project import ROOT

PROCESSES = 6
STEPS = 75 if os.environ.get("CI") else 25  # of each thread
WALLETS = 4


class Storm:
    """One process that moves money at random as soon as it is told to."""

    def __init__(self, url: str, seed: int) -> None:
        task = {"url": url, "work": "storm", "arguments": {"seed": seed, "steps": STEPS, "wallets": WALLETS}}
        self._popen = Forked(
            [sys.executable, "-m", "tests.models.ledger.ledger_child", json.dumps(task)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.kill()
        self._popen.communicate()

    def wait_until_ready(self) -> None:
        assert self._popen.stdout is not None
        assert self._popen.stdout.readline() == "ready\n"

    def begin(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write("go\n")
        self._popen.stdin.flush()

    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    def result(self) -> dict[str, Any]:
        output, _ = self._popen.communicate(timeout=PATIENCE_S * 3)
        assert self._popen.returncode == 0
        result: dict[str, Any] = json.loads(output)
        return result


@pytest.fixture
def storms(engine: Engine) -> Iterator[list[Storm]]:
    url = engine.url.render_as_string(hide_password=False)
    with ExitStack() as stack:
        yield [stack.enter_context(Storm(url, seed)) for seed in range(PROCESSES)]


def test_nothing_is_lost_when_many_processes_move_the_same_money(
    engine: Engine, orders: Orders, storms: list[Storm]
) -> None:
    for user in range(1, WALLETS + 1):
        orders.execute(deposit(user, 1_000))
    for storm in storms:
        storm.wait_until_ready()
    for storm in storms:
        storm.begin()
    results = [storm.result() for storm in storms]

    check_books(engine)
    assert [fault for result in results for fault in result["faults"]] == []
    told = dict(outcome for result in results for outcome in result["outcomes"])
    with engine.connect() as connection:  # what nobody has posted yet
        left = list(connection.execute(text("SELECT id FROM transfers WHERE status = 'pending'")).scalars())
    post_now(engine, left)
    check_books(engine)

    with engine.connect() as connection:
        status = {row.id: row.status for row in connection.execute(text("SELECT id, status FROM transfers"))}
        payer_entries = "SELECT t.id, e.balance_after FROM transfers t JOIN entries e ON e.transfer_id = t.id AND"
        payer_entries += " e.wallet_id = coalesce(t.source, t.destination)"
        balance_told = {row.id: row.balance_after for row in connection.execute(text(payer_entries))}
    receipts = [receipt for result in results for receipt in result["receipts"]]
    accepted = [number for result in results for number in result["accepted"]]
    # Every order that was answered is there once, and what was refused left nothing.
    assert len(status) == WALLETS + len(receipts) + len(accepted)
    assert all((status[number], balance_told[number]) == ("posted", balance) for number, balance in receipts)
    assert {status[number] for number in accepted} <= {"posted", "rejected"}
    # No outcome that a batch told was another one later.
    assert all(status[number] == outcome for number, outcome in told.items())
    # And it was a storm: everything happened, with everybody in each other's way.
    assert receipts
    assert {"posted", "rejected"} <= set(told.values())
    assert len(told) > len(left)
    assert sum(result["refused"] for result in results) > 0
    assert all(result["groups_of_several"] > 0 for result in results)


def pending_both_ways(connection: Connection, first_id: int, count: int) -> list[int]:
    """Record transfers in both directions between all of the wallets."""
    rng = random.Random(first_id)
    rows: list[dict[str, Any]] = []
    for number in range(first_id, first_id + count):
        source, destination = rng.sample(range(1, WALLETS + 1), 2)
        rows.append({"id": number, "kind": "transfer", "source": source, "destination": destination, "amount": 1})
    connection.execute(insert(transfers), rows)
    return [row["id"] for row in rows]


def test_batches_that_overlap_never_deadlock(engine: Engine, orders: Orders) -> None:
    """A deadlock is raised in one of its two parties, and nothing here would try again."""
    for user in range(1, WALLETS + 1):
        orders.execute(deposit(user, 1_000))
    rounds, size = 40, 30
    start = threading.Barrier(2, timeout=PATIENCE_S)

    def post_shuffled(seed: int) -> list[str | None]:
        rng = random.Random(seed)
        faults = []
        for number in range(rounds):
            ids = list(range(1 + number * size, 1 + (number + 1) * size))
            rng.shuffle(ids)
            start.wait()
            try:
                post_now(engine, ids[: 2 * size // 3])  # either half of what the other one posts as well
            except DBAPIError as error:
                faults.append(sqlstate(error))
        return faults

    with engine.begin() as connection:
        pending_both_ways(connection, 1, rounds * size)
    before = deadlocks(engine)
    with ThreadPoolExecutor(2) as pool:
        faults = list(pool.map(post_shuffled, (1, 2)))

    assert faults == [[], []]
    assert deadlocks(engine) == before
    check_books(engine)


def test_wallets_are_locked_in_the_order_of_their_ids(engine: Engine, orders: Orders) -> None:
    """Who waits for a wallet holds none with a higher id, whichever of them pays."""
    for user in (1, 2, 3):
        orders.execute(deposit(user, 10))
    number = orders.accept(later(3, 2, 1)).transfer_id
    other = orders.accept(later(2, 1, 1)).transfer_id
    with engine.connect() as holder, engine.connect() as probe, ThreadPoolExecutor(1) as pool:
        holder.execute(text("SELECT FROM wallets WHERE id = 2 FOR NO KEY UPDATE"))
        posting = pool.submit(post_now, engine, [number, other])
        try:
            assert wait_for(lambda: count_waiting(engine) == 1, PATIENCE_S)
            free = text("SELECT id FROM wallets ORDER BY id FOR NO KEY UPDATE SKIP LOCKED")
            assert list(probe.execute(free).scalars()) == [3]  # 1 is the batch's, 2 the holder's
        finally:
            probe.rollback()
            holder.rollback()
        posting.result(PATIENCE_S)
    assert balances(engine) == {1: 11, 2: 10, 3: 9}


def test_transfers_are_locked_in_the_order_of_their_ids_and_before_any_wallet(engine: Engine, orders: Orders) -> None:
    for user in (1, 2):
        orders.execute(deposit(user, 10))
    numbers = [orders.accept(later(1, 2, 1)).transfer_id for _ in range(3)]
    with engine.connect() as holder, engine.connect() as probe, ThreadPoolExecutor(1) as pool:
        holder.execute(text("SELECT FROM transfers WHERE id = :id FOR NO KEY UPDATE"), {"id": numbers[1]})
        posting = pool.submit(post_now, engine, numbers[::-1])
        try:
            assert wait_for(lambda: count_waiting(engine) == 1, PATIENCE_S)
            free = text("SELECT id FROM transfers WHERE status = 'pending' ORDER BY id FOR NO KEY UPDATE SKIP LOCKED")
            assert list(probe.execute(free).scalars()) == [numbers[2]]
            free = text("SELECT id FROM wallets ORDER BY id FOR NO KEY UPDATE SKIP LOCKED")
            assert list(probe.execute(free).scalars()) == [1, 2]
        finally:
            probe.rollback()
            holder.rollback()
        posting.result(PATIENCE_S)
    assert balances(engine) == {1: 7, 2: 13}


def test_a_transfer_that_two_batches_post_at_once_moves_once_and_both_are_told(engine: Engine, orders: Orders) -> None:
    for user in (1, 2):
        orders.execute(deposit(user, 10))
    number = orders.accept(later(1, 2, 7)).transfer_id
    with ThreadPoolExecutor(1) as pool:
        with uncommitted(engine, [number]) as first:
            second = pool.submit(post_now, engine, [number])
            assert wait_for(lambda: count_waiting(engine) == 1, PATIENCE_S)
        assert first.result().outcomes == second.result(PATIENCE_S).outcomes == {number: (Status.POSTED, None)}

    assert balances(engine) == {1: 3, 2: 17}
    check_books(engine)


def test_two_who_open_one_wallet_at_once_both_deposit(engine: Engine, orders: Orders) -> None:
    with engine.begin() as connection:
        rows = [{"id": number, "kind": "deposit", "source": None, "destination": 5, "amount": 10} for number in (1, 2)]
        connection.execute(insert(transfers), rows)
    with ThreadPoolExecutor(2) as pool:
        with uncommitted(engine, [1]):
            by_batch = pool.submit(post_now, engine, [2])
            by_order = pool.submit(orders.execute, deposit(5, 100))
            assert wait_for(lambda: count_waiting(engine) == 2, PATIENCE_S)
        by_batch.result(PATIENCE_S)
        by_order.result(PATIENCE_S)

    assert balances(engine) == {5: 120}
    check_books(engine)


def test_an_insert_that_refers_to_a_wallet_is_not_in_the_way_of_posting(engine: Engine, orders: Orders) -> None:
    """The lock that a foreign key's insert takes: against FOR UPDATE it dead-locked 228 of 240 transfers."""
    for user in (1, 2):
        orders.execute(deposit(user, 10))
    number = orders.accept(later(1, 2, 7)).transfer_id
    with engine.connect() as referrer, bounded_engine(own_url(engine), lock_ms=2_000) as impatient:
        referrer.execute(text("SELECT FROM wallets FOR KEY SHARE"))
        post_now(impatient, [number])
        referrer.rollback()
    assert balances(engine) == {1: 3, 2: 17}


def test_a_batch_that_does_not_wait_leaves_out_what_is_locked_and_posts_the_rest(
    engine: Engine, orders: Orders
) -> None:
    for user in (1, 2, 3, 4):
        orders.execute(deposit(user, 10))
    numbers = [orders.accept(later(*parties, 1)).transfer_id for parties in ((1, 2), (3, 4), (4, 1), (2, 3))]
    with engine.connect() as holder:
        holder.execute(text("SELECT FROM wallets WHERE id = 2 FOR NO KEY UPDATE"))
        holder.execute(text("SELECT FROM transfers WHERE id = :id FOR NO KEY UPDATE"), {"id": numbers[2]})
        with bounded_engine(own_url(engine), lock_ms=1) as impatient:
            told = post_now(impatient, numbers, wait_for_locks=False).outcomes
        holder.rollback()

    pending, posted = (Status.PENDING, None), (Status.POSTED, None)
    # The first pays to the locked wallet and the last from it, the third is locked itself.
    assert told == {numbers[0]: pending, numbers[1]: posted, numbers[2]: pending, numbers[3]: pending}
    assert balances(engine) == {1: 10, 2: 10, 3: 9, 4: 11}
    check_books(engine)

    told = post_now(engine, numbers).outcomes
    assert {outcome.status for outcome in told.values()} == {Status.POSTED}
    assert balances(engine) == {1: 10, 2: 10, 3: 10, 4: 10}  # each has paid 1 and was paid 1
    check_books(engine)


def test_a_batch_that_does_not_wait_still_rejects_who_has_no_wallet(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 10))
    with engine.begin() as connection:
        row = {"id": 5, "kind": "transfer", "source": 1, "destination": 9, "amount": 1}
        connection.execute(insert(transfers), [row])
    assert post_now(engine, [5], wait_for_locks=False).outcomes == {5: (Status.REJECTED, "wallet_not_found")}


def own_url(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def deadlocks(engine: Engine) -> int:
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    with engine.connect() as connection:
        query = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        count: int = connection.execute(query).scalar_one()
        return count
