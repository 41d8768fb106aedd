"""The application: everything of this room, put together."""

from functools import partial

from flask import Flask

from api import direct, running
from api.access import administrators, cors, limiter
from api.commands import entry
from api.contract import docs, openapi
from api.dashboard.mount import Mount
from api.edge.application import make_flask
from api.edge.edge import Edge
from api.edge.proxies import Proxies
from api.services import make_services
from api.views import (
    actions,
    audit,
    bulks,
    dead_letters,
    events,
    finding,
    freezes,
    health,
    jobs,
    metrics,
    statements,
    transfers,
    wallets,
    webhooks,
)
from config import Settings


def create_app(settings: Settings) -> Flask:
    """Make the application. Nothing is connected until the first request that needs it."""
    app = make_flask("wallet", settings)
    made = make_services(settings, partial(limiter.install, app), application_name="wallet-api")
    running.install(app, made)
    administrators.install(app, settings, made.identity, made.engine)
    cors.install(app, settings)
    entry.install(app)
    for room in (
        wallets, transfers, bulks, finding, statements, jobs, dead_letters, events, webhooks, audit, actions, freezes,
        health, docs, metrics,
    ):  # fmt: skip
        app.register_blueprint(room.blueprint)
    openapi.install(app)
    direct.install(app)
    app.wsgi_app = Edge(Mount(app), Proxies(settings.trusted_proxies))  # type: ignore[method-assign]
    return app
