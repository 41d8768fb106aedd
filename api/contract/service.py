"""The service itself: whether it lives and can work, what it counts, what it is called by."""

from functools import partial
from typing import Literal

from api.contract.fields import Outgoing
from api.contract.operations import Answer, Operation, Who


class HealthOut(Outgoing):
    """The process lives."""

    status: Literal["ok"]


class ReadinessOut(Outgoing):
    """Whether the service can work, and how each thing that it depends on is doing."""

    status: Literal["ready", "degraded", "unready", "stopping"]
    dependencies: dict[str, str]


_row = partial(Operation, tag="Service", who=Who.ANYONE)

OPERATIONS = {
    "health.healthz": _row(Answer(HealthOut, example={"status": "ok"})),
    "health.readyz": _row(
        Answer(ReadinessOut, example={"status": "degraded", "dependencies": {"postgres": "ok", "redis": "degraded"}}),
        others=(
            Answer(
                ReadinessOut,
                status=503,
                description="It cannot serve, or something is wrong on the service's side.",
                example={"status": "unready", "dependencies": {"postgres": "unreachable", "redis": "ok"}},
            ),
        ),
    ),
    "metrics.scrape": _row(
        Answer(
            {"type": "string"},
            example="# HELP wallet_up Whether it answered just now.\n",
            description="Prometheus text: what all processes of this machine have counted.",
            media_type="text/plain",
        )
    ),
    "openapi.openapi": _row(
        Answer(
            {"type": "object", "required": ["openapi", "info", "paths", "components"]},
            description="This document.",
            example={"openapi": "3.1.0", "info": {}, "paths": {}, "components": {}},
        )
    ),
}
