"""A bulk is recorded as a whole or not at all, whatever is repeated or lost, and counts what becomes of it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import Engine, text

from models.database.engine import transaction
from models.database.session import Session
from models.errors import BulkNotFound, IdempotencyKeyReused, OutcomeUnknown, Unavailable, WalletNotFound
from models.ledger import attempts
from models.ledger import bulks as bulks_module
from models.ledger import history as history_module
from models.ledger.attempts import Seen
from models.ledger.bulks import BulkAcceptance, BulkItem, BulkOrder, Bulks
from models.ledger.history import History
from models.ledger.orders import Orders
from models.ledger.posting import post_bulk
from models.ledger.transfer import Details, Status
from models.snowflake.ids import Snowflake
from tests.books import check_books
from tests.models.ledger.ordering import balances, bounded_engine, count_transfers, deposit, post_now, transfer
from tests.models.ledger.test_history import indexes, plan_nodes, scanned
from tests.proxy import TcpProxy


@pytest.fixture
def bulks(engine: Engine, snowflake: Snowflake) -> Bulks:
    return Bulks(engine, snowflake)


@pytest.fixture(autouse=True)
def funded(engine: Engine, orders: Orders) -> Iterator[None]:
    """Wallets 1, 2 and 3 hold 100 cents each; after the test, whatever it did, the books balance."""
    for user in (1, 2, 3):
        orders.execute(deposit(user, 100))
    yield
    check_books(engine)


def sent(*items: tuple[int, int], key: str | None = None, atomic: bool = False, user: int = 1) -> BulkOrder:
    return BulkOrder(
        user_id=user,
        items=[BulkItem(*item) for item in items],
        idempotency_key=key,
        is_atomic=atomic,
        trace="00-a-b-01",
    )


def standing(bulks: Bulks, bulk_id: int) -> tuple[int, ...]:
    """How many are pending, posted, rejected, failed and canceled."""
    found = bulks.find(bulk_id, seen_by=None)
    assert (found.completed_at is None) == (found.pending > 0)
    return found.pending, found.posted, found.rejected, found.failed, found.canceled


def test_each_of_it_is_a_transfer_like_any_other(bulks: Bulks, history: History, engine: Engine) -> None:
    order = sent((2, 30), (3, 50))
    order = replace(order, items=[order.items[0]._replace(details=Details("rent", "R-1", {"k": "v"})), order.items[1]])
    acceptance = bulks.accept(order)
    first, second = (history.get_transfer(each, seen_by=1) for each in acceptance.transfer_ids)

    assert (first.source, first.destination, first.amount_cents, first.status) == (1, 2, 30, Status.PENDING)
    assert (first.details, first.bulk_id) == (Details("rent", "R-1", {"k": "v"}), acceptance.bulk_id)
    assert (second.destination, second.amount_cents, second.details, second.created_at) == (
        3, 50, Details(), first.created_at,
    )  # fmt: skip
    posting = post_now(engine, acceptance.transfer_ids)
    assert posting.traces == dict.fromkeys(acceptance.transfer_ids, "00-a-b-01")
    assert balances(engine) == {1: 20, 2: 130, 3: 150}


def test_it_counts_what_becomes_of_it_batch_by_batch(bulks: Bulks, engine: Engine) -> None:
    bulk_id, ids, _ = bulks.accept(sent((2, 60), (3, 60), (9, 1), (2, 40)))
    other, others, _ = bulks.accept(sent((1, 10), user=2))
    assert standing(bulks, bulk_id) == (4, 0, 0, 0, 0)
    post_now(engine, ids[:1])
    assert standing(bulks, bulk_id) == (3, 1, 0, 0, 0)
    post_now(engine, [*others, *ids])  # 100 - 60 + 10: the second is not covered, the third has no wallet to go to
    assert standing(bulks, bulk_id) == (0, 2, 2, 0, 0)
    assert standing(bulks, other) == (0, 1, 0, 0, 0)
    assert bulks.find(bulk_id, seen_by=1).amount_cents == 161


def test_it_has_ended_when_all_of_it_has_which_is_looked_up_by_key(
    bulks: Bulks, engine: Engine, history: History
) -> None:
    bulk_id, ids, _ = bulks.accept(sent((2, 60), (3, 60)))
    other = bulks.accept(sent((1, 10), user=2)).bulk_id
    asked = [bulk_id, other, *ids]
    assert history.find_ended(asked) == set()
    post_now(engine, ids[:1])
    assert history.find_ended(asked) == {ids[0]}
    post_now(engine, ids[1:])
    assert history.find_ended(asked) == {bulk_id, *ids}
    assert indexes(plan_nodes(engine, history_module._ENDED, (asked,))) == {"bulks_pkey", "transfers_pkey"}


def test_only_who_sent_it_and_administrators_see_it(bulks: Bulks) -> None:
    bulk_id = bulks.accept(sent((2, 1))).bulk_id
    assert bulks.find(bulk_id, seen_by=1).count == 1
    for stranger, number in ((2, bulk_id), (1, bulk_id + 1)):
        with pytest.raises(BulkNotFound):
            bulks.find(number, seen_by=stranger)


def test_what_became_of_each_is_told_in_their_order_page_by_page(
    bulks: Bulks, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk_id, ids, _ = bulks.accept(sent((2, 60), (3, 60), (9, 1), (2, 40), (3, 1)))
    bulks.accept(sent((1, 10), user=2))
    post_now(engine, ids[:4])
    told = [
        (ids[0], Status.POSTED, None),
        (ids[1], Status.REJECTED, "balance_insufficient"),
        (ids[2], Status.REJECTED, "wallet_not_found"),
        (ids[3], Status.POSTED, None),
        (ids[4], Status.PENDING, None),
    ]
    for size in (1, 2, 5, 1_000):
        monkeypatch.setattr(bulks_module, "OUTCOMES", size)
        assert list(bulks.outcomes(bulks.find(bulk_id, seen_by=1))) == told


def test_a_page_of_them_is_a_walk_along_an_index(bulks: Bulks, engine: Engine) -> None:
    bulk_id, ids, _ = bulks.accept(sent(*[(2, 1)] * 5_000))
    with engine.begin() as connection:
        connection.execute(text("ANALYZE transfers"))
    begun_at = bulks.find(bulk_id, seen_by=1).created_at
    nodes = plan_nodes(engine, bulks_module._OUTCOMES, (bulk_id, begun_at, ids[3_000], 100))
    assert indexes(nodes) == {"transfers_by_bulk"}
    assert scanned(nodes, "transfers") == 100


def test_without_a_wallet_nothing_is_recorded(bulks: Bulks, engine: Engine) -> None:
    with pytest.raises(WalletNotFound):
        bulks.accept(sent((2, 1), (3, 1), user=9))
    assert count_transfers(engine) == 3


# Keys


def test_the_same_key_and_body_gives_the_first_answer_again(bulks: Bulks, engine: Engine) -> None:
    first = bulks.accept(sent((2, 1), (3, 2), key="k"))
    assert bulks.accept(sent((2, 1), (3, 2), key="k")) == BulkAcceptance(first.bulk_id, replayed=True)
    assert count_transfers(engine) == 3 + 2
    assert bulks.accept(sent((1, 1), key="k", user=2)).bulk_id != first.bulk_id  # another user's key is another


@pytest.mark.parametrize(
    "other",
    [sent((2, 1), key="k"), sent((3, 2), (2, 1), key="k"), sent((2, 1), (3, 3), key="k"),
     sent((2, 1), (3, 2), key="k", atomic=True)],
)  # fmt: skip
def test_the_same_key_with_another_body_is_refused_and_names_what_has_it(bulks: Bulks, other: BulkOrder) -> None:
    first = bulks.accept(sent((2, 1), (3, 2), key="k"))
    with pytest.raises(IdempotencyKeyReused) as refused:
        bulks.accept(other)
    assert refused.value.transfer_id == first.transfer_ids[0]


def test_a_key_stands_for_one_thing_whatever_call_it_came_by(bulks: Bulks, orders: Orders) -> None:
    paid = orders.execute(transfer(1, 2, 1, key="single")).transfer_id
    with pytest.raises(IdempotencyKeyReused) as refused:
        bulks.accept(sent((2, 1), key="single"))
    assert refused.value.transfer_id == paid
    first = bulks.accept(sent((2, 1), key="bulk")).transfer_ids[0]
    with pytest.raises(IdempotencyKeyReused) as refused:
        orders.execute(transfer(1, 2, 1, key="bulk"))
    assert refused.value.transfer_id == first


def test_of_many_at_once_under_one_key_one_is_recorded(bulks: Bulks, engine: Engine) -> None:
    with ThreadPoolExecutor(8) as threads:
        told = [
            each.result() for each in [threads.submit(bulks.accept, sent((2, 1), (3, 2), key="k")) for _ in range(8)]
        ]
    assert len({each.bulk_id for each in told}) == 1
    assert sorted(each.replayed for each in told) == [False, *[True] * 7]
    assert count_transfers(engine) == 3 + 2


# What is lost on the way


def is_recording(data: bytes) -> bool:
    return b"EXECUTE record_bulk" in data


@pytest.fixture
def proxied(postgres_proxy: TcpProxy, snowflake: Snowflake) -> Iterator[Bulks]:
    """Bulks on a connection that can be cut."""
    with bounded_engine(postgres_proxy.url) as engine:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        yield Bulks(engine, snowflake)


@pytest.mark.parametrize("key", [None, "k"])
def test_one_whose_reply_was_lost_is_recorded_once(
    proxied: Bulks, postgres_proxy: TcpProxy, engine: Engine, key: str | None
) -> None:
    left = [True]

    def lose(data: bytes) -> bool:
        return is_recording(data) and bool(left) and left.pop()

    postgres_proxy.lose_reply_to(lose)
    acceptance = proxied.accept(sent((2, 1), (3, 2), key=key))
    assert not left
    assert not acceptance.replayed
    assert count_transfers(engine) == 3 + 2


def test_when_it_cannot_be_looked_up_it_is_unknown_and_an_id_is_told(
    proxied: Bulks, postgres_proxy: TcpProxy, history: History
) -> None:
    def lose(data: bytes) -> bool:
        if is_recording(data):
            postgres_proxy.refuse_new()
            return True
        return False

    postgres_proxy.lose_reply_to(lose)
    with pytest.raises(OutcomeUnknown) as unknown:
        proxied.accept(sent((2, 1), (3, 2)))
    assert history.get_transfer(unknown.value.transfer_id, seen_by=1).amount_cents == 1


def test_nor_is_it_said_that_nothing_is_recorded_when_what_was_in_the_way_cannot_be_looked_up(
    proxied: Bulks, postgres_proxy: TcpProxy, bulks: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [True]

    def is_lost(data: bytes) -> bool:
        """Whether it is the first recording, or a look-up, none of which is answered."""
        return left.pop() if is_recording(data) and left else b"transfers.request_hash" in data

    monkeypatch.setattr(postgres_proxy, "_is_marked", is_lost)
    with pytest.raises(OutcomeUnknown):
        proxied.accept(sent((2, 1), (3, 2), key="k"))
    assert bulks.accept(sent((2, 1), (3, 2), key="k")).replayed


def test_with_the_database_away_nothing_is_recorded(proxied: Bulks, postgres_proxy: TcpProxy, engine: Engine) -> None:
    postgres_proxy.refuse()
    with pytest.raises((Unavailable, OutcomeUnknown)):
        proxied.accept(sent((2, 1)))
    assert count_transfers(engine) == 3


# Atomic ones


def post_whole(engine: Engine, bulk_id: int) -> dict[int, str | None]:
    with Session(engine) as session:
        return {each: outcome.reason for each, outcome in post_bulk(session, bulk_id).outcomes.items()}


def test_all_of_it_is_posted_each_on_what_the_one_before_left(bulks: Bulks, engine: Engine) -> None:
    bulk_id, ids, _ = bulks.accept(sent((2, 60), (3, 40), atomic=True))
    assert post_whole(engine, bulk_id) == dict.fromkeys(ids)
    assert balances(engine) == {1: 0, 2: 160, 3: 140}
    assert standing(bulks, bulk_id) == (0, 2, 0, 0, 0)
    assert post_whole(engine, bulk_id) == {}


def test_or_all_of_it_is_rejected_and_the_first_to_blame_says_why(bulks: Bulks, engine: Engine) -> None:
    bulk_id, ids, _ = bulks.accept(sent((2, 60), (3, 41), (9, 1), atomic=True))
    assert post_whole(engine, bulk_id) == {
        ids[0]: "bulk_rejected",
        ids[1]: "balance_insufficient",
        ids[2]: "bulk_rejected",
    }
    assert balances(engine) == {1: 100, 2: 100, 3: 100}
    assert standing(bulks, bulk_id) == (0, 0, 3, 0, 0)


def test_a_batch_that_has_some_of_it_leaves_them_to_the_whole(bulks: Bulks, engine: Engine) -> None:
    bulk_id, ids, _ = bulks.accept(sent((2, 60), (3, 40), atomic=True))
    single = bulks.accept(sent((2, 1)))
    posting = post_now(engine, [ids[1], *single.transfer_ids])
    assert posting.apart == {bulk_id: [ids[1]]}
    assert {each: outcome.status for each, outcome in posting.outcomes.items()} == {
        ids[1]: Status.PENDING,
        single.transfer_ids[0]: Status.POSTED,
    }
    assert post_now(engine, ids).decided == []


def fail(engine: Engine, transfer_id: int) -> None:
    with transaction(engine) as connection:
        attempts.spend(connection, {transfer_id: Seen(0, 1)}, {transfer_id: None}, error="e")


def test_when_the_attempts_of_one_have_run_out_they_have_for_all_and_one_brings_all_back(
    bulks: Bulks, engine: Engine, history: History
) -> None:
    bulk_id, ids, _ = bulks.accept(sent((2, 60), (3, 40), (2, 1), atomic=True))
    fail(engine, ids[1])
    assert standing(bulks, bulk_id) == (0, 0, 0, 3, 0)
    assert {history.get_transfer(each, seen_by=1).last_error for each in ids} == {"e"}
    assert post_whole(engine, bulk_id) == {}

    with transaction(engine) as connection:
        assert {due.id for due in attempts.reopen(connection, {ids[2]: 1})} == set(ids)
    assert standing(bulks, bulk_id) == (3, 0, 0, 0, 0)
    assert set(post_whole(engine, bulk_id).values()) == {"bulk_rejected", "balance_insufficient"}


def test_of_others_each_fails_by_itself(bulks: Bulks, engine: Engine) -> None:
    bulk_id, ids, _ = bulks.accept(sent((2, 60), (3, 40)))
    fail(engine, ids[0])
    assert standing(bulks, bulk_id) == (1, 0, 0, 1, 0)
    post_now(engine, ids)
    assert standing(bulks, bulk_id) == (0, 1, 0, 1, 0)
    with transaction(engine) as connection:
        attempts.reopen(connection, {ids[0]: 1})
    assert standing(bulks, bulk_id) == (1, 1, 0, 0, 0)


def test_two_workers_that_have_parts_of_it_post_it_once(bulks: Bulks, engine: Engine) -> None:
    bulk_id, ids, _ = bulks.accept(sent(*[(2, 1)] * 50, *[(3, 1)] * 50, atomic=True))
    with ThreadPoolExecutor(4) as threads:
        told = [each.result() for each in [threads.submit(post_whole, engine, bulk_id) for _ in range(4)]]
    assert sorted(map(len, told)) == [0, 0, 0, len(ids)]
    assert balances(engine) == {1: 0, 2: 150, 3: 150}
