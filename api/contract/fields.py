"""What models of the contract have in common: their bases, and the kinds of fields that several of them have.

``/openapi.json`` shows these very models. What pydantic cannot see of them, such as what a validator enforces, is told
by ``WithJsonSchema``, which costs a request nothing. 64-bit ids go out as strings: JavaScript loses digits above 2^53.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from api.waiting import MAX_WAIT_S
from jobs.event_json import rfc3339
from models.ledger.transfer import MAX_CENTS, MAX_ID

MAX_PAGE_SIZE = 100


class Incoming(BaseModel):
    """A body, or a query: nothing in it is unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Outgoing(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


def words(those: Iterable[str]) -> WithJsonSchema:
    """Say in a schema which words there are: in its own, since a parameter cannot follow a reference to them."""
    return WithJsonSchema({"type": "string", "enum": [str(word) for word in those]})


def _decimals_up_to(limit: int) -> str:
    """Return a regular expression for the integers from 1 to the limit, written without leading zeros."""
    digits = str(limit)
    forms = [f"[1-9][0-9]{{0,{len(digits) - 2}}}"]  # all that are shorter
    for index, digit in enumerate(digits):
        # Equal up to here, then smaller, then anything.
        least, most = int(index == 0), int(digit) - 1
        if most >= least:
            forms.append(f"{digits[:index]}[{least}-{most}][0-9]{{{len(digits) - index - 1}}}")
    return f"({'|'.join(forms)}|{digits})"


ID_DIGITS = _decimals_up_to(MAX_ID)
_DIGITS = re.compile(r"[0-9]{1,19}")
# JSON's spelling of a number that is not negative, with bounds.
_DECIMAL = re.compile(r"[0-9]{1,19}(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,3})?")


def _digits_to_int(value: object) -> object:
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value


def _decimal_to_float(value: object) -> object:
    return float(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else value


def _read_cursor(spelled: object) -> int:
    if not isinstance(spelled, str) or not re.fullmatch(ID_DIGITS, spelled):
        raise unknown_cursor()
    return int(spelled)


def unknown_cursor() -> PydanticCustomError:
    """Return what is wrong with a cursor that no page has given."""
    return PydanticCustomError("cursor", "Input should be a cursor that was given before")


_ID_IN = {
    "anyOf": [
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": MAX_ID},
        {"type": "string", "maxLength": 19, "pattern": f"^0*{ID_DIGITS}$"},
    ]
}
_ID_OUT = WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]{0,18}$"})
_INSTANT = WithJsonSchema({"type": "string", "format": "date-time", "pattern": "Z$"})
BALANCE = {"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_CENTS}

# What comes in. Queries are text, and pydantic's own reading of it is Python's, which takes 1_0, 1.0 and a leading
# blank for integers.
IntIn: TypeAlias = Annotated[int, BeforeValidator(_digits_to_int), Field(strict=True)]
IdIn: TypeAlias = Annotated[IntIn, Field(ge=1, le=MAX_ID), WithJsonSchema(_ID_IN)]
AmountCents: TypeAlias = Annotated[
    int, Field(strict=True, ge=1, le=MAX_CENTS, description="Cents.", json_schema_extra={"format": "int64"})
]
# Of bounds behind what reads the text, the schema would not tell.
PageNumber: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=10**12), BeforeValidator(_digits_to_int)]
PageSize: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=MAX_PAGE_SIZE), BeforeValidator(_digits_to_int)]
Cursor: TypeAlias = Annotated[
    Annotated[int, BeforeValidator(_read_cursor), WithJsonSchema({"type": "string", "pattern": f"^{ID_DIGITS}$"})]
    | None,
    Field(description="The `next_cursor` of an earlier page."),
]
WaitS: TypeAlias = Annotated[
    float,
    Field(strict=True, ge=0, le=MAX_WAIT_S, description="Seconds; 0 answers at once."),
    BeforeValidator(_decimal_to_float),
]

# What goes out; what is spelled, jobs/event_json.py has spelled already.
IdOut: TypeAlias = Annotated[int, PlainSerializer(str, return_type=str), _ID_OUT]
SpelledId: TypeAlias = Annotated[str, _ID_OUT]
Instant: TypeAlias = Annotated[datetime, PlainSerializer(rfc3339, return_type=str), _INSTANT]
SpelledInstant: TypeAlias = Annotated[str, _INSTANT]
BalanceCents: TypeAlias = Annotated[int, WithJsonSchema(BALANCE)]
MovedCents: TypeAlias = Annotated[int, WithJsonSchema(BALANCE | {"minimum": 1})]
SignedCents: TypeAlias = Annotated[int, WithJsonSchema(BALANCE | {"minimum": -MAX_CENTS})]
Count: TypeAlias = Annotated[int, WithJsonSchema({"type": "integer", "minimum": 0})]


class NoQuery(Incoming):
    """No query parameters."""


class WaitQuery(Incoming):
    """How many seconds to wait for it to end."""

    wait: WaitS = 0.0


class PageQuery(Incoming):
    """How many of them, and below which one."""

    page_size: PageSize = 30
    cursor: Cursor = None
