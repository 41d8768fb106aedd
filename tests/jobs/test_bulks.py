"""Bulks as workers settle them: the ones by the others, atomic ones as a whole, in whosever hands their parts are."""

from collections.abc import Iterator

import pytest
import redis
from sqlalchemy import Engine

from jobs.retries import RetryPolicy
from jobs.settler import Settler
from models.ledger.bulks import BulkAcceptance, BulkItem, BulkOrder, Bulks
from models.ledger.transfer import Status
from models.snowflake.ids import Snowflake
from tests.books import check_books
from tests.jobs.backlog import REFUSES, accept, balance_of, fault_on, fund, make_due, rows_of
from tests.jobs.conftest import DELAYS_S
from tests.models.ledger.ordering import bounded_engine, row_lock


@pytest.fixture
def bulk(engine: Engine, snowflake: Snowflake, redis_client: redis.Redis) -> Iterator[BulkAcceptance]:
    """An atomic bulk of six transfers of 10 cents, from 1 to 2."""
    del redis_client
    fund(engine, 1, 2, cents=1_000)
    order = BulkOrder(user_id=1, items=[BulkItem(2, 10)] * 6, is_atomic=True)
    yield Bulks(engine, snowflake).accept(order)
    check_books(engine)


def statuses(engine: Engine, bulk: BulkAcceptance) -> set[str]:
    return {row.status for row in rows_of(engine, bulk.transfer_ids).values()}


@pytest.fixture
def settler(engine: Engine) -> Settler:
    return Settler(engine, RetryPolicy(DELAYS_S))


def test_whoever_has_a_part_of_it_settles_all_of_it(engine: Engine, settler: Settler, bulk: BulkAcceptance) -> None:
    singles = accept(engine, 3)
    settled = settler.settle([bulk.transfer_ids[4], *singles, bulk.transfer_ids[2]])

    assert set(settled.outcomes) == {bulk.transfer_ids[2], bulk.transfer_ids[4], *singles}  # what he was given
    assert {outcome.status for outcome in settled.outcomes.values()} == {Status.POSTED}
    assert settled.undone == []
    assert statuses(engine, bulk) == {"posted"}
    again = settler.settle(list(bulk.transfer_ids))
    assert set(again.outcomes) == set(bulk.transfer_ids)
    assert balance_of(engine, 1) == 1_000 - 60 - 3


def test_a_fault_of_one_is_the_fault_of_all_and_ends_as_a_dead_letter_of_all(
    engine: Engine, settler: Settler, bulk: BulkAcceptance
) -> None:
    singles = accept(engine, 2)
    with fault_on(engine, [bulk.transfer_ids[3]], REFUSES):
        for attempt in range(1, len(DELAYS_S) + 2):
            settled = settler.settle([*singles, *bulk.transfer_ids[:2]])
            assert {row.attempts for row in rows_of(engine, bulk.transfer_ids).values()} == {attempt}
            assert set(settled.spent) == set(bulk.transfer_ids[:2])
            make_due(engine)
    assert {row.status for row in rows_of(engine, singles).values()} == {"posted"}
    assert statuses(engine, bulk) == {"failed"}
    assert balance_of(engine, 1) == 1_000 - 2

    settler.reopen({bulk.transfer_ids[5]: 1})
    assert statuses(engine, bulk) == {"pending"}
    settler.settle([bulk.transfer_ids[0]])
    assert statuses(engine, bulk) == {"posted"}


def test_with_a_wallet_locked_it_spends_an_attempt_and_its_neighbours_are_posted(
    engine: Engine, database_url: str, bulk: BulkAcceptance
) -> None:
    fund(engine, 7, 8)
    singles = accept(engine, 2, source=7, destination=8)
    with bounded_engine(database_url, lock_ms=100) as impatient, row_lock(engine, 2):
        settled = Settler(impatient, RetryPolicy(DELAYS_S)).settle([*bulk.transfer_ids, *singles])
    assert set(settled.outcomes) == set(singles)
    assert {row.attempts for row in rows_of(engine, bulk.transfer_ids).values()} == {1}
    assert statuses(engine, bulk) == {"pending"}
