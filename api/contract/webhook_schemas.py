"""What comes in and what goes out about webhooks."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from api.contract.schemas import (
    EVENT_TYPES,
    MAX_PAGE_SIZE,
    Count,
    Cursor,
    CursorOut,
    IdIn,
    IdOut,
    Instant,
    QueryInt,
    SpelledInstant,
)
from models.webhooks.endpoints import EVERY, Endpoint
from models.webhooks.history import TEST, Delivery

MAX_URL = 2_048
_TYPES_IN = [*EVENT_TYPES, EVERY]
# RFC 3339 of these thousand years; pydantic alone takes numbers for instants, too.
_INSTANT_IN = r"^2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$"
_SINCE = {"type": "string", "format": "date-time", "pattern": _INSTANT_IN, "description": "RFC 3339, with an offset."}


def _check_instant(given: object) -> object:
    if not isinstance(given, str) or not re.fullmatch(_INSTANT_IN, given):
        raise PydanticCustomError("no_instant", "Input should be an instant like 2026-11-30T12:00:00Z")
    return given


TypeIn: TypeAlias = Annotated[str, Field(json_schema_extra={"enum": _TYPES_IN})]
TypeOut: TypeAlias = Annotated[str, WithJsonSchema({"type": "string", "enum": [*EVENT_TYPES, TEST]})]
DeliveryStatus: TypeAlias = Literal["pending", "delivered", "failed"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class WebhookBody(_Body):
    """Where events are to be sent, and which."""

    url: Annotated[
        str,
        Field(
            pattern=r"^https?://[!-~]+$",
            max_length=MAX_URL,
            description="By https, of a host that everybody can reach, in ASCII.",
        ),
    ]
    types: Annotated[
        list[TypeIn],
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


class ReplayBody(_Body):
    """What is to be sent again: all that has happened since an instant, or one event."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in ("since", "event_id")
            ]
        }
    )

    since: Annotated[AwareDatetime, BeforeValidator(_check_instant), WithJsonSchema(_SINCE)] | None = None
    event_id: IdIn | None = None

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if (self.since is None) == (self.event_id is None):
            raise PydanticCustomError("one_of", "Give since, or event_id")
        return self


class DeliveriesQuery(_Body):
    """Which deliveries: in which status, how many, and below which place."""

    status: DeliveryStatus | None = None
    page_size: QueryInt = Field(default=30, ge=1, le=MAX_PAGE_SIZE)
    cursor: Cursor | None = Field(default=None, description="The `next_cursor` of an earlier page.")


class WebhookOut(_Answer):
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
        return cls(**_shown(endpoint))


class AddedWebhookOut(WebhookOut):
    """An endpoint and its secret, which is shown this once."""

    secret: str

    @classmethod
    def with_secret(cls, endpoint: Endpoint, secret: str) -> "AddedWebhookOut":
        """Show both."""
        return cls(**_shown(endpoint), secret=secret)


class WebhooksOut(_Answer):
    """All endpoints, oldest first."""

    webhooks: list[WebhookOut]


class DeletedWebhookOut(_Answer):
    """It is gone."""

    deleted: Literal[True] = True


class RotatedOut(_Answer):
    """A new secret, shown this once, and until when the one before signs along."""

    webhook_id: IdOut
    secret: str
    old_secret_until: Instant


class TestedOut(_Answer):
    """What is being sent: how it went stands among the deliveries."""

    event_id: IdOut
    type: Literal["webhook.test"] = TEST  # type: ignore[assignment] # a constant of that value


class ReplayedOut(_Answer):
    """After which event what is sent again begins."""

    after: Annotated[str, WithJsonSchema({"type": "string", "pattern": "^(0|[1-9][0-9]{0,18})$"})]


class AttemptOut(_Answer):
    """An attempt: its HTTP status and the first 500 bytes of the answer, or why there was none."""

    at: SpelledInstant
    http_status: int | None
    duration_ms: Count
    answer: str | None
    error: str | None


class DeliveryOut(_Answer):
    """An event on its way to an endpoint, and its attempts, of which the last thirty are kept, oldest first."""

    event_id: IdOut
    type: TypeOut
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


class DeliveriesOut(_Answer):
    """A page of deliveries, newest first."""

    deliveries: list[DeliveryOut]
    page_size: int
    has_more: bool
    next_cursor: CursorOut | None


def _shown(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "webhook_id": endpoint.id,
        "url": endpoint.url,
        "types": list(endpoint.types),
        "user_id": endpoint.user_id,
        "status": "enabled" if endpoint.disabled_at is None else "disabled",
        "why": endpoint.why,
        "created_at": endpoint.created_at,
        "disabled_at": endpoint.disabled_at,
        "failing_since": endpoint.failing_since,
        "old_secret_until": endpoint.old_secret_until,
    }
