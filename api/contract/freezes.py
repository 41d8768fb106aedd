"""Users' wallets for administrators, who freeze them and let them go."""

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Self, TypeAlias

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from api.contract.fields import BalanceCents, Count, IdOut, Incoming, Instant, Outgoing
from api.contract.operations import AN_INSTANT, Answer, Operation, Who
from api.contract.wallets import FrozenOut, TransactionOut
from models.ledger.freezes import MAX_REASON, Change
from models.ledger.statements import WalletView

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


class FreezeBody(Incoming):
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


class UnfreezeBody(Incoming):
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


class WalletStateOut(Outgoing):
    """A wallet for administrators: ``version`` counts its entries; ``frozen`` is null unless a side is."""

    user_id: IdOut
    balance: BalanceCents
    version: Count
    opened_at: Instant
    frozen: FreezeOut | None

    @classmethod
    def of(cls, wallet: WalletView) -> "WalletStateOut":
        """Show a wallet."""
        return cls(
            user_id=wallet.wallet_id,
            balance=wallet.balance_cents,
            version=wallet.version,
            opened_at=wallet.opened_at,
            frozen=None if wallet.frozen is None else FreezeOut(**asdict(wallet.frozen)),
        )


class WalletOut(WalletStateOut):
    """A wallet with its newest entries."""

    transactions: list[TransactionOut]

    @classmethod
    def of(cls, wallet: WalletView) -> "WalletOut":
        """Show a wallet."""
        transactions = [TransactionOut.of(entry) for entry in wallet.newest]
        return cls(**dict(WalletStateOut.of(wallet)), transactions=transactions)


_ORDER = {"debits": True, "credits": False, "reason": "court order 17/2026"}
_FROZEN = {
    "user_id": "1",
    "balance": 10000,
    "version": 1,
    "opened_at": AN_INSTANT,
    "frozen": _ORDER | {"at": AN_INSTANT, "by": "admin"},
}
_row = partial(Operation, tag="Administration", who=Who.ADMIN, problems=("wallet_not_found",))

OPERATIONS = {
    "freezes.wallet": _row(Answer(WalletStateOut, example=_FROZEN)),
    "freezes.freeze": _row(Answer(WalletStateOut, example=_FROZEN), body=FreezeBody, body_example=_ORDER),
    "freezes.unfreeze": _row(
        Answer(WalletStateOut, example=_FROZEN | {"frozen": None}),
        body=UnfreezeBody,
        body_example={"reason": "lifted"},
        is_body_required=False,
    ),
}
