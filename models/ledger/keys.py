"""Idempotency keys: what stands in the books under one, whatever kind of call it came by."""

from typing import Any, Protocol

from sqlalchemy import Connection, Row, func, select

from models.errors import IdempotencyKeyReused
from models.schema.tables import transfers


class Keyed(Protocol):
    """An order that may have a key."""

    @property
    def key_owner(self) -> int:
        """Whose key it is."""

    @property
    def idempotency_key(self) -> str | None:
        """The key."""

    @property
    def request_hash(self) -> bytes:
        """Digest of what the key is bound to, which names the call."""


def find_by_key(connection: Connection, order: Keyed) -> Row[Any] | None:
    """Return the transfer that an order's key is bound to: that of an earlier one, the same in all.

    Raises:
        IdempotencyKeyReused: it was bound by another request.
    """
    if order.idempotency_key is None:
        return None
    row = connection.execute(
        select(transfers).where(
            transfers.c.idempotency_key == order.idempotency_key,
            func.coalesce(transfers.c.key_owner, transfers.c.source, transfers.c.destination) == order.key_owner,
        )
    ).first()
    if row is not None and bytes(row.request_hash) != order.request_hash:
        raise IdempotencyKeyReused(row.id)
    return row
