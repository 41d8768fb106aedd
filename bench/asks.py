"""What is asked of the API: the kinds of requests, and wallets that have something to show and to give.

Some wallets are only read and others only pay, so that a cached read is one, whatever else was asked before.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from sqlalchemy import text

from bench import backlog
from bench.backlog import OPENING_CENTS, WALLETS, Spread
from bench.site import SERVICE, Site

# Users 1 to READERS read. All others pay each other, and the first of those is the hot wallet.
READERS = 200
HOT = READERS + 1
PAGE = 30
# Each reader has two pages full of entries: his opening, and deposits of a cent.
ENTRIES = 2 * PAGE
LENGTHENED_CENTS = READERS * (ENTRIES - 1)
# Different requests of a kind, drawn beforehand and sent in turns.
DRAWN = 5_000
AMOUNT_CENTS = 67

_LENGTHEN = """
INSERT INTO transfers (id, kind, destination, amount, status, destination_seq, attempts, completed_at)
SELECT 1000000 + n * 1000 + seq, 'deposit', n, 1, 'posted', seq, 1, now()
FROM generate_series(1, :readers) AS n, generate_series(2, :last) AS seq;
INSERT INTO entries (wallet_id, seq, transfer_id, type, amount, balance_after)
SELECT n, seq, 1000000 + n * 1000 + seq, 1, 1, :cents + seq - 1
FROM generate_series(1, :readers) AS n, generate_series(2, :last) AS seq;
UPDATE wallets SET version = :last, balance = balance + :last - 1 WHERE id <= :readers
"""


class Kind(Enum):
    """A kind of request, by the word that stands for it in the keys of figures."""

    BARE = "bare"  # to the yardstick, not to the API
    BALANCE = "balance"  # out of the cache
    HISTORY = "history"  # a page of 30, out of the cache
    LATER = "v2"  # a transfer that is accepted, and settled by a worker
    NOW = "v1"  # a transfer that is posted before it is answered
    HOT = "v1_hot"  # the same, every one of them into one wallet
    DEPOSIT = "deposit"

    @property
    def status(self) -> int:
        """What every one of them is answered with."""
        return 202 if self is Kind.LATER else 200

    @property
    def label(self) -> str:
        """What it is called in tables."""
        return _LABELS[self]


_LABELS = {
    Kind.BARE: "bare Flask route",
    Kind.BALANCE: "balance, from the cache",
    Kind.HISTORY: f"history page of {PAGE}, from the cache",
    Kind.LATER: "transfer v2, accepted",
    Kind.NOW: "transfer v1, posted",
    Kind.HOT: "transfer v1, all into one hot wallet",
    Kind.DEPOSIT: "deposit, posted",
}
_PATHS = {
    Kind.BARE: "/",
    Kind.BALANCE: "/api/wallet/balance/v1",
    Kind.HISTORY: f"/api/transactions/v1?page_size={PAGE}",
    Kind.LATER: "/api/transfer/v2",
    Kind.NOW: "/api/transfer/v1",
    Kind.HOT: "/api/transfer/v1",
    Kind.DEPOSIT: "/api/deposit/v1",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request; ``path`` with the query in it."""

    method: str
    path: str
    user: int
    body: bytes = b""


def draw(kind: Kind) -> list[Ask]:
    """Draw requests of a kind, the same ones each time."""
    path = _PATHS[kind]
    if kind in {Kind.BARE, Kind.BALANCE, Kind.HISTORY}:
        return [Ask("GET", path, user) for user in range(1, READERS + 1)]
    draws = random.Random(1)
    if kind is Kind.DEPOSIT:
        body = b'{"amount":%d}' % AMOUNT_CENTS
        return [Ask("POST", path, draws.randint(HOT, WALLETS), body) for _ in range(DRAWN)]
    pairs = [draw_pair(draws, Spread.HOT if kind is Kind.HOT else Spread.UNIFORM) for _ in range(DRAWN)]
    body = b'{"destination_user_id":%d,"amount":%d}'
    return [Ask("POST", path, payer, body % (payee, AMOUNT_CENTS)) for payer, payee in pairs]


def draw_pair(draws: random.Random, spread: Spread) -> tuple[int, int]:
    """Draw who pays whom."""
    if spread is Spread.HOT:
        return draws.randint(HOT + 1, WALLETS), HOT
    payer, payee = draws.sample(range(HOT, WALLETS + 1), 2)
    return payer, payee


def lay_out(site: Site) -> None:
    """Begin anew, with a history for every reader and nothing pending."""
    backlog.lay_out(site, SERVICE, 0, Spread.UNIFORM)
    execute(site, _LENGTHEN, {"readers": READERS, "last": ENTRIES, "cents": OPENING_CENTS})


def check(site: Site, *, posted: int, deposits: int = 0) -> None:
    """See that all is settled and every cent where it belongs.

    Args:
        site: on which this was asked.
        posted: how many transfers, of both kinds.
        deposits: how many.

    Raises:
        BenchError: not so.
    """
    backlog.check(site.engines[SERVICE], posted=posted, deposited_cents=LENGTHENED_CENTS + deposits * AMOUNT_CENTS)


def execute(site: Site, statements: str, given: Mapping[str, int]) -> None:
    """Execute statements with semicolons between them, however long they take."""
    with site.engines[SERVICE].begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        for statement in statements.split(";"):
            names = {name: value for name, value in given.items() if f":{name}" in statement}
            connection.execute(text(statement), names)
