"""The HTTP contract, one row for each route: what ``/openapi.json`` says beyond what the code says by itself.

A new route needs a row in :data:`OPERATIONS` under its endpoint (``<blueprint>.<function>``)::

    "audit.audit": Operation(
        tag="Administration", who=Who.ADMIN, query=NoQuery, answers={200: Answer(AuditOut, example={...})}
    ),

Path and methods come from the URL map, the summary from the first line of the view's docstring, schemas from the
pydantic models that validate, and the problems that any such route can answer from ``who``, ``body`` and
``moves_money``. Tests fail as long as a route has no row, a row no route, or an example does not fit its schema.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pydantic import BaseModel

from api.contract.schemas import (
    AcceptedOut,
    ActionsOut,
    ActionsQuery,
    AmountBody,
    AuditOut,
    BalanceOut,
    BalanceQuery,
    BulkAcceptedOut,
    BulkBody,
    BulkOut,
    BulkQuery,
    DeadLettersOut,
    DeadLettersQuery,
    EventsOut,
    EventsQuery,
    FreezeBody,
    HealthOut,
    JobOut,
    JobQuery,
    LaterTransferBody,
    MoneyOut,
    NoQuery,
    ReadinessOut,
    RequeuedAllOut,
    RequeuedOut,
    ReversalBody,
    StatementQuery,
    TransactionsOut,
    TransactionsQuery,
    TransferBody,
    TransferOut,
    TransfersOut,
    TransfersQuery,
    UnfreezeBody,
    WalletStateOut,
)
from api.contract.webhook_schemas import (
    AddedWebhookOut,
    DeletedWebhookOut,
    DeliveriesOut,
    DeliveriesQuery,
    ReplayBody,
    ReplayedOut,
    RotatedOut,
    TestedOut,
    WebhookBody,
    WebhookOut,
    WebhooksOut,
)

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


class Who(Enum):
    """Who may call: any one of these security schemes, between blanks."""

    # Words and not tuples: of an empty tuple Python 3.11.2's Enum makes an object().
    ANYONE = ""
    USER = "user"
    ADMIN = "admin"
    USER_OR_ADMIN = "user admin"

    @property
    def schemes(self) -> list[str]:
        """The names of the security schemes."""
        return self.value.split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How to go on from an answer: with which endpoint, and what to take for a parameter of it."""

    endpoint: str
    parameter: str
    value: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A success, or what else is no problem (RFC 9457).

    ``schema`` is a model, or a JSON schema where there is none; ``headers`` and ``links`` are names of ``HEADERS`` in
    ``api/contract/openapi.py`` and of :data:`LINKS`.
    """

    schema: type[BaseModel] | dict[str, Any]
    example: Any = field(kw_only=True)
    description: str = field(kw_only=True, default="")
    media_type: str = field(kw_only=True, default="application/json")
    # Texts that it may be instead, by their media types: an example of each.
    also: Mapping[str, str] = field(kw_only=True, default_factory=dict)
    headers: tuple[str, ...] = field(kw_only=True, default=())
    links: tuple[str, ...] = field(kw_only=True, default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One route."""

    tag: str
    answers: Mapping[int, Answer]
    who: Who = Who.USER
    query: type[BaseModel] = NoQuery
    body: type[BaseModel] | None = None
    body_example: Any = None
    is_body_required: bool = True
    # It takes an Idempotency-Key, and its outcome can be unknown.
    moves_money: bool = False
    # Codes of its own, beside those that follow from the rest.
    problems: tuple[str, ...] = ()


PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "job_id": {
        "description": "The `job_id` or `transfer_id` of an earlier answer.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
        "example": "118361825078153216",
    },
    "webhook_id": {
        "description": "The `webhook_id` of an earlier answer.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
        "example": "118361825078153216",
    },
    "bulk_id": {
        "description": "The `bulk_id` of an earlier answer.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
        "example": "118361825078153216",
    },
    "user_id": {
        "description": "Whose wallet.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
        "example": "1",
    },
}

LINKS = {
    "job": Link(endpoint="jobs.job", parameter="job_id", value="$response.body#/job_id"),
    "bulk": Link(endpoint="bulks.bulk", parameter="bulk_id", value="$response.body#/bulk_id"),
    "cancel": Link(endpoint="jobs.cancel", parameter="job_id", value="$response.body#/job_id"),
    "transfer": Link(endpoint="jobs.job", parameter="job_id", value="$response.body#/transfer_id"),
    "next_transactions": Link(endpoint="wallets.transactions", parameter="cursor", value="$response.body#/next_cursor"),
    "next_transfers": Link(endpoint="finding.transfers", parameter="cursor", value="$response.body#/next_cursor"),
    "next_dead_letters": Link(
        endpoint="dead_letters.dead_letters", parameter="cursor", value="$response.body#/next_cursor"
    ),
    "deliveries": Link(
        endpoint="webhooks.webhook_deliveries", parameter="webhook_id", value="$response.body#/webhook_id"
    ),
    "try_webhook": Link(endpoint="webhooks.try_webhook", parameter="webhook_id", value="$response.body#/webhook_id"),
    "next_deliveries": Link(
        endpoint="webhooks.webhook_deliveries", parameter="cursor", value="$response.body#/next_cursor"
    ),
    "next_events": Link(endpoint="events.events", parameter="after", value="$response.body#/next_after"),
    "next_actions": Link(endpoint="actions.actions", parameter="cursor", value="$response.body#/next_cursor"),
    "requeue": Link(endpoint="dead_letters.requeue", parameter="job_id", value="$response.body#/dead_letters/0/job_id"),
}

_ID = "118361825078153216"
_AT = "2026-11-23T14:47:38.155688Z"
_POSTED = {
    "job_id": _ID,
    "status": "posted",
    "source_user_id": "1",
    "destination_user_id": "2",
    "amount": 1003,
    "reason": None,
    "attempts": 1,
    "last_error": None,
    "next_attempt_at": None,
    "created_at": _AT,
    "completed_at": "2026-11-23T14:47:38.163709Z",
    "kind": "transfer",
    "description": "rent for November",
    "reference": "INV-2026-118",
    "metadata": {"flat": "4b"},
    "not_before": None,
    "reverses": None,
    "reversed_amount": None,
    "bulk_id": None,
}
_DEAD = _POSTED | {"status": "failed", "reason": "attempts_exhausted", "attempts": 4, "last_error": "lock timeout"}
_PENDING = _POSTED | {"status": "pending", "attempts": 0, "completed_at": None}
_PLANNED = _PENDING | {"next_attempt_at": "2026-12-01T08:00:00.000000Z", "not_before": "2026-12-01T08:00:00.000000Z"}
_CANCELED = _PLANNED | {"status": "canceled", "next_attempt_at": None, "completed_at": _POSTED["completed_at"]}
_AUDIT = {
    "ok": False,
    "started_at": "2026-11-23T14:47:38.155688Z",
    "finished_at": "2026-11-23T14:47:41.163709Z",
    "checked": {"wallets": 2, "entries": 9, "transfers": 6},
    "findings": [
        {
            "invariant": "running_balance",
            "count": 1,
            "ids": ["1-4"],
            "detail": "entry 4 of wallet 1: 10067 and -1003 is not 9065",
        }
    ],
}
_ENTRY = {
    "transaction_id": "1-4",
    "transfer_id": _ID,
    "type": 3,
    "transaction_type": "transfer",
    "amount": -1003,
    "balance_after": 8997,
    "counterparty_user_id": "2",
    "desc": "rent for November",
    "reference": "INV-2026-118",
    "created_at": _AT,
}
_PAY = {
    "destination_user_id": 2,
    "amount": 1003,
    "description": "rent for November",
    "reference": "INV-2026-118",
    "metadata": {"flat": "4b"},
}
_WALLET = {
    "user_id": "1",
    "balance": 10000,
    "version": 1,
    "opened_at": _AT,
    "frozen": {"debits": True, "credits": False, "reason": "court order 17/2026", "at": _AT, "by": "admin"},
}
_WEBHOOK = {
    "webhook_id": _ID,
    "url": "https://example.com/hooks",
    "types": ["transfer.posted", "transfer.rejected"],
    "user_id": None,
    "status": "enabled",
    "why": None,
    "created_at": _AT,
    "disabled_at": None,
    "failing_since": None,
    "old_secret_until": None,
}
# That of the standard's own text.
_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105
_DELIVERY = {
    "event_id": "4711",
    "type": "transfer.posted",
    "status": "pending",
    "created_at": _AT,
    "next_attempt_at": "2026-11-23T14:52:38.155688Z",
    "ended_at": None,
    "attempts": [{"at": _AT, "http_status": 500, "duration_ms": 12, "answer": "out of order", "error": None}],
}
_REPLAYED = ("Idempotency-Replayed",)

OPERATIONS: dict[str, Operation] = {
    "wallets.deposit": Operation(
        tag="Money",
        body=AmountBody,
        body_example={"amount": 67},
        moves_money=True,
        # Forbidden: by a token without the scope that deposits need.
        problems=("forbidden", "wallet_frozen", "balance_overflow"),
        answers={
            200: Answer(
                MoneyOut, example={"balance": 10067, "transfer_id": _ID}, headers=_REPLAYED, links=("transfer",)
            )
        },
    ),
    "wallets.withdraw": Operation(
        tag="Money",
        body=AmountBody,
        body_example={"amount": 67},
        moves_money=True,
        problems=("wallet_not_found", "wallet_frozen", "balance_insufficient"),
        answers={
            200: Answer(MoneyOut, example={"balance": 9933, "transfer_id": _ID}, headers=_REPLAYED, links=("transfer",))
        },
    ),
    "transfers.transfer_now": Operation(
        tag="Money",
        body=TransferBody,
        body_example=_PAY,
        moves_money=True,
        problems=(
            "wallet_not_found",
            "wallet_frozen",
            "balance_insufficient",
            "self_transfer_invalid",
            "balance_overflow",
        ),
        answers={
            200: Answer(
                TransferOut,
                example={"balance": 8997, "transfer_id": _ID, "success": True},
                headers=_REPLAYED,
                links=("transfer",),
            )
        },
    ),
    "transfers.transfer_later": Operation(
        tag="Money",
        body=LaterTransferBody,
        body_example=_PAY,
        moves_money=True,
        problems=("wallet_not_found", "wallet_frozen", "balance_insufficient", "self_transfer_invalid"),
        answers={
            202: Answer(
                AcceptedOut,
                example={"success": True, "job_id": _ID, "status": "pending", "status_url": f"/api/jobs/v1/{_ID}"},
                headers=("Location", "Retry-After", *_REPLAYED),
                links=("job", "cancel"),
            )
        },
    ),
    "transfers.reverse": Operation(
        tag="Money",
        who=Who.USER_OR_ADMIN,
        body=ReversalBody,
        body_example={"amount": 500, "description": "half of it back"},
        is_body_required=False,
        moves_money=True,
        problems=(
            "forbidden",
            "job_not_found",
            "wallet_not_found",
            "wallet_frozen",
            "balance_insufficient",
            "balance_overflow",
            "not_reversible",
            "reversal_exceeds",
        ),
        answers={
            200: Answer(
                TransferOut,
                example={"balance": 503, "transfer_id": _ID, "success": True},
                headers=_REPLAYED,
                links=("transfer",),
            )
        },
    ),
    "bulks.send": Operation(
        tag="Money",
        body=BulkBody,
        body_example={"transfers": [_PAY, {"destination_user_id": 3, "amount": 500}], "atomic": False},
        moves_money=True,
        problems=("wallet_not_found", "self_transfer_invalid", "balance_overflow", "invalid_amount"),
        answers={
            202: Answer(
                BulkAcceptedOut,
                example={"bulk_id": _ID, "count": 2, "status_url": f"/api/bulks/v1/{_ID}"},
                headers=("Location", "Retry-After", *_REPLAYED),
                links=("bulk",),
            )
        },
    ),
    "bulks.bulk": Operation(
        tag="Jobs",
        who=Who.USER_OR_ADMIN,
        query=BulkQuery,
        problems=("bulk_not_found",),
        answers={
            200: Answer(
                BulkOut,
                example={
                    "bulk_id": _ID,
                    "count": 2,
                    "amount": 1503,
                    "atomic": False,
                    "pending": 1,
                    "posted": 1,
                    "rejected": 0,
                    "failed": 0,
                    "canceled": 0,
                    "created_at": _AT,
                    "completed_at": None,
                },
            )
        },
    ),
    "jobs.job": Operation(
        tag="Jobs",
        who=Who.USER_OR_ADMIN,
        query=JobQuery,
        problems=("job_not_found",),
        answers={200: Answer(JobOut, example=_POSTED)},
    ),
    "jobs.cancel": Operation(
        tag="Jobs",
        who=Who.USER_OR_ADMIN,
        # Forbidden: to the payee.
        problems=("forbidden", "job_not_found", "not_cancelable"),
        answers={200: Answer(JobOut, example=_CANCELED)},
    ),
    "finding.transfers": Operation(
        tag="Reads",
        who=Who.USER_OR_ADMIN,
        query=TransfersQuery,
        problems=("wallet_not_found",),
        answers={
            200: Answer(
                TransfersOut,
                example={
                    "transfers": [_POSTED],
                    "page_size": 1,
                    "has_more": True,
                    "next_cursor": f"1795445258155688-{_ID}",
                },
                links=("next_transfers",),
            )
        },
    ),
    "finding.transfer": Operation(
        tag="Reads",
        who=Who.USER_OR_ADMIN,
        problems=("job_not_found",),
        answers={200: Answer(JobOut, example=_POSTED)},
    ),
    "statements.statement": Operation(
        tag="Reads",
        who=Who.USER_OR_ADMIN,
        query=StatementQuery,
        problems=("wallet_not_found", "entries_left"),
        answers={
            200: Answer(
                {"type": "object", "required": ["opening_balance", "closing_balance", "transactions"]},
                example={
                    "user_id": "1",
                    "from": "2026-11-01",
                    "to": "2026-11-30",
                    "opening_balance": 10000,
                    "closing_balance": 8997,
                    "transactions": [_ENTRY],
                },
                description="A file; as CSV if that is asked for. One without its end was broken off.",
                headers=("Content-Disposition",),
                also={"text/csv": "transaction_id,transfer_id,type,transaction_type,amount,balance_after\n"},
            )
        },
    ),
    "wallets.balance": Operation(
        tag="Reads",
        query=BalanceQuery,
        problems=("wallet_not_found", "entries_left"),
        answers={200: Answer(BalanceOut, example={"balance": 10000})},
    ),
    "wallets.transactions": Operation(
        tag="Reads",
        query=TransactionsQuery,
        problems=("wallet_not_found",),
        answers={
            200: Answer(
                TransactionsOut,
                example={
                    "transactions": [_ENTRY],
                    "statement_balance": 8997,
                    "page": 1,
                    "page_size": 1,
                    "has_more": True,
                    "next_cursor": "4",
                },
                links=("next_transactions",),
            )
        },
    ),
    "dead_letters.dead_letters": Operation(
        tag="Administration",
        who=Who.ADMIN,
        query=DeadLettersQuery,
        answers={
            200: Answer(
                DeadLettersOut,
                example={"dead_letters": [_DEAD], "page_size": 30, "has_more": False, "next_cursor": None},
                links=("next_dead_letters", "requeue"),
            )
        },
    ),
    "dead_letters.requeue": Operation(
        tag="Administration",
        who=Who.ADMIN,
        problems=("job_not_found",),
        answers={200: Answer(RequeuedOut, example={"requeued": True, "job": _PENDING})},
    ),
    "dead_letters.requeue_all": Operation(
        tag="Administration",
        who=Who.ADMIN,
        answers={200: Answer(RequeuedAllOut, example={"requeued": 3})},
    ),
    "events.events": Operation(
        tag="Administration",
        who=Who.ADMIN,
        query=EventsQuery,
        answers={
            200: Answer(
                EventsOut,
                example={
                    "events": [
                        {
                            "event_id": "4711",
                            "type": "transfer.posted",
                            "created_at": _POSTED["completed_at"],
                            "data": _POSTED,
                        }
                    ],
                    "next_after": "4711",
                    "missed": 0,
                },
                links=("next_events",),
            )
        },
    ),
    "webhooks.add_webhook": Operation(
        tag="Webhooks",
        who=Who.ADMIN,
        body=WebhookBody,
        body_example={"url": "https://example.com/hooks", "types": ["transfer.posted", "transfer.rejected"]},
        answers={
            201: Answer(AddedWebhookOut, example=_WEBHOOK | {"secret": _SECRET}, links=("deliveries", "try_webhook"))
        },
    ),
    "webhooks.webhooks": Operation(
        tag="Webhooks", who=Who.ADMIN, answers={200: Answer(WebhooksOut, example={"webhooks": [_WEBHOOK]})}
    ),
    "webhooks.delete_webhook": Operation(
        tag="Webhooks",
        who=Who.ADMIN,
        problems=("webhook_not_found",),
        answers={200: Answer(DeletedWebhookOut, example={"deleted": True})},
    ),
    "webhooks.rotate_webhook": Operation(
        tag="Webhooks",
        who=Who.ADMIN,
        problems=("webhook_not_found",),
        answers={
            200: Answer(
                RotatedOut,
                example={"webhook_id": _ID, "secret": _SECRET, "old_secret_until": "2026-11-24T14:47:38.155688Z"},
            )
        },
    ),
    "webhooks.try_webhook": Operation(
        tag="Webhooks",
        who=Who.ADMIN,
        problems=("webhook_not_found",),
        answers={200: Answer(TestedOut, example={"event_id": _ID, "type": "webhook.test"})},
    ),
    "webhooks.enable_webhook": Operation(
        tag="Webhooks",
        who=Who.ADMIN,
        problems=("webhook_not_found",),
        answers={200: Answer(WebhookOut, example=_WEBHOOK)},
    ),
    "webhooks.webhook_deliveries": Operation(
        tag="Webhooks",
        who=Who.ADMIN,
        query=DeliveriesQuery,
        problems=("webhook_not_found",),
        answers={
            200: Answer(
                DeliveriesOut,
                example={"deliveries": [_DELIVERY], "page_size": 30, "has_more": False, "next_cursor": None},
                links=("next_deliveries",),
            )
        },
    ),
    "webhooks.replay_webhook": Operation(
        tag="Webhooks",
        who=Who.ADMIN,
        body=ReplayBody,
        body_example={"event_id": "4711"},
        problems=("webhook_not_found",),
        answers={200: Answer(ReplayedOut, example={"after": "4710"})},
    ),
    "audit.audit": Operation(
        tag="Administration", who=Who.ADMIN, answers={200: Answer(AuditOut, example=_AUDIT | {"under_way": None})}
    ),
    "freezes.wallet": Operation(
        tag="Administration",
        who=Who.ADMIN,
        problems=("wallet_not_found",),
        answers={200: Answer(WalletStateOut, example=_WALLET)},
    ),
    "freezes.freeze": Operation(
        tag="Administration",
        who=Who.ADMIN,
        body=FreezeBody,
        body_example={"debits": True, "credits": False, "reason": "court order 17/2026"},
        problems=("wallet_not_found",),
        answers={200: Answer(WalletStateOut, example=_WALLET)},
    ),
    "freezes.unfreeze": Operation(
        tag="Administration",
        who=Who.ADMIN,
        body=UnfreezeBody,
        body_example={"reason": "lifted"},
        is_body_required=False,
        problems=("wallet_not_found",),
        answers={200: Answer(WalletStateOut, example=_WALLET | {"frozen": None})},
    ),
    "actions.actions": Operation(
        tag="Administration",
        who=Who.ADMIN,
        query=ActionsQuery,
        answers={
            200: Answer(
                ActionsOut,
                example={
                    "actions": [
                        {
                            "at": _AT,
                            "who": "admin",
                            "what": "dead_letter.requeue",
                            "on": _ID,
                            "from": "203.0.113.7",
                            "outcome": "done",
                        }
                    ],
                    "page_size": 30,
                    "has_more": False,
                    "next_cursor": None,
                },
                links=("next_actions",),
            )
        },
    ),
    "health.healthz": Operation(
        tag="Service", who=Who.ANYONE, answers={200: Answer(HealthOut, example={"status": "ok"})}
    ),
    "health.readyz": Operation(
        tag="Service",
        who=Who.ANYONE,
        answers={
            200: Answer(
                ReadinessOut,
                example={"status": "degraded", "dependencies": {"postgres": "ok", "redis": "degraded"}},
            ),
            503: Answer(
                ReadinessOut,
                description="It cannot serve, or something is wrong on the service's side.",
                example={"status": "unready", "dependencies": {"postgres": "unreachable", "redis": "ok"}},
            ),
        },
    ),
    "metrics.scrape": Operation(
        tag="Service",
        who=Who.ANYONE,
        answers={
            200: Answer(
                {"type": "string"},
                example="# HELP wallet_up Whether it answered just now.\n",
                description="Prometheus text: what all processes of this machine have counted.",
                media_type="text/plain",
            )
        },
    ),
    "openapi.openapi": Operation(
        tag="Service",
        who=Who.ANYONE,
        answers={
            200: Answer(
                {"type": "object", "required": ["openapi", "info", "paths", "components"]},
                description="This document.",
                example={"openapi": "3.1.0", "info": {}, "paths": {}, "components": {}},
            )
        },
    ),
}
