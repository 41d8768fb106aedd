"""The ledger's promises, asked of a whole database by SQL: for the end of every test that moved money.

Each check is a query for the rows that break one promise; the sums are numeric, so that no check can overflow itself.
"""

from sqlalchemy import Connection, Engine, text

CHECKS = {
    "a balance is the sum of its entries": """
        SELECT w.id, w.balance, o.balance AS opening, sum(e.amount)
        FROM wallets w LEFT JOIN openings o ON o.wallet_id = w.id LEFT JOIN entries e ON e.wallet_id = w.id
        GROUP BY w.id, o.balance HAVING w.balance <> coalesce(o.balance, 0) + coalesce(sum(e.amount), 0)
    """,
    "a balance is what its newest entry says": """
        SELECT w.id, w.balance, newest.balance_after FROM wallets w
        LEFT JOIN (SELECT DISTINCT ON (wallet_id) * FROM (
            SELECT wallet_id, seq, balance_after FROM entries UNION ALL SELECT wallet_id, seq, balance FROM openings
        ) known ORDER BY wallet_id, seq DESC) newest ON newest.wallet_id = w.id
        WHERE w.balance <> coalesce(newest.balance_after, 0)
    """,
    "a version counts the wallet's entries": """
        SELECT w.id, w.version, o.seq, count(e.seq)
        FROM wallets w LEFT JOIN openings o ON o.wallet_id = w.id LEFT JOIN entries e ON e.wallet_id = w.id
        GROUP BY w.id, o.seq HAVING w.version <> coalesce(o.seq, 0) + count(e.seq)
    """,
    "seq runs up to the version without a gap": """
        SELECT w.id, w.version, o.seq, min(e.seq), max(e.seq), count(e.seq)
        FROM wallets w LEFT JOIN openings o ON o.wallet_id = w.id LEFT JOIN entries e ON e.wallet_id = w.id
        GROUP BY w.id, o.seq HAVING coalesce(max(e.seq), o.seq, 0) <> w.version
            OR coalesce(min(e.seq), o.seq + 1, 1) <> coalesce(o.seq, 0) + 1
            OR count(DISTINCT e.seq) <> coalesce(max(e.seq), o.seq, 0) - coalesce(o.seq, 0)
    """,
    "every entry goes on from the balance before it": """
        SELECT * FROM (
            SELECT wallet_id, seq, amount, balance_after,
                lag(balance_after, 1, 0::bigint) OVER (PARTITION BY wallet_id ORDER BY seq) AS before
            FROM (
                SELECT wallet_id, seq, amount, balance_after FROM entries
                UNION ALL SELECT wallet_id, seq, NULL, balance FROM openings
            ) known
        ) chain WHERE before::numeric + amount <> balance_after
    """,
    "an opening is a wallet's that exists, and an archive's that is known": """
        SELECT o.* FROM openings o
        WHERE NOT EXISTS (SELECT FROM wallets w WHERE w.id = o.wallet_id)
            OR NOT EXISTS (SELECT FROM archives a WHERE a.id = o.archive)
    """,
    "archives and openings count the same entries and cents": """
        SELECT * FROM (SELECT coalesce(sum(entries), 0) AS count, coalesce(sum(moved), 0) AS cents FROM archives) a,
            (SELECT coalesce(sum(seq), 0) AS counted, coalesce(sum(balance), 0) AS opened FROM openings) o
        WHERE (count, cents) <> (counted, opened)
    """,
    "a key whose first answer needs an entry has that, or a receipt": """
        SELECT t.* FROM transfers t
        LEFT JOIN openings o ON o.wallet_id = coalesce(t.source, t.destination)
        LEFT JOIN receipts r ON r.transfer_id = t.id
        WHERE t.status = 'posted' AND t.idempotency_key IS NOT NULL
            AND (coalesce(t.source_seq, t.destination_seq) <= coalesce(o.seq, 0)) <> (r.balance IS NOT NULL)
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
        WHERE t.status = 'posted' AND t.source IS NOT NULL AND e.seq IS NULL AND NOT EXISTS (
            SELECT FROM openings o WHERE o.wallet_id = t.source AND o.seq >= t.source_seq)
    """,
    "a posted transfer has its entry on the destination": """
        SELECT t.* FROM transfers t
        LEFT JOIN entries e ON e.wallet_id = t.destination AND e.seq = t.destination_seq AND e.transfer_id = t.id
            AND e.amount = t.amount AND e.counterparty IS NOT DISTINCT FROM t.source
            AND e.type = CASE t.kind WHEN 'deposit' THEN 1 WHEN 'transfer' THEN 3 END
        WHERE t.status = 'posted' AND t.destination IS NOT NULL AND e.seq IS NULL AND NOT EXISTS (
            SELECT FROM openings o WHERE o.wallet_id = t.destination AND o.seq >= t.destination_seq)
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
        SELECT balances, made, left_made FROM
            (SELECT coalesce(sum(balance), 0) AS balances FROM wallets) w,
            (SELECT coalesce(sum(CASE kind WHEN 'deposit' THEN amount WHEN 'withdrawal' THEN -amount END), 0) AS made
            FROM transfers WHERE status = 'posted') t,
            (SELECT coalesce(sum(made), 0) AS left_made FROM archives) a
        WHERE balances <> made + left_made
    """,
    "no balance is negative": """
        SELECT id, balance FROM wallets WHERE balance < 0
        UNION ALL SELECT wallet_id, balance_after FROM entries WHERE balance_after < 0
        UNION ALL SELECT wallet_id, balance FROM openings WHERE balance < 0
    """,
    "no transfer is told to have ended for good twice": """
        SELECT e.id, count(*) FROM event_batches b, unnest(b.transfers) AS e (id)
        WHERE b.snapshots IS NULL GROUP BY e.id HAVING count(*) > 1
    """,
    "what is told to have ended for good has": """
        SELECT t.* FROM event_batches b, unnest(b.transfers) AS e (id) JOIN transfers t ON t.id = e.id
        WHERE b.snapshots IS NULL AND t.status NOT IN ('posted', 'rejected')
    """,
    "events of a wallet are in the order of its entries": """
        WITH told AS (
            SELECT t.*, row_number() OVER (ORDER BY b.position NULLS LAST, b.id, e.number) AS place
            FROM event_batches b, unnest(b.transfers) WITH ORDINALITY AS e (id, number) JOIN transfers t ON t.id = e.id
            WHERE t.status = 'posted' AND b.snapshots IS NULL
        ), sides AS (
            SELECT source AS wallet_id, source_seq AS seq, place FROM told WHERE source IS NOT NULL
            UNION ALL SELECT destination, destination_seq, place FROM told WHERE destination IS NOT NULL
        )
        SELECT * FROM (
            SELECT wallet_id, seq, lag(seq) OVER (PARTITION BY wallet_id ORDER BY place) AS before FROM sides
        ) chain WHERE before >= seq
    """,
    "events are numbered from 1 on without a gap": """
        SELECT last_event, forgotten, counted.* FROM event_head, (
            SELECT sum(cardinality(transfers)) AS events, min(position) AS first,
                max(position + cardinality(transfers) - 1) AS last
            FROM event_batches WHERE position IS NOT NULL
        ) counted WHERE coalesce(events, 0) <> last_event - forgotten OR first <> forgotten + 1 OR last <> last_event
    """,
    "what was given back of a transfer is what its reversals have moved, and no more than it": """
        SELECT t.id, t.amount, t.reversed_amount, r.given_back FROM transfers t
        LEFT JOIN (SELECT reverses, sum(amount) AS given_back FROM transfers
            WHERE status = 'posted' AND reverses IS NOT NULL GROUP BY reverses) r ON r.reverses = t.id
        WHERE t.reversed_amount > t.amount OR (t.reversed_amount IS NOT NULL AND t.status <> 'posted')
            OR (coalesce(t.reversed_amount, 0) <> coalesce(r.given_back, 0) AND NOT EXISTS (SELECT FROM archives))
    """,
    "a reversal moves money back where it came from, and is given back by none": """
        SELECT r.* FROM transfers r LEFT JOIN transfers t ON t.id = r.reverses WHERE r.reverses IS NOT NULL AND (
            r.reversed_amount IS NOT NULL OR t.reverses IS NOT NULL
            OR (r.source, r.destination) IS DISTINCT FROM (t.destination, t.source)
        ) AND (t.id IS NOT NULL OR NOT EXISTS (SELECT FROM archives))
    """,
    "a bulk counts its transfers, all of them, by how they have ended": """
        SELECT b.*, t.* FROM bulks b LEFT JOIN LATERAL (
            SELECT count(*) AS n, sum(amount) AS cents, min(source) AS payer, max(source) AS other_payer,
                count(*) FILTER (WHERE status = 'posted') AS posted,
                count(*) FILTER (WHERE status = 'failed') AS failed,
                count(*) FILTER (WHERE status = 'rejected') AS rejected,
                count(*) FILTER (WHERE status = 'canceled') AS canceled
            FROM transfers WHERE bulk_id = b.id
        ) t ON true
        WHERE NOT EXISTS (SELECT FROM archives) AND (
            (b.count, b.amount, b.user_id, b.user_id, b.posted, b.rejected, b.failed, b.canceled)
            IS DISTINCT FROM (t.n, t.cents, t.payer, t.other_payer, t.posted, t.rejected, t.failed, t.canceled))
    """,
    "what is found by a reference is what has it": """
        SELECT transfer_id, reference, created_at FROM (
            SELECT id AS transfer_id, created_at, source, destination, reference FROM transfers
            WHERE reference IS NOT NULL
        ) has FULL JOIN transfer_references found USING (transfer_id, created_at, reference)
        WHERE has.reference IS NULL OR found.reference IS NULL
            OR (has.source, has.destination) IS DISTINCT FROM (found.source, found.destination)
    """,
    "of an atomic bulk all is posted, or nothing": """
        SELECT * FROM bulks WHERE atomic AND (
            posted NOT IN (0, count) OR rejected NOT IN (0, count) OR failed NOT IN (0, count) OR canceled > 0)
    """,
    "a wallet is frozen as the last change of that says": """
        SELECT w.id, w.debits_frozen, w.credits_frozen, f.debits, f.credits FROM wallets w
        LEFT JOIN (SELECT DISTINCT ON (wallet_id) * FROM freezes ORDER BY wallet_id, id DESC) f ON f.wallet_id = w.id
        WHERE (w.debits_frozen, w.credits_frozen) <> (coalesce(f.debits, false), coalesce(f.credits, false))
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
    # Every row is asked for, and nothing may be known yet of tables that have just been filled: taken to be empty, one
    # would be walked through for each row of another.
    connection.execute(text("SET LOCAL enable_nestloop = off"))
    connection.execute(text("SET LOCAL jit = off"))
    found = {
        promise: [str(row._mapping) for row in connection.execute(text(f"{query} LIMIT 5"))]
        for promise, query in CHECKS.items()
    }
    return {promise: rows for promise, rows in found.items() if rows}
