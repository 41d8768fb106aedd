"""What comes in and what goes out. 64-bit ids go out as strings: JavaScript loses digits above 2^53.

``/openapi.json`` shows these very models. What pydantic cannot see of them, such as what a validator enforces, is told
by ``WithJsonSchema``, which costs a request nothing.
"""

import re
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, Self, TypeAlias

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from api.contract.checking import MAX_KEY_LENGTH
from api.contract.instants import InstantIn
from api.waiting import MAX_WAIT_S
from jobs.event_json import as_json, resource_of, rfc3339
from models.actions.record import Action
from models.audit.record import AuditResult
from models.ledger.bulks import MAX_ATOMIC_ITEMS, MAX_ITEMS, Bulk
from models.ledger.events import REQUEUED, Event
from models.ledger.freezes import MAX_REASON, Change
from models.ledger.history import HistoryEntry
from models.ledger.listing import Filters, Place
from models.ledger.settlement import EntryType
from models.ledger.statements import WalletView
from models.ledger.transfer import MAX_CENTS, MAX_ID, NO_DETAILS, REST_CENTS, Details, Kind, Status, Transfer

MAX_PAGE_SIZE = 100
# How far ahead a transfer may be planned: a leap year.
MAX_DAYS_AHEAD = 366
MAX_METADATA_PAIRS, MAX_METADATA_KEY, MAX_METADATA_VALUE, MAX_METADATA_BYTES = 20, 40, 500, 4_096

_TYPE_NAMES: dict[int, str] = {
    EntryType.DEPOSIT: "deposit",
    EntryType.WITHDRAWAL: "withdraw",
    EntryType.TRANSFER: "transfer",
}

EVENT_TYPES = [f"transfer.{each}" for each in (*(each.value for each in Status if each.is_final), REQUEUED)]

_DIGITS = re.compile(r"[0-9]{1,19}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
# Microseconds since 1970, up to the year 5138, and an id.
_PLACE = re.compile(r"(0|[1-9][0-9]{0,16})-([1-9][0-9]{0,18})")
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
# JSON's spelling of a number that is not negative, with bounds.
_DECIMAL = re.compile(r"[0-9]{1,19}(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,3})?")


def _digits_to_int(value: object) -> object:
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value


def _decimal_to_float(value: object) -> object:
    return float(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else value


def _check_id(digits: str) -> str:
    if int(digits) > MAX_ID:
        raise PydanticCustomError("too_large", "Input should be a cursor that was given before")
    return digits


def _read_place(spelled: object) -> object:
    """Read what :func:`_spell_place` has spelled."""
    found = _PLACE.fullmatch(spelled) if isinstance(spelled, str) else None
    if found is None or int(found[2]) > MAX_ID:
        raise PydanticCustomError("cursor", "Input should be a cursor that was given before")
    return Place(_EPOCH + int(found[1]) * _MICROSECOND, int(found[2]))


def _spell_place(place: Place) -> str:
    return f"{(place.created_at - _EPOCH) // _MICROSECOND}-{place.id}"


def _read_day(spelled: object) -> object:
    try:
        return date.fromisoformat(spelled if isinstance(spelled, str) and _DAY.fullmatch(spelled) else "")
    except ValueError:
        raise PydanticCustomError("day", "Input should be a day, such as 2026-11-23") from None


def _check_metadata(pairs: dict[str, str]) -> dict[str, str]:
    spelled = orjson.dumps(pairs)
    if len(spelled) > MAX_METADATA_BYTES:
        raise PydanticCustomError("too_large", "Metadata should be of 4 KiB at most, as JSON")
    if b"\\u0000" in spelled and any("\0" in word for pair in pairs.items() for word in pair):
        raise PydanticCustomError("bad_character", "Metadata should be without the character U+0000")
    return pairs


def _check_plan(instant: datetime) -> datetime:
    if instant - datetime.now(UTC) > timedelta(days=MAX_DAYS_AHEAD):
        raise PydanticCustomError("too_late", f"Input should be at most {MAX_DAYS_AHEAD} days ahead")
    return instant


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


_INT64_DIGITS = _decimals_up_to(MAX_ID)
_DIGITS_OUT = {"type": "string", "pattern": "^[1-9][0-9]{0,18}$"}
_ID_IN = {
    "anyOf": [
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": MAX_ID},
        {"type": "string", "maxLength": 19, "pattern": f"^0*{_INT64_DIGITS}$"},
    ]
}
_BALANCE = {"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_CENTS}
_MOVED = _BALANCE | {"minimum": 1}
_SIGNED = _BALANCE | {"minimum": -MAX_CENTS}
_INSTANT = {"type": "string", "format": "date-time", "pattern": "Z$"}

_NO_NUL = r"^[^\u0000]*$"
_METADATA = {
    "type": "object",
    "maxProperties": MAX_METADATA_PAIRS,
    "propertyNames": {"minLength": 1, "maxLength": MAX_METADATA_KEY, "pattern": _NO_NUL},
    "additionalProperties": {"type": "string", "maxLength": MAX_METADATA_VALUE, "pattern": _NO_NUL},
    "description": "Pairs of words that are kept with it: 4 KiB in all, as JSON, and no U+0000.",
}

AmountCents: TypeAlias = Annotated[
    int, Field(strict=True, ge=1, le=MAX_CENTS, description="Cents.", json_schema_extra={"format": "int64"})
]
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
PlannedFor: TypeAlias = Annotated[
    InstantIn,
    AfterValidator(_check_plan),
    Field(
        description=f"When to try it: RFC 3339, at most {MAX_DAYS_AHEAD} days ahead. Funds are looked at then. What has"
        " passed is at once."
    ),
]
IdIn: TypeAlias = Annotated[
    int, BeforeValidator(_digits_to_int), Field(strict=True, ge=1, le=MAX_ID), WithJsonSchema(_ID_IN)
]
# Queries are text. Pydantic's own reading of it is Python's, which takes 1_0, 1.0 and a leading blank for integers.
QueryInt: TypeAlias = Annotated[int, BeforeValidator(_digits_to_int), Field(strict=True)]
PageNumber: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=10**12), BeforeValidator(_digits_to_int)]
EventNumber: TypeAlias = Annotated[
    int,
    BeforeValidator(_digits_to_int),
    Field(strict=True, ge=0, le=MAX_ID),
    WithJsonSchema({"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_ID}),
]
QueryFloat: TypeAlias = Annotated[float, BeforeValidator(_decimal_to_float), Field(strict=True)]
Cursor: TypeAlias = Annotated[
    str,
    Field(pattern=r"^[1-9][0-9]{0,18}$"),
    AfterValidator(_check_id),
    WithJsonSchema({"type": "string", "pattern": f"^{_INT64_DIGITS}$"}),
]
QueryCents: TypeAlias = Annotated[
    int,
    BeforeValidator(_digits_to_int),
    Field(strict=True, ge=0, le=MAX_CENTS),
    WithJsonSchema({"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_CENTS}),
]
KeyIn: TypeAlias = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", min_length=1, max_length=MAX_KEY_LENGTH)]
# A model's own words in place of a reference to an enumeration, which a parameter cannot follow.
StatusIn: TypeAlias = Annotated[Status, WithJsonSchema({"type": "string", "enum": [each.value for each in Status]})]
KindIn: TypeAlias = Annotated[Kind, WithJsonSchema({"type": "string", "enum": [each.value for each in Kind]})]
PlaceIn: TypeAlias = Annotated[
    Place,
    BeforeValidator(_read_place),
    WithJsonSchema({"type": "string", "pattern": f"^(0|[1-9][0-9]{{0,16}})-{_INT64_DIGITS}$"}),
]
PlaceOut: TypeAlias = Annotated[
    Place,
    PlainSerializer(_spell_place, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^{_PLACE.pattern}$"}),
]
DayIn: TypeAlias = Annotated[date, BeforeValidator(_read_day), WithJsonSchema({"type": "string", "format": "date"})]
IdOut: TypeAlias = Annotated[int, PlainSerializer(str, return_type=str), WithJsonSchema(_DIGITS_OUT)]
CursorOut: TypeAlias = Annotated[str, WithJsonSchema(_DIGITS_OUT)]
# What jobs/event_json.py has spelled already.
SpelledId: TypeAlias = Annotated[str, WithJsonSchema(_DIGITS_OUT)]
SpelledInstant: TypeAlias = Annotated[str, WithJsonSchema(_INSTANT)]
Instant: TypeAlias = Annotated[datetime, PlainSerializer(rfc3339, return_type=str), WithJsonSchema(_INSTANT)]
BalanceCents: TypeAlias = Annotated[int, WithJsonSchema(_BALANCE)]
MovedCents: TypeAlias = Annotated[int, WithJsonSchema(_MOVED)]
SignedCents: TypeAlias = Annotated[int, WithJsonSchema(_SIGNED)]
Count: TypeAlias = Annotated[int, WithJsonSchema({"type": "integer", "minimum": 0})]
StatusWord: TypeAlias = Annotated[str, WithJsonSchema({"type": "string", "enum": [each.value for each in Status]})]
KindWord: TypeAlias = Annotated[str, WithJsonSchema({"type": "string", "enum": [each.value for each in Kind]})]
EventType: TypeAlias = Annotated[str, WithJsonSchema({"type": "string", "enum": EVENT_TYPES})]
TypeNumber: TypeAlias = Annotated[int, WithJsonSchema({"type": "integer", "enum": [each.value for each in EntryType]})]
TypeName: TypeAlias = Annotated[str, WithJsonSchema({"type": "string", "enum": list(_TYPE_NAMES.values())})]


Side: TypeAlias = Annotated[bool, Field(strict=True)]
Reason: TypeAlias = Annotated[
    str, Field(pattern=rf"^[^\x00-\x1f\x7f-\x9f]{{1,{MAX_REASON}}}$", description="Why. No control characters.")
]


def _one_true(name: str) -> dict[str, Any]:
    """Say in a schema that this field is there, and true."""
    return {"properties": {name: {"const": True}}, "required": [name]}


def _check_one_true(*sides: bool) -> None:
    if not any(sides):
        raise PydanticCustomError("nothing_named", "debits or credits should be true")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class _Said(_Body):
    description: Description | None = None
    reference: Reference | None = None
    metadata: Metadata | None = None

    @property
    def details(self) -> Details:
        """What there is to say of it. No pairs are none."""
        if self.description is None and self.reference is None and not self.metadata:
            return NO_DETAILS
        return Details(self.description, self.reference, self.metadata or None)


class AmountBody(_Said):
    """How much to deposit or withdraw, in cents, and what there is to say of it."""

    amount: AmountCents


class ReversalBody(_Said):
    """How much to give back, in cents, and what there is to say of it. Without an amount all that is left."""

    # By a factory: what stands for all that is left is no amount, and not to be told as one.
    amount: AmountCents = Field(default_factory=lambda: REST_CENTS)


class TransferBody(AmountBody):
    """Whom to pay, how much, in cents, and what there is to say of it."""

    destination_user_id: IdIn


class LaterTransferBody(TransferBody):
    """Whom to pay, how much, in cents, what there is to say of it, and before when not to."""

    not_before: PlannedFor | None = None


class BulkBody(_Body):
    """Transfers to send at once, and whether all of them are posted or none is."""

    transfers: list[TransferBody] = Field(min_length=1, max_length=MAX_ITEMS)
    atomic: bool = Field(default=False, strict=True, description=f"With it, {MAX_ATOMIC_ITEMS} transfers at most.")


class NoQuery(_Body):
    """No query parameters."""


class JobQuery(_Body):
    """How many seconds to wait for the job to end."""

    wait: QueryFloat = Field(default=0.0, ge=0, le=MAX_WAIT_S, description="Seconds; 0 answers at once.")


class BulkQuery(JobQuery):
    """How many seconds to wait for all of a bulk to end."""


class TransactionsQuery(_Body):
    """Which part of the history: a page by its number, or what comes after a cursor."""

    type: QueryInt = Field(default=0, ge=0, le=3, description="0 all, 1 deposits, 2 withdrawals, 3 transfers.")
    page: PageNumber | None = Field(default=None, description="Without it the first one. A cursor goes before it.")
    page_size: QueryInt = Field(default=30, ge=1, le=MAX_PAGE_SIZE)
    cursor: Cursor | None = Field(default=None, description="The `next_cursor` of an earlier page.")


class BalanceQuery(_Body):
    """At which instant; without it, now."""

    at: InstantIn | None = Field(
        default=None, description="Not in the future. RFC 3339, with an offset; a `+` is spelled `%2B` here."
    )


_BOUND = "RFC 3339, with an offset; it belongs to them."


class TransfersQuery(_Body):
    """What is known of the transfers, and which part of the list."""

    status: StatusIn | None = None
    kind: KindIn | None = None
    direction: Literal["in", "out"] | None = Field(default=None, description="Only what was received, or was paid.")
    counterparty_user_id: IdIn | None = Field(default=None, description="The other party.")
    reference: Reference | None = None
    idempotency_key: KeyIn | None = Field(default=None, description="The key that one has sent it with.")
    bulk_id: IdIn | None = None
    amount_min: QueryCents | None = Field(default=None, description="Cents; so much belongs to them.")
    amount_max: QueryCents | None = Field(default=None, description="Cents; so much belongs to them.")
    created_from: InstantIn | None = Field(default=None, description=_BOUND)
    created_to: InstantIn | None = Field(default=None, description=_BOUND)
    user_id: IdIn | None = Field(default=None, description="Administrators only: whose. Without it, everyone's.")
    page_size: QueryInt = Field(default=30, ge=1, le=MAX_PAGE_SIZE)
    cursor: PlaceIn | None = Field(default=None, description="The `next_cursor` of an earlier page.")

    def filters(self, user_id: int | None) -> Filters:
        """What is known, of the transfers of a user or of everyone."""
        return Filters(**self.model_dump(exclude={"page_size", "cursor", "user_id"}), user_id=user_id)


class StatementQuery(_Body):
    """Which days, both of them included, in UTC, and how they are written."""

    from_: DayIn = Field(alias="from", description="The first day, from its beginning in UTC.")
    to: DayIn = Field(description="The last day, to its end in UTC.")
    format: Literal["json", "csv"] = "json"
    user_id: IdIn | None = Field(default=None, description="Administrators only, who have to say whose.")


class HealthOut(_Answer):
    """The process lives."""

    status: Literal["ok"]


class ReadinessOut(_Answer):
    """Whether the service can work, and how each thing that it depends on is doing."""

    status: Literal["ready", "degraded", "unready", "stopping"]
    dependencies: dict[str, str]


class FrozenOut(_Answer):
    """Which sides of a wallet an administrator has frozen: no money leaves it (debits), none comes (credits)."""

    debits: bool
    credits: bool

    @classmethod
    def of(cls, *, debits: bool, credits: bool) -> "FrozenOut | None":  # noqa: A002 - the contract's word
        """Show them; None: neither is."""
        return cls(debits=debits, credits=credits) if debits or credits else None


class BalanceOut(_Answer):
    """A posted balance in cents. ``frozen`` is there only if a side is."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    balance: BalanceCents
    frozen: Annotated[FrozenOut | None, Field(exclude_if=lambda frozen: frozen is None)] = None


class MoneyOut(_Answer):
    """The balance in cents just after the transfer."""

    balance: BalanceCents
    transfer_id: IdOut


class TransferOut(MoneyOut):
    """A transfer that was waited for: the money has moved."""

    success: Literal[True] = True


class AcceptedOut(_Answer):
    """A transfer that is durable and will be posted or rejected by a job."""

    success: Literal[True] = True
    job_id: IdOut
    status: Literal["pending"] = "pending"
    status_url: str


class BulkAcceptedOut(_Answer):
    """Transfers that are durable, all of them, and will be posted or rejected by jobs."""

    bulk_id: IdOut
    count: Count
    status_url: str


class BulkOut(_Answer):
    """How a bulk stands: how many of its transfers are pending, and how many have ended how."""

    bulk_id: IdOut
    count: Count
    amount: MovedCents
    atomic: bool
    pending: Count
    posted: Count
    rejected: Count
    failed: Count
    canceled: Count
    created_at: Instant
    completed_at: Instant | None

    @classmethod
    def of(cls, bulk: Bulk) -> "BulkOut":
        """Show a bulk."""
        return cls(
            bulk_id=bulk.id,
            count=bulk.count,
            amount=bulk.amount_cents,
            atomic=bulk.is_atomic,
            pending=bulk.pending,
            posted=bulk.posted,
            rejected=bulk.rejected,
            failed=bulk.failed,
            canceled=bulk.canceled,
            created_at=bulk.created_at,
            completed_at=bulk.completed_at,
        )


class JobOut(_Answer):
    """A transfer of any kind, as the job that makes it true."""

    job_id: SpelledId
    status: StatusWord
    source_user_id: SpelledId | None
    destination_user_id: SpelledId | None
    amount: MovedCents
    reason: str | None
    attempts: Count
    last_error: str | None
    next_attempt_at: SpelledInstant | None
    created_at: SpelledInstant
    completed_at: SpelledInstant | None
    kind: KindWord
    description: str | None
    reference: str | None
    metadata: dict[str, str] | None
    not_before: SpelledInstant | None
    reverses: SpelledId | None
    reversed_amount: MovedCents | None
    bulk_id: SpelledId | None

    @classmethod
    def of(cls, transfer: Transfer) -> "JobOut":
        """Show a transfer."""
        return cls(**resource_of(transfer))


class TransfersOut(_Answer):
    """A page of transfers, newest first. It may hold fewer than were asked for, or none, though there is more."""

    transfers: list[JobOut]
    page_size: int
    has_more: bool
    next_cursor: PlaceOut | None


class EventsQuery(_Body):
    """Which events: those after one, how many, and how many seconds to wait for the first."""

    after: EventNumber | None = Field(
        default=None, description="An `event_id`, or `next_after`. Without it, from the oldest one kept."
    )
    page_size: QueryInt = Field(default=30, ge=1, le=MAX_PAGE_SIZE)
    wait: QueryFloat = Field(default=0.0, ge=0, le=MAX_WAIT_S, description="Seconds; 0 answers at once.")


class EventOut(_Answer):
    """Something that has happened to a transfer, and the transfer as it was then."""

    event_id: SpelledId
    type: EventType
    created_at: SpelledInstant
    data: JobOut

    @classmethod
    def of(cls, event: Event) -> "EventOut":
        """Show an event."""
        return cls(**as_json(event))


class EventsOut(_Answer):
    """Events, oldest first. ``missed``: how many between ``after`` and the first of these are kept no more."""

    events: list[EventOut]
    next_after: Annotated[str, WithJsonSchema({"type": "string", "pattern": "^(0|[1-9][0-9]{0,18})$"})]
    missed: Count


class DeadLettersQuery(_Body):
    """Which dead letters: how many, and below which id (the ``next_cursor`` of an earlier page)."""

    page_size: QueryInt = Field(default=30, ge=1, le=MAX_PAGE_SIZE)
    cursor: Cursor | None = Field(default=None, description="The `next_cursor` of an earlier page.")


class DeadLettersOut(_Answer):
    """A page of dead letters, newest first."""

    dead_letters: list[JobOut]
    page_size: int
    has_more: bool
    next_cursor: CursorOut | None


class RequeuedOut(_Answer):
    """A transfer after it was asked to be put back; ``requeued``: whether it was this request that did it."""

    requeued: bool
    job: JobOut


class RequeuedAllOut(_Answer):
    """How many dead letters were put back."""

    requeued: Count


class ActionsQuery(_Body):
    """Which acts of administrators: how many, and before which (the ``next_cursor`` of an earlier page)."""

    page_size: QueryInt = Field(default=30, ge=1, le=MAX_PAGE_SIZE)
    cursor: Cursor | None = Field(default=None, description="The `next_cursor` of an earlier page.")


class ActionOut(_Answer):
    """What an administrator did: when, who, what, on what, from which address, and what came of it."""

    model_config = ConfigDict(serialize_by_alias=True)

    at: Instant
    who: str
    what: str
    on: str
    origin: str = Field(serialization_alias="from")
    outcome: str = Field(
        description="`done`, `unchanged`, `begun` (no end of it is known), or the code of the problem."
    )

    @classmethod
    def of(cls, action: Action) -> "ActionOut":
        """Show an act."""
        return cls(
            at=action.at,
            who=action.who,
            what=action.what,
            on=action.subject,
            origin=action.origin,
            outcome=action.outcome,
        )


class ActionsOut(_Answer):
    """A page of what administrators did, newest first."""

    actions: list[ActionOut]
    page_size: int
    has_more: bool
    next_cursor: CursorOut | None


class FindingOut(_Answer):
    """An invariant that does not hold: how many break it, the ids of some of them, and more about one."""

    invariant: str
    count: int
    ids: list[str]
    detail: str


class AuditedOut(_Answer):
    """What an audit has looked at and found; ``ok`` and ``finished_at`` are null while it is under way."""

    ok: bool | None
    started_at: Instant | None
    finished_at: Instant | None
    checked: dict[str, int]
    findings: list[FindingOut]

    @classmethod
    def of(cls, result: AuditResult) -> "AuditedOut":
        """Show a result."""
        return cls(**_audited(result))


class AuditOut(AuditedOut):
    """The last audit that was finished (all null if there was none), and the one under way."""

    under_way: AuditedOut | None

    @classmethod
    def of_both(cls, last: AuditResult | None, under_way: AuditResult | None) -> "AuditOut":
        """Show both."""
        nothing: dict[str, Any] = {"ok": None, "started_at": None, "finished_at": None, "checked": {}, "findings": []}
        return cls(
            **(nothing if last is None else _audited(last)),
            under_way=None if under_way is None else AuditedOut.of(under_way),
        )


def _audited(result: AuditResult) -> dict[str, Any]:
    return {
        "ok": result.ok,
        "started_at": result.started_at,
        "finished_at": result.finished_at,
        "checked": {"wallets": result.wallets, "entries": result.entries, "transfers": result.transfers},
        "findings": [FindingOut(**asdict(finding)) for finding in result.findings],
    }


class TransactionOut(_Answer):
    """One entry of the history; ``amount`` is signed cents."""

    transaction_id: str
    transfer_id: IdOut
    type: TypeNumber
    transaction_type: TypeName
    amount: SignedCents
    balance_after: BalanceCents
    counterparty_user_id: IdOut | None
    desc: str
    reference: str | None
    created_at: Instant

    @classmethod
    def of(cls, entry: HistoryEntry) -> "TransactionOut":
        """Show an entry."""
        return cls(
            transaction_id=f"{entry.wallet_id}-{entry.seq}",
            transfer_id=entry.transfer_id,
            type=entry.type,
            transaction_type=_TYPE_NAMES[entry.type],
            amount=entry.amount_cents,
            balance_after=entry.balance_after_cents,
            counterparty_user_id=entry.counterparty,
            desc=_describe(entry),
            reference=entry.reference,
            created_at=entry.created_at,
        )


class FreezeBody(_Body):
    """Which sides of a wallet to freeze (true), or to let go (false); what is not named stays as it is. And why."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [_one_true("debits"), _one_true("credits")]})

    debits: Side = False
    credits: Side = False
    reason: Reason

    @model_validator(mode="after")
    def _freezes(self) -> Self:
        _check_one_true(self.debits, self.credits)
        return self

    def change(self, *, by: str) -> Change:
        """What is to be otherwise."""
        said = {name: getattr(self, name) if name in self.model_fields_set else None for name in ("debits", "credits")}
        return Change(**said, reason=self.reason, by=by)


class UnfreezeBody(_Body):
    """Which sides of a wallet to let go (true): both, if none is named. And why, if there is something to say."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                _one_true("debits"),
                _one_true("credits"),
                {"not": {"anyOf": [{"required": ["debits"]}, {"required": ["credits"]}]}},
            ]
        }
    )

    debits: Side = False
    credits: Side = False
    reason: Reason | None = None

    @model_validator(mode="after")
    def _lifts(self) -> Self:
        if self.model_fields_set & {"debits", "credits"}:
            _check_one_true(self.debits, self.credits)
        return self

    def change(self, *, by: str) -> Change:
        """What is to be otherwise."""
        both = not self.debits and not self.credits
        debits, credits_ = (False if side or both else None for side in (self.debits, self.credits))
        return Change(debits=debits, credits=credits_, reason=self.reason, by=by)


class FreezeOut(FrozenOut):
    """Which sides of a wallet are frozen; the reason of the last change of that, when it was, and by whom."""

    reason: str
    at: Instant
    by: str


class WalletStateOut(_Answer):
    """A wallet for administrators: ``version`` counts its entries; ``frozen`` is null unless a side is."""

    user_id: IdOut
    balance: BalanceCents
    version: Count
    opened_at: Instant
    frozen: FreezeOut | None

    @classmethod
    def of(cls, wallet: WalletView) -> "WalletStateOut":
        """Show a wallet."""
        return cls(**_state(wallet))


class WalletOut(WalletStateOut):
    """A wallet with its newest entries."""

    transactions: list[TransactionOut]

    @classmethod
    def of(cls, wallet: WalletView) -> "WalletOut":
        """Show a wallet."""
        return cls(
            **_state(wallet),
            transactions=[TransactionOut.of(entry) for entry in wallet.newest],
        )


def _state(wallet: WalletView) -> dict[str, Any]:
    return {
        "user_id": wallet.wallet_id,
        "balance": wallet.balance_cents,
        "version": wallet.version,
        "opened_at": wallet.opened_at,
        "frozen": None if wallet.frozen is None else FreezeOut(**asdict(wallet.frozen)),
    }


class TransactionsOut(_Answer):
    """A page of the history, newest first, and the balance in the same snapshot. ``page`` is null after a cursor."""

    transactions: list[TransactionOut]
    statement_balance: BalanceCents
    page: int | None
    page_size: int
    has_more: bool
    next_cursor: CursorOut | None


def _describe(entry: HistoryEntry) -> str:
    if entry.description is not None:
        return entry.description
    if entry.type == EntryType.TRANSFER:
        return f"transfer {'to' if entry.amount_cents < 0 else 'from'} user {entry.counterparty}"
    return _TYPE_NAMES[entry.type]
