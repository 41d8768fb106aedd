"""Finding transfers by what is known of them."""

import re
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from api.contract.checking import MAX_KEY_LENGTH
from api.contract.details import Reference
from api.contract.fields import BALANCE, ID_DIGITS, IdIn, Incoming, IntIn, Outgoing, PageSize, unknown_cursor, words
from api.contract.instants import InstantIn
from api.contract.jobs import POSTED, JobOut
from api.contract.operations import AN_ID, Answer, Operation, Who
from models.ledger.listing import Filters, Place
from models.ledger.transfer import MAX_CENTS, Kind, Status

# Microseconds since 1970, up to the year 5138, and an id.
_PLACE = re.compile(rf"(0|[1-9][0-9]{{0,16}})-{ID_DIGITS}")
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def _read_place(spelled: object) -> Place:
    """Read what :func:`_spell_place` has spelled."""
    found = _PLACE.fullmatch(spelled) if isinstance(spelled, str) else None
    if found is None:
        raise unknown_cursor()
    return Place(_EPOCH + int(found[1]) * _MICROSECOND, int(found[2]))


def _spell_place(place: Place) -> str:
    return f"{(place.created_at - _EPOCH) // _MICROSECOND}-{place.id}"


CentsIn: TypeAlias = Annotated[IntIn, Field(ge=0, le=MAX_CENTS), WithJsonSchema(BALANCE)]
KeyIn: TypeAlias = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", min_length=1, max_length=MAX_KEY_LENGTH)]
PlaceIn: TypeAlias = Annotated[
    Place, BeforeValidator(_read_place), WithJsonSchema({"type": "string", "pattern": f"^{_PLACE.pattern}$"})
]
PlaceOut: TypeAlias = Annotated[
    Place,
    PlainSerializer(_spell_place, return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^(0|[1-9][0-9]{0,16})-([1-9][0-9]{0,18})$"}),
]
_AMOUNT = "Cents; so much belongs to them."
_BOUND = "RFC 3339, with an offset; it belongs to them."


class TransfersQuery(Incoming):
    """What is known of the transfers, and which part of the list."""

    status: Annotated[Status, words(Status)] | None = None
    kind: Annotated[Kind, words(Kind)] | None = None
    direction: Literal["in", "out"] | None = Field(default=None, description="Only what was received, or was paid.")
    counterparty_user_id: IdIn | None = Field(default=None, description="The other party.")
    reference: Reference | None = None
    idempotency_key: KeyIn | None = Field(
        default=None,
        description="What one has sent with this key; administrators: what anybody has, unless they say whose.",
    )
    bulk_id: IdIn | None = None
    amount_min: CentsIn | None = Field(default=None, description=_AMOUNT)
    amount_max: CentsIn | None = Field(default=None, description=_AMOUNT)
    created_from: InstantIn | None = Field(default=None, description=_BOUND)
    created_to: InstantIn | None = Field(default=None, description=_BOUND)
    user_id: IdIn | None = Field(default=None, description="Administrators only: whose. Without it, everyone's.")
    page_size: PageSize = 30
    cursor: PlaceIn | None = Field(default=None, description="The `next_cursor` of an earlier page.")

    def filters(self, user_id: int | None) -> Filters:
        """What is known, of the transfers of a user or of everyone."""
        return Filters(**self.model_dump(exclude={"page_size", "cursor", "user_id"}), user_id=user_id)


class TransfersOut(Outgoing):
    """A page of transfers, newest first. It may hold fewer than were asked for, or none, though there is more."""

    transfers: list[JobOut]
    page_size: int
    has_more: bool
    next_cursor: PlaceOut | None


_A_PAGE = {"transfers": [POSTED], "page_size": 1, "has_more": True, "next_cursor": f"1795445258155688-{AN_ID}"}
_read = partial(Operation, tag="Reads", who=Who.USER_OR_ADMIN)

OPERATIONS = {
    "finding.transfers": _read(
        Answer(TransfersOut, example=_A_PAGE, links=("next_transfers",)),
        query=TransfersQuery,
        problems=("wallet_not_found",),
    ),
    "finding.transfer": _read(Answer(JobOut, example=POSTED), problems=("job_not_found",)),
}
