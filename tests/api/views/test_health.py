"""Probes: alive is not ready, and ready without Redis is degraded."""

import redis
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from tests.api.calls import answer, get, post
from tests.api.conftest import AppMaker
from tests.proxy import TcpProxy


def test_with_everything_up_the_service_is_ready(client: FlaskClient) -> None:
    assert answer(get(client, "/healthz", user=None)) == {"status": "ok"}
    ready = {"status": "ready", "dependencies": {"postgres": "ok", "redis": "ok"}}
    assert answer(get(client, "/readyz", user=None)) == ready


def test_with_redis_down_the_service_is_degraded_and_ready(
    make_app: AppMaker, redis_proxy: TcpProxy, redis_client: redis.Redis
) -> None:
    del redis_client
    client = make_app(redis_url=redis_proxy.url).test_client()
    redis_proxy.refuse()
    degraded = {"status": "degraded", "dependencies": {"postgres": "ok", "redis": "degraded"}}
    assert answer(get(client, "/readyz", user=None)) == degraded
    redis_proxy.refuse(refusing=False)
    assert answer(get(client, "/readyz", user=None))["status"] == "ready"


def test_with_postgresql_down_the_process_lives_and_is_not_ready(
    cut_client: FlaskClient, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.refuse()
    assert answer(get(cut_client, "/healthz", user=None)) == {"status": "ok"}
    unready = {"status": "unready", "dependencies": {"postgres": "unreachable", "redis": "ok"}}
    assert answer(get(cut_client, "/readyz", user=None), 503) == unready
    postgres_proxy.refuse(refusing=False)
    assert answer(get(cut_client, "/readyz", user=None))["status"] == "ready"


def test_before_the_migrations_the_service_is_not_ready(make_app: AppMaker, empty_database_url: str) -> None:
    client = make_app(database_url=empty_database_url).test_client()
    body = answer(get(client, "/readyz", user=None), 503)
    assert body["status"] == "unready"
    assert body["dependencies"]["postgres"] == "not migrated"
    assert get(client, "/healthz", user=None).status_code == 200


def test_while_no_id_can_be_had_the_service_is_not_ready(app: Flask, engine: Engine) -> None:
    """Whoever asks for money to move would get 503; reads go on."""
    take = text("""
        UPDATE snowflake_nodes SET expires_at = now() + interval '1 hour' WHERE expires_at <= now() RETURNING node
    """)
    give_back = text("UPDATE snowflake_nodes SET expires_at = '-infinity' WHERE node = ANY (:nodes)")
    client = app.test_client()
    with engine.begin() as connection:
        nodes = [*connection.execute(take).scalars()]
    try:
        assert answer(get(client, "/readyz", user=None))["status"] == "ready"  # nobody has asked for one yet
        assert post(client, "/api/deposit/v1", {"amount": 1}).status_code == 503
        dependencies = {"postgres": "ok", "redis": "ok", "ids": "cannot be issued"}
        unready = {"status": "unready", "dependencies": dependencies}
        assert answer(get(client, "/readyz", user=None), 503) == unready
    finally:
        with engine.begin() as connection:
            connection.execute(give_back, {"nodes": nodes})
    assert answer(get(client, "/readyz", user=None))["status"] == "ready"
