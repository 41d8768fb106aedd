"""Applications on servers with faults, and the books beneath them all."""

from collections.abc import Callable, Iterator
from typing import Protocol

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from api.app import create_app
from config import Settings
from tests.api.calls import fund
from tests.api.contract.document import DocumentedClient
from tests.proxy import TcpProxy


class AppMaker(Protocol):
    """Makes an application with some settings of its own."""

    def __call__(self, **settings: object) -> Flask:
        """Make it."""


@pytest.fixture
def make_app(
    service_database_url: str, redis_url: str, settings: Settings, engine: Engine, redis_client: redis.Redis
) -> Iterator[AppMaker]:
    """A maker of applications on empty servers that differ from ``app`` in the settings given."""
    del engine, redis_client  # asked for to be emptied
    apps: list[Flask] = []

    def make(**overrides: object) -> Flask:
        same = settings.model_dump(exclude={"database_url", "redis_url", "admin_password"})
        secrets = {
            "database_url": service_database_url,
            "redis_url": redis_url,
            "admin_password": settings.admin_password.get_secret_value(),
        }
        apps.append(create_app(Settings.model_validate(same | secrets | overrides)))
        apps[-1].test_client_class = DocumentedClient
        return apps[-1]

    yield make
    for app in apps:
        app.extensions["wallet"].close()


@pytest.fixture
def funded(client: FlaskClient) -> FlaskClient:
    """A client of an application in which users 1 and 2 have 10000 cents each."""
    fund(client, 1, 2)
    return client


@pytest.fixture
def cut_client(make_app: AppMaker, postgres_proxy: TcpProxy, redis_client: redis.Redis) -> FlaskClient:
    """A funded client of an application that reaches PostgreSQL through ``postgres_proxy``."""
    del redis_client
    client = make_app(database_url=postgres_proxy.url).test_client()
    fund(client, 1, 2)
    return client


@pytest.fixture
def bury(engine: Engine) -> Callable[[str], None]:
    """Make a transfer a dead letter, as a worker does when its attempts have run out."""

    def bury(job_id: str) -> None:
        with engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE transfers SET status = 'failed', reason = 'attempts_exhausted', attempts = 4,"
                    " last_error = 'slow', completed_at = now() WHERE id = :id"
                ),
                {"id": int(job_id)},
            )

    return bury


def lose_reply_and_refuse(proxy: TcpProxy, request: bytes) -> None:
    """Lose the reply to the request with these bytes in it, and refuse all new connections from then on."""

    def matches(data: bytes) -> bool:
        if request not in data:
            return False
        # Not refuse(): that would cut this very connection before the server has the request.
        proxy.refuse_new()
        return True

    proxy.lose_reply_to(matches)
