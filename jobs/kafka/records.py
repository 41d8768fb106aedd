"""The records that carry transfers: JSON, with ids as strings, as in REST."""

from typing import Any

import orjson

from models.ledger.attempts import Due
from models.ledger.transfer import MAX_ID


def encode(due: Due) -> bytes:
    """Spell what a worker, or somebody else who reads along, is told of a transfer."""
    return orjson.dumps(
        {
            "transfer_id": str(due.id),
            "source": _text(due.source),
            "destination": _text(due.destination),
            "amount": due.amount_cents,
            "attempts": due.attempts,
            "traceparent": due.trace,
        }
    )


def transfer_id_of(value: bytes | None) -> int | None:
    """Return the id of a record's transfer, None if there can be none: anybody may have written it."""
    try:
        told: Any = orjson.loads(value or b"")
        transfer_id = int(told["transfer_id"])
    except (ValueError, TypeError, KeyError):
        return None
    return transfer_id if 0 < transfer_id <= MAX_ID else None


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)
