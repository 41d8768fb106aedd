"""rq-dashboard's place below the API's edge: an application of its own, made by the first request for it."""

import importlib
import threading
from collections.abc import Iterable
from typing import Any

from flask import Flask

from api.edge.edge import Application, StartResponse

PREFIX = "/rq"


class Mount:
    """Hands requests below :data:`PREFIX` to the dashboard, and all others to the API.

    Told apart by the beginning of the path as it came, so no spelling of it gets to the dashboard past its guard, and
    no request of the API's pays for the guard.
    """

    def __init__(self, api: Flask) -> None:
        """Take over an API's ``wsgi_app``, which is to be replaced by this."""
        self._api = api
        self._application: Application = api.wsgi_app
        self._dashboard: Flask | None = None
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request."""
        path = environ.get("PATH_INFO", "")
        if path.startswith(PREFIX) and path[len(PREFIX) :][:1] in {"", "/"}:
            return (self._dashboard or self._make_dashboard()).wsgi_app(environ, start_response)
        return self._application(environ, start_response)

    def _make_dashboard(self) -> Flask:
        """Make it, once.

        It and all that it stands on are imported here, which no other import is: of the processes of the API most
        never show it, and each would hold several megabytes for it.
        """
        with self._lock:
            if self._dashboard is None:
                self._dashboard = importlib.import_module("api.dashboard.pages").make_dashboard(self._api)
            return self._dashboard
