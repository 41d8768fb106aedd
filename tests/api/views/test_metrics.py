"""/metrics answers whatever is down, says what came of every order, and tells nothing of anyone."""

import random
import string
from collections.abc import Callable

import pytest
import redis
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from api.app import create_app
from config import Settings
from jobs.rq.keys import NewJob, RqKeys
from observe import metrics
from ops.local.kafka.server import KafkaServer
from ops.local.processes import wait_for
from tests.api.calls import (
    BALANCE,
    DEPOSIT,
    HISTORY,
    JOBS,
    MOVES,
    TRANSFER,
    TRANSFER_LATER,
    WITHDRAW,
    accept,
    ask,
    fund,
    get,
    post,
    problem,
)
from tests.api.conftest import AppMaker
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy
from tests.samples import Samples, check_with_promtool

# What is read from each when it is asked for.
OF_POSTGRES = {
    "wallet_pending_transfers",
    "wallet_oldest_pending_seconds",
    "wallet_dead_letters",
    "wallet_events_behind",
    "wallet_oldest_event_behind_seconds",
    "wallet_db_pool_connections",
    "wallet_db_lock_waits",
    "wallet_snowflake_leases",
    "wallet_snowflake_lease_seconds",
}
OF_REDIS = {"wallet_jobs"}
REQUESTS = "wallet_http_request_duration_seconds_count"


def scrape(client: FlaskClient) -> Samples:
    """Ask for metrics."""
    response = get(client, "/metrics", user=None)
    assert response.status_code == 200
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    return Samples.of(response.data)


def names(samples: Samples) -> set[str]:
    return {series.name for series in samples}


def test_anyone_may_ask_and_prometheuss_own_tool_has_no_complaint(funded: FlaskClient) -> None:
    accept(funded)
    response = get(funded, "/metrics", user=None)
    assert response.status_code == 200
    check_with_promtool(response.data)
    assert names(Samples.of(response.data)) >= OF_POSTGRES | OF_REDIS
    problem(get(funded, "/metrics?name=x"), "bad_input")
    problem(ask(funded, "POST", "/metrics"), "method_not_allowed")


def test_both_dependencies_are_up_and_the_build_is_named(client: FlaskClient) -> None:
    samples = scrape(client)
    assert samples.value("wallet_up", dependency="postgres") == 1
    assert samples.value("wallet_up", dependency="redis") == 1
    (build,) = [dict(series.labels) for series in samples if series.name == "wallet_build_info"]
    assert build.keys() == {"version", "python", "schema"}
    assert build["version"] == metrics.VERSION


def test_the_backlog_is_told_as_it_stands(
    funded: FlaskClient, bury: Callable[[str], None], engine: Engine, redis_client: redis.Redis
) -> None:
    pending, dead = accept(funded), accept(funded)
    bury(dead)
    assert wait_for(lambda: RqKeys(redis_client).queue_length() == 2, PATIENCE_S)
    RqKeys(redis_client).claim(worker_key="w", worker_name="w", lease="l", limit=1, lease_s=60)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE transfers SET created_at = now() - interval '1 hour' WHERE id = :id"), {"id": int(pending)}
        )
    samples = scrape(funded)
    assert samples.value("wallet_pending_transfers") == 1
    assert 3_600 <= samples.value("wallet_oldest_pending_seconds") < 3_700
    assert samples.value("wallet_dead_letters") == 1
    states = {state: samples.value("wallet_jobs", state=state) for state in ("queued", "started", "failed")}
    assert states == {"queued": 1, "started": 1, "failed": 0}
    assert samples.value("wallet_snowflake_leases") >= 1
    assert 0 < samples.value("wallet_snowflake_lease_seconds") <= 30


def test_events_that_nobody_can_read_yet_are_told(funded: FlaskClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE event_batches SET created_at = now() - interval '1 hour'"))
    samples = scrape(funded)
    assert samples.value("wallet_events_behind") == 2
    assert 3_600 <= samples.value("wallet_oldest_event_behind_seconds") < 3_700


def test_webhooks_are_told_of(funded: FlaskClient) -> None:
    samples = scrape(funded)
    assert (
        samples.value("wallet_webhooks", status="enabled") == samples.value("wallet_webhooks", status="disabled") == 0
    )
    assert samples.value("wallet_webhook_deliveries_pending") == 0
    assert samples.value("wallet_webhook_oldest_undelivered_seconds") == 0


def test_without_an_audit_nothing_is_said_of_one(client: FlaskClient) -> None:
    assert not any(name.startswith("wallet_audit") for name in names(scrape(client)))


@pytest.mark.parametrize("fault", ["refuses", "hangs"])
def test_without_postgresql_the_rest_is_told(
    make_app: AppMaker, postgres_proxy: TcpProxy, redis_client: redis.Redis, fault: str
) -> None:
    del redis_client
    client = make_app(database_url=postgres_proxy.url).test_client()
    if fault == "refuses":
        postgres_proxy.refuse()
    else:
        postgres_proxy.hold()
    samples = scrape(client)
    assert samples.value("wallet_up", dependency="postgres") == 0
    assert samples.value("wallet_up", dependency="redis") == 1
    assert not names(samples) & OF_POSTGRES
    assert names(samples) >= {*OF_REDIS, "wallet_transfers_total"}


@pytest.mark.parametrize("fault", ["refuses", "hangs"])
def test_without_redis_the_rest_is_told(
    make_app: AppMaker, redis_proxy: TcpProxy, redis_client: redis.Redis, fault: str
) -> None:
    del redis_client
    client = make_app(redis_url=redis_proxy.url).test_client()
    fund(client, 1)
    if fault == "refuses":
        redis_proxy.refuse()
    else:
        redis_proxy.hold()
    samples = scrape(client)
    assert samples.value("wallet_up", dependency="postgres") == 1
    assert samples.value("wallet_up", dependency="redis") == 0
    assert not names(samples) & OF_REDIS
    assert names(samples) >= {*OF_POSTGRES, "wallet_transfers_total"}


@pytest.mark.xdist_group("kafka")
def test_whether_a_broker_answers_is_told_where_kafka_carries(make_app: AppMaker, kafka_broker: KafkaServer) -> None:
    def is_up(brokers: str) -> float:
        client = make_app(transport="kafka", kafka_brokers=brokers).test_client()
        return scrape(client).value("wallet_up", dependency="kafka")

    assert is_up(kafka_broker.url) == 1
    assert is_up("127.0.0.1:1") == 0


def test_a_database_that_is_not_migrated_is_up(settings: Settings, empty_database_url: str) -> None:
    given = settings.model_dump() | {"database_url": empty_database_url, "redis_url": settings.redis_url}
    samples = scrape(create_app(Settings.model_validate(given)).test_client())
    assert samples.value("wallet_up", dependency="postgres") == 1
    assert samples.has("wallet_db_lock_waits")
    assert not samples.has("wallet_pending_transfers")


def test_every_order_is_counted_once_by_what_came_of_it(funded: FlaskClient) -> None:
    def counted() -> dict[tuple[str, str], float]:
        samples = scrape(funded)
        return {
            (kind, outcome): samples.value("wallet_transfers_total", kind=kind, outcome=outcome)
            for kind, outcome in metrics.transfers
        }

    before = counted()
    for key in (None, "k", "k"):  # the last one is a replay
        for path, body in MOVES.items():
            assert post(funded, path, body, key=f"{key}{path}" if key else None).status_code in {200, 202}
    problem(post(funded, WITHDRAW, {"amount": 10**9}), "balance_insufficient")
    for path in (TRANSFER, TRANSFER_LATER):
        problem(post(funded, path, {"destination_user_id": 2, "amount": 10**9}), "balance_insufficient")
    problem(post(funded, DEPOSIT, {"amount": 0}), "invalid_amount")  # no order at all
    grown = {each: count - before[each] for each, count in counted().items() if count != before[each]}
    assert grown == {
        ("deposit", "posted"): 2,
        ("withdrawal", "posted"): 2,
        ("withdrawal", "refused"): 1,
        ("transfer", "posted"): 2,
        ("transfer", "accepted"): 2,
        ("transfer", "refused"): 2,
    }


def test_a_request_is_counted_by_its_rule_and_status(funded: FlaskClient) -> None:
    job_id = accept(funded)
    rule = f"{JOBS}/<job_id>"
    before = scrape(funded)
    for path, status in ((f"{JOBS}/{job_id}", 200), (f"{JOBS}/12345", 404), (f"{JOBS}/x", 404)):
        assert get(funded, path).status_code == status
    assert get(funded, "/nothing/here").status_code == 404
    after = scrape(funded)

    def grown(**labels: str) -> float:
        return after.sum(REQUESTS, **labels) - before.sum(REQUESTS, **labels)

    assert grown(method="GET", route=rule, status="200") == 1
    assert grown(method="GET", route=rule, status="404") == 2
    assert grown(method="GET", route="none", status="404") == 1


def test_no_label_holds_anything_that_a_client_chose(funded: FlaskClient) -> None:
    before = scrape(funded)  # other tests have routes of their own
    draw = random.Random(1)
    words = ["".join(draw.choices(string.ascii_letters + string.digits, k=12)) for _ in range(1_000)]
    for word in words:
        method = draw.choice(["GET", "POST", "PUT", "DELETE", "PATCH", word.upper()])
        path = draw.choice([f"/{word}", f"{JOBS}/{word}", f"/api/{word}/v1", BALANCE, HISTORY, DEPOSIT])
        assert ask(funded, method, path, user=word, headers={"X-Request-ID": word}).status_code < 500
    samples = scrape(funded)
    rules = {rule.rule for rule in funded.application.url_map.iter_rules()}
    allowed = {
        "method": metrics.METHODS | {metrics.OTHER_METHOD},
        "route": rules | {metrics.NO_ROUTE},
        "status": {str(status) for status in (200, 202, 400, 401, 403, 404, 405, 413, 415, 422, 429, 503)},
    }
    new = samples.keys() - before.keys()
    for series in new:
        for label, value in series.labels:
            if label in allowed:
                assert value in allowed[label], series
            elif label not in {"le", "version", "python", "schema"}:
                assert value in FIXED[label], series
    assert len([series for series in new if series.name == REQUESTS]) < 100


FIXED = {
    "kind": {"deposit", "withdrawal", "transfer"},
    "outcome": {"posted", "rejected", "failed", "accepted", "refused"},
    "state": {"queued", "started", "failed", "scheduled", "finished", "in_use", "idle"},
    "result": {"ok", "fault", "hit", "miss", "bypassed", "stored", "refused", "done", "kept"},
    "limit": {"user", "authentication"},
    "where": {"requests", "calls", "waiting", "watching"},
    "service": {"api", "grpc", "worker", "other"},
    "dependency": {"postgres", "redis"},
}


def test_a_caller_who_finds_no_room_to_wait_is_counted(make_app: AppMaker, redis_client: redis.Redis) -> None:
    del redis_client
    app = make_app()
    client = app.test_client()
    fund(client, 1, 2)
    job_id = accept(client)
    before = scrape(client).value("wallet_shed_total", where="waiting")
    app.extensions["wallet"].waiting._most = 0
    assert get(client, f"{JOBS}/{job_id}?wait=20").status_code == 200
    assert scrape(client).value("wallet_shed_total", where="waiting") == before + 1


def test_jobs_of_every_state_are_counted(redis_client: redis.Redis) -> None:
    keys = RqKeys(redis_client)
    keys.enqueue([NewJob(each, None) for each in (1, 2, 3)])
    claim = keys.claim(worker_key="w", worker_name="w", lease="l", limit=2, lease_s=60)
    keys.finish(claim.lease, [1])
    keys.bury(2, generation=1, error="told to", lease=claim.lease)
    assert keys.count() == {"queued": 1, "started": 0, "failed": 1, "scheduled": 0, "finished": 1}
