"""What a call has done whatever face it came by: the books have it, the call knows it, the queue is told once."""

from collections.abc import Callable, Iterator

import pytest
import redis
from sqlalchemy import Engine, text

from api.access.token_bucket import BucketStorage, TokenBucket
from api.actions import orders
from api.actions.orders import Terms
from api.calls import tracing
from api.calls.call import Call
from api.services import Services, make_services
from config import Settings
from models.errors import BalanceInsufficient, IdempotencyKeyReused
from models.ledger.transfer import Acceptance, Receipt
from observe import logs
from tests.api.waiters import wait_for

Place = Callable[[Services, Call, Terms], Receipt | Acceptance]
PLACES: dict[str, Place] = {
    "deposit": orders.deposit,
    "withdraw": orders.withdraw,
    "transfer_now": lambda services, call, terms: orders.transfer_now(services, call, terms, 2),
    "transfer_later": lambda services, call, terms: orders.transfer_later(services, call, terms, 2),
}
EVERY_ORDER = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)


@pytest.fixture
def services(settings: Settings, engine: Engine, redis_client: redis.Redis) -> Iterator[Services]:
    """The inside on empty servers, with users 1 and 2."""
    del engine, redis_client  # asked for to be emptied
    made = make_services(settings, lambda line: TokenBucket(BucketStorage(line=line)), application_name="tests")
    for user in (1, 2):
        orders.deposit(made, begin(), Terms(user, 10_000, None))
    yield made
    made.close()
    logs.end_context()


def begin() -> Call:
    return Call(tracing.begin(None, None), None, lambda: "127.0.0.1")


@EVERY_ORDER
def test_a_call_knows_which_transfer_stands_for_it(services: Services, place: Place) -> None:
    call = begin()
    placed = place(services, call, Terms(1, 67, "k"))
    assert (call.placed, call.told, placed.replayed) == (placed.transfer_id, [], False)


@EVERY_ORDER
def test_a_replay_is_told_and_is_the_same_transfer(services: Services, place: Place) -> None:
    first, call = place(services, begin(), Terms(1, 67, "k")), begin()
    again = place(services, call, Terms(1, 67, "k"))
    assert (again.transfer_id, again.replayed) == (first.transfer_id, True)
    assert (call.placed, call.told) == (first.transfer_id, [("Idempotency-Replayed", "true")])


@EVERY_ORDER
def test_what_is_refused_leaves_a_call_as_it_was(services: Services, place: Place) -> None:
    place(services, begin(), Terms(1, 67, "k"))
    call = begin()
    with pytest.raises(IdempotencyKeyReused):
        place(services, call, Terms(1, 68, "k"))
    assert (call.placed, call.told) == (None, [])


@EVERY_ORDER
def test_a_transfer_remembers_the_trace_of_its_call(services: Services, engine: Engine, place: Place) -> None:
    call = begin()
    placed = place(services, call, Terms(1, 67, None))
    with engine.connect() as connection:
        found = connection.execute(text("SELECT trace FROM transfers WHERE id = :id"), {"id": placed.transfer_id})
        assert found.scalar_one() == call.trace.traceparent


def test_only_what_is_new_is_put_on_the_queue(services: Services, redis_client: redis.Redis) -> None:
    terms = Terms(1, 67, "k")
    first = orders.transfer_later(services, begin(), terms, 2)
    wait_for(lambda: redis_client.llen("rq:queue:transfers") == 1)
    again = orders.transfer_later(services, begin(), terms, 2)
    new = orders.transfer_later(services, begin(), Terms(1, 67, None), 2)
    # What is told of the queue is told in the order in which it was accepted.
    wait_for(lambda: redis_client.llen("rq:queue:transfers") == 2)
    queued = {int(item) for item in redis_client.lrange("rq:queue:transfers", 0, -1)}
    assert (again.replayed, queued) == (True, {first.transfer_id, new.transfer_id})


def test_who_has_not_enough_is_told_at_once_and_nothing_is_queued(
    services: Services, redis_client: redis.Redis
) -> None:
    call = begin()
    with pytest.raises(BalanceInsufficient):
        orders.transfer_later(services, call, Terms(1, 10_001, None), 2)
    assert call.placed is None
    orders.transfer_later(services, begin(), Terms(1, 1, None), 2)
    wait_for(lambda: redis_client.llen("rq:queue:transfers") == 1)
