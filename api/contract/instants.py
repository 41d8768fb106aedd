"""Instants as requests spell them: RFC 3339, with an offset, to the microsecond."""

import re
from datetime import UTC, datetime
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

# RFC 3339, 5.6. Python's own reading takes much besides: dates alone, weeks, times without an offset.
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def read_instant(spelled: str) -> datetime:
    """Read an instant, in UTC. What is finer than a microsecond is cut off; there are no leap seconds.

    Raises:
        ValueError: it is none, or beyond the years 1 to 9999 of UTC.
    """
    if not _INSTANT.fullmatch(spelled):
        raise ValueError("not an instant of RFC 3339")
    try:
        return datetime.fromisoformat(spelled.upper()).astimezone(UTC)
    except OverflowError as error:
        raise ValueError("an instant beyond all years") from error


def _read(given: object) -> datetime:
    try:
        return read_instant(given if isinstance(given, str) else "")
    except ValueError:
        raise PydanticCustomError(
            "instant", "Input should be an instant as RFC 3339 has it, such as 2026-11-23T14:47:38Z or with +01:00"
        ) from None


InstantIn: TypeAlias = Annotated[
    datetime, BeforeValidator(_read), WithJsonSchema({"type": "string", "format": "date-time"})
]
