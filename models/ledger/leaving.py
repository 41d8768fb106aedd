"""What leaves in one transaction: finding it, deleting it, and putting in its place what stands for it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from models.errors import NotArchived
from models.ledger.archive_file import Row
from models.ledger.settlement import EntryType

# Wallets, by id, as far as there is room for all of their entries, whatever their age; or one, and what fits of it.
_LOOK = text("""
WITH accounts AS MATERIALIZED (
    SELECT w.id, w.version, coalesce(o.seq, 0) AS after, coalesce(o.balance, 0) AS balance
    FROM (SELECT id, version FROM wallets WHERE id > :position ORDER BY id LIMIT :wallets) AS w
    LEFT JOIN LATERAL (SELECT seq, balance FROM openings WHERE wallet_id = w.id LIMIT 1) AS o ON true
), fitting AS MATERIALIZED (
    SELECT id, version, after, balance, least(version, after + :room) AS most,
        row_number() OVER running AS number, sum(version - after) OVER running AS total
    FROM accounts WINDOW running AS (ORDER BY id)
)
SELECT id, after, balance, most, most < version AS is_cut, coalesce((
    SELECT e.seq - 1 FROM entries AS e
    WHERE e.wallet_id = f.id AND e.seq > f.after AND e.seq <= f.most AND e.created_at >= :before
    ORDER BY e.seq LIMIT 1
), most) AS through
FROM fitting AS f WHERE number = 1 OR total <= :room ORDER BY id
""")
_DELETE_ENTRIES = text("""
WITH prefix AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:afters AS bigint[]), CAST(:throughs AS bigint[]))
        AS given (wallet_id, after, through)
)
DELETE FROM entries AS e USING prefix AS p
WHERE e.wallet_id = p.wallet_id AND e.seq > p.after AND e.seq <= p.through RETURNING e.*
""")
_OPEN = text("""
INSERT INTO openings AS o (wallet_id, seq, balance, last_at, archive)
SELECT given.*, :archive FROM unnest(CAST(:ids AS bigint[]), CAST(:seqs AS bigint[]), CAST(:balances AS bigint[]),
    CAST(:last_ats AS timestamptz[])) AS given
ON CONFLICT (wallet_id) DO UPDATE SET seq = excluded.seq, balance = excluded.balance,
    last_at = greatest(o.last_at, excluded.last_at), archive = excluded.archive
""")
_KEEP_RECEIPTS = text("""
INSERT INTO receipts (transfer_id, balance)
SELECT t.id, given.balance FROM unnest(CAST(:ids AS bigint[]), CAST(:balances AS bigint[])) AS given (id, balance)
JOIN transfers AS t ON t.id = given.id WHERE t.idempotency_key IS NOT NULL
""")
_FIND_STRAY = text("""
SELECT given.wallet_id, given.seq
FROM unnest(CAST(:wallet_ids AS bigint[]), CAST(:seqs AS bigint[]), CAST(:ids AS bigint[]))
    AS given (wallet_id, seq, transfer_id)
LEFT JOIN LATERAL (
    SELECT id FROM transfers AS t WHERE t.id = given.transfer_id AND t.status = 'posted'
        AND ((t.source = given.wallet_id AND t.source_seq = given.seq)
            OR (t.destination = given.wallet_id AND t.destination_seq = given.seq)) LIMIT 1
) AS own ON true
WHERE own.id IS NULL ORDER BY given.wallet_id, given.seq LIMIT 1
""")
# What they are found by goes with them, by a trigger.
_DELETE_TRANSFERS = text("""
DELETE FROM transfers AS t USING unnest(CAST(:ids AS bigint[])) AS given (id)
WHERE t.id = given.id AND t.status = 'posted' AND t.idempotency_key IS NULL
    AND (t.source IS NULL OR t.source_seq <= (SELECT seq FROM openings WHERE wallet_id = t.source))
    AND (t.destination IS NULL OR t.destination_seq <= (SELECT seq FROM openings WHERE wallet_id = t.destination))
RETURNING t.*
""")


class Prefix(NamedTuple):
    """The entries of one wallet that leave: those after a seq, with the balance that was then, through another."""

    wallet_id: int
    after: int
    balance_cents: int
    through: int


def find_prefixes(
    connection: Connection, before: datetime, position: int, *, limit: int, most_wallets: int
) -> tuple[list[Prefix], int | None]:
    """Find what may leave in one slice.

    Args:
        connection: in a transaction.
        before: all of it is older than this.
        position: look at wallets with a higher id.
        limit: entries together, at most. Half of that is enough: what there is room for is looked through whatever
            its age.
        most_wallets: of one look.

    Returns:
        A wallet's prefix each, and the position to go on from; None if there are no more wallets.
    """
    prefixes: list[Prefix] = []
    room = limit
    while room >= limit / 2:
        look = {"position": position, "room": room, "wallets": most_wallets, "before": before}
        rows = connection.execute(_LOOK, look).all()
        if not rows:
            return prefixes, None
        for row in rows:
            position = row.id
            if row.through > row.after:
                prefixes.append(Prefix(row.id, row.after, row.balance, row.through))
                room -= row.through - row.after
        if rows[0].is_cut and rows[0].through == rows[0].most:
            return prefixes, rows[0].id - 1  # there may be more of it
    return prefixes, position


class Leaving:
    """What a transaction has deleted, and what it has put in its place."""

    def __init__(self, connection: Connection, prefixes: Sequence[Prefix], number: int) -> None:
        ranges = {
            "ids": [each.wallet_id for each in prefixes],
            "afters": [each.after for each in prefixes],
            "throughs": [each.through for each in prefixes],
        }
        found = connection.execute(_DELETE_ENTRIES, ranges).mappings().all()
        self.entries = sorted(found, key=lambda row: (row["wallet_id"], row["seq"]))
        openings = _check(prefixes, self.entries)
        _check_transfers(connection, self.entries)
        connection.execute(_OPEN, {**openings, "ids": ranges["ids"], "seqs": ranges["throughs"], "archive": number})
        givers = [row for row in self.entries if row["type"] == EntryType.DEPOSIT or row["amount"] < 0]
        kept = {"ids": [row["transfer_id"] for row in givers], "balances": [row["balance_after"] for row in givers]}
        connection.execute(_KEEP_RECEIPTS, kept)
        ids = sorted({row["transfer_id"] for row in self.entries})
        gone = connection.execute(_DELETE_TRANSFERS, {"ids": ids}).mappings().all()
        self.transfers = sorted(gone, key=lambda row: row["id"])


def _check(prefixes: Sequence[Prefix], entries: Sequence[Row]) -> dict[str, list[Any]]:
    """Return what the wallets open with after these entries, if they are all there and go on from each other.

    Raises:
        NotArchived: they are not.
    """
    rows = iter(entries)
    balances, last_ats = [], []
    for prefix in prefixes:
        balance_cents, instants = prefix.balance_cents, []
        for seq in range(prefix.after + 1, prefix.through + 1):
            row = next(rows, {})
            balance_cents += row.get("amount", 0)
            found = row.get("wallet_id"), row.get("seq"), row.get("balance_after")
            if found != (prefix.wallet_id, seq, balance_cents):
                raise _wrong_at(prefix.wallet_id, seq)
            instants.append(row["created_at"])
        balances.append(balance_cents)
        last_ats.append(max(instants))
    return {"balances": balances, "last_ats": last_ats}


def _check_transfers(connection: Connection, entries: Sequence[Row]) -> None:
    """Make sure that each entry is one that a posted transfer points to.

    Raises:
        NotArchived: one is not.
    """
    pointed_to = {
        "wallet_ids": [row["wallet_id"] for row in entries],
        "seqs": [row["seq"] for row in entries],
        "ids": [row["transfer_id"] for row in entries],
    }
    if (stray := connection.execute(_FIND_STRAY, pointed_to).first()) is not None:
        raise _wrong_at(stray.wallet_id, stray.seq)


def _wrong_at(wallet_id: int, seq: int) -> NotArchived:
    return NotArchived(f"the books are wrong at entry {seq} of wallet {wallet_id}, and nothing leaves: see flask audit")
