"""Routes that are answered without Flask, as long as all goes well.

Finding a route and making a request and a response of Flask's costs more than what most of these do. So the views of
the busiest routes are functions of a WSGI environment, and are called before Flask is asked. What they raise, and what
needs something done to it (compression, CORS), Flask's own view of the same route raises and returns once more, where
every error becomes a problem.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from flask import Flask, Response, current_app, request
from pydantic import BaseModel

from api.edge.compression import MIN_BYTES
from api.edge.edge import ROUTE, Application, StartResponse
from api.running import services, services_of
from api.services import Services

_OUTCOME = "wallet.outcome"
_STATUS_LINES = {status: f"{status.value} {status.phrase}" for status in (HTTPStatus.OK, HTTPStatus.ACCEPTED)}


@dataclass(frozen=True, slots=True)
class Answer:
    """JSON, and the status that goes with it."""

    payload: bytes
    status: HTTPStatus = HTTPStatus.OK

    @classmethod
    def of(cls, model: BaseModel, status: HTTPStatus = HTTPStatus.OK) -> "Answer":
        """Spell a model."""
        return cls(model.__pydantic_serializer__.to_json(model), status)


# Given the services and the request's environment; raises what Flask's views do.
View = Callable[[Services, dict[str, Any]], Answer]
# By Flask's view of the same route.
_views: dict[Callable[..., Any], View] = {}


def directly(view: View) -> Callable[[], Response]:
    """Make a function of an environment Flask's view of a route without variables, and have it called before Flask."""

    @functools.wraps(view)
    def flasks_view() -> Response:
        outcome = request.environ.get(_OUTCOME) or view(services(), request.environ)
        if isinstance(outcome, Exception):
            raise outcome
        answer = cast("Answer", outcome)
        return current_app.response_class(answer.payload, answer.status, mimetype="application/json")

    _views[flasks_view] = view
    return flasks_view


def install(app: Flask) -> None:
    """Call the views of an application that are made for it before Flask. All of its routes must be there."""
    views = {
        (method, rule.rule): view
        for rule in app.url_map.iter_rules()
        if (view := _views.get(app.view_functions[rule.endpoint])) is not None
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    app.wsgi_app = _before(app.wsgi_app, views, services_of(app))  # type: ignore[method-assign, assignment]


def _before(flask: Application, views: dict[tuple[str, str], View], made: Services) -> Application:
    def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        view = views.get((environ["REQUEST_METHOD"], path))
        if view is None:
            return flask(environ, start_response)
        try:
            found = environ[_OUTCOME] = view(made, environ)
        except Exception as error:  # noqa: BLE001 - raised again where errors are answered
            environ[_OUTCOME] = error
            return flask(environ, start_response)
        payload = found.payload
        is_long = len(payload) >= MIN_BYTES
        if "HTTP_ORIGIN" in environ or (is_long and "HTTP_ACCEPT_ENCODING" in environ):
            return flask(environ, start_response)
        environ[ROUTE] = path
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(payload)))]
        if is_long:
            headers.append(("Vary", "Accept-Encoding"))
        start_response(_STATUS_LINES[found.status], headers)
        return (payload,)

    return answer
