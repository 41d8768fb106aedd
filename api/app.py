"""The application: everything of this room, put together."""

from flask import Flask

from api import direct
from api.access import cors
from api.commands import entry
from api.contract import docs, openapi
from api.dashboard.mount import Mount
from api.edge.application import make_flask
from api.edge.edge import Edge
from api.edge.proxies import Proxies
from api.services import EXTENSION, make_services
from api.views import audit, dead_letters, health, jobs, metrics, transfers, wallets
from config import Settings


def create_app(settings: Settings) -> Flask:
    """Make the application. Nothing is connected until the first request that needs it."""
    app = make_flask("wallet", settings)
    app.extensions[EXTENSION] = make_services(app, settings)
    cors.install(app, settings)
    entry.install(app)
    for room in (wallets, transfers, jobs, dead_letters, audit, health, docs, metrics):
        app.register_blueprint(room.blueprint)
    openapi.install(app)
    direct.install(app)
    app.wsgi_app = Edge(Mount(app), Proxies(settings.trusted_proxies))  # type: ignore[method-assign]
    return app
