"""The application: everything of this room, put together."""

from typing import Any

import orjson
from flask import Flask
from flask.json.provider import JSONProvider

from api import direct
from api import settings as api_settings
from api.access import cors
from api.commands import entry
from api.contract import docs, openapi
from api.dashboard import pages
from api.edge import compression, errors
from api.edge.edge import Edge
from api.edge.proxies import Proxies
from api.services import EXTENSION, make_services
from api.views import audit, dead_letters, health, jobs, metrics, transfers, wallets
from config import Settings


class _OrjsonProvider(JSONProvider):
    """Flask's JSON by orjson."""

    def dumps(self, obj: Any, **_options: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **_options: Any) -> Any:
        return orjson.loads(s)


def create_app(settings: Settings) -> Flask:
    """Make the application. Nothing is connected until the first request that needs it."""
    app = Flask("wallet", static_folder=None)
    app.json = _OrjsonProvider(app)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    # A path is one thing under one name: no redirects, which a client would follow without its body.
    app.url_map.merge_slashes = False
    api_settings.install(app, settings)
    app.extensions[EXTENSION] = make_services(app, settings)
    errors.install(app)
    cors.install(app, settings)
    compression.install(app)
    entry.install(app)
    for room in (wallets, transfers, jobs, dead_letters, audit, health, docs, metrics):
        app.register_blueprint(room.blueprint)
    pages.install(app, settings)
    openapi.install(app)
    direct.install(app)
    app.wsgi_app = Edge(app.wsgi_app, Proxies(settings.trusted_proxies))  # type: ignore[method-assign]
    return app
