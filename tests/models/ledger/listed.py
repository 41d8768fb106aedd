"""Transfers to be found, written past the service: many, of all kinds, in every status, accepted at any instant."""

from datetime import UTC, datetime

from sqlalchemy import Connection, text

# The first of them; each comes so much later than the one before that ids and instants go together.
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)

# n is the number of a transfer, from 1 on. Users are 1 to :users; every seventh is a deposit, every eleventh a
# withdrawal; one in ten is not posted. Of the references, one is popular.
_FILL = text("""
INSERT INTO transfers (id, kind, source, destination, amount, status, reason, source_seq, destination_seq, created_at,
    completed_at, idempotency_key, request_hash, reference, bulk_id)
SELECT (floor(extract(epoch FROM at) * 1000)::bigint - 1767225600000) * 4194304 + n % 4096, kind,
    CASE WHEN kind <> 'deposit' THEN payer END, CASE WHEN kind <> 'withdrawal' THEN payee END, 1 + n * 7919 % 1000,
    status, CASE WHEN status IN ('rejected', 'failed') THEN 'balance_insufficient' END,
    CASE WHEN status = 'posted' AND kind <> 'deposit' THEN n END,
    CASE WHEN status = 'posted' AND kind <> 'withdrawal' THEN n END,
    at, CASE WHEN status <> 'pending' THEN at END,
    CASE WHEN n % 3 = 0 THEN 'key-' || n END, CASE WHEN n % 3 = 0 THEN 'hash'::bytea END,
    CASE WHEN n % 5 = 0 THEN 'popular' WHEN n % 5 = 1 THEN 'invoice-' || n / 50 END,
    CASE WHEN n % 4 = 0 THEN 1 + n / 400 END
FROM (
    SELECT n, :begin + n * :apart_s * interval '1 s' AS at,
        CASE WHEN n % 7 = 0 THEN 'deposit' WHEN n % 11 = 0 THEN 'withdrawal' ELSE 'transfer' END AS kind,
        1 + drawn % :users AS payer, 1 + (drawn + 1 + n % (:users - 1)) % :users AS payee,
        CASE n % 40 WHEN 3 THEN 'pending' WHEN 13 THEN 'rejected' WHEN 23 THEN 'failed' WHEN 33 THEN 'canceled'
            ELSE 'posted' END AS status
    FROM (SELECT n, n * 40503 % 65521 AS drawn FROM generate_series(CAST(:first AS bigint), :last) AS n) AS numbers
) AS made
""")

# As an import leaves them: one key for all. The first is what administrators have put back under it.
_SHARE = text("""
INSERT INTO transfers (id, kind, destination, amount, status, destination_seq, created_at, completed_at,
    idempotency_key, request_hash, key_owner, reverses)
SELECT (floor(extract(epoch FROM at) * 1000)::bigint - 1767225600000) * 4194304 + n % 4096, 'deposit',
    CASE n WHEN 1 THEN 1 ELSE 1000 + n * 7919 % 65521 END, 1 + n * 7919 % 1000, 'posted', n, at, at,
    'shared', 'hash', CASE n WHEN 1 THEN 0 END, CASE n WHEN 1 THEN 1 END
FROM (SELECT n, :begin + (n + 0.5) * interval '1 s' AS at FROM generate_series(1, :count) AS n) AS made
""")


def fill(connection: Connection, count: int, *, users: int, first: int = 1, apart_s: float = 1.0) -> None:
    """Write transfers number ``first`` and following, so many seconds apart."""
    asked = {"first": first, "last": first + count - 1, "users": users, "begin": BEGIN, "apart_s": apart_s}
    connection.execute(_FILL, asked)


def share(connection: Connection, count: int) -> None:
    """Write deposits under the key ``shared``, each of a user of his own; the first is administrators', to user 1."""
    connection.execute(_SHARE, {"count": count, "begin": BEGIN})
