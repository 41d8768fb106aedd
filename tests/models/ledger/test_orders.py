"""An order moves money once or not at all, and says which, whatever is repeated, raced, lost or broken on the way."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, event, text

from models.errors import (
    BalanceInsufficient,
    BalanceOverflow,
    IdempotencyKeyReused,
    OutcomeUnknown,
    Refused,
    SelfTransferInvalid,
    TransferNotFound,
    Unavailable,
    WalletNotFound,
)
from models.ledger.history import History
from models.ledger.orders import MAX_TRIES, Orders
from models.ledger.transfer import Acceptance, Kind, Order, Receipt, Status
from models.snowflake.ids import Snowflake
from ops.local.processes import wait_for
from tests.books import check_books
from tests.models.ledger.ordering import (
    balances,
    bounded_engine,
    count_transfers,
    count_waiting,
    deposit,
    is_acceptance,
    is_look,
    later,
    never_arrives,
    post_now,
    row_lock,
    transfer,
    withdrawal,
)
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy

MAX = 2**63 - 1


class FixedIds:
    """Hands out the ids that it was given, in that order."""

    def __init__(self, *ids: int) -> None:
        self.left = list(ids)

    def next_id(self) -> int:
        return self.left.pop(0)


@pytest.fixture
def funded(engine: Engine, orders: Orders) -> Iterator[None]:
    """Wallets 1 and 2 hold 100 cents each; after the test, whatever it did, the books balance."""
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 100))
    yield
    check_books(engine)


pytestmark = pytest.mark.usefixtures("funded")


# What an order does


def test_an_order_answers_with_the_balance_of_whoever_gave_it(orders: Orders, engine: Engine) -> None:
    assert orders.execute(deposit(1, 67)).balance_cents == 167  # 100 + 67
    assert orders.execute(withdrawal(1, 7)).balance_cents == 160  # 167 - 7
    assert orders.execute(transfer(1, 2, 60)).balance_cents == 100  # 160 - 60
    assert balances(engine) == {1: 100, 2: 160}


def test_a_deposit_opens_the_wallet(orders: Orders, engine: Engine) -> None:
    assert orders.execute(deposit(7, 1)).balance_cents == 1
    assert balances(engine) == {1: 100, 2: 100, 7: 1}


def test_what_was_executed_is_posted_and_what_was_accepted_is_pending(orders: Orders, history: History) -> None:
    executed = history.get_transfer(orders.execute(transfer(1, 2, 5)).transfer_id, seen_by=1)
    accepted = history.get_transfer(orders.accept(later(1, 2, 5)).transfer_id, seen_by=1)
    assert (executed.status, executed.kind, executed.amount_cents) == (Status.POSTED, Kind.TRANSFER, 5)
    assert (accepted.status, accepted.completed_at) == (Status.PENDING, None)


@pytest.mark.parametrize(
    ("order", "refusal"),
    [
        (withdrawal(1, 101), BalanceInsufficient),  # 100 + 1
        (withdrawal(9, 1), WalletNotFound),
        (transfer(1, 2, 101), BalanceInsufficient),
        (transfer(1, 9, 1), WalletNotFound),
        (transfer(9, 1, 1), WalletNotFound),
        (transfer(1, 1, 1), SelfTransferInvalid),
        (transfer(9, 9, 1), WalletNotFound),
        (deposit(1, MAX - 99), BalanceOverflow),  # 100 + (2^63-1 - 99) = 2^63
    ],
)
def test_what_the_books_do_not_allow_is_refused_and_leaves_nothing(
    orders: Orders, engine: Engine, order: Order, refusal: type[Refused]
) -> None:
    with pytest.raises(refusal):
        orders.execute(order)
    assert balances(engine) == {1: 100, 2: 100}
    assert count_transfers(engine) == 2


@pytest.mark.parametrize(
    ("order", "refusal"),
    [
        (later(1, 2, 101), BalanceInsufficient),  # 100 + 1
        (later(1, 9, 1), WalletNotFound),
        (later(9, 1, 1), WalletNotFound),
        (later(1, 1, 1), SelfTransferInvalid),
        (later(9, 9, 1), WalletNotFound),  # said before that they are one
    ],
)
def test_what_can_be_seen_at_once_is_not_accepted(
    orders: Orders, engine: Engine, order: Order, refusal: type[Refused]
) -> None:
    with pytest.raises(refusal):
        orders.accept(order)
    assert count_transfers(engine) == 2


def test_the_missing_wallet_is_named_the_payers_first(orders: Orders) -> None:
    for order, missing in ((later(8, 9, 1), 8), (later(1, 9, 1), 9), (later(9, 1, 1), 9)):
        with pytest.raises(WalletNotFound) as refused:
            orders.accept(order)
        assert refused.value.wallet_id == missing


def test_all_of_a_balance_can_be_accepted(orders: Orders) -> None:
    assert not orders.accept(later(1, 2, 100)).replayed


# Idempotency keys


@pytest.mark.parametrize("order", [deposit(1, 5, key="k"), withdrawal(1, 5, key="k"), transfer(1, 2, 5, key="k")])
def test_the_same_key_gives_the_first_answer_again_with_the_balance_of_that_time(
    orders: Orders, engine: Engine, order: Order
) -> None:
    first = orders.execute(order)
    orders.execute(deposit(1, 40))
    before = balances(engine)
    again = orders.execute(order)

    assert again == Receipt(transfer_id=first.transfer_id, balance_cents=first.balance_cents, replayed=True)
    assert not first.replayed
    assert balances(engine) == before


def test_the_same_key_gives_the_first_acceptance_again(orders: Orders, engine: Engine) -> None:
    first = orders.accept(later(1, 2, 5, key="k"))
    again = orders.accept(later(1, 2, 5, key="k"))
    assert again == Acceptance(transfer_id=first.transfer_id, replayed=True)
    assert count_transfers(engine) == 3


@pytest.mark.parametrize("spend", [withdrawal(1, 95), withdrawal(1, 91)])
def test_a_key_is_looked_up_before_the_balance(orders: Orders, spend: Order) -> None:
    """The first one was covered; what the wallet holds by now does not matter."""
    first = orders.execute(transfer(1, 2, 5, key="k"))
    accepted = orders.accept(later(1, 2, 5, key="l"))
    orders.execute(spend)
    assert orders.execute(transfer(1, 2, 5, key="k")) == Receipt(
        transfer_id=first.transfer_id, balance_cents=95, replayed=True
    )
    assert orders.accept(later(1, 2, 5, key="l")) == Acceptance(transfer_id=accepted.transfer_id, replayed=True)


def test_a_job_that_was_accepted_and_later_rejected_keeps_its_key(orders: Orders, engine: Engine) -> None:
    accepted = orders.accept(later(1, 2, 5, key="k"))
    orders.execute(withdrawal(1, 100))
    assert post_now(engine, [accepted.transfer_id]).outcomes[accepted.transfer_id].status is Status.REJECTED
    assert orders.accept(later(1, 2, 5, key="k")) == Acceptance(transfer_id=accepted.transfer_id, replayed=True)


@pytest.mark.parametrize(
    "other",
    [
        transfer(1, 2, 6, key="k"),  # another amount
        transfer(1, 3, 5, key="k"),  # another payee, whom the books would refuse besides
        transfer(1, 2, 101, key="k"),  # another amount, not covered besides
        transfer(1, 1, 5, key="k"),  # to oneself besides
        withdrawal(1, 5, key="k"),  # another call
        deposit(1, 5, key="k"),
    ],
)
def test_a_key_used_for_another_request_is_refused_as_such(orders: Orders, engine: Engine, other: Order) -> None:
    orders.execute(transfer(1, 2, 5, key="k"))
    with pytest.raises(IdempotencyKeyReused):
        orders.execute(other)
    assert balances(engine) == {1: 95, 2: 105}


@pytest.mark.parametrize("other", [later(1, 2, 6, key="k"), later(1, 9, 5, key="k"), later(1, 1, 5, key="k")])
def test_a_key_used_for_another_acceptance_is_refused_as_such(orders: Orders, engine: Engine, other: Order) -> None:
    orders.accept(later(1, 2, 5, key="k"))
    with pytest.raises(IdempotencyKeyReused):
        orders.accept(other)
    assert count_transfers(engine) == 3


def test_a_key_is_bound_to_the_call(orders: Orders) -> None:
    orders.execute(transfer(1, 2, 5, key="v1"))
    orders.accept(later(1, 2, 5, key="v2"))
    with pytest.raises(IdempotencyKeyReused):
        orders.accept(later(1, 2, 5, key="v1"))
    with pytest.raises(IdempotencyKeyReused):
        orders.execute(transfer(1, 2, 5, key="v2"))


def test_another_user_may_use_the_same_key(orders: Orders, engine: Engine) -> None:
    first = orders.execute(transfer(1, 2, 5, key="k"))
    second = orders.execute(transfer(2, 1, 5, key="k"))
    third = orders.execute(deposit(3, 5, key="k"))
    assert [first.replayed, second.replayed, third.replayed] == [False, False, False]
    assert balances(engine) == {1: 100, 2: 100, 3: 5}


def test_without_a_key_the_same_order_moves_money_again(orders: Orders, engine: Engine) -> None:
    assert orders.execute(transfer(1, 2, 5)).transfer_id != orders.execute(transfer(1, 2, 5)).transfer_id
    assert balances(engine) == {1: 90, 2: 110}


def test_what_was_refused_binds_no_key(orders: Orders, engine: Engine) -> None:
    for order in (transfer(1, 2, 101, key="k"), transfer(1, 1, 5, key="k"), transfer(1, 9, 5, key="k")):
        with pytest.raises(Refused):
            orders.execute(order)
    with pytest.raises(Refused):
        orders.accept(later(1, 2, 101, key="k"))
    assert not orders.execute(withdrawal(1, 100, key="k")).replayed
    assert balances(engine) == {1: 0, 2: 100}


@pytest.mark.parametrize("length", [1, 255])
def test_a_key_may_have_1_to_255_characters(orders: Orders, length: int) -> None:
    key = "é" * length
    first = orders.execute(transfer(1, 2, 5, key=key))
    assert orders.execute(transfer(1, 2, 5, key=key)).transfer_id == first.transfer_id


# Two at once


def test_of_two_at_once_one_wins_and_the_other_gets_its_answer_however_slow(orders: Orders, engine: Engine) -> None:
    order = transfer(1, 2, 30, key="k")
    with ThreadPoolExecutor(2) as pool:
        with row_lock(engine, 1):
            answers = [pool.submit(orders.execute, order) for _ in range(2)]
            # The winner waits for the wallet, and the other one for the winner.
            assert wait_for(lambda: count_waiting(engine) == 2, PATIENCE_S)
        first, second = sorted((answer.result(PATIENCE_S) for answer in answers), key=lambda receipt: receipt.replayed)

    assert (first.replayed, second.replayed) == (False, True)
    assert (first.transfer_id, first.balance_cents) == (second.transfer_id, second.balance_cents)
    assert balances(engine) == {1: 70, 2: 130}


def test_of_two_at_once_with_different_bodies_one_is_told_so(orders: Orders, engine: Engine) -> None:
    """Whichever: who comes while another one waits for the wallet may get it first."""
    with ThreadPoolExecutor(2) as pool:
        with row_lock(engine, 1):
            first = pool.submit(orders.execute, transfer(1, 2, 30, key="k"))
            assert wait_for(lambda: count_waiting(engine) == 1, PATIENCE_S)
            second = pool.submit(orders.execute, transfer(1, 2, 31, key="k"))
            assert wait_for(lambda: count_waiting(engine) == 2, PATIENCE_S)
        winner, loser = sorted((first, second), key=lambda each: each.exception(PATIENCE_S) is not None)
    assert not winner.result().replayed
    assert isinstance(loser.exception(), IdempotencyKeyReused)
    amount = 30 if winner is first else 31
    assert balances(engine) == {1: 100 - amount, 2: 100 + amount}


@pytest.mark.parametrize("take", [Orders.execute, Orders.accept])
def test_when_the_winner_rolls_back_the_other_one_takes_its_place(
    orders: Orders, engine: Engine, take: Callable[[Orders, Order], Receipt | Acceptance]
) -> None:
    order = transfer(1, 2, 30, key="k")
    with engine.connect() as winner, ThreadPoolExecutor(1) as pool:
        winner.execute(
            text(
                "INSERT INTO transfers (id, kind, source, destination, amount, idempotency_key, request_hash)"
                " VALUES (5, 'transfer', 1, 2, 30, 'k', :hash)"
            ),
            {"hash": order.request_hash},
        )
        other = pool.submit(take, orders, order)
        assert wait_for(lambda: count_waiting(engine) == 1, PATIENCE_S)
        winner.rollback()
        answer = other.result(PATIENCE_S)
    assert (answer.replayed, answer.transfer_id != 5) == (False, True)
    assert count_transfers(engine) == 3


def test_when_the_winner_is_refused_the_other_one_is_too_and_the_key_stays_free(orders: Orders, engine: Engine) -> None:
    order = transfer(1, 2, 101, key="k")
    with ThreadPoolExecutor(2) as pool:
        with row_lock(engine, 1):
            answers = [pool.submit(orders.execute, order) for _ in range(2)]
            assert wait_for(lambda: count_waiting(engine) == 2, PATIENCE_S)
        assert all(isinstance(answer.exception(PATIENCE_S), BalanceInsufficient) for answer in answers)
    orders.execute(deposit(1, 1))
    assert not orders.execute(order).replayed


@pytest.mark.parametrize("take", [Orders.execute, Orders.accept])
def test_of_many_at_once_exactly_one_moves_the_money(
    orders: Orders, engine: Engine, take: Callable[[Orders, Order], Receipt | Acceptance]
) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(10):
            order = transfer(1, 2, 1, key=f"k{number}")
            answers = list(pool.map(lambda order: take(orders, order), [order] * 8))
            assert len({answer.transfer_id for answer in answers}) == 1
            assert sorted(answer.replayed for answer in answers) == [False] + [True] * 7
    assert count_transfers(engine) == 2 + 10


# Ids that clash


@pytest.mark.parametrize("take", [Orders.execute, Orders.accept])
@pytest.mark.parametrize("key", [None, "k"])
def test_an_id_that_clashes_is_drawn_anew_and_never_read_as_the_key(
    engine: Engine, take: Callable[[Orders, Order], Receipt | Acceptance], key: str | None
) -> None:
    somebody = Orders(engine, FixedIds(77)).execute(transfer(2, 1, 5, key="k"))
    ids = FixedIds(77, 78)
    answer = take(Orders(engine, ids), transfer(1, 2, 30, key=key))

    assert somebody.transfer_id == 77
    assert (answer.transfer_id, answer.replayed, ids.left) == (78, False, [])


@pytest.mark.parametrize("take", [Orders.execute, Orders.accept])
def test_an_id_that_clashes_with_the_same_order_of_another_request_is_not_taken_for_ones_own(
    engine: Engine, take: Callable[[Orders, Order], Receipt | Acceptance]
) -> None:
    Orders(engine, FixedIds(77)).execute(transfer(1, 2, 30))
    assert take(Orders(engine, FixedIds(77, 78)), transfer(1, 2, 30)).transfer_id == 78


@pytest.mark.parametrize("take", [Orders.execute, Orders.accept])
def test_ids_that_go_on_clashing_end_as_unavailable(
    engine: Engine, take: Callable[[Orders, Order], Receipt | Acceptance]
) -> None:
    Orders(engine, FixedIds(77)).execute(transfer(2, 1, 5))
    with pytest.raises(Unavailable):
        take(Orders(engine, FixedIds(*[77] * (MAX_TRIES + 1))), transfer(1, 2, 30))
    assert count_transfers(engine) == 3


# Replies that are lost


@pytest.fixture
def proxied(postgres_proxy: TcpProxy) -> Iterator[Engine]:
    """An engine through the proxy, with a connection in its pool."""
    with bounded_engine(postgres_proxy.url) as engine:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        yield engine


@pytest.fixture
def proxied_orders(proxied: Engine, snowflake: Snowflake) -> Orders:
    return Orders(proxied, snowflake)


def is_commit(data: bytes) -> bool:
    return b"COMMIT" in data


@pytest.mark.parametrize(
    ("order", "after"),
    [
        (deposit(1, 30), {1: 130, 2: 100}),
        (deposit(1, 30, key="k"), {1: 130, 2: 100}),
        (withdrawal(1, 30), {1: 70, 2: 100}),
        (transfer(1, 2, 30), {1: 70, 2: 130}),
        (transfer(1, 2, 30, key="k"), {1: 70, 2: 130}),
        (transfer(1, 2, 100), {1: 0, 2: 200}),  # not covered a second time
        (transfer(1, 2, 100, key="k"), {1: 0, 2: 200}),
    ],
)
def test_a_lost_reply_to_the_commit_is_looked_up_and_money_moved_once(
    engine: Engine, proxied_orders: Orders, postgres_proxy: TcpProxy, order: Order, after: dict[int, int]
) -> None:
    postgres_proxy.lose_reply_to(is_commit)
    receipt = proxied_orders.execute(order)

    assert postgres_proxy.cuts == 1
    assert not receipt.replayed
    assert receipt.balance_cents == after[1]
    assert balances(engine) == after
    assert count_transfers(engine) == 3


@pytest.mark.parametrize("key", [None, "k"])
def test_a_lost_reply_to_an_acceptance_is_looked_up_and_it_is_there_once(
    engine: Engine, proxied_orders: Orders, postgres_proxy: TcpProxy, key: str | None
) -> None:
    postgres_proxy.lose_reply_to(is_acceptance)
    acceptance = proxied_orders.accept(later(1, 2, 30, key=key))

    assert postgres_proxy.cuts == 1
    assert not acceptance.replayed
    assert count_transfers(engine) == 3
    assert History(engine).get_transfer(acceptance.transfer_id, seen_by=1).status is Status.PENDING


def test_an_acceptance_in_doubt_is_found_even_when_the_balance_is_gone_by_then(
    history: History, orders: Orders, proxied: Engine, proxied_orders: Orders, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.lose_reply_to(is_acceptance)
    event.listen(proxied, "connect", lambda *_: orders.execute(withdrawal(1, 100)), once=True)
    acceptance = proxied_orders.accept(later(1, 2, 100))

    assert not acceptance.replayed
    assert history.get_balance(1).cents == 0
    assert history.get_transfer(acceptance.transfer_id, seen_by=1).status is Status.PENDING


def test_a_refusal_whose_reply_is_lost_is_left_to_the_job(
    engine: Engine, proxied_orders: Orders, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.lose_reply_to(is_acceptance)
    acceptance = proxied_orders.accept(later(1, 2, 101))
    outcome = post_now(engine, [acceptance.transfer_id]).outcomes[acceptance.transfer_id]
    assert outcome == (Status.REJECTED, "balance_insufficient")


def test_a_commit_that_never_arrived_is_made_up_for(
    engine: Engine, snowflake: Snowflake, proxied: Engine, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.lose_reply_to(never_arrives(is_commit))
    ids = CountedIds(snowflake)
    receipt = Orders(proxied, ids).execute(transfer(1, 2, 30, key="k"))

    assert receipt == Receipt(transfer_id=ids.drawn[0], balance_cents=70)
    assert len(ids.drawn) == 1  # the same id again: the first try may still be on its way
    assert balances(engine) == {1: 70, 2: 130}


def test_an_acceptance_that_never_arrived_is_made_up_for(
    engine: Engine, proxied_orders: Orders, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.lose_reply_to(never_arrives(is_acceptance))
    assert not proxied_orders.accept(later(1, 2, 30)).replayed
    assert count_transfers(engine) == 3


class CountedIds:
    """Remembers what was drawn."""

    def __init__(self, ids: Snowflake) -> None:
        self._ids = ids
        self.drawn: list[int] = []

    def next_id(self) -> int:
        self.drawn.append(self._ids.next_id())
        return self.drawn[-1]


def test_when_the_outcome_cannot_be_looked_up_it_is_unknown_and_the_id_is_told(
    history: History, proxied_orders: Orders, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.lose_reply_to(lambda data: is_commit(data) and refuse_from_now_on(postgres_proxy))
    with pytest.raises(OutcomeUnknown) as unknown:
        proxied_orders.execute(transfer(1, 2, 30, key="k"))

    assert history.get_transfer(unknown.value.transfer_id, seen_by=1).status is Status.POSTED
    postgres_proxy.refuse(refusing=False)  # the same key tells the outcome
    assert proxied_orders.execute(transfer(1, 2, 30, key="k")) == Receipt(
        transfer_id=unknown.value.transfer_id, balance_cents=70, replayed=True
    )


def test_an_unknown_outcome_may_be_that_nothing_moved(
    engine: Engine, history: History, proxied_orders: Orders, postgres_proxy: TcpProxy
) -> None:
    refuse = never_arrives(is_commit, and_then=postgres_proxy.refuse_new)
    postgres_proxy.lose_reply_to(refuse)
    with pytest.raises(OutcomeUnknown) as unknown:
        proxied_orders.execute(transfer(1, 2, 30))

    with pytest.raises(TransferNotFound):
        history.get_transfer(unknown.value.transfer_id, seen_by=1)
    assert balances(engine) == {1: 100, 2: 100}


def test_an_acceptance_that_cannot_be_looked_up_is_unknown(
    history: History, proxied_orders: Orders, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.lose_reply_to(lambda data: is_acceptance(data) and refuse_from_now_on(postgres_proxy))
    with pytest.raises(OutcomeUnknown) as unknown:
        proxied_orders.accept(later(1, 2, 30))
    assert history.get_transfer(unknown.value.transfer_id, seen_by=1).status is Status.PENDING


def refuse_from_now_on(proxy: TcpProxy) -> bool:
    """Refuse new connections; the one that asks gets its request through, and no reply."""
    proxy.refuse_new()
    return True


# Servers that cannot be reached, hang, or say no


@pytest.mark.parametrize("take", [Orders.execute, Orders.accept])
def test_a_server_that_refuses_connections_means_that_nothing_moved(
    engine: Engine,
    proxied: Engine,
    proxied_orders: Orders,
    postgres_proxy: TcpProxy,
    take: Callable[[Orders, Order], Receipt | Acceptance],
) -> None:
    proxied.dispose()
    postgres_proxy.refuse()
    with pytest.raises(Unavailable):
        take(proxied_orders, transfer(1, 2, 30))
    assert count_transfers(engine) == 2


@pytest.mark.parametrize("take", [Orders.execute, Orders.accept])
def test_a_server_that_went_away_since_the_last_order_means_that_nothing_moved(
    engine: Engine,
    proxied_orders: Orders,
    postgres_proxy: TcpProxy,
    take: Callable[[Orders, Order], Receipt | Acceptance],
) -> None:
    """The connection in the pool is dead, which is seen before anything is sent: nothing is in doubt."""
    postgres_proxy.refuse()
    with pytest.raises(Unavailable):
        take(proxied_orders, transfer(1, 2, 30))
    assert count_transfers(engine) == 2


@pytest.mark.parametrize("take", [Orders.execute, Orders.accept])
def test_connections_that_died_in_the_pool_are_not_the_callers_business(
    engine: Engine,
    proxied_orders: Orders,
    postgres_proxy: TcpProxy,
    take: Callable[[Orders, Order], Receipt | Acceptance],
) -> None:
    """As after a restart of the server."""
    postgres_proxy.break_all()
    assert not take(proxied_orders, transfer(1, 2, 30)).replayed
    assert count_transfers(engine) == 3


@pytest.mark.parametrize("wallet_id", [1, 2])
def test_a_wallet_that_somebody_holds_is_waited_for_no_longer_than_lock_timeout(
    engine: Engine, snowflake: Snowflake, database_url: str, wallet_id: int
) -> None:
    with (
        bounded_engine(database_url, lock_ms=50) as impatient,
        row_lock(engine, wallet_id),
        pytest.raises(Unavailable),
    ):
        Orders(impatient, snowflake).execute(transfer(1, 2, 30, key="k"))
    assert count_transfers(engine) == 2
    assert not Orders(engine, snowflake).execute(transfer(1, 2, 30, key="k")).replayed


def test_a_wallet_that_somebody_holds_does_not_hinder_acceptance(orders: Orders, engine: Engine) -> None:
    with row_lock(engine, 1):
        assert not orders.accept(later(1, 2, 30)).replayed


def test_a_statement_that_takes_too_long_is_ended_and_nothing_moved(
    engine: Engine, snowflake: Snowflake, database_url: str
) -> None:
    with (
        bounded_engine(database_url, statement_ms=50) as impatient,
        row_lock(engine, 1),
        pytest.raises(Unavailable),
    ):
        Orders(impatient, snowflake).execute(transfer(1, 2, 30))
    assert count_transfers(engine) == 2


@pytest.fixture
def trigger(engine: Engine) -> Iterator[Callable[[str, str], None]]:
    """Make every insert into a table do something."""

    def create(table: str, body: str) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f"CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$"
            )
            connection.exec_driver_sql(
                f"CREATE TRIGGER meddle BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION meddle()"
            )

    yield create
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP FUNCTION IF EXISTS meddle CASCADE")


@pytest.mark.parametrize("table", ["entries", "transfers"])
def test_a_database_that_raises_means_that_nothing_moved(
    orders: Orders, engine: Engine, trigger: Callable[[str, str], None], table: str
) -> None:
    trigger(table, "RAISE EXCEPTION 'no'")
    with pytest.raises(Unavailable):
        orders.execute(transfer(1, 2, 30))
    assert balances(engine) == {1: 100, 2: 100}
    assert count_transfers(engine) == 2


def test_a_database_that_raises_accepts_nothing(
    orders: Orders, engine: Engine, trigger: Callable[[str, str], None]
) -> None:
    trigger("transfers", "RAISE EXCEPTION 'no'")
    with pytest.raises(Unavailable):
        orders.accept(later(1, 2, 30))
    assert count_transfers(engine) == 2


@pytest.mark.parametrize("take", [Orders.execute, Orders.accept])
def test_a_conflict_that_ends_is_tried_again_out_of_the_callers_sight(
    orders: Orders,
    engine: Engine,
    trigger: Callable[[str, str], None],
    take: Callable[[Orders, Order], Receipt | Acceptance],
) -> None:
    """A deadlock's SQLSTATE, as often as there is another try. (A sequence counts on through the rollbacks.)"""
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SEQUENCE conflicts")
    try:
        trigger("transfers", f"IF nextval('conflicts') < {MAX_TRIES} THEN RAISE SQLSTATE '40P01'; END IF")
        assert not take(orders, transfer(1, 2, 30)).replayed
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP SEQUENCE conflicts")
    assert count_transfers(engine) == 3


@pytest.mark.parametrize("take", [Orders.execute, Orders.accept])
def test_conflicts_without_an_end_are_given_up(
    orders: Orders,
    engine: Engine,
    trigger: Callable[[str, str], None],
    take: Callable[[Orders, Order], Receipt | Acceptance],
) -> None:
    trigger("transfers", "RAISE SQLSTATE '40001'")
    with pytest.raises(Unavailable):
        take(orders, transfer(1, 2, 30))
    assert count_transfers(engine) == 2


@pytest.mark.parametrize("take", [Orders.execute, Orders.accept])
def test_who_finds_no_connection_free_is_told_that_nothing_moved(
    engine: Engine,
    snowflake: Snowflake,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    take: Callable[[Orders, Order], Receipt | Acceptance],
) -> None:
    monkeypatch.setattr("models.database.pool.TIMEOUT_S", 0.05)
    with bounded_engine(database_url, pool_size=1) as small, small.connect(), pytest.raises(Unavailable):
        take(Orders(small, snowflake), transfer(1, 2, 30))
    assert count_transfers(engine) == 2


@pytest.fixture
def impatient(postgres_proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine through the proxy that takes one and a half seconds of silence for a server's death."""
    monkeypatch.setattr("models.database.connecting.CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr("models.database.engine.SILENCE_MARGIN_S", 1.0)
    with bounded_engine(postgres_proxy.url, statement_ms=500, lock_ms=400) as engine:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        yield engine


def hang_at(proxy: TcpProxy, request: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
    """Let the first such request through and nothing after it, above all not its reply."""

    def hold(data: bytes) -> bool:
        if request(data):
            proxy.hold()
        return False

    return hold


@pytest.mark.parametrize("take", [Orders.execute, Orders.accept])
def test_a_server_that_hangs_before_anything_was_sent_means_that_nothing_moved(
    engine: Engine,
    snowflake: Snowflake,
    impatient: Engine,
    postgres_proxy: TcpProxy,
    take: Callable[[Orders, Order], Receipt | Acceptance],
) -> None:
    impatient.dispose()
    postgres_proxy.hold()
    with pytest.raises(Unavailable):
        take(Orders(impatient, snowflake), transfer(1, 2, 30))
    postgres_proxy.break_all()
    assert count_transfers(engine) == 2


def test_a_server_that_hangs_before_the_commit_means_that_nothing_moved(
    engine: Engine, snowflake: Snowflake, impatient: Engine, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.lose_reply_to(hang_at(postgres_proxy, is_look))
    with pytest.raises(Unavailable):
        Orders(impatient, snowflake).execute(transfer(1, 2, 30))
    postgres_proxy.break_all()
    assert count_transfers(engine) == 2


def test_a_server_that_hangs_over_the_commit_means_an_unknown_outcome(
    history: History, snowflake: Snowflake, impatient: Engine, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.lose_reply_to(hang_at(postgres_proxy, is_commit))
    with pytest.raises(OutcomeUnknown) as unknown:
        Orders(impatient, snowflake).execute(transfer(1, 2, 30))
    assert history.get_transfer(unknown.value.transfer_id, seen_by=2).status is Status.POSTED


def test_a_server_that_hangs_over_an_acceptance_means_an_unknown_outcome(
    history: History, snowflake: Snowflake, impatient: Engine, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.lose_reply_to(hang_at(postgres_proxy, is_acceptance))
    with pytest.raises(OutcomeUnknown) as unknown:
        Orders(impatient, snowflake).accept(later(1, 2, 30))
    assert history.get_transfer(unknown.value.transfer_id, seen_by=2).status is Status.PENDING


def test_after_a_hang_the_engine_is_as_good_as_new(
    engine: Engine, snowflake: Snowflake, impatient: Engine, postgres_proxy: TcpProxy
) -> None:
    orders = Orders(impatient, snowflake)
    postgres_proxy.lose_reply_to(hang_at(postgres_proxy, is_look))
    with pytest.raises(Unavailable):
        orders.execute(transfer(1, 2, 30))
    postgres_proxy.lose_reply_to(lambda _: False)
    postgres_proxy.break_all()
    postgres_proxy.resume()

    assert orders.execute(transfer(1, 2, 30)).balance_cents == 70
    assert balances(engine) == {1: 70, 2: 130}
