"""rq-dashboard under /rq/, for administrators: what RQ holds, to look at and to requeue.

It comes as a blueprint without any authentication, changes things on a GET, and shows what is in a job as HTML. So it
stands in an application of its own, of which every request passes :func:`_guard` first, which lets through only what
exists; it sees RQ through ``jobs/rq/dashboard.py``; and its pages come by way of ``api/dashboard/templates.py``, under
a Content-Security-Policy.
"""

import functools
import re
import secrets
from collections.abc import Callable
from typing import Any

import redis
import rq_dashboard
import structlog
from flask import Flask, Response, current_app, g, jsonify, request
from rq_dashboard import web
from werkzeug.exceptions import MethodNotAllowed, NotFound

from api.access.administrators import acting, require_admin
from api.calls.problems import RETRY_AFTER_S, ApiError
from api.dashboard.mount import PREFIX
from api.dashboard.templates import DashboardLoader
from api.edge.application import make_flask
from api.edge.errors import problem_response
from api.settings import current_settings, settings_of
from jobs.rq import dashboard
from jobs.rq.keys import QUEUE_NAME
from models.redis_line.client import connect_redis

# An administrator is more patient than a request that moves money; each page asks Redis for many things.
ANSWER_TIMEOUT_S = 2.0
# As many as the page itself offers.
MAX_PER_PAGE = 200
_NAME = "rq_dashboard"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# What may be had by a GET: everything else changes something.
_VIEWS = frozenset(
    f"{_NAME}.{name}"
    for name in (
        "static", "favicon", "queues_overview", "workers_overview", "jobs_overview", "job_view",
        "list_queues", "list_workers", "list_jobs", "job_info",
    )
)  # fmt: skip
_FILES = frozenset({f"{_NAME}.static", f"{_NAME}.favicon"})
_REGISTRIES = frozenset({dashboard.QUEUED, *dashboard.REGISTRY_KEYS})
_NUMBER = re.compile(r"[1-9][0-9]{0,6}")
# The pages carry style attributes; scripts run only where the server has put them.
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_JOB_IS_GONE = "RQ has no such job, or none that this can be done with."

_log = structlog.get_logger("dashboard")


def make_dashboard(api: Flask) -> Flask:
    """Make the application that serves it, with the limits, the tokens and the settings of the API's."""
    _substitute()
    settings = settings_of(api)
    app = make_flask("wallet-dashboard", settings)
    app.extensions |= api.extensions
    app.config["RQ_DASHBOARD_REDIS_URL"] = ("redis",)  # what the page shows of it, and no more
    app.redis_conn = connect_redis(  # type: ignore[attr-defined]  # where rq-dashboard looks for it
        settings.redis_url.get_secret_value(), answer_timeout_s=ANSWER_TIMEOUT_S
    )
    app.jinja_loader = DashboardLoader()
    app.before_request(_guard)
    app.after_request(_protect)
    app.register_blueprint(rq_dashboard.blueprint, url_prefix=PREFIX)
    app.view_functions[f"{_NAME}.requeue_job_view"] = _requeue
    app.view_functions[f"{_NAME}.requeue_all"] = _requeue_all
    for endpoint, view in app.view_functions.items():
        if endpoint not in _VIEWS:
            app.view_functions[endpoint] = _recorded(endpoint, view)
    for error in dashboard.JOB_IS_GONE:
        app.register_error_handler(error, _job_is_gone)
    app.register_error_handler(redis.RedisError, _unavailable)
    return app


def _substitute() -> None:
    """Let rq-dashboard see RQ through our eyes. The module is nobody else's in this process."""
    web.config.serializer = dashboard.ShownSerializer
    web.Job = dashboard.ShownJob
    web.Queue = dashboard.ShownQueue
    web.Worker = dashboard.ShownWorker
    web.StartedJobRegistry = dashboard.ShownStartedRegistry
    web.from_url = lambda *_args, **_options: (None, _redis())
    web.get_queue_registry_jobs_count = _jobs_on_page


def _redis() -> redis.Redis:
    connection: redis.Redis = current_app.redis_conn  # type: ignore[attr-defined]
    return connection


def _guard() -> None:
    """Let only administrators pass, to what exists, and let nothing change by a look.

    Raises:
        ApiError: ``unauthorized``, ``forbidden`` or ``job_not_found``.
        NotFound, MethodNotAllowed: there is no such thing, or it cannot be done this way.
        redis.RedisError: Redis is away.
    """
    g.csp_nonce = secrets.token_urlsafe(16)
    is_change = request.endpoint is not None and request.endpoint not in _VIEWS
    if is_change and request.method not in _SAFE_METHODS:
        return  # its view looks who asks, and for what: see _recorded
    require_admin()
    if is_change:
        raise MethodNotAllowed(valid_methods=["OPTIONS", "POST"])
    if request.endpoint is None or request.endpoint in _FILES:
        return
    arguments = request.view_args if request.view_args is not None else {}
    if arguments.get("queue_name", "") is None:  # the page of all jobs is that of RQ's default queue
        arguments["queue_name"] = QUEUE_NAME
    _check_arguments(arguments)
    _check_existence(arguments)


def _recorded(endpoint: str, view: Callable[..., Any]) -> Callable[..., Any]:
    """Let only administrators change what a view changes, and have that recorded, and what is in the way of it."""
    what = f"dashboard.{endpoint.rpartition('.')[2]}"

    @functools.wraps(view)
    def recorded(**arguments: object) -> Any:
        with acting(what, on="/".join(map(str, arguments.values()))):
            try:
                _check_arguments(arguments)
                _check_existence(arguments)
                return view(**arguments)
            except dashboard.JOB_IS_GONE as error:
                raise ApiError("job_not_found", _JOB_IS_GONE) from error

    return recorded


def _check_arguments(arguments: dict[str, object]) -> None:
    """Refuse what cannot exist.

    Raises:
        NotFound: that is so.
    """
    is_possible = (
        arguments.get("instance_number", 0) == 0
        and arguments.get("registry_name", dashboard.QUEUED) in _REGISTRIES
        and arguments.get("order", "asc") in {"asc", "dsc"}
        and _NUMBER.fullmatch(str(arguments.get("page", 1)))
        and _NUMBER.fullmatch(per_page := str(arguments.get("per_page", 1)))
        and int(per_page) <= MAX_PER_PAGE
    )
    if not is_possible:
        raise NotFound


def _check_existence(arguments: dict[str, object]) -> None:
    """Refuse what does not exist, before rq-dashboard shows an empty page of it.

    Raises:
        NotFound: there is no such queue.
        redis.RedisError: Redis is away.
    """
    connection = _redis()
    connection.ping()
    if (queue_name := arguments.get("queue_name")) is not None and not dashboard.has_queue(connection, str(queue_name)):
        raise NotFound
    if (job_id := arguments.get("job_id")) is not None:
        dashboard.ShownJob.fetch(str(job_id), connection=connection)


def _protect(response: Response) -> Response:
    """Let scripts run only where this response's own nonce stands, and keep other sites from framing it."""
    response.headers["Content-Security-Policy"] = _POLICY.format(nonce=g.csp_nonce)
    response.headers["Referrer-Policy"] = "same-origin"
    # Relative: behind a proxy that ends TLS, the whole of it would name the wrong scheme.
    if response.location and response.location.startswith(request.host_url):
        response.location = response.location.removeprefix(request.host_url.rstrip("/"))
    return response


def _jobs_on_page(  # noqa: PLR0913, PLR0917 - rq-dashboard calls it so
    queue_name: str, registry_name: str, offset: int, per_page: int, order: str, connection: redis.Redis
) -> tuple[int, list[dict[str, object]]]:
    """Return how many jobs there are and those of a page. rq-dashboard's own pages grow with their number."""
    first, last = offset, offset + per_page - 1
    if order == "dsc":
        first, last = -last - 1, -first - 1
    total, jobs = dashboard.jobs_on_page(connection, queue_name, registry_name, first=first, last=last)
    if order == "dsc":
        jobs.reverse()
    return total, [web.serialize_job(job) for job in jobs]


def _requeue(job_id: str) -> Response:
    dashboard.requeue(_redis(), job_id, by=current_settings().admin_user)
    return jsonify(status="OK")


def _requeue_all(queue_name: str) -> Response:
    return jsonify(status="OK", count=dashboard.requeue_all(_redis(), queue_name, by=current_settings().admin_user))


def _job_is_gone(_error: Exception) -> Response:
    return problem_response("job_not_found", _JOB_IS_GONE)


def _unavailable(error: redis.RedisError) -> Response:
    _log.error("unavailable", cause=type(error).__name__)
    return problem_response(
        "unavailable", "Redis cannot be reached. Nothing changed.", headers={"Retry-After": str(RETRY_AFTER_S)}
    )
