"""A transfer: one movement of money of any kind, as it is ordered and as it is recorded."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

import orjson

MAX_CENTS = 2**63 - 1  # int64, the widest integer of PostgreSQL and of every client that matters
MAX_ID = 2**63 - 1
# An amount that is none: all of a transfer that has not been given back yet, whatever that is by then.
REST_CENTS = 0
# Whose idempotency keys those of administrators are: nobody's who has a wallet. Users' ids are positive.
ADMINISTRATORS = 0


class Kind(StrEnum):
    """What a transfer does to the sum of all balances."""

    DEPOSIT = "deposit"  # credits a wallet from outside: no source
    WITHDRAWAL = "withdrawal"  # debits a wallet to the outside: no destination
    TRANSFER = "transfer"  # moves money: both


class Status(StrEnum):
    """Where a transfer stands. RQ's own states (queued, started, finished, failed) are never used here."""

    PENDING = "pending"  # accepted, will be tried; the only status that a posting may leave
    POSTED = "posted"  # money moved; final
    REJECTED = "rejected"  # a business no; final
    FAILED = "failed"  # a dead letter: final for whoever waits, pending again when an administrator requeues it
    CANCELED = "canceled"  # called off before it was tried; final

    @property
    def is_final(self) -> bool:
        """Whether somebody who waits for this transfer is done waiting."""
        return self is not Status.PENDING


class Details(NamedTuple):
    """What a caller says of a transfer. It is kept and told, and nothing depends on it.

    ``reference``: the caller's own name for it, which need not be unique. ``metadata``: pairs of words.
    """

    description: str | None = None
    reference: str | None = None
    metadata: Mapping[str, str] | None = None

    @property
    def row(self) -> tuple[str | None, str | None, str | None]:
        """The columns of it, as texts."""
        metadata = None if self.metadata is None else orjson.dumps(self.metadata).decode()
        return self.description, self.reference, metadata

    @property
    def facts(self) -> tuple[str | None, str | None, str | None]:
        """What an idempotency key is bound to; equal details are spelled alike, as keys that are kept have them."""
        metadata = None if self.metadata is None else json.dumps(self.metadata, sort_keys=True)
        return self.description, self.reference, metadata


NO_DETAILS = Details()


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody asks for, before it has an id.

    ``call`` names the API call (``transfer/v2``): an idempotency key is bound to it as well as to the rest.
    ``by_administrator``: an administrator gives it, whatever is frozen; of reversals only.
    ``reverses``: the id of a transfer that it gives back, or ``amount_cents`` of it (:data:`REST_CENTS`: the rest).
    ``not_before``: it is not to be tried before that instant, and its funds are looked at when it is; for orders that
    are accepted only.
    """

    call: str
    kind: Kind
    source: int | None
    destination: int | None
    amount_cents: int
    idempotency_key: str | None = None
    trace: str | None = None
    details: Details = NO_DETAILS
    reverses: int | None = None
    not_before: datetime | None = None
    by_administrator: bool = False

    @property
    def user_id(self) -> int:
        """Return who gives the order: the payer, or the depositor of a deposit."""
        user_id = self.destination if self.source is None else self.source
        if user_id is None:
            raise ValueError("an order needs a source or a destination")
        return user_id

    @property
    def key_owner(self) -> int:
        """Return whose idempotency key it has: that of who gives the order, or of administrators, whoever's wallet."""
        return ADMINISTRATORS if self.by_administrator else self.user_id

    @property
    def request_hash(self) -> bytes:
        """Digest of what an idempotency key is bound to beside its owner: the call and the parsed body."""
        facts = f"{self.call}|{self.source}|{self.destination}|{self.amount_cents}"
        if self.reverses is not None:
            facts += f"|reverses {self.reverses}"
        if self.details != NO_DETAILS:
            facts += f"|{json.dumps(self.details.facts)}"
        if self.not_before is not None:
            facts += f"|not before {self.not_before.astimezone(UTC).isoformat()}"
        return hashlib.sha256(facts.encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A transfer as it is recorded: the job's resource."""

    id: int
    kind: Kind
    source: int | None
    destination: int | None
    amount_cents: int
    status: Status
    reason: str | None
    attempts: int
    last_error: str | None
    next_attempt_at: datetime | None
    created_at: datetime
    completed_at: datetime | None
    details: Details = NO_DETAILS
    not_before: datetime | None = None  # planned for then
    reverses: int | None = None  # the transfer that it gives back, or a part of
    reversed_cents: int | None = None  # how much of it was given back since
    bulk_id: int | None = None  # what it was sent with

    @property
    def giver(self) -> int | None:
        """Return who gave its order: the payer, or the depositor of a deposit."""
        return self.destination if self.source is None else self.source

    def is_party(self, user_id: int) -> bool:
        """Whether the user pays or is paid by this transfer."""
        return user_id in (self.source, self.destination)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a posting that was waited for answers: the payer's (or depositor's) balance just after it."""

    transfer_id: int
    balance_cents: int
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What accepting a transfer for later answers: it is durable."""

    transfer_id: int
    replayed: bool = False
