"""What every Flask application here has, the API and the dashboard beside it."""

from typing import Any

import orjson
from flask import Flask
from flask.json.provider import JSONProvider

from api import settings as api_settings
from api.edge import compression, errors
from config import Settings


class _OrjsonProvider(JSONProvider):
    """Flask's JSON by orjson."""

    def dumps(self, obj: Any, **_options: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **_options: Any) -> Any:
        return orjson.loads(s)


def make_flask(name: str, settings: Settings) -> Flask:
    """Make an application whose errors are problems, with our JSON, bounds and compression."""
    app = Flask(name, static_folder=None)
    app.json = _OrjsonProvider(app)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    # A path is one thing under one name: no redirects, which a client would follow without its body.
    app.url_map.merge_slashes = False
    api_settings.install(app, settings)
    errors.install(app)
    compression.install(app)
    return app
