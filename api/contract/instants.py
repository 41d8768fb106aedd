"""Instants as requests spell them: RFC 3339, with an offset, to the microsecond."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

# RFC 3339, 5.6. Python's own reading takes much besides: dates alone, weeks, times without an offset.
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-5][0-9])"
)
# Where the seconds stand in it; and which minute of a day, hour and minute, has a leap second, if any has.
_SECONDS = slice(17, 19)
_LAST_MINUTE = (23, 59)


def read_instant(spelled: str) -> datetime:
    """Read an instant, in UTC. What is finer than a microsecond is cut off; a leap second is the one that follows it.

    Raises:
        ValueError: it is none, or beyond the years 1 to 9999 of UTC.
    """
    if not _INSTANT.fullmatch(spelled):
        raise ValueError("not an instant of RFC 3339")
    is_leap = spelled[_SECONDS] == "60"
    if is_leap:
        spelled = f"{spelled[: _SECONDS.start]}59{spelled[_SECONDS.stop :]}"
    try:
        instant = datetime.fromisoformat(spelled.upper()).astimezone(UTC)
        if not is_leap:
            return instant
        if (instant.hour, instant.minute) != _LAST_MINUTE:
            raise ValueError("a leap second is the last one of a day")
        return instant.replace(microsecond=0) + timedelta(seconds=1)
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
