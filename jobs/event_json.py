"""How transfers and events look outside, in JSON: in REST's answers as in what is published.

64-bit ids are strings, since JavaScript loses digits above 2^53. Each function returns what any JSON library writes.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from models.ledger.events import Event, ToldEvent
from models.ledger.transfer import Transfer
from models.webhooks.history import TEST


def rfc3339(instant: datetime) -> str:
    """Spell an instant as every answer does: in UTC, to the microsecond."""
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def resource_of(transfer: Transfer) -> dict[str, Any]:
    """Show a transfer as the jobs endpoint does."""
    fields = (
        transfer.id, transfer.source, transfer.destination, transfer.amount_cents, transfer.status.value,
        transfer.reason, transfer.attempts, transfer.last_error, transfer.next_attempt_at, transfer.created_at,
        transfer.completed_at, transfer.kind.value, *transfer.details, transfer.not_before, transfer.reverses,
        transfer.reversed_cents, transfer.bulk_id,
    )  # fmt: skip
    return _resource(fields, _instant_or_none(transfer.completed_at))


def as_json(event: Event) -> dict[str, Any]:
    """Show an event."""
    return _event(event.type, event.id, rfc3339(event.created_at), resource_of(event.transfer))


def trial_as_json(event_id: int, created_at: datetime, webhook_id: int) -> dict[str, Any]:
    """Show what is sent to try a webhook out: like an event, though nothing has happened."""
    return _event(TEST, event_id, rfc3339(created_at), {"webhook_id": str(webhook_id)})


def all_as_json(events: Iterable[ToldEvent]) -> Iterator[dict[str, Any]]:
    """Show events as :func:`as_json` does, for a fraction of it: most instants are those of the event before."""
    last: datetime | None = None
    spelled = ""
    for event in events:
        if event.told_at != last:
            last, spelled = event.told_at, rfc3339(event.told_at)
        completed = spelled if event.completed_at == last else _instant_or_none(event.completed_at)
        yield _event(event.type, event.event_id, spelled, _resource(event[3:], completed))


def _event(kind: str, event_id: int, created: str, resource: dict[str, Any]) -> dict[str, Any]:
    return {"event_id": str(event_id), "type": kind, "created_at": created, "data": resource}


def _resource(fields: Iterable[Any], completed: str | None) -> dict[str, Any]:
    """Show a transfer, given in the order in which :class:`ToldEvent` has it, and when it ended as it is spelled."""
    (
        transfer_id, source, destination, amount_cents, status, reason, attempts, last_error, next_attempt_at,
        created_at, _, kind, description, reference, metadata, not_before, reverses, reversed_cents, bulk_id,
    ) = fields  # fmt: skip
    return {
        "job_id": str(transfer_id),
        "status": status,
        "source_user_id": _id_or_none(source),
        "destination_user_id": _id_or_none(destination),
        "amount": amount_cents,
        "reason": reason,
        "attempts": attempts,
        "last_error": last_error,
        "next_attempt_at": _instant_or_none(next_attempt_at),
        "created_at": rfc3339(created_at),
        "completed_at": completed,
        "kind": kind,
        "description": description,
        "reference": reference,
        "metadata": metadata,
        "not_before": _instant_or_none(not_before),
        "reverses": _id_or_none(reverses),
        "reversed_amount": reversed_cents,
        "bulk_id": _id_or_none(bulk_id),
    }


def _id_or_none(number: int | None) -> str | None:
    return None if number is None else str(number)


def _instant_or_none(instant: datetime | None) -> str | None:
    return None if instant is None else rfc3339(instant)
