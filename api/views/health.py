"""Is the process alive, and can it serve? For load balancers and supervisors."""

from flask import Blueprint, Response, request

from api.contract.service import HealthOut, ReadinessOut
from api.contract.validation import json_response, refuse_query
from api.running import services
from models.schema import revision

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Answer as long as the process lives, whatever it depends on."""
    refuse_query(request.environ)
    return json_response(HealthOut(status="ok"))


@blueprint.get("/readyz")
def readyz() -> Response:
    """Answer 200 when PostgreSQL answers, is migrated and takes writes. Without the others money still moves: degraded.

    A process that has been told to stop answers 503 as well, on the connections that it still serves.
    """
    refuse_query(request.environ)
    database = revision.readiness(services().engine)
    answers = services().ask_others()
    dependencies = {"postgres": database} | {name: "ok" if it else "degraded" for name, it in answers.items()}
    status = "unready" if database != "ok" else "ready" if all(answers.values()) else "degraded"
    if database == "ok" and not services().snowflake.is_able():
        # No node id is free, or the clock is behind those that are.
        status, dependencies["ids"] = "unready", "cannot be issued"
    if services().stopping.is_set():
        status = "stopping"
    return json_response(
        ReadinessOut(status=status, dependencies=dependencies), 503 if status in {"unready", "stopping"} else 200
    )
