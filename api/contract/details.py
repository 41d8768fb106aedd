"""What its sender may say of a transfer of any kind: a description, a reference, metadata."""

from typing import Annotated, TypeAlias

import orjson
from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from api.contract.fields import Incoming
from models.ledger.transfer import NO_DETAILS, Details

MAX_METADATA_PAIRS, MAX_METADATA_KEY, MAX_METADATA_VALUE, MAX_METADATA_BYTES = 20, 40, 500, 4_096

_NO_NUL = r"^[^\u0000]*$"
_METADATA = {
    "type": "object",
    "maxProperties": MAX_METADATA_PAIRS,
    "propertyNames": {"minLength": 1, "maxLength": MAX_METADATA_KEY, "pattern": _NO_NUL},
    "additionalProperties": {"type": "string", "maxLength": MAX_METADATA_VALUE, "pattern": _NO_NUL},
    "description": "Pairs of words that are kept with it: 4 KiB in all, as JSON, and no U+0000.",
}


def _check_metadata(pairs: dict[str, str]) -> dict[str, str]:
    spelled = orjson.dumps(pairs)
    if len(spelled) > MAX_METADATA_BYTES:
        raise PydanticCustomError("too_large", "Metadata should be of 4 KiB at most, as JSON")
    if b"\\u0000" in spelled and any("\0" in word for pair in pairs.items() for word in pair):
        raise PydanticCustomError("bad_character", "Metadata should be without the character U+0000")
    return pairs


Description: TypeAlias = Annotated[
    str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,140}$", description="What it is for. No control characters.")
]
Reference: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^[\x20-\x7e]{1,64}$",
        description="Your own name for it, to find it by; it need not be unique. Printable ASCII.",
    ),
]
Metadata: TypeAlias = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=MAX_METADATA_KEY)],
        Annotated[str, Field(max_length=MAX_METADATA_VALUE)],
    ],
    Field(max_length=MAX_METADATA_PAIRS),
    AfterValidator(_check_metadata),
    WithJsonSchema(_METADATA),
]


class Said(Incoming):
    """What there is to say of it."""

    description: Description | None = None
    reference: Reference | None = None
    metadata: Metadata | None = None

    @property
    def details(self) -> Details:
        """The same, as the books keep it. No pairs are none."""
        if self.description is None and self.reference is None and not self.metadata:
            return NO_DETAILS
        return Details(self.description, self.reference, self.metadata or None)
