"""Freezing wallets: under the wallet's lock, so seen by all who post after it and by none before it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import product

import pytest
import redis
from sqlalchemy import Engine, text

from models.cache.wallet_cache import Eviction, NobodyCaches, WalletCache
from models.errors import Unavailable, WalletFrozen, WalletNotFound
from models.ledger import attempts
from models.ledger.freezes import Change, Freezes
from models.ledger.history import History
from models.ledger.orders import Orders
from models.ledger.statements import Statements
from models.ledger.transfer import Order, Status
from models.snowflake.ids import Snowflake
from ops.local.processes import wait_for
from tests.books import check_books
from tests.models.cache.caching import FIELD, cache_at, hit, missed
from tests.models.ledger.ordering import (
    balances,
    bounded_engine,
    count_waiting,
    deposit,
    later,
    never_arrives,
    post_now,
    reversal,
    row_lock,
    transfer,
    uncommitted,
    withdrawal,
)
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy

WALLET = 1
BOTH = Change(debits=True, credits=True, reason="why", by="admin")
DEBITS = Change(debits=True, credits=None, reason="why", by="admin")
CREDITS = Change(debits=None, credits=True, reason="why", by="admin")
NEITHER = Change(debits=False, credits=False, reason=None, by="admin")
MOVEMENTS: dict[str, tuple[Callable[[], Order], bool, bool]] = {
    # what it is, and whether a freeze of debits or of credits of wallet 1 forbids it
    "deposit": (lambda: deposit(1, 1), False, True),
    "withdrawal": (lambda: withdrawal(1, 1), True, False),
    "pays": (lambda: transfer(1, 2, 1), True, False),
    "is paid": (lambda: transfer(2, 1, 1), False, True),
}


@pytest.fixture
def orders(engine: Engine, snowflake: Snowflake) -> Iterator[Orders]:
    """Takes orders of users 1 and 2, who have 100 cents each; the books balance afterwards."""
    orders = Orders(engine, snowflake)
    for user_id in (1, 2):
        orders.execute(deposit(user_id, 100))
    yield orders
    check_books(engine)


@pytest.fixture
def freezes(engine: Engine) -> Freezes:
    """Freezes wallets that nobody caches."""
    return Freezes(engine, NobodyCaches())


@pytest.fixture
def cache(redis_url: str, redis_client: redis.Redis, engine: Engine) -> Iterator[WalletCache]:
    """A cache, empty."""
    del redis_client  # asked for to be emptied
    with cache_at(redis_url, engine) as cache:
        yield cache


def history(engine: Engine) -> list[tuple[object, ...]]:
    query = text("SELECT wallet_id, debits, credits, reason, by FROM freezes ORDER BY id")
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]


@pytest.mark.parametrize("sides", [*product((False, True), repeat=2)])
@pytest.mark.parametrize("movement", MOVEMENTS)
def test_each_side_forbids_what_it_is_for_and_nothing_else(
    orders: Orders, freezes: Freezes, engine: Engine, sides: tuple[bool, bool], movement: str
) -> None:
    (order, is_debit, is_credit), (debits_frozen, credits_frozen) = MOVEMENTS[movement], sides
    freezes.change(WALLET, replace(BOTH, debits=debits_frozen, credits=credits_frozen))
    before = balances(engine)
    if (debits_frozen and is_debit) or (credits_frozen and is_credit):
        with pytest.raises(WalletFrozen):
            orders.execute(order())
        assert balances(engine) == before
    else:
        orders.execute(order())
        assert balances(engine) != before
    freezes.change(WALLET, NEITHER)
    orders.execute(order())


@pytest.mark.parametrize(("wanted", "parties"), [(DEBITS, (1, 2)), (CREDITS, (2, 1))])
def test_what_can_be_seen_is_refused_at_once_and_what_is_queued_is_rejected(
    orders: Orders, freezes: Freezes, engine: Engine, wanted: Change, parties: tuple[int, int]
) -> None:
    source, destination = parties
    queued = orders.accept(later(source, destination, 1)).transfer_id
    freezes.change(WALLET, wanted)
    with pytest.raises(WalletFrozen):
        orders.accept(later(source, destination, 1))
    with pytest.raises(WalletFrozen):  # and not that there is not enough
        orders.accept(later(source, destination, 10_000))
    other_way = orders.accept(later(destination, source, 1)).transfer_id
    post_now(engine, [queued, other_way])
    outcomes = attempts.find_outcomes(engine, [queued, other_way])
    assert outcomes[queued] == (Status.REJECTED, "wallet_frozen")
    assert outcomes[other_way].status is Status.POSTED


def test_that_there_is_no_wallet_is_said_first(orders: Orders, freezes: Freezes) -> None:
    freezes.change(WALLET, BOTH)
    for take in (orders.execute, orders.accept):
        with pytest.raises(WalletNotFound):
            take(transfer(1, 9, 1))
        with pytest.raises(WalletNotFound):
            take(transfer(9, 1, 1))


def test_a_batch_posts_what_is_not_frozen(orders: Orders, freezes: Freezes, engine: Engine) -> None:
    orders.execute(deposit(3, 100))
    ids = [orders.accept(later(*parties, 1)).transfer_id for parties in ((1, 2), (3, 2), (2, 1), (1, 3))]
    freezes.change(WALLET, DEBITS)
    post_now(engine, ids, wait_for_locks=False)
    outcomes = attempts.find_outcomes(engine, ids)
    assert [outcomes[each].reason for each in ids] == ["wallet_frozen", None, None, "wallet_frozen"]
    assert balances(engine) == {1: 101, 2: 100, 3: 99}


def test_an_administrators_reversal_passes_and_a_users_does_not(
    orders: Orders, freezes: Freezes, engine: Engine
) -> None:
    paid = orders.execute(transfer(1, 2, 10)).transfer_id
    freezes.change(1, BOTH)
    freezes.change(2, BOTH)
    with pytest.raises(WalletFrozen):
        orders.execute(reversal(2, 1, paid, 4))
    orders.execute(replace(reversal(2, 1, paid, 4), by_administrator=True))
    assert balances(engine) == {1: 94, 2: 106}


def test_a_key_that_was_used_before_gives_its_first_answer_again(orders: Orders, freezes: Freezes) -> None:
    first = orders.execute(withdrawal(1, 10, key="k"))
    accepted = orders.accept(later(1, 2, 10, key="l"))
    freezes.change(WALLET, BOTH)
    again = orders.execute(withdrawal(1, 10, key="k"))
    assert (again.replayed, again.transfer_id, again.balance_cents) == (True, first.transfer_id, 90)
    assert orders.accept(later(1, 2, 10, key="l")).transfer_id == accepted.transfer_id


def test_what_was_refused_binds_no_key(orders: Orders, freezes: Freezes) -> None:
    freezes.change(WALLET, BOTH)
    for take, order in ((orders.execute, withdrawal(1, 1, key="k")), (orders.accept, later(1, 2, 1, key="l"))):
        with pytest.raises(WalletFrozen):
            take(order)
    freezes.change(WALLET, NEITHER)
    assert not orders.execute(withdrawal(1, 1, key="k")).replayed
    assert not orders.accept(later(1, 2, 1, key="l")).replayed


def test_a_posting_stays_frozen_as_it_was(orders: Orders, freezes: Freezes, engine: Engine) -> None:
    freezes.change(WALLET, DEBITS)
    orders.execute(deposit(1, 1))
    assert History(engine).get_balance(1) == (101, 2, True, False)


# Under the lock


def test_a_freeze_waits_for_the_posting_that_has_the_wallet(orders: Orders, freezes: Freezes, engine: Engine) -> None:
    job = orders.accept(later(1, 2, 10)).transfer_id
    with ThreadPoolExecutor(1) as pool:
        with uncommitted(engine, [job]):
            freezing = pool.submit(freezes.change, WALLET, DEBITS)
            assert wait_for(lambda: count_waiting(engine) == 1, PATIENCE_S)
        assert freezing.result(PATIENCE_S)
    assert balances(engine) == {1: 90, 2: 110}
    assert History(engine).get_balance(1) == (90, 2, True, False)
    with pytest.raises(WalletFrozen):
        orders.execute(withdrawal(1, 1))


@pytest.mark.parametrize("is_job", [False, True])
def test_whoever_waits_for_the_wallet_while_it_is_frozen_finds_it_frozen(
    orders: Orders, engine: Engine, is_job: bool
) -> None:
    job = orders.accept(later(1, 2, 10)).transfer_id
    waiting = ExitStack()

    class Paused(NobodyCaches):
        """Holds the wallet, frozen and not yet committed, until somebody else waits for it."""

        def evict(self, versions: object) -> Eviction:
            del versions
            pool = waiting.enter_context(ThreadPoolExecutor(1))
            work = (lambda: post_now(engine, [job])) if is_job else (lambda: orders.execute(withdrawal(1, 10)))
            self.other = pool.submit(work)
            assert wait_for(lambda: count_waiting(engine) == 1, PATIENCE_S)
            return Eviction({})

    paused = Paused()
    with waiting:
        assert Freezes(engine, paused).change(WALLET, DEBITS)
        if is_job:
            paused.other.result(PATIENCE_S)
            assert attempts.find_outcomes(engine, [job])[job].reason == "wallet_frozen"
        else:
            with pytest.raises(WalletFrozen):
                paused.other.result(PATIENCE_S)
    assert balances(engine) == {1: 100, 2: 100}


def test_two_who_freeze_at_once_both_do(orders: Orders, freezes: Freezes, engine: Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        wanted = [replace(each, reason=f"r{number}") for number, each in enumerate([DEBITS, CREDITS] * 4)]
        assert all(pool.map(lambda each: freezes.change(WALLET, each), wanted))
    assert len(history(engine)) == 8
    assert History(engine).get_balance(1)[2:] == (True, True)
    with pytest.raises(WalletFrozen):
        orders.execute(deposit(1, 1))


def test_freezes_and_payments_in_a_crowd_lose_nothing(orders: Orders, freezes: Freezes, engine: Engine) -> None:
    """Whatever was answered as posted is there, and nothing else."""

    def pay(number: int) -> int:
        if number % 5 == 0:
            freezes.change(WALLET, BOTH if number % 2 else NEITHER)
            return 0
        try:
            orders.execute(transfer(1, 2, 1) if number % 2 else transfer(2, 1, 1))
        except WalletFrozen:
            return 0
        return -1 if number % 2 else 1

    with ThreadPoolExecutor(8) as pool:
        change = sum(pool.map(pay, range(100)))
    assert balances(engine) == {1: 100 + change, 2: 100 - change}


def test_a_wallet_that_is_held_for_too_long_is_not_frozen(
    orders: Orders, engine: Engine, service_database_url: str
) -> None:
    with (
        bounded_engine(service_database_url, lock_ms=50) as impatient,
        row_lock(engine, WALLET),
        pytest.raises(Unavailable),
    ):
        Freezes(impatient, NobodyCaches()).change(WALLET, BOTH)
    assert history(engine) == []
    orders.execute(withdrawal(1, 1))


# What is kept of it


def test_each_change_is_kept_with_why_when_and_by_whom(orders: Orders, freezes: Freezes, engine: Engine) -> None:
    del orders
    assert freezes.change(1, DEBITS)
    assert freezes.change(1, replace(CREDITS, reason="another", by="somebody"))
    assert freezes.change(1, Change(debits=False, credits=None, reason=None, by="admin"))
    assert freezes.change(1, replace(NEITHER, reason="over"))
    assert history(engine) == [
        (1, True, False, "why", "admin"),
        (1, True, True, "another", "somebody"),
        (1, False, True, "another", "admin"),
        (1, False, False, "over", "admin"),
    ]


def test_a_wallet_tells_of_the_last_change(orders: Orders, freezes: Freezes, engine: Engine) -> None:
    del orders
    look = Statements(engine).get_wallet
    assert look(1, newest=0).frozen is None
    freezes.change(1, DEBITS)
    first = look(1, newest=0).frozen
    assert first is not None
    assert (first.debits, first.credits, first.reason, first.by) == (True, False, "why", "admin")
    freezes.change(1, replace(BOTH, reason="more"))
    second = look(1, newest=0).frozen
    assert second is not None
    assert (second.debits, second.credits, second.reason, second.at > first.at) == (True, True, "more", True)
    freezes.change(1, NEITHER)
    assert look(1, newest=0).frozen is None


@pytest.mark.parametrize("wanted", [DEBITS, CREDITS, BOTH, replace(DEBITS, credits=False)])
def test_to_freeze_again_changes_nothing(orders: Orders, freezes: Freezes, engine: Engine, wanted: Change) -> None:
    del orders
    assert freezes.change(WALLET, wanted)
    assert not freezes.change(WALLET, wanted)
    assert not freezes.change(WALLET, replace(wanted, reason=None))
    assert not freezes.change(WALLET, replace(wanted, by="somebody else"))
    assert freezes.change(WALLET, replace(wanted, reason="a new one"))
    assert len(history(engine)) == 2


def test_to_let_go_what_is_not_frozen_changes_nothing(orders: Orders, freezes: Freezes, engine: Engine) -> None:
    del orders
    assert not freezes.change(WALLET, NEITHER)
    assert not freezes.change(WALLET, replace(NEITHER, reason="why"))
    freezes.change(WALLET, BOTH)
    assert freezes.change(WALLET, NEITHER)
    assert not freezes.change(WALLET, NEITHER)
    assert len(history(engine)) == 2


def test_a_wallet_that_does_not_exist_cannot_be_frozen(freezes: Freezes, engine: Engine) -> None:
    with pytest.raises(WalletNotFound):
        freezes.change(9, BOTH)
    assert (balances(engine), history(engine)) == ({}, [])


def test_the_services_role_can_do_it(orders: Orders, engine: Engine, service_database_url: str) -> None:
    with bounded_engine(service_database_url) as service:
        assert Freezes(service, NobodyCaches()).change(WALLET, BOTH)
    with pytest.raises(WalletFrozen):
        orders.execute(withdrawal(1, 1))
    assert len(history(engine)) == 1


@pytest.mark.parametrize("is_done", [False, True])
def test_a_reply_that_is_lost_is_no_matter(
    orders: Orders, engine: Engine, postgres_proxy: TcpProxy, is_done: bool
) -> None:
    del orders
    if is_done:
        postgres_proxy.lose_reply_to(lambda data: b"COMMIT" in data)
    else:
        postgres_proxy.lose_reply_to(never_arrives(lambda data: b"INSERT INTO freezes" in data))
    with bounded_engine(postgres_proxy.url) as cut:
        assert Freezes(cut, NobodyCaches()).change(WALLET, BOTH)
    assert history(engine) == [(1, True, True, "why", "admin")]


# What is cached


def test_what_is_cached_of_the_wallet_is_gone_with_the_answer(
    orders: Orders, engine: Engine, cache: WalletCache
) -> None:
    del orders
    for user_id in (1, 2):
        assert cache.fill(user_id, FIELD, missed(cache, user_id), 1, b"before")
    assert Freezes(engine, cache).change(WALLET, BOTH)
    missed(cache, 1)
    assert hit(cache, 2) == b"before"


@pytest.mark.parametrize("wanted", [BOTH, NEITHER])
def test_who_has_read_it_before_stores_it_no_more(
    orders: Orders, engine: Engine, cache: WalletCache, wanted: Change
) -> None:
    """The version is the same before and after: the fence has to be above it."""
    del orders
    freezes = Freezes(engine, cache)
    if wanted is NEITHER:
        freezes.change(WALLET, BOTH)
    miss, version = missed(cache, WALLET), History(engine).get_balance(WALLET).version
    assert freezes.change(WALLET, wanted)
    assert not cache.fill(WALLET, FIELD, miss, version, b"before")
    missed(cache, WALLET)


def test_after_the_next_posting_it_is_cached_again(orders: Orders, engine: Engine, cache: WalletCache) -> None:
    Freezes(engine, cache).change(WALLET, DEBITS)
    orders.execute(deposit(WALLET, 1))
    assert cache.fill(WALLET, FIELD, missed(cache, WALLET), 2, b"after")
    assert hit(cache, WALLET) == b"after"


def test_without_redis_the_eviction_is_kept_with_the_freeze(
    orders: Orders, engine: Engine, redis_proxy: TcpProxy
) -> None:
    del orders
    with cache_at(redis_proxy.url, engine) as cut:
        redis_proxy.refuse()
        assert Freezes(engine, cut).change(WALLET, BOTH)
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT wallet_id, version FROM kept_evictions")).all()
    assert [tuple(row) for row in kept] == [(WALLET, 2)]
    assert History(engine).get_balance(WALLET)[2:] == (True, True)
