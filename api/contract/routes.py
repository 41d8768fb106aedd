"""The HTTP contract, one row for each route: what ``/openapi.json`` says beyond what the code says by itself.

What ``api/views/jobs.py`` takes and answers stands in ``api/contract/jobs.py``, and so with each of the views (of
``health`` and ``metrics`` in ``service``): the models, and the rows, each under its endpoint
(``<blueprint>.<function>``)::

    "audit.audit": Operation(Answer(AuditOut, example={...}), tag="Administration", who=Who.ADMIN),

Path and methods come from the URL map, the summary from the first line of the view's docstring, schemas from the
pydantic models that validate, and the problems that any such route can answer from ``who``, ``body`` and
``moves_money``. Tests fail as long as a route has no row, a row no route, or an example does not fit its schema.
"""

from typing import Any, NamedTuple

from api.contract import (
    actions,
    audit,
    bulks,
    dead_letters,
    events,
    finding,
    freezes,
    jobs,
    service,
    statements,
    transfers,
    wallets,
    webhooks,
)
from api.contract.operations import AN_ID

OPERATIONS = {
    **wallets.OPERATIONS,
    **transfers.OPERATIONS,
    **bulks.OPERATIONS,
    **jobs.OPERATIONS,
    **finding.OPERATIONS,
    **statements.OPERATIONS,
    **dead_letters.OPERATIONS,
    **events.OPERATIONS,
    **webhooks.OPERATIONS,
    **audit.OPERATIONS,
    **freezes.OPERATIONS,
    **actions.OPERATIONS,
    **service.OPERATIONS,
}

# Pages for people, which are no part of the contract.
UNDOCUMENTED_BLUEPRINTS = frozenset({"docs"})

TAGS = {
    "Money": "Deposits, withdrawals and transfers. Amounts are integer cents.",
    "Jobs": "How a transfer of any kind stands.",
    "Reads": "One's own wallet.",
    "Administration": "Administrators only.",
    "Webhooks": "Where events are sent. Administrators only.",
    "Service": "For load balancers, supervisors and tools.",
}


def _id_in_path(description: str, example: str = AN_ID) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"}, "example": example}


PATH_PARAMETERS = {
    "job_id": _id_in_path("The `job_id` or `transfer_id` of an earlier answer."),
    "webhook_id": _id_in_path("The `webhook_id` of an earlier answer."),
    "bulk_id": _id_in_path("The `bulk_id` of an earlier answer."),
    "user_id": _id_in_path("Whose wallet.", "1"),
}


class Link(NamedTuple):
    """How to go on from an answer: with which endpoint, and what of the answer to take for a parameter of it."""

    endpoint: str
    parameter: str
    pointer: str


LINKS = {
    "job": Link("jobs.job", "job_id", "job_id"),
    "bulk": Link("bulks.bulk", "bulk_id", "bulk_id"),
    "cancel": Link("jobs.cancel", "job_id", "job_id"),
    "transfer": Link("jobs.job", "job_id", "transfer_id"),
    "next_transactions": Link("wallets.transactions", "cursor", "next_cursor"),
    "next_transfers": Link("finding.transfers", "cursor", "next_cursor"),
    "next_dead_letters": Link("dead_letters.dead_letters", "cursor", "next_cursor"),
    "deliveries": Link("webhooks.webhook_deliveries", "webhook_id", "webhook_id"),
    "try_webhook": Link("webhooks.try_webhook", "webhook_id", "webhook_id"),
    "next_deliveries": Link("webhooks.webhook_deliveries", "cursor", "next_cursor"),
    "next_events": Link("events.events", "after", "next_after"),
    "next_actions": Link("actions.actions", "cursor", "next_cursor"),
    "requeue": Link("dead_letters.requeue", "job_id", "dead_letters/0/job_id"),
}
