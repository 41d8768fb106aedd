"""Posting, against a naive model of it, in any order that hypothesis can think of, on a real PostgreSQL."""

import json
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, Engine, insert, select, text

from models.cache.wallet_cache import NobodyCaches
from models.database.session import Session
from models.errors import Refused
from models.ledger import cancellation
from models.ledger.bulks import BulkItem, BulkOrder, Bulks
from models.ledger.freezes import Change, Freezes
from models.ledger.orders import Orders
from models.ledger.posting import Outcome, Posting, open_wallets, post_bulk
from models.ledger.settlement import Wallet
from models.ledger.transfer import REST_CENTS, Order, Status
from models.schema.tables import entries, transfers, wallets
from models.snowflake.ids import Snowflake
from tests import nursery
from tests.books import check_books
from tests.models.ledger.ordering import (
    balances,
    come,
    count_transfers,
    deposit,
    later,
    post_now,
    reversal,
    transfer,
    uncommitted,
    withdrawal,
)
from tests.patience import PATIENCE_S
from tests.project import ROOT

LEDGER = (wallets, transfers, entries)
MAX = 2**63 - 1

users = st.integers(1, 4)
amounts = st.one_of(st.integers(1, 100), st.sampled_from([MAX, MAX - 50]))
# Positions among the transfers recorded so far, those that are final included; repeated at will.
choices = st.lists(st.integers(0, 30), max_size=8)


@dataclass
class Model:
    """The ledger as a child would keep it: a purse for everybody and a list of what happened to it."""

    purses: dict[int, int] = field(default_factory=dict)
    pages: dict[int, list[tuple[int, int | None, int, int]]] = field(default_factory=dict)
    orders: dict[int, tuple[int | None, int | None, int]] = field(default_factory=dict)
    fates: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    reversals: set[int] = field(default_factory=set)
    given_back: dict[int, int] = field(default_factory=dict)
    atomic: dict[int, list[int]] = field(default_factory=dict)
    frozen: dict[int, tuple[bool, bool]] = field(default_factory=dict)
    planned: set[int] = field(default_factory=set)

    def record(self, number: int, payer: int | None, payee: int | None, amount: int) -> None:
        self.orders[number] = (payer, payee, amount)
        self.fates[number] = ("pending", None)

    def open(self, user: int) -> None:
        self.purses.setdefault(user, 0)
        self.pages.setdefault(user, [])

    def is_frozen(self, payer: int | None, payee: int | None) -> bool:
        return self.frozen.get(payer or 0, (False, False))[0] or self.frozen.get(payee or 0, (False, False))[1]

    def objection(
        self, payer: int | None, payee: int | None, amount: int, *, passes_freezes: bool = False
    ) -> str | None:
        if any(who is not None and who not in self.purses for who in (payer, payee)):
            return "wallet_not_found"
        if self.is_frozen(payer, payee) and not passes_freezes:
            return "wallet_frozen"
        if payer is not None and self.purses[payer] - amount < 0:
            return "balance_insufficient"
        if payee is not None and self.purses[payee] + amount > MAX:
            return "balance_overflow"
        return None

    def move(self, number: int) -> None:
        payer, payee, amount = self.orders[number]
        for who, other, change in ((payer, payee, -amount), (payee, payer, amount)):
            if who is not None:
                self.purses[who] += change
                self.pages[who].append((number, other, change, self.purses[who]))
        self.fates[number] = ("posted", None)

    def post(self, numbers: list[int]) -> dict[int, tuple[str, str | None]]:
        known = sorted({number for number in numbers if number in self.orders})
        apart = {number for members in self.atomic.values() for number in members} | self.planned
        waiting = [number for number in known if self.fates[number][0] == "pending" and number not in apart]
        for number in waiting:
            payer, payee, _ = self.orders[number]
            if payer is None and payee is not None:
                self.open(payee)
        for number in waiting:
            objection = self.objection(*self.orders[number])
            if objection is None:
                self.move(number)
            else:
                self.fates[number] = ("rejected", objection)
        return {number: self.fates[number] for number in known}

    def post_bulk(self, bulk: int) -> None:
        """All of it or nothing: what is refused first undoes what was before it."""
        members = self.atomic[bulk]
        if self.fates[members[0]][0] != "pending":
            return
        before = deepcopy((self.purses, self.pages))
        for number in members:
            objection = self.objection(*self.orders[number])
            if objection is not None:
                self.purses, self.pages = before
                self.fates |= dict.fromkeys(members, ("rejected", "bulk_rejected")) | {number: ("rejected", objection)}
                return
            self.move(number)

    def reverse(self, number: int, amount: int | None, *, passes_freezes: bool) -> tuple[str | None, int]:
        """Return the objection to a reversal, and how much it would give back."""
        payer, payee, whole = self.orders[number]
        left = whole - self.given_back.get(number, 0)
        back = left if amount is None else amount
        if self.fates[number][0] != "posted" or number in self.reversals:
            return "not_reversible", 0
        if back > left or back < 1:
            return "reversal_exceeds", 0
        return self.objection(payee, payer, back, passes_freezes=passes_freezes), back

    def cancel(self, number: int) -> bool:
        is_apart = any(number in members for members in self.atomic.values())
        if self.fates[number][0] != "pending" or is_apart:
            return False
        self.fates[number] = ("canceled", None)
        return True

    def execute(self, payer: int | None, payee: int | None, amount: int) -> str | None:
        """Return the objection; without one the caller says under which number it was posted."""
        if payer == payee:
            return "self_transfer_invalid" if payer in self.purses else "wallet_not_found"
        if payer is None and payee is not None:
            self.open(payee)
        return self.objection(payer, payee, amount)

    def accept(self, payer: int, payee: int, amount: int) -> str | None:
        if payer == payee:
            return "self_transfer_invalid" if payer in self.purses else "wallet_not_found"
        if payer not in self.purses or payee not in self.purses:
            return "wallet_not_found"
        if self.is_frozen(payer, payee):
            return "wallet_frozen"
        return "balance_insufficient" if self.purses[payer] < amount else None


class LedgerMachine(RuleBasedStateMachine):
    """Gives the same to the ledger and to the model."""

    def __init__(self, engine: Engine, ids: Snowflake) -> None:
        super().__init__()
        self.engine = engine
        self.ids = ids
        self.orders = Orders(engine, ids)
        self.bulks = Bulks(engine, ids)
        self.freezes = Freezes(engine, NobodyCaches())
        self.model = Model()

    @initialize()
    def begin_with_empty_books(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(text("TRUNCATE entries, transfers, transfer_references, wallets, bulks, freezes"))

    @rule(user=users, amount=amounts)
    def deposit(self, user: int, amount: int) -> None:
        self.execute(deposit(user, amount))

    @rule(user=users, amount=amounts)
    def withdraw(self, user: int, amount: int) -> None:
        self.execute(withdrawal(user, amount))

    @rule(payer=users, payee=users, amount=amounts)
    def transfer(self, payer: int, payee: int, amount: int) -> None:
        self.execute(transfer(payer, payee, amount))

    @rule(user=users, debits=st.booleans(), credits=st.booleans())
    def freeze(self, user: int, debits: bool, credits: bool) -> None:  # noqa: A002 - the contract's words
        wanted = Change(debits=debits, credits=credits, reason="why", by="admin")
        if user not in self.model.purses:
            assert refusal(lambda: self.freezes.change(user, wanted)) == "wallet_not_found"
            return
        self.freezes.change(user, wanted)
        self.model.frozen[user] = (debits, credits)

    @rule(choice=st.integers(0, 30), amount=st.none() | amounts, by_administrator=st.booleans())
    def reverse(self, choice: int, amount: int | None, by_administrator: bool) -> None:
        """Of anything that is recorded, whatever became of it."""
        (number,) = self.pick([choice])
        if number not in self.model.orders:
            return
        payer, payee, _ = self.model.orders[number]
        objection, back = self.model.reverse(number, amount, passes_freezes=by_administrator)
        order = reversal(payee, payer, number, REST_CENTS if amount is None else amount)
        order = replace(order, by_administrator=by_administrator)
        if objection is not None:
            assert refusal(lambda: self.orders.execute(order)) == objection
            return
        receipt = self.orders.execute(order)
        self.model.record(receipt.transfer_id, payee, payer, back)
        self.model.move(receipt.transfer_id)
        self.model.reversals.add(receipt.transfer_id)
        self.model.given_back[number] = self.model.given_back.get(number, 0) + back
        assert receipt.balance_cents == self.model.purses[order.user_id]

    @rule(payer=users, payee=users, amount=amounts)
    def accept(self, payer: int, payee: int, amount: int) -> None:
        objection = self.model.accept(payer, payee, amount)
        if objection is not None:
            assert refusal(lambda: self.orders.accept(later(payer, payee, amount))) == objection
            return
        acceptance = self.orders.accept(later(payer, payee, amount))
        assert not acceptance.replayed
        self.model.record(acceptance.transfer_id, payer, payee, amount)

    @rule(payer=users, payee=users, amount=amounts)
    def plan(self, payer: int, payee: int, amount: int) -> None:
        order = later(payer, payee, amount, not_before=datetime.now(UTC) + timedelta(hours=1))
        objection = self.model.accept(payer, payee, amount)
        if objection not in {None, "balance_insufficient", "wallet_frozen"}:  # which are looked at then
            assert refusal(lambda: self.orders.accept(order)) == objection
            return
        number = self.orders.accept(order).transfer_id
        self.model.record(number, payer, payee, amount)
        self.model.planned.add(number)

    @rule(choice=choices)
    def let_instants_come(self, choice: list[int]) -> None:
        numbers = {each for each in self.pick(choice) if each in self.model.planned}
        come(self.engine, *(each for each in numbers if self.model.fates[each][0] == "pending"))
        self.model.planned -= numbers

    @rule(choice=choices)
    def cancel(self, choice: list[int]) -> None:
        for number in self.pick(choice):
            expected = number in self.model.orders and self.model.cancel(number)
            assert cancellation.cancel(self.engine, number) == expected

    @rule(
        parties=st.one_of(
            st.tuples(st.none(), users),
            st.tuples(users, st.none()),
            st.tuples(users, users).filter(lambda pair: pair[0] != pair[1]),
        ),
        amount=amounts,
    )
    def record_for_later(self, parties: tuple[int | None, int | None], amount: int) -> None:
        """Any kind, covered or not: what a batch is made of."""
        number = self.ids.next_id()
        payer, payee = parties
        with self.engine.begin() as connection:
            record(connection, number, payer, payee, amount)
        self.model.record(number, payer, payee, amount)

    @rule(choice=choices, wait_for_locks=st.booleans())
    def post_a_batch(self, choice: list[int], wait_for_locks: bool) -> None:
        numbers = self.pick(choice)
        posting = post_now(self.engine, numbers, wait_for_locks=wait_for_locks)
        assert outcomes(posting) == self.model.post(numbers)
        assert all(posting.wallets[who].balance_cents == self.model.purses[who] for who in posting.wallets)

        again = post_now(self.engine, numbers)
        assert again == Posting(posting.outcomes, {}, apart=posting.apart)

    @rule(
        payer=users, items=st.lists(st.tuples(users, st.integers(1, 40)), min_size=1, max_size=4), atomic=st.booleans()
    )
    def send_a_bulk(self, payer: int, items: list[tuple[int, int]], atomic: bool) -> None:
        order = BulkOrder(
            user_id=payer, items=[BulkItem(*item) for item in items if item[0] != payer], is_atomic=atomic
        )
        if not order.items:
            return
        if payer not in self.model.purses:
            assert refusal(lambda: self.bulks.accept(order)) == "wallet_not_found"
            return
        acceptance = self.bulks.accept(order)
        for number, item in zip(acceptance.transfer_ids, order.items, strict=True):
            self.model.record(number, payer, item.destination, item.amount_cents)
        if atomic:
            self.model.atomic[acceptance.bulk_id] = list(acceptance.transfer_ids)

    @rule(choice=st.integers(0, 5))
    def post_an_atomic_bulk(self, choice: int) -> None:
        bulks = list(self.model.atomic)
        if choice < len(bulks):
            with Session(self.engine) as session:
                post_bulk(session, bulks[choice])
            self.model.post_bulk(bulks[choice])

    @rule(choice=choices)
    def post_a_batch_and_roll_back(self, choice: list[int]) -> None:
        """What an eviction raises undoes the batch. (One in which nothing is left to decide evicts nothing.)"""
        with suppress(UndoneError):
            post_now(self.engine, self.pick(choice), evict=undo)

    @invariant()
    def nothing_differs(self) -> None:
        with self.engine.connect() as connection:
            purses = {row.id: row.balance for row in connection.execute(text("SELECT id, balance FROM wallets"))}
            fates = {row.id: (row.status, row.reason) for row in connection.execute(text("SELECT * FROM transfers"))}
            pages: dict[int, list[tuple[int, int | None, int, int]]] = {who: [] for who in purses}
            for row in connection.execute(text("SELECT * FROM entries ORDER BY wallet_id, seq")):
                pages[row.wallet_id].append((row.transfer_id, row.counterparty, row.amount, row.balance_after))
            given_back = {
                row.id: row.reversed_amount
                for row in connection.execute(text("SELECT * FROM transfers WHERE reversed_amount IS NOT NULL"))
            }
        assert (purses, fates, pages) == (self.model.purses, self.model.fates, self.model.pages)
        assert given_back == self.model.given_back

    def teardown(self) -> None:
        check_books(self.engine)

    def execute(self, order: Order) -> None:
        parties = (order.source, order.destination, order.amount_cents)
        objection = self.model.execute(*parties)
        if objection is not None:
            assert refusal(lambda: self.orders.execute(order)) == objection
            return
        receipt = self.orders.execute(order)
        self.model.record(receipt.transfer_id, *parties)
        self.model.move(receipt.transfer_id)
        assert receipt.balance_cents == self.model.purses[order.user_id]

    def pick(self, choice: list[int]) -> list[int]:
        """Turn positions into ids; those past the end are ids that nobody ever recorded."""
        recorded = list(self.model.orders)
        return [recorded[position] if position < len(recorded) else 10**6 + position for position in choice]


class UndoneError(Exception):
    """What goes wrong when all is decided and nothing written."""


def undo(_versions: Mapping[int, int]) -> Mapping[int, int]:
    raise UndoneError


def refusal(order: Callable[[], object]) -> str:
    with pytest.raises(Refused) as refused:
        order()
    return refused.value.code


def outcomes(posting: Posting) -> dict[int, tuple[str, str | None]]:
    return {number: (outcome.status.value, outcome.reason) for number, outcome in posting.outcomes.items()}


def record(connection: Connection, number: int, payer: int | None, payee: int | None, amount: int) -> None:
    kind = "deposit" if payer is None else "withdrawal" if payee is None else "transfer"
    row = {"id": number, "kind": kind, "source": payer, "destination": payee, "amount": amount}
    connection.execute(insert(transfers), [row])


@pytest.mark.long  # with CI's many examples
def test_the_ledger_agrees_with_a_naive_model_whatever_the_order(engine: Engine, snowflake: Snowflake) -> None:
    # The stubs ask for a class where any factory will do.
    run_state_machine_as_test(lambda: LedgerMachine(engine, snowflake))  # type: ignore[arg-type]


def test_a_batch_is_decided_in_the_order_of_its_ids_however_it_is_handed_in(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 50))
    for user in (2, 3):
        orders.execute(deposit(user, 1))
    with engine.begin() as connection:
        record(connection, 11, 1, 2, 50)
        record(connection, 12, 2, 3, 51)  # 1 + 50: covered by the one before it, and only by that
    posting = post_now(engine, [12, 11])

    assert outcomes(posting) == {11: ("posted", None), 12: ("posted", None)}
    assert posting.wallets == {1: Wallet(0, 2), 2: Wallet(0, 3), 3: Wallet(52, 2)}
    check_books(engine)


def test_an_id_that_is_repeated_in_a_batch_moves_money_once(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 50))
    orders.execute(deposit(2, 1))
    number = orders.accept(later(1, 2, 20)).transfer_id
    posting = post_now(engine, [number, number, number])

    assert outcomes(posting) == {number: ("posted", None)}
    assert balances(engine) == {1: 30, 2: 21}
    check_books(engine)


def test_posting_again_changes_nothing_and_tells_the_stored_outcomes(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 50))
    orders.execute(deposit(2, 1))
    numbers = [orders.accept(later(1, 2, amount)).transfer_id for amount in (30, 25)]
    first = post_now(engine, numbers)
    before = everything(engine)
    second = post_now(engine, numbers)

    assert outcomes(first) == {numbers[0]: ("posted", None), numbers[1]: ("rejected", "balance_insufficient")}
    assert second == Posting(first.outcomes, {})
    assert everything(engine) == before


def test_a_dead_letter_is_left_alone_and_told(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 50))
    orders.execute(deposit(2, 1))
    number = orders.accept(later(1, 2, 20)).transfer_id
    with engine.begin() as connection:
        dead = "UPDATE transfers SET status = 'failed', reason = 'worker_lost', completed_at = now() WHERE id = :id"
        connection.execute(text(dead), {"id": number})
    before = everything(engine)
    posting = post_now(engine, [number])

    assert posting == Posting({number: Outcome(Status.FAILED, "worker_lost")}, {})
    assert everything(engine) == before


def test_ids_that_nobody_recorded_have_no_outcome(engine: Engine) -> None:
    assert post_now(engine, [1, 2]) == Posting({}, {})
    assert post_now(engine, []) == Posting({}, {})
    assert balances(engine) == {}


def test_an_outcome_spends_an_attempt_and_ends_the_wait_for_the_next(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 50))
    orders.execute(deposit(2, 1))
    numbers = [orders.accept(later(1, 2, amount)).transfer_id for amount in (30, 25)]
    with engine.begin() as connection:
        connection.execute(text("UPDATE transfers SET attempts = 2, next_attempt_at = now() WHERE status = 'pending'"))
    post_now(engine, numbers)
    with engine.begin() as connection:
        rows = connection.execute(
            text("SELECT * FROM transfers WHERE id = ANY(:ids) ORDER BY id"), {"ids": numbers}
        ).all()

    assert [(row.attempts, row.next_attempt_at) for row in rows] == [(3, None), (3, None)]
    assert all(row.completed_at >= row.created_at for row in rows)


def test_the_traces_of_what_was_decided_now_are_told(engine: Engine, orders: Orders) -> None:
    for user in (1, 2):
        orders.execute(deposit(user, 10))
    traced, untraced = (
        orders.accept(replace(later(1, 2, 1), trace=trace)).transfer_id for trace in ("00-abc-def-01", None)
    )
    assert post_now(engine, [traced, untraced]).traces == {traced: "00-abc-def-01"}
    assert post_now(engine, [traced, untraced]).traces == {}


def test_a_batch_that_is_rolled_back_leaves_nothing(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 50))
    with engine.begin() as connection:
        record(connection, 11, 1, 2, 20)
        record(connection, 12, None, 2, 5)  # would open wallet 2
    before = everything(engine)
    told: list[Mapping[int, int]] = []

    def note_and_undo(versions: Mapping[int, int]) -> Mapping[int, int]:
        told.append(versions)
        raise UndoneError

    with pytest.raises(UndoneError):
        post_now(engine, [11, 12], evict=note_and_undo)
    assert told == [{1: 2, 2: 2}]  # both were decided: the deposit and the transfer's two ends

    assert everything(engine) == before
    check_books(engine)


def test_a_posting_is_seen_whole_or_not_at_all(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 50))
    orders.execute(deposit(2, 1))
    number = orders.accept(later(1, 2, 20)).transfer_id
    before = everything(engine)
    with uncommitted(engine, [number]):
        assert everything(engine) == before  # to everybody else, until the commit
    assert balances(engine) == {1: 30, 2: 21}
    check_books(engine)


def test_wallets_are_opened_without_money_and_told_from_those_that_were_there(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(2, 5))
    with Session(engine) as session:
        assert open_wallets(session, [3, 2, 1]) == {1, 3}
        assert open_wallets(session, [3, 2, 1]) == set()
        assert open_wallets(session, []) == set()
    assert balances(engine) == {1: 0, 2: 5, 3: 0}
    check_books(engine)


@pytest.mark.parametrize(
    ("work", "written"),
    [
        ("die_before_the_commit_of_an_order", 2),
        ("die_before_the_commit_of_a_batch", 3),
        ("die_before_the_commit_of_a_group", 4),
    ],
)
def test_a_process_killed_between_write_and_commit_leaves_nothing(
    engine: Engine, orders: Orders, work: str, written: int
) -> None:
    orders.execute(deposit(1, 50))
    orders.execute(deposit(2, 1))
    before = count_transfers(engine)
    assert killed(engine, work) == {"entries_written": 2 + written}  # beside the two deposits'
    assert balances(engine) == {1: 50, 2: 1}
    recorded = 2 if "batch" in work else 0  # a batch's transfers were accepted before: they still wait
    assert count_transfers(engine) == before + recorded
    check_books(engine)

    with engine.connect() as connection:  # and nothing is locked
        waiting = list(connection.execute(text("SELECT id FROM transfers WHERE status = 'pending'")).scalars())
    assert len(post_now(engine, waiting).outcomes) == recorded
    check_books(engine)


def killed(engine: Engine, work: str) -> Any:
    """Have a process killed at its work, and return what it has said before."""
    task = {"url": engine.url.render_as_string(hide_password=False), "work": work, "arguments": {}}
    child = nursery.run(
        [sys.executable, "-m", "tests.models.ledger.ledger_child", json.dumps(task)],
        cwd=ROOT,
        text=True,
        timeout=PATIENCE_S * 2,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    return json.loads(child.stdout)


def test_a_process_killed_after_the_commit_of_a_group_has_posted_all_of_it(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 50))
    orders.execute(deposit(2, 1))
    assert killed(engine, "die_after_the_commit_of_a_group") == {"entries_written": 2 + 4}
    assert balances(engine) == {1: 36, 2: 11, 3: 5}  # 50 - 10 - 4, 1 + 10, 5
    check_books(engine)


def everything(engine: Engine) -> list[Any]:
    """All rows of the ledger."""
    with engine.connect() as connection:
        return [connection.execute(select(table).order_by(*table.primary_key)).all() for table in LEDGER]
