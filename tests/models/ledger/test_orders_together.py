"""Orders that are placed as one group each end as they would alone, whatever befalls the group or one of it."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine, text

from models.cache.wallet_cache import nobody_caches
from models.errors import (
    OutcomeUnknown,
    SelfTransferInvalid,
    Unavailable,
)
from models.ledger.orders import GROUP_PATIENCE_MS, MAX_TRIES, Orders
from models.ledger.transfer import Acceptance, Order, Receipt
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
    row_lock,
    transfer,
    withdrawal,
)
from tests.models.ledger.test_concurrency import deadlocks
from tests.models.ledger.together import groups_of_several, together
from tests.patience import PATIENCE_S
from tests.project import ROOT
from tests.proxy import TcpProxy

MAX = 2**63 - 1
Fault = Callable[[], AbstractContextManager[object]]
# What a neighbour may be late by, on a busy machine: a group's patience twice, and some work.
SOON_S = 2 * GROUP_PATIENCE_MS / 1000 + 1.0


@pytest.fixture(autouse=True)
def funded(engine: Engine, orders: Orders) -> Iterator[None]:
    """Wallets 1 to 6 hold 100 cents each; after the test, whatever it did, the books balance."""
    for user in range(1, 7):
        orders.execute(deposit(user, 100))
    yield
    check_books(engine)


@pytest.fixture
def proxied(postgres_proxy: TcpProxy) -> Iterator[Engine]:
    """An engine through the proxy, with a connection in its pool."""
    with bounded_engine(postgres_proxy.url) as engine:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        yield engine


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def execute_together(orders: Orders, given: Sequence[Order]) -> list[Future[Receipt]]:
    return together(orders._posting, [partial(orders.execute, order) for order in given])


def accept_together(orders: Orders, given: Sequence[Order]) -> list[Future[Acceptance]]:
    return together(orders._recording, [partial(orders.accept, order) for order in given])


def ends(answers: Sequence[Future[Any]]) -> list[str]:
    """How each ended, in a word."""
    words = []
    for each in answers:
        error = each.exception(PATIENCE_S)
        words.append(type(error).__name__ if error else "replayed" if each.result().replayed else "done")
    return words


def balance_after(engine: Engine, transfer_id: int) -> int:
    """What the books say that the giver had just after a transfer."""
    query = text("""
        SELECT e.balance_after FROM transfers t JOIN entries e ON e.transfer_id = t.id
        AND e.wallet_id = coalesce(t.source, t.destination) WHERE t.id = :id
    """)
    with engine.connect() as connection:
        found: int = connection.execute(query, {"id": transfer_id}).scalar_one()
        return found


def is_commit(data: bytes) -> bool:
    return b"COMMIT\x00" in data


# Whatever befalls a group: each ends as it would alone

FAULTS = {
    "none": None,
    "the reply to the look is lost": lambda proxy: proxy.lose_reply_to(is_look),
    "the look never arrives": lambda proxy: proxy.lose_reply_to(never_arrives(is_look)),
    "the reply to the commit is lost": lambda proxy: proxy.lose_reply_to(is_commit),
    "the commit never arrives": lambda proxy: proxy.lose_reply_to(never_arrives(is_commit)),
    "the reply to the acceptance is lost": lambda proxy: proxy.lose_reply_to(is_acceptance),
    "the acceptance never arrives": lambda proxy: proxy.lose_reply_to(never_arrives(is_acceptance)),
    "the connection has died": lambda proxy: proxy.break_all(),
}


@pytest.mark.parametrize("fault", [each for each in FAULTS if "acceptance" not in each])
def test_each_order_of_a_group_ends_as_it_would_alone(
    *, engine: Engine, orders: Orders, snowflake: Snowflake, proxied: Engine, postgres_proxy: TcpProxy, fault: str
) -> None:
    old = orders.execute(transfer(1, 2, 5, key="old"))  # 1: 95, 2: 105
    given = [
        transfer(1, 2, 10),
        transfer(2, 3, 1_000),
        transfer(1, 9, 1),
        transfer(1, 2, 5, key="old"),
        withdrawal(1, 5, key="old"),
        transfer(3, 1, 7, key="twice"),
        transfer(3, 1, 7, key="twice"),
        transfer(3, 1, 8, key="twice"),
        deposit(7, 3),
        withdrawal(4, 20, key="mine"),
        deposit(5, MAX),
        withdrawal(8, 1),
    ]
    before = groups_of_several()
    mine = Orders(proxied, snowflake)
    if (cause := FAULTS[fault]) is not None:
        cause(postgres_proxy)
    answers = execute_together(mine, given)

    found = ends(answers)
    assert found == [
        "done",
        "BalanceInsufficient",
        "WalletNotFound",
        "replayed",
        "IdempotencyKeyReused",
        *found[5:8],
        "done",
        "done",
        "BalanceOverflow",
        "WalletNotFound",
    ]
    # Of those with the same key one wins, and the others are told. Tried alone, it may be any of them.
    winner = 5 + found[5:8].index("done")
    if winner < 7:
        assert sorted(found[5:7]) == ["done", "replayed"]
        assert answers[5].result().transfer_id == answers[6].result().transfer_id
    assert found[5:8].count("IdempotencyKeyReused") == (2 if winner == 7 else 1)
    if fault == "none":
        assert winner == 5
    paid = given[winner].amount_cents
    assert answers[3].result() == Receipt(transfer_id=old.transfer_id, balance_cents=95, replayed=True)
    for each in (0, winner, 8, 9):
        receipt = answers[each].result()
        assert receipt.balance_cents == balance_after(engine, receipt.transfer_id)
    assert balances(engine) == {1: 85 + paid, 2: 115, 3: 100 - paid, 4: 80, 5: 100, 6: 100, 7: 3}
    assert count_transfers(engine) == 6 + 1 + 4
    assert groups_of_several() > before


@pytest.mark.parametrize("fault", [each for each in FAULTS if "look" not in each and "commit" not in each])
def test_each_acceptance_of_a_group_ends_as_it_would_alone(
    *, engine: Engine, orders: Orders, snowflake: Snowflake, proxied: Engine, postgres_proxy: TcpProxy, fault: str
) -> None:
    old = orders.accept(later(1, 2, 5, key="old"))
    given = [
        later(1, 2, 10),
        later(1, 2, 5, key="old"),
        later(1, 2, 6, key="old"),
        later(3, 1, 7, key="twice"),
        later(3, 1, 7, key="twice"),
        later(3, 1, 8, key="twice"),
        later(4, 5, 100),
    ]
    # What the statement itself would refuse is left to the job once it is in doubt whether it was recorded.
    refused = [] if "acceptance" in fault else [later(2, 3, 1_000), later(1, 9, 1)]
    before = groups_of_several()
    mine = Orders(proxied, snowflake)
    if (cause := FAULTS[fault]) is not None:
        cause(postgres_proxy)
    answers = accept_together(mine, [*given, *refused])

    found = ends(answers)
    told = ["done", "replayed", "IdempotencyKeyReused", *found[3:6], "done"]
    assert found == told + ["BalanceInsufficient", "WalletNotFound"][: len(refused)]
    reused = "IdempotencyKeyReused"
    assert sorted(found[3:6]) in ([reused, "done", "replayed"], [reused, reused, "done"])
    assert answers[1].result().transfer_id == old.transfer_id
    assert count_transfers(engine) == 6 + 1 + 3
    assert groups_of_several() > before


def test_a_transfer_to_oneself_is_refused_before_it_joins_a_group(orders: Orders) -> None:
    with pytest.raises(SelfTransferInvalid):
        orders.execute(transfer(1, 1, 1))


def test_in_a_group_each_is_judged_on_what_those_before_it_left(engine: Engine, orders: Orders) -> None:
    given = [transfer(1, 2, 60), transfer(1, 2, 60), withdrawal(1, 40), transfer(2, 3, 160), withdrawal(2, 1)]
    answers = execute_together(orders, given)
    assert ends(answers) == ["done", "BalanceInsufficient", "done", "done", "BalanceInsufficient"]
    assert [answers[each].result().balance_cents for each in (0, 2, 3)] == [40, 0, 0]
    assert balances(engine) == {1: 0, 2: 0, 3: 260, 4: 100, 5: 100, 6: 100}


def test_when_the_first_of_a_key_is_refused_the_second_is_judged_by_itself(orders: Orders) -> None:
    given = [transfer(1, 2, 101, key="k"), transfer(1, 2, 30, key="k"), transfer(1, 2, 101, key="k")]
    found = ends(execute_together(orders, given))
    assert found[0] in {"BalanceInsufficient", "IdempotencyKeyReused"}
    assert found[1] == "done"
    assert found[2] in {"BalanceInsufficient", "IdempotencyKeyReused"}


GROUP = [transfer(1, 2, 10), transfer(3, 4, 10, key="k"), withdrawal(5, 10), deposit(6, 10), deposit(7, 10)]
AFTER = {1: 90, 2: 110, 3: 90, 4: 110, 5: 90, 6: 110, 7: 10}
ACCEPTED = [later(1, 2, 10), later(3, 4, 10, key="k"), later(5, 6, 10)]
BOTH = pytest.mark.parametrize(("take", "given"), [(execute_together, GROUP), (accept_together, ACCEPTED)])
Take = Callable[[Orders, Sequence[Order]], list[Future[Any]]]


@BOTH
def test_a_server_that_refuses_connections_means_for_each_that_nothing_moved(
    *, engine: Engine, snowflake: Snowflake, proxied: Engine, postgres_proxy: TcpProxy, take: Take, given: list[Order]
) -> None:
    postgres_proxy.refuse()
    assert ends(take(Orders(proxied, snowflake), given)) == ["Unavailable"] * len(given)
    assert count_transfers(engine) == 6


@BOTH
def test_who_finds_no_connection_free_is_told_that_nothing_moved(
    engine: Engine, snowflake: Snowflake, monkeypatch: pytest.MonkeyPatch, take: Take, given: list[Order]
) -> None:
    monkeypatch.setattr("models.database.pool.TIMEOUT_S", 0.05)
    with bounded_engine(url_of(engine), pool_size=1) as small, small.connect():
        assert ends(take(Orders(small, snowflake), given)) == ["Unavailable"] * len(given)
    assert count_transfers(engine) == 6


@BOTH
def test_when_the_outcome_cannot_be_looked_up_it_is_unknown_for_each(
    *, engine: Engine, snowflake: Snowflake, proxied: Engine, postgres_proxy: TcpProxy, take: Take, given: list[Order]
) -> None:
    def cut_for_good(data: bytes) -> bool:
        if not (is_commit(data) or is_acceptance(data)):
            return False
        postgres_proxy.refuse_new()
        return True

    postgres_proxy.lose_reply_to(cut_for_good)
    answers = take(Orders(proxied, snowflake), given)
    assert ends(answers) == ["OutcomeUnknown"] * len(given)
    ids = {each.exception().transfer_id for each in answers}  # type: ignore[union-attr]
    with engine.connect() as connection:
        recorded = set(connection.execute(text("SELECT id FROM transfers")).scalars())
    assert ids <= recorded
    assert len(ids) == len(given)
    postgres_proxy.refuse(refusing=False)
    again = Orders(proxied, snowflake)
    key_of_second = again.execute if take is execute_together else again.accept
    answer: Any = key_of_second(given[1])
    assert answer.replayed
    assert answer.transfer_id == answers[1].exception().transfer_id  # type: ignore[union-attr]


@pytest.fixture
def impatient(postgres_proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine through the proxy that takes one and a half seconds of silence for a server's death."""
    monkeypatch.setattr("models.database.connecting.CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr("models.database.engine.SILENCE_MARGIN_S", 1.0)
    with bounded_engine(postgres_proxy.url, statement_ms=500, lock_ms=400) as engine:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        yield engine


@pytest.mark.parametrize(
    ("at", "end", "after"),
    [(is_look, Unavailable, dict.fromkeys(range(1, 7), 100)), (is_commit, OutcomeUnknown, AFTER)],
)
def test_a_server_that_hangs_under_a_group_means_the_same_for_each(
    *,
    engine: Engine,
    snowflake: Snowflake,
    impatient: Engine,
    postgres_proxy: TcpProxy,
    at: Callable[[bytes], bool],
    end: type[Exception],
    after: dict[int, int],
) -> None:
    def hold(data: bytes) -> bool:
        if at(data):
            postgres_proxy.hold()
        return False

    postgres_proxy.lose_reply_to(hold)
    answers = execute_together(Orders(impatient, snowflake), GROUP)
    assert ends(answers) == [end.__name__] * len(GROUP)
    postgres_proxy.break_all()
    assert wait_for(lambda: balances(engine) == after, PATIENCE_S)


# One that is to blame


@pytest.fixture
def meddle(engine: Engine) -> Iterator[Callable[[str], None]]:
    """Make every insert of a transfer do something."""

    def create(body: str) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f"CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$"
            )
            connection.exec_driver_sql(
                "CREATE TRIGGER meddle BEFORE INSERT ON transfers FOR EACH ROW EXECUTE FUNCTION meddle()"
            )

    yield create
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP FUNCTION IF EXISTS meddle CASCADE")
        connection.exec_driver_sql("DROP SEQUENCE IF EXISTS conflicts")


BLAME = {
    "RAISE EXCEPTION 'no';": "Unavailable",
    "RAISE SQLSTATE '40P01';": "Unavailable",
    "RAISE SQLSTATE '40001';": "Unavailable",
    "RAISE SQLSTATE '53100';": "Unavailable",
    "RAISE SQLSTATE '55P03';": "Unavailable",
    # What is said when a connection is lost says nothing of a commit, even if that is where it was raised.
    "RAISE SQLSTATE '57P03';": "OutcomeUnknown",
    "RAISE SQLSTATE '08006';": "OutcomeUnknown",
    "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1);": "OutcomeUnknown",
}


@pytest.mark.parametrize("body", sorted(BLAME))
@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("take", [execute_together, accept_together])
def test_one_that_fails_by_itself_fails_nobody_else(
    *, engine: Engine, orders: Orders, meddle: Callable[[str], None], body: str, place: int, take: Take
) -> None:
    given = [later(number, number + 1, 10, key=f"k{number}") for number in range(1, 6)]
    given.insert(place, later(5, 6, 66))
    meddle(f"IF NEW.amount = 66 THEN {body} END IF;")
    found = ends(take(orders, given))
    assert found.pop(place) == BLAME[body]
    assert found == ["done"] * 5
    assert count_transfers(engine) == 6 + 5
    if take is execute_together:
        assert balances(engine) == {1: 90, 2: 100, 3: 100, 4: 100, 5: 100, 6: 110}


@BOTH
def test_a_conflict_that_ends_is_nobodys_business(
    engine: Engine, orders: Orders, meddle: Callable[[str], None], take: Take, given: list[Order]
) -> None:
    """A deadlock's SQLSTATE, some times. (A sequence counts on through the rollbacks.)"""
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SEQUENCE conflicts")
    meddle(f"IF nextval('conflicts') < {MAX_TRIES} THEN RAISE SQLSTATE '40P01'; END IF;")
    assert ends(take(orders, given)) == ["done"] * len(given)
    assert count_transfers(engine) == 6 + len(given)


class RaisingOnce:
    """A cache whose first eviction fails in a way that nobody thought of."""

    def __init__(self) -> None:
        self.has_raised = False

    def evict(self, versions: Any) -> Any:
        if not self.has_raised:
            self.has_raised = True
            raise ZeroDivisionError
        return nobody_caches(versions)

    def evict_again(self, _eviction: Any) -> None:
        pass


def test_what_nobody_expects_costs_nobody_anything_if_it_does_not_come_again(
    engine: Engine, snowflake: Snowflake
) -> None:
    orders = Orders(engine, snowflake, RaisingOnce())
    assert ends(execute_together(orders, GROUP)) == ["done"] * 5
    assert balances(engine) == AFTER


def test_what_an_earlier_try_comes_to_late_is_seen_by_the_next_one(
    engine: Engine, snowflake: Snowflake, proxied: Engine, postgres_proxy: TcpProxy, slow_commit: Callable[[str], None]
) -> None:
    """The connection is lost while the server commits, and the next try waits for that: the money is gone to itself."""
    slow_commit("PERFORM pg_sleep(0.5);")

    commits: list[bytes] = []

    def cut_soon(data: bytes) -> bool:
        if is_commit(data):
            commits.append(data)
            if len(commits) == 1:
                threading.Timer(0.1, postgres_proxy.break_all).start()
        return False

    postgres_proxy.lose_reply_to(cut_soon)
    answers = execute_together(Orders(proxied, snowflake), [transfer(1, 2, 100), withdrawal(3, 100)])
    assert ends(answers) == ["done", "done"]
    assert [each.result().balance_cents for each in answers] == [0, 0]
    assert balances(engine) == {1: 0, 2: 200, 3: 0, 4: 100, 5: 100, 6: 100}
    assert count_transfers(engine) == 8


@pytest.fixture
def slow_commit(engine: Engine) -> Iterator[Callable[[str], None]]:
    """Make the first commit that comes with new transfers do something."""

    def create(body: str) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE SEQUENCE commits")
            body = f"IF nextval('commits') = 1 THEN {body} END IF;"
            connection.exec_driver_sql(
                f"CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$"
            )
            connection.exec_driver_sql(
                "CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON transfers DEFERRABLE INITIALLY DEFERRED"
                " FOR EACH ROW EXECUTE FUNCTION dawdle()"
            )

    yield create
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP FUNCTION IF EXISTS dawdle CASCADE")
        connection.exec_driver_sql("DROP SEQUENCE IF EXISTS commits")


@pytest.mark.parametrize(
    ("body", "balance"), [("PERFORM pg_sleep(0.5);", 90), ("PERFORM pg_sleep(0.3); RAISE 'no';", 100)]
)
def test_a_leader_that_is_killed_over_its_commit_takes_nobody_with_it(
    engine: Engine, slow_commit: Callable[[str], None], body: str, balance: int
) -> None:
    """A greenlet. The others find out by themselves what became of them, and what did not is made up for."""
    slow_commit(body)
    child = subprocess.run(
        [sys.executable, "-m", "tests.models.ledger.killed_leader_child", url_of(engine)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S * 2,
    )
    assert (child.returncode, child.stderr) == (0, "")
    told = json.loads(child.stdout)
    assert told == {"leader": "killed", "balances": [90, 90, 110, 10], "group": 5, "free": 1, "in_use": 0}
    # The leader's own order was on its way.
    assert balances(engine) == {1: balance, 2: 200 - balance, 3: 90, 4: 110, 5: 90, 6: 110, 7: 10}


# Wallets and keys that somebody holds


@contextmanager
def held(engine: Engine, statement: str, **parameters: Any) -> Iterator[Any]:
    """Somebody has done something and not committed it yet."""
    with engine.connect() as holder:
        holder.execute(text(statement), parameters)
        try:
            yield holder
        finally:
            holder.rollback()


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("blocked", [transfer(1, 2, 10), transfer(2, 1, 10), withdrawal(1, 10), deposit(1, 10)])
def test_a_wallet_that_somebody_holds_delays_its_group_once_and_nobody_later(
    engine: Engine, orders: Orders, blocked: Order, place: int
) -> None:
    given = [transfer(3, 4, 10), deposit(7, 10), withdrawal(5, 10)]
    given.insert(place, blocked)
    with row_lock(engine, 1):
        began = time.monotonic()
        answers = execute_together(orders, given)
        waiting = answers.pop(place)
        assert ends(answers) == ["done"] * 3
        assert time.monotonic() - began < SOON_S
        assert wait_for(lambda: count_waiting(engine) == 1, PATIENCE_S)
        # Whom the one that waits would pay is free, too.
        took = [seconds(lambda: orders.execute(transfer(3, 2, 1))) for _ in range(9)]
        assert sorted(took)[4] < GROUP_PATIENCE_MS / 1000 / 2
        assert not waiting.done()
    assert ends([waiting]) == ["done"]
    assert orders._waited_for == {}


def seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_those_who_come_for_a_wallet_that_is_waited_for_wait_as_well_and_are_served_together(
    engine: Engine, orders: Orders
) -> None:
    with ThreadPoolExecutor(10) as pool:
        with row_lock(engine, 1):
            first = pool.submit(orders.execute, transfer(1, 2, 1))
            assert wait_for(lambda: orders._waited_for == {1: 1}, PATIENCE_S)
            others = [pool.submit(orders.execute, transfer(1, each, 1)) for each in range(2, 7)]
            assert wait_for(lambda: orders._waited_for == {1: 6}, PATIENCE_S)
            assert len(orders._held_up._waiting) == 5
            assert seconds(lambda: orders.execute(transfer(3, 4, 1))) < SOON_S
        assert ends([first, *others]) == ["done"] * 6
    assert balances(engine)[1] == 94
    assert orders._waited_for == {}


def test_a_wallet_that_is_not_let_go_is_waited_for_no_longer_than_lock_timeout(
    engine: Engine, snowflake: Snowflake
) -> None:
    with bounded_engine(url_of(engine), lock_ms=700) as impatient, row_lock(engine, 1):
        orders = Orders(impatient, snowflake)
        began = time.monotonic()
        answers = execute_together(orders, [transfer(3, 4, 10), transfer(1, 2, 10), withdrawal(1, 5, key="k")])
        assert ends(answers) == ["done", "Unavailable", "Unavailable"]
        assert 0.7 < time.monotonic() - began < 0.7 + 2 * SOON_S
        assert orders._waited_for == {}
    assert balances(engine) == {1: 100, 2: 100, 3: 90, 4: 110, 5: 100, 6: 100}
    assert not Orders(engine, snowflake).execute(withdrawal(1, 5, key="k")).replayed


@pytest.mark.parametrize("is_committed", [False, True])
def test_a_wallet_that_somebody_is_opening_delays_nobody_but_those_who_pay_in(
    engine: Engine, orders: Orders, is_committed: bool
) -> None:
    """As an import does, which takes long."""
    with held(engine, "INSERT INTO wallets (id) VALUES (8), (9)") as holder:
        given = [deposit(9, 10), deposit(7, 10), transfer(3, 4, 10), deposit(8, 10), deposit(5, 10)]
        began = time.monotonic()
        answers = execute_together(orders, given)
        assert ends(answers[1:3] + answers[4:]) == ["done"] * 3
        assert time.monotonic() - began < SOON_S
        assert not answers[0].done()
        assert not answers[3].done()
        took = [seconds(partial(orders.execute, deposit(10 + each, 1))) for each in range(9)]
        assert sorted(took)[4] < GROUP_PATIENCE_MS / 1000 / 2
        if is_committed:
            holder.commit()
    assert ends(answers) == ["done"] * 5
    found = balances(engine)
    assert (found[7], found[8], found[9]) == (10, 10, 10)


@pytest.mark.parametrize("is_committed", [False, True])
@pytest.mark.parametrize("take", [execute_together, accept_together])
def test_a_key_that_somebody_is_using_delays_its_group_once(
    engine: Engine, orders: Orders, take: Take, is_committed: bool
) -> None:
    rival = later(1, 2, 10, key="k")
    insert = (
        "INSERT INTO transfers (id, kind, source, destination, amount, idempotency_key, request_hash)"
        " VALUES (5, 'transfer', 1, 2, 10, 'k', :hash)"
    )
    with held(engine, insert, hash=rival.request_hash) as holder:
        began = time.monotonic()
        answers = take(orders, [later(3, 4, 10), rival, later(5, 6, 10)])
        assert ends([answers[0], answers[2]]) == ["done", "done"]
        assert time.monotonic() - began < SOON_S
        assert not answers[1].done()
        if is_committed:
            if take is execute_together:  # whose answer has a balance, which only a posting leaves behind
                holder.rollback()
            else:
                holder.commit()
    is_replay = is_committed and take is accept_together
    assert ends([answers[1]]) == ["replayed" if is_replay else "done"]


@pytest.mark.parametrize("table", ["wallets", "transfers", "entries"])
@pytest.mark.parametrize("take", [execute_together, accept_together])
def test_a_lock_on_a_whole_table_is_waited_for_as_by_a_lone_order(
    engine: Engine, orders: Orders, take: Take, table: str
) -> None:
    with held(engine, f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"):
        answers: list[Future[Any]] = take(orders, [later(1, 2, 10), later(3, 4, 10), later(5, 6, 10)])
        time.sleep(3.5 * GROUP_PATIENCE_MS / 1000)
    assert ends(answers) == ["done"] * 3


@pytest.mark.parametrize(
    ("take", "table", "mode"),
    [
        (execute_together, "wallets", "SHARE"),
        (execute_together, "transfers", "SHARE"),
        (execute_together, "entries", "SHARE"),
        (execute_together, "wallets", "ACCESS EXCLUSIVE"),
        (accept_together, "wallets", "ACCESS EXCLUSIVE"),
        (accept_together, "transfers", "SHARE"),
    ],
)
def test_a_lock_on_a_whole_table_that_is_not_let_go_is_said_to_be_the_databases(
    engine: Engine, snowflake: Snowflake, take: Take, table: str, mode: str
) -> None:
    with bounded_engine(url_of(engine), lock_ms=400) as impatient:
        orders = Orders(impatient, snowflake)
        with held(engine, f"LOCK TABLE {table} IN {mode} MODE"):
            answers: list[Future[Any]] = take(orders, [later(1, 2, 10), later(3, 4, 10), later(5, 6, 10, key="k")])
            assert ends(answers) == ["Unavailable"] * 3
        assert count_transfers(engine) == 6
        assert ends(take(orders, [later(5, 6, 10, key="k")])) == ["done"]


# Two processes


def test_groups_that_use_each_others_keys_and_open_each_others_wallets_never_deadlock(
    engine: Engine, snowflake: Snowflake
) -> None:
    rounds = 25
    before = deadlocks(engine)
    with ExitStack() as stack:
        engines = [stack.enter_context(bounded_engine(url_of(engine), lock_ms=5_000)) for _ in range(2)]
        ours, theirs = (Orders(each, snowflake) for each in engines)
        pool = stack.enter_context(ThreadPoolExecutor(4))
        start = threading.Barrier(4, timeout=PATIENCE_S)
        for number in range(rounds):
            fresh = range(100 + number * 10, 105 + number * 10)
            given = [transfer(each, each % 6 + 1, 1, key=f"k{number}") for each in range(1, 7)]
            given += [deposit(each, 1, key=f"k{number}") for each in fresh]
            accepted = [later(each, each % 6 + 1, 1, key=f"l{number}") for each in range(1, 7)]
            tasks = [
                pool.submit(together, who, [partial(what, order) for order in some], start=start.wait)
                for who, what, some in (
                    (ours._posting, ours.execute, given),
                    (theirs._posting, theirs.execute, given[::-1]),
                    (ours._recording, ours.accept, accepted),
                    (theirs._recording, theirs.accept, accepted[::-1]),
                )
            ]
            mine, yours, my_accepted, your_accepted = (ends(each.result(PATIENCE_S)) for each in tasks)
            both = ["done", "replayed"]
            assert [sorted(pair) for pair in zip(mine, yours[::-1], strict=True)] == [both] * len(given)
            assert [sorted(pair) for pair in zip(my_accepted, your_accepted[::-1], strict=True)] == [both] * 6
    assert deadlocks(engine) == before
    assert count_transfers(engine) == 6 + rounds * (6 + 5 + 6)
    found = balances(engine)
    assert [found[each] for each in range(1, 7)] == [100] * 6
