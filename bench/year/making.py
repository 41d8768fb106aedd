"""The making of years: many posted transfers in books that balance, written by PostgreSQL itself.

All wallets but one stand in a ring. In each round every one of them pays a cent to the next, so that it has two entries
more and as much as before. One wallet has a long life: a deposit of a cent and a withdrawal of it in turns, between the
others'. So numbers and balances of all entries are known beforehand, and everything can be written in any order.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import psycopg2

from bench.backlog import OPENING_CENTS
from bench.site import SERVICE, Site
from models.snowflake import layout

# Of all transfers, those of the long life.
LONG_SHARE = 0.31
ROUNDS = 100
# On disk at most, for books, their copy, a dump and the log: so many bytes for each transfer, and so many besides.
BYTES_A_TRANSFER, BYTES_BESIDES = 2_000, 12 * 2**30

# The n-th has an id of its own instant, all of them spread over the year until now. Every second one has a key.
_INSTANT = "to_timestamp({epoch_ms} / 1000.0 + {step_ms} / 1000.0 * n)"
_RING = "generate_series(1, {wallets}) AS w, LATERAL (SELECT {wallets} * (1 + {round}) + w - 1) AS slot (n)"
_LONG = """generate_series(1, {long}) AS k,
    LATERAL (SELECT {wallets} * (1 + {round}) + (k - 1)::bigint * {wallets} / {long}, {long}::bigint * {round} + k)
        AS slot (n, seq)"""
_TRACE = "'00-' || md5(n::text) || '-' || left(md5((-n)::text), 16) || '-01'"
_KEY = "CASE WHEN n % 2 = 0 THEN md5(n::text)::uuid::text END, CASE WHEN n % 2 = 0 THEN sha256(n::text::bytea) END"

_OPENINGS = (
    """
INSERT INTO wallets (id, balance, version) SELECT w, {cents}, 1 + 2 * {rounds} FROM generate_series(1, {wallets}) AS w
UNION ALL SELECT {wallets} + 1, {long} * {rounds} % 2, {long}::bigint * {rounds}
""",
    """
INSERT INTO transfers (id, kind, destination, amount, status, destination_seq, attempts, created_at, completed_at)
SELECT n * {id_step} + 1, 'deposit', n + 1, {cents}, 'posted', 1, 1, {instant}, {instant}
FROM generate_series(0, {wallets} - 1) AS n
""",
    """
INSERT INTO entries (wallet_id, seq, transfer_id, type, amount, balance_after, created_at)
SELECT n + 1, 1, n * {id_step} + 1, 1, {cents}, {cents}, {instant} FROM generate_series(0, {wallets} - 1) AS n
""",
)
_TRANSFERS = """
INSERT INTO transfers (id, kind, source, destination, amount, status, source_seq, destination_seq, attempts,
    created_at, completed_at, idempotency_key, request_hash, trace)
SELECT n * {id_step} + 1, 'transfer', w, w % {wallets} + 1, 1, 'posted',
    2 * {round} + CASE w WHEN 1 THEN 2 ELSE 3 END, 2 * {round} + CASE w WHEN {wallets} THEN 3 ELSE 2 END, 1,
    {instant}, {instant}, {key}, {trace}
FROM {ring}
UNION ALL
SELECT n * {id_step} + 1 + k, CASE seq % 2 WHEN 1 THEN 'deposit' ELSE 'withdrawal' END,
    CASE seq % 2 WHEN 0 THEN {wallets} + 1 END, CASE seq % 2 WHEN 1 THEN {wallets} + 1 END, 1, 'posted',
    CASE seq % 2 WHEN 0 THEN seq END, CASE seq % 2 WHEN 1 THEN seq END, 1, {instant}, {instant}, {key}, {trace}
FROM {life}
ORDER BY 1
"""
# The first of the ring pays before it is paid, and all others when they have been.
_ENTRIES = """
INSERT INTO entries (wallet_id, seq, transfer_id, counterparty, type, amount, balance_after, created_at)
SELECT w, 2 * {round} + CASE w WHEN 1 THEN 2 ELSE 3 END, n * {id_step} + 1, w % {wallets} + 1, 3, -1,
    {cents} - CASE w WHEN 1 THEN 1 ELSE 0 END, {instant}
FROM {ring}
UNION ALL
SELECT w % {wallets} + 1, 2 * {round} + CASE w WHEN {wallets} THEN 3 ELSE 2 END, n * {id_step} + 1, w, 3, 1,
    {cents} + CASE w WHEN {wallets} THEN 0 ELSE 1 END, {instant}
FROM {ring}
UNION ALL
SELECT {wallets} + 1, seq, n * {id_step} + 1 + k, NULL, CASE seq % 2 WHEN 1 THEN 1 ELSE 2 END,
    CASE seq % 2 WHEN 1 THEN 1 ELSE -1 END, seq % 2, {instant}
FROM {life}
ORDER BY 3
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is made: ``wallets`` in the ring, and of the long life so many transfers a round."""

    wallets: int
    long: int
    rounds: int = ROUNDS

    @classmethod
    def of(cls, transfers: int) -> "Shape":
        """Return the shape of about so many transfers."""
        a_round = transfers // (ROUNDS + 1)
        return cls(wallets=max(100, round(a_round * (1 - LONG_SHARE))), long=max(30, round(a_round * LONG_SHARE)))

    @property
    def transfers(self) -> int:
        """How many there will be, openings included."""
        return self.wallets * (self.rounds + 1) + self.long * self.rounds

    @property
    def entries(self) -> int:
        """How many there will be."""
        return self.wallets * (2 * self.rounds + 1) + self.long * self.rounds

    @property
    def long_life(self) -> int:
        """The wallet with the long history."""
        return self.wallets + 1


def make(site: Site, shape: Shape) -> float:
    """Write all of it into an empty database; return the seconds it took."""
    began = time.monotonic()
    words = _words(shape)
    _write(site, [each.format(**words) for each in _OPENINGS])
    rounds = [words | {"round": number} for number in range(shape.rounds)]
    with ThreadPoolExecutor(2) as pool:
        writing = [
            pool.submit(_write, site, [_spelled(each, one) for one in rounds]) for each in (_TRANSFERS, _ENTRIES)
        ]
        for each in writing:
            each.result()
    return time.monotonic() - began


def _words(shape: Shape) -> dict[str, object]:
    slots = shape.wallets * (shape.rounds + 1)
    step_ms = max(1, (round(time.time() * 1000) - layout.EPOCH_MS - 3_600_000) // slots)
    words: dict[str, object] = {
        "wallets": shape.wallets,
        "long": shape.long,
        "rounds": shape.rounds,
        "cents": OPENING_CENTS,
        "id_step": layout.encode(layout.EPOCH_MS + step_ms, 0, 0),
        "instant": _INSTANT.format(epoch_ms=layout.EPOCH_MS, step_ms=step_ms),
        "key": _KEY,
        "trace": _TRACE,
    }
    return words


def _spelled(statement: str, words: dict[str, object]) -> str:
    return statement.format(**words, ring=_RING.format(**words), life=_LONG.format(**words))


def _write(site: Site, statements: Sequence[str]) -> None:
    """Run statements one by one, without the service's bounds, and without waiting for the disk after each."""
    with closing(psycopg2.connect(site.url(SERVICE))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit = off")
            for each in statements:
                cursor.execute(each)
