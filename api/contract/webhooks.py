"""What comes in and what goes out about webhooks."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from api.contract.events import EVENT_TYPES, EventNumberOut
from api.contract.fields import Count, Cursor, IdIn, IdOut, Incoming, Instant, Outgoing, PageSize, SpelledInstant, words
from api.contract.instants import InstantIn
from api.contract.operations import AN_ID, AN_INSTANT, Answer, Operation, Who
from models.webhooks.endpoints import EVERY, Endpoint
from models.webhooks.history import TEST, Delivery

MAX_URL = 2_048
_TYPES_IN = [*EVENT_TYPES, EVERY]

DeliveryStatus: TypeAlias = Literal["pending", "delivered", "failed"]


class WebhookBody(Incoming):
    """Where events are to be sent, and which."""

    url: Annotated[
        str,
        Field(
            max_length=MAX_URL,
            description="By https, of a host that everybody can reach, in ASCII.",
            # Who breaks it is told in words (jobs/webhooks/targets.py).
            json_schema_extra={"pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[!-~]+$"},
        ),
    ]
    types: Annotated[
        list[Annotated[str, Field(json_schema_extra={"enum": _TYPES_IN})]],
        Field(min_length=1, max_length=len(_TYPES_IN), description="Kinds of events, or an asterisk for all."),
    ]
    user_id: IdIn | None = Field(default=None, description="Only events of this user's transfers.")

    @model_validator(mode="after")
    def _know_types(self) -> Self:
        if unknown := set(self.types) - set(_TYPES_IN):
            raise PydanticCustomError("unknown_type", f"types: {min(unknown)[:64]!r} is no kind of event")
        return self

    @property
    def distinct_types(self) -> Sequence[str]:
        """Each once; all of them are an asterisk alone."""
        return [EVERY] if EVERY in self.types else list(dict.fromkeys(self.types))


class ReplayBody(Incoming):
    """What is to be sent again: all that has happened since an instant, or one event."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in ("since", "event_id")
            ]
        }
    )

    since: InstantIn | None = Field(default=None, description="RFC 3339, with an offset.")
    event_id: IdIn | None = None

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if (self.since is None) == (self.event_id is None):
            raise PydanticCustomError("one_of", "Give since, or event_id")
        return self


class DeliveriesQuery(Incoming):
    """Which deliveries: in which status, how many, and below which place."""

    status: DeliveryStatus | None = None
    page_size: PageSize = 30
    cursor: Cursor = None


class WebhookOut(Outgoing):
    """Where events are sent. ``why`` it is disabled: ``gone`` (its receiver has answered 410), or ``failing``."""

    webhook_id: IdOut
    url: str
    types: list[str]
    user_id: IdOut | None
    status: Literal["enabled", "disabled"]
    why: Literal["gone", "failing"] | None
    created_at: Instant
    disabled_at: Instant | None
    failing_since: Instant | None
    old_secret_until: Instant | None

    @classmethod
    def of(cls, endpoint: Endpoint) -> "WebhookOut":
        """Show an endpoint, without its secrets."""
        return cls(
            webhook_id=endpoint.id,
            url=endpoint.url,
            types=list(endpoint.types),
            user_id=endpoint.user_id,
            status="enabled" if endpoint.disabled_at is None else "disabled",
            why=endpoint.why,
            created_at=endpoint.created_at,
            disabled_at=endpoint.disabled_at,
            failing_since=endpoint.failing_since,
            old_secret_until=endpoint.old_secret_until,
        )


class AddedWebhookOut(WebhookOut):
    """An endpoint and its secret, which is shown this once."""

    secret: str

    @classmethod
    def with_secret(cls, endpoint: Endpoint, secret: str) -> "AddedWebhookOut":
        """Show both."""
        return cls(**dict(WebhookOut.of(endpoint)), secret=secret)


class WebhooksOut(Outgoing):
    """All endpoints, oldest first."""

    webhooks: list[WebhookOut]


class DeletedWebhookOut(Outgoing):
    """It is gone."""

    deleted: Literal[True] = True


class RotatedOut(Outgoing):
    """A new secret, shown this once, and until when the one before signs along."""

    webhook_id: IdOut
    secret: str
    old_secret_until: Instant


class TestedOut(Outgoing):
    """What is being sent: how it went stands among the deliveries."""

    event_id: IdOut
    type: Literal["webhook.test"] = TEST  # type: ignore[assignment] # a constant of that value


class ReplayedOut(Outgoing):
    """After which event what is sent again begins."""

    after: EventNumberOut


class AttemptOut(Outgoing):
    """An attempt: its HTTP status and the first 500 bytes of the answer, or why there was none."""

    at: SpelledInstant
    http_status: int | None
    duration_ms: Count
    answer: str | None
    error: str | None


class DeliveryOut(Outgoing):
    """An event on its way to an endpoint, and its attempts, of which the last thirty are kept, oldest first."""

    event_id: IdOut
    type: Annotated[str, words([*EVENT_TYPES, TEST])]
    status: DeliveryStatus
    created_at: Instant
    next_attempt_at: Instant | None
    ended_at: Instant | None
    attempts: list[AttemptOut]

    @classmethod
    def of(cls, delivery: Delivery) -> "DeliveryOut":
        """Show a delivery."""
        return cls(
            event_id=delivery.event_id,
            type=delivery.type,
            status=delivery.status.value,
            created_at=delivery.created_at,
            next_attempt_at=delivery.next_attempt_at,
            ended_at=delivery.ended_at,
            attempts=[AttemptOut(**attempt) for attempt in delivery.log],
        )


class DeliveriesOut(Outgoing):
    """A page of deliveries, newest first."""

    deliveries: list[DeliveryOut]
    page_size: int
    has_more: bool
    next_cursor: IdOut | None


# That of the standard's own text.
_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105
_ASKED = {"url": "https://example.com/hooks", "types": ["transfer.posted", "transfer.rejected"]}
_WEBHOOK = {
    "webhook_id": AN_ID,
    **_ASKED,
    "user_id": None,
    "status": "enabled",
    "why": None,
    "created_at": AN_INSTANT,
    "disabled_at": None,
    "failing_since": None,
    "old_secret_until": None,
}
_DELIVERY = {
    "event_id": "4711",
    "type": "transfer.posted",
    "status": "pending",
    "created_at": AN_INSTANT,
    "next_attempt_at": "2026-11-23T14:52:38.155688Z",
    "ended_at": None,
    "attempts": [{"at": AN_INSTANT, "http_status": 500, "duration_ms": 12, "answer": "out of order", "error": None}],
}
_ROTATED = {"webhook_id": AN_ID, "secret": _SECRET, "old_secret_until": "2026-11-24T14:47:38.155688Z"}
_A_PAGE = {"deliveries": [_DELIVERY], "page_size": 30, "has_more": False, "next_cursor": None}
_row = partial(Operation, tag="Webhooks", who=Who.ADMIN)
_row_of_one = partial(_row, problems=("webhook_not_found",))

OPERATIONS = {
    "webhooks.add_webhook": _row(
        Answer(
            AddedWebhookOut,
            status=201,
            example=_WEBHOOK | {"secret": _SECRET},
            links=("deliveries", "try_webhook"),
        ),
        body=WebhookBody,
        body_example=_ASKED,
    ),
    "webhooks.webhooks": _row(Answer(WebhooksOut, example={"webhooks": [_WEBHOOK]})),
    "webhooks.delete_webhook": _row_of_one(Answer(DeletedWebhookOut, example={"deleted": True})),
    "webhooks.rotate_webhook": _row_of_one(Answer(RotatedOut, example=_ROTATED)),
    "webhooks.try_webhook": _row_of_one(Answer(TestedOut, example={"event_id": AN_ID, "type": "webhook.test"})),
    "webhooks.enable_webhook": _row_of_one(Answer(WebhookOut, example=_WEBHOOK)),
    "webhooks.webhook_deliveries": _row_of_one(
        Answer(DeliveriesOut, example=_A_PAGE, links=("next_deliveries",)), query=DeliveriesQuery
    ),
    "webhooks.replay_webhook": _row_of_one(
        Answer(ReplayedOut, example={"after": "4710"}), body=ReplayBody, body_example={"event_id": "4711"}
    ),
}
