"""Deciding a batch, purely: balances and transfers in, entries and rejections out. No I/O, no clock.

This is where money is computed, and the only place. Everything around it is about locks and delivery.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from models.errors import BalanceInsufficient, BalanceOverflow, WalletNotFound
from models.ledger.transfer import MAX_CENTS


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
    """What a batch comes to; ``wallets`` holds those that changed, as they are to be."""

    decisions: list[Decision] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    wallets: dict[int, Wallet] = field(default_factory=dict)


def settle(batch: Iterable[Pending], wallets: Mapping[int, Wallet]) -> Settlement:
    """Decide each transfer in the order given, on the balances that those before it left.

    A rejected transfer changes nothing. A wallet that is not in ``wallets`` does not exist.
    """
    settlement = Settlement()
    current = dict(wallets)
    for transfer in batch:
        reason = _refusal(transfer, current)
        if reason is None:
            settlement.decisions.append(_post(transfer, current, settlement))
        else:
            settlement.decisions.append(Decision(transfer.id, reason))
    return settlement


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
