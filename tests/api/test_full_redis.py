"""The API beside a Redis without memory: nobody notices but whoever asks how it is."""

import pytest
import redis
from flask.testing import FlaskClient

from api.readings import read_redis
from jobs.rq.keys import FEWEST_WAITING, RESERVED_WAITING, RqKeys
from models.redis_line.client import connect_redis
from ops.local.servers import RedisServer
from tests.api.calls import (
    BALANCE,
    DEPOSIT,
    HISTORY,
    TRANSFER,
    TRANSFER_LATER,
    answer,
    balance_of,
    fund,
    get,
    post,
    problem,
)
from tests.api.conftest import AppMaker
from tests.api.waiters import wait_for
from tests.small_redis import ROOMY, fill_memory


@pytest.fixture
def own_client(make_app: AppMaker, small_redis: RedisServer, small_client: redis.Redis) -> FlaskClient:
    """A client of an application on that server; users 1 and 2 have 10000 cents each."""
    del small_client
    client = make_app(redis_url=small_redis.url, rate_limit="1/minute;burst=20").test_client()
    fund(client, 1, 2)
    return client


def hits(client: redis.Redis, wallet_id: int) -> bool:
    return bool(client.exists(f"wallet:cache:entries:{wallet_id}"))


def test_ready_says_degraded_while_it_is_full(own_client: FlaskClient, small_client: redis.Redis) -> None:
    assert answer(get(own_client, "/readyz", user=None))["status"] == "ready"
    fill_memory(small_client)
    degraded = {"status": "degraded", "dependencies": {"postgres": "ok", "redis": "degraded"}}
    assert answer(get(own_client, "/readyz", user=None)) == degraded
    small_client.config_set("maxmemory", ROOMY)
    assert answer(get(own_client, "/readyz", user=None))["status"] == "ready"


def test_no_read_is_old_and_what_is_cached_is_served(own_client: FlaskClient, small_client: redis.Redis) -> None:
    wait_for(own_client.application.extensions["wallet"].cache.pulse.believes)
    assert (balance_of(own_client, 1), balance_of(own_client, 2)) == (10_000, 10_000)
    assert hits(small_client, 1)
    fill_memory(small_client)
    for number in range(1, 4):
        answer(post(own_client, DEPOSIT, {"amount": 100}))
        assert balance_of(own_client, 1) == 10_000 + 100 * number
        first = answer(get(own_client, HISTORY))["transactions"][0]
        assert first["balance_after"] == 10_000 + 100 * number
    # Nothing new is cached, and what is goes with the next change.
    assert (hits(small_client, 1), hits(small_client, 2)) == (False, True)
    assert balance_of(own_client, 2) == 10_000
    answer(post(own_client, TRANSFER, {"destination_user_id": 2, "amount": 100}))
    assert not hits(small_client, 2)
    assert balance_of(own_client, 2) == 10_100


def test_limits_hold_in_each_process(own_client: FlaskClient, small_client: redis.Redis) -> None:
    fill_memory(small_client)
    answers = [get(own_client, BALANCE, user=2) for _ in range(21)]
    assert [each.status_code for each in answers[:20]] == [200] * 20
    problem(answers[20], "rate_limited")


def test_transfers_are_accepted_and_go_onto_the_queue_up_to_a_bound(
    own_client: FlaskClient, small_client: redis.Redis
) -> None:
    fill_memory(small_client)
    accepted = [post(own_client, TRANSFER_LATER, {"destination_user_id": 2, "amount": 1}) for _ in range(5)]
    assert [each.status_code for each in accepted] == [202] * 5
    keys = RqKeys(small_client)
    wait_for(lambda: keys.queue_length() == 5)
    assert 0 < RESERVED_WAITING < FEWEST_WAITING


def test_the_metrics_tell_how_much_of_the_memory_is_taken(small_redis: RedisServer, small_client: redis.Redis) -> None:
    used = int(small_client.info("memory")["used_memory"])
    small_client.config_set("maxmemory", used // 2)
    with connect_redis(small_redis.url) as client:
        found = {metric.name: metric.samples[0].value for metric in read_redis(client, RqKeys(client).count)}
    assert found["wallet_redis_max_memory_bytes"] == used // 2
    assert found["wallet_redis_memory_bytes"] > used // 2
