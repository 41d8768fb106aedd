"""The application: everything of this room, put together."""

from typing import Any

import orjson
from flask import Flask, Response
from flask.json.provider import JSONProvider

from api import access_log, dead_letters, errors, health, jobs, tracing, transfers, wallets
from api.commands import entry
from api.services import EXTENSION, make_services
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
    app.extensions[EXTENSION] = make_services(settings)
    access_log.install(app)
    tracing.install(app)
    errors.install(app)
    app.after_request(_no_store)
    app.cli.add_command(dead_letters.commands)
    entry.install(app)
    for room in (wallets, transfers, jobs, dead_letters, health):
        app.register_blueprint(room.blueprint)
    return app


def _no_store(response: Response) -> Response:
    """Keep balances out of every cache on the way."""
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
