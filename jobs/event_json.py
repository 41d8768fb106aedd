"""How transfers and events look outside, in JSON: in REST's answers as in what is published.

64-bit ids are strings, since JavaScript loses digits above 2^53. Each function returns what any JSON library writes.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from models.ledger.events import Event, ToldEvent
from models.ledger.transfer import Transfer


def rfc3339(instant: datetime) -> str:
    """Spell an instant as every answer does: in UTC, to the microsecond."""
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def resource_of(transfer: Transfer) -> dict[str, Any]:
    """Show a transfer as the jobs endpoint does."""
    return {
        "job_id": str(transfer.id),
        "status": transfer.status.value,
        "source_user_id": _id_or_none(transfer.source),
        "destination_user_id": _id_or_none(transfer.destination),
        "amount": transfer.amount_cents,
        "reason": transfer.reason,
        "attempts": transfer.attempts,
        "last_error": transfer.last_error,
        "next_attempt_at": _instant_or_none(transfer.next_attempt_at),
        "created_at": rfc3339(transfer.created_at),
        "completed_at": _instant_or_none(transfer.completed_at),
    }


def as_json(event: Event) -> dict[str, Any]:
    """Show an event."""
    return {
        "event_id": str(event.id),
        "type": event.type,
        "created_at": rfc3339(event.created_at),
        "data": resource_of(event.transfer),
    }


def all_as_json(events: Iterable[ToldEvent]) -> Iterator[dict[str, Any]]:
    """Show events as :func:`as_json` does, for a fraction of it: most instants are those of the event before."""
    last: datetime | None = None
    spelled = ""
    for event in events:
        (
            kind, event_id, told_at, transfer_id, source, destination, amount, status, reason, attempts, last_error,
            next_attempt_at, created_at, completed_at,
        ) = event  # fmt: skip
        if told_at != last:
            last, spelled = told_at, rfc3339(told_at)
        yield {
            "event_id": str(event_id),
            "type": kind,
            "created_at": spelled,
            "data": {
                "job_id": str(transfer_id),
                "status": status,
                "source_user_id": _id_or_none(source),
                "destination_user_id": _id_or_none(destination),
                "amount": amount,
                "reason": reason,
                "attempts": attempts,
                "last_error": last_error,
                "next_attempt_at": _instant_or_none(next_attempt_at),
                "created_at": rfc3339(created_at),
                "completed_at": spelled if completed_at == last else _instant_or_none(completed_at),
            },
        }


def _id_or_none(number: int | None) -> str | None:
    return None if number is None else str(number)


def _instant_or_none(instant: datetime | None) -> str | None:
    return None if instant is None else rfc3339(instant)
