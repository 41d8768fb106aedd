"""What an id is made of: 41 bits of milliseconds since 2026, 10 of node, 12 of sequence. Pure."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

EPOCH_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z, in Unix milliseconds
NODES = 1 << 10
LAST_MS = EPOCH_MS + (1 << 41) - 1  # in September 2095

SEQUENCE_BITS = 12
SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1
_NODE_MASK = NODES - 1
_INSTANT_SHIFT = 22


class Parts(NamedTuple):
    """What an id is made of; ``instant_ms`` is in Unix milliseconds."""

    instant_ms: int
    node: int
    sequence: int


def encode(instant_ms: int, node: int, sequence: int) -> int:
    """Make an id; the parts must be in range."""
    return (instant_ms - EPOCH_MS) << _INSTANT_SHIFT | node << SEQUENCE_BITS | sequence


def decode(snowflake_id: int) -> Parts:
    """Take an id apart."""
    return Parts(instant_ms_of(snowflake_id), snowflake_id >> SEQUENCE_BITS & _NODE_MASK, snowflake_id & SEQUENCE_MASK)


def instant_of(snowflake_id: int) -> datetime:
    """Return when an id was issued, to the millisecond, in UTC."""
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=instant_ms_of(snowflake_id))


def instant_ms_of(snowflake_id: int) -> int:
    """Return when an id was issued, in Unix milliseconds."""
    return (snowflake_id >> _INSTANT_SHIFT) + EPOCH_MS


def first_id_of(instant: datetime) -> int:
    """Return what no id issued at an instant, or later, is below."""
    instant_ms = (instant - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)
    return encode(min(max(instant_ms, EPOCH_MS), LAST_MS), 0, 0)
