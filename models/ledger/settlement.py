"""Deciding a batch, purely: balances and transfers in, entries and rejections out. No I/O, no clock.

This is where money is computed, and the only place. Everything around it is about locks and delivery.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from models.errors import (
    BalanceInsufficient,
    BalanceOverflow,
    BulkRejected,
    NotReversible,
    ReversalExceeds,
    WalletNotFound,
)
from models.ledger.transfer import MAX_CENTS, REST_CENTS


class EntryType(IntEnum):
    """What an entry records; the API's ``type``."""

    DEPOSIT = 1
    WITHDRAWAL = 2
    TRANSFER = 3


_DEPOSIT, _WITHDRAWAL, _TRANSFER = EntryType.DEPOSIT.value, EntryType.WITHDRAWAL.value, EntryType.TRANSFER.value


class Pending(NamedTuple):
    """A transfer to decide. ``source`` is None for a deposit, ``destination`` for a withdrawal."""

    id: int
    source: int | None
    destination: int | None
    amount_cents: int


class Wallet(NamedTuple):
    """A wallet under its row lock: its balance in cents, and how many entries it has."""

    balance_cents: int
    version: int


@dataclass(slots=True)
class Original:
    """A transfer that others give back, under its row lock: its amount and what was given back so far, in cents.

    ``is_reversible``: it is posted, and no reversal itself.
    """

    id: int
    amount_cents: int
    reversed_cents: int
    is_reversible: bool

    @property
    def left_cents(self) -> int:
        """What can still be given back."""
        return self.amount_cents - self.reversed_cents


class Entry(NamedTuple):
    """One signed row to write on one wallet, with the balance just after it."""

    wallet_id: int
    seq: int
    transfer_id: int
    counterparty: int | None
    type: int  # an EntryType's value; the member itself would cost a batch more than its arithmetic
    amount_cents: int
    balance_after_cents: int


class Decision(NamedTuple):
    """What became of one transfer: posted, with the seq of its entries, or rejected, with a code."""

    transfer_id: int
    reason: str | None = None
    source_seq: int | None = None
    destination_seq: int | None = None


@dataclass(slots=True)
class Settlement:
    """What a batch comes to; ``wallets`` holds those that changed, as they are to be.

    ``given_back``: how many cents each reversal that was posted has moved.
    """

    decisions: list[Decision] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    wallets: dict[int, Wallet] = field(default_factory=dict)
    given_back: dict[int, int] = field(default_factory=dict)


_NONE: Mapping[int, Original] = {}


def settle(
    batch: Iterable[Pending], wallets: Mapping[int, Wallet], originals: Mapping[int, Original] = _NONE
) -> Settlement:
    """Decide each transfer in the order given, on what those before it left.

    A rejected transfer changes nothing. A wallet that is not in ``wallets`` does not exist. ``originals``, by the
    reversals of the batch: what each gives back; those that are posted count in it.
    """
    settlement = Settlement()
    current = dict(wallets)
    for transfer in batch:
        original = originals.get(transfer.id) if originals else None
        if original is not None:
            settlement.decisions.append(_give_back(transfer, original, current, settlement))
        elif (reason := _refusal(transfer, current)) is None:
            settlement.decisions.append(_post(transfer, current, settlement))
        else:
            settlement.decisions.append(Decision(transfer.id, reason))
    return settlement


def settle_whole(batch: Sequence[Pending], wallets: Mapping[int, Wallet]) -> Settlement:
    """Decide an atomic bulk, in the order given: all of it is posted, or nothing. The first to be refused says why."""
    settlement = settle(batch, wallets)
    blamed = next((each for each in settlement.decisions if each.reason is not None), None)
    if blamed is None:
        return settlement
    others = {each.id: Decision(each.id, BulkRejected.code) for each in batch if each.id != blamed.transfer_id}
    return Settlement([others.get(each.id, blamed) for each in batch])


def _give_back(transfer: Pending, original: Original, wallets: dict[int, Wallet], settlement: Settlement) -> Decision:
    """Decide a reversal: no more than is left, by the very rules of any other movement."""
    left_cents = original.left_cents
    if transfer.amount_cents == REST_CENTS:
        transfer = transfer._replace(amount_cents=left_cents)
    if not original.is_reversible:
        return Decision(transfer.id, NotReversible.code)
    if not 0 < transfer.amount_cents <= left_cents:
        return Decision(transfer.id, ReversalExceeds.code)
    if (reason := _refusal(transfer, wallets)) is not None:
        return Decision(transfer.id, reason)
    original.reversed_cents += transfer.amount_cents
    settlement.given_back[transfer.id] = transfer.amount_cents
    return _post(transfer, wallets, settlement)


def _refusal(transfer: Pending, wallets: Mapping[int, Wallet]) -> str | None:
    """Return the code of the business no, None when the transfer can be posted."""
    _, source, destination, amount_cents = transfer
    if (source is not None and source not in wallets) or (destination is not None and destination not in wallets):
        return WalletNotFound.code
    if source is not None and wallets[source].balance_cents < amount_cents:
        return BalanceInsufficient.code
    if destination is not None and wallets[destination].balance_cents > MAX_CENTS - amount_cents:
        return BalanceOverflow.code
    return None


def _post(transfer: Pending, wallets: dict[int, Wallet], settlement: Settlement) -> Decision:
    """Take from the source, give to the destination, and record an entry for each."""
    transfer_id, source, destination, amount_cents = transfer
    entry_type = _DEPOSIT if source is None else _WITHDRAWAL if destination is None else _TRANSFER
    seqs: list[int | None] = [None, None]
    for side, (wallet_id, counterparty, signed_cents) in enumerate(
        ((source, destination, -amount_cents), (destination, source, amount_cents))
    ):
        if wallet_id is None:
            continue
        before = wallets[wallet_id]
        after = Wallet(before.balance_cents + signed_cents, before.version + 1)
        wallets[wallet_id] = settlement.wallets[wallet_id] = after
        settlement.entries.append(
            Entry(wallet_id, after.version, transfer_id, counterparty, entry_type, signed_cents, after.balance_cents)
        )
        seqs[side] = after.version
    return Decision(transfer_id, None, *seqs)
