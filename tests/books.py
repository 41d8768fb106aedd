"""The ledger's promises, asked of a whole database by SQL: for the end of every test that moved money.

Each check is a query for the rows that break one promise; the sums are numeric, so that no check can overflow itself.
"""

from sqlalchemy import Connection, Engine, text

CHECKS = {
    "a balance is the sum of its entries": """
        SELECT w.id, w.balance, sum(e.amount) FROM wallets w LEFT JOIN entries e ON e.wallet_id = w.id
        GROUP BY w.id HAVING w.balance <> coalesce(sum(e.amount), 0)
    """,
    "a balance is what its newest entry says": """
        SELECT w.id, w.balance, newest.balance_after FROM wallets w
        LEFT JOIN (SELECT DISTINCT ON (wallet_id) * FROM entries ORDER BY wallet_id, seq DESC) newest
            ON newest.wallet_id = w.id
        WHERE w.balance <> coalesce(newest.balance_after, 0)
    """,
    "a version counts the wallet's entries": """
        SELECT w.id, w.version, count(e.seq) FROM wallets w LEFT JOIN entries e ON e.wallet_id = w.id
        GROUP BY w.id HAVING w.version <> count(e.seq)
    """,
    "seq runs from 1 to the version without a gap": """
        SELECT w.id, w.version, min(e.seq), max(e.seq), count(e.seq)
        FROM wallets w LEFT JOIN entries e ON e.wallet_id = w.id GROUP BY w.id
        HAVING coalesce(max(e.seq), 0) <> w.version OR coalesce(min(e.seq), 1) <> 1
            OR count(DISTINCT e.seq) <> coalesce(max(e.seq), 0)
    """,
    "every entry goes on from the balance before it": """
        SELECT * FROM (
            SELECT wallet_id, seq, amount, balance_after,
                lag(balance_after, 1, 0::bigint) OVER (PARTITION BY wallet_id ORDER BY seq) AS before
            FROM entries
        ) chain WHERE before::numeric + amount <> balance_after
    """,
    "a wallet's entries are in order of time": """
        SELECT * FROM (
            SELECT wallet_id, seq, created_at,
                lag(created_at) OVER (PARTITION BY wallet_id ORDER BY seq) AS before
            FROM entries
        ) chain WHERE created_at < before
    """,
    "every entry is on a wallet that exists": """
        SELECT e.wallet_id, e.seq FROM entries e WHERE NOT EXISTS (SELECT FROM wallets w WHERE w.id = e.wallet_id)
    """,
    "a posted transfer has its entry on the source": """
        SELECT t.* FROM transfers t
        LEFT JOIN entries e ON e.wallet_id = t.source AND e.seq = t.source_seq AND e.transfer_id = t.id
            AND e.amount::numeric = -t.amount::numeric AND e.counterparty IS NOT DISTINCT FROM t.destination
            AND e.type = CASE t.kind WHEN 'withdrawal' THEN 2 WHEN 'transfer' THEN 3 END
        WHERE t.status = 'posted' AND t.source IS NOT NULL AND e.seq IS NULL
    """,
    "a posted transfer has its entry on the destination": """
        SELECT t.* FROM transfers t
        LEFT JOIN entries e ON e.wallet_id = t.destination AND e.seq = t.destination_seq AND e.transfer_id = t.id
            AND e.amount = t.amount AND e.counterparty IS NOT DISTINCT FROM t.source
            AND e.type = CASE t.kind WHEN 'deposit' THEN 1 WHEN 'transfer' THEN 3 END
        WHERE t.status = 'posted' AND t.destination IS NOT NULL AND e.seq IS NULL
    """,
    "every entry is one that a posted transfer points to": """
        SELECT e.* FROM entries e WHERE NOT EXISTS (
            SELECT FROM transfers t WHERE t.id = e.transfer_id AND t.status = 'posted' AND (
                (t.source = e.wallet_id AND t.source_seq = e.seq)
                OR (t.destination = e.wallet_id AND t.destination_seq = e.seq)))
    """,
    "a transfer that is not posted has no entries": """
        SELECT t.* FROM transfers t
        WHERE t.status <> 'posted' AND (t.source_seq IS NOT NULL OR t.destination_seq IS NOT NULL
            OR EXISTS (SELECT FROM entries e WHERE e.transfer_id = t.id))
    """,
    "money only comes in by deposits and goes out by withdrawals": """
        SELECT balances, deposits, withdrawals FROM
            (SELECT coalesce(sum(balance), 0) AS balances FROM wallets) w,
            (SELECT coalesce(sum(amount) FILTER (WHERE kind = 'deposit'), 0) AS deposits,
                coalesce(sum(amount) FILTER (WHERE kind = 'withdrawal'), 0) AS withdrawals
            FROM transfers WHERE status = 'posted') t
        WHERE balances <> deposits - withdrawals
    """,
    "no balance is negative": """
        SELECT id, balance FROM wallets WHERE balance < 0
        UNION ALL SELECT wallet_id, balance_after FROM entries WHERE balance_after < 0
    """,
    "no amount ordered is below 1": "SELECT id, amount FROM transfers WHERE amount < 1",
}


class BooksDoNotBalanceError(AssertionError):
    """A promise of the ledger is broken; the message says which, and by which rows."""


def check_books(engine: Engine) -> None:
    """Check every promise on everything that is committed, in one snapshot.

    Raises:
        BooksDoNotBalanceError: at least one is broken.
    """
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        broken = broken_promises(connection)
        connection.rollback()
    if broken:
        raise BooksDoNotBalanceError("; ".join(f"{promise}: {rows}" for promise, rows in broken.items()))


def broken_promises(connection: Connection) -> dict[str, list[str]]:
    """Return, for each promise that is broken as this transaction sees it, the first rows that break it."""
    found = {
        promise: [str(row._mapping) for row in connection.execute(text(f"{query} LIMIT 5"))]
        for promise, query in CHECKS.items()
    }
    return {promise: rows for promise, rows in found.items() if rows}
