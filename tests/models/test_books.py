"""tests/books.py can fail: every promise is broken by hand, and it says so."""

from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine, text

from models.ledger.orders import Orders
from models.ledger.transfer import Details
from tests.books import CHECKS, BooksDoNotBalanceError, broken_promises, check_books
from tests.models.ledger.ordering import deposit, later, transfer, withdrawal

OVERDRAWN = """
    ALTER TABLE wallets DROP CONSTRAINT wallets_balance_not_negative;
    UPDATE wallets SET balance = -1 WHERE id = 1
"""

# What is done to the books, and the promise that it breaks (others may break with it).
CRIMES = [
    ("UPDATE wallets SET balance = balance + 1 WHERE id = 1", "a balance is the sum of its entries"),
    ("UPDATE wallets SET balance = balance - 1 WHERE id = 1", "a balance is the sum of its entries"),
    ("INSERT INTO wallets (id, balance) VALUES (9, 1)", "a balance is the sum of its entries"),
    ("UPDATE entries SET amount = amount + 1 WHERE wallet_id = 1 AND seq = 1", "a balance is the sum of its entries"),
    ("UPDATE wallets SET balance = balance + 1 WHERE id = 1", "a balance is what its newest entry says"),
    ("INSERT INTO wallets (id, balance) VALUES (9, 1)", "a balance is what its newest entry says"),
    (
        "UPDATE entries SET balance_after = 1 WHERE wallet_id = 1 AND seq = 3",
        "a balance is what its newest entry says",
    ),
    ("UPDATE wallets SET version = version + 1 WHERE id = 1", "a version counts the wallet's entries"),
    ("INSERT INTO wallets (id, version) VALUES (9, 1)", "a version counts the wallet's entries"),
    ("DELETE FROM entries WHERE wallet_id = 1 AND seq = 2", "a version counts the wallet's entries"),
    ("DELETE FROM entries WHERE wallet_id = 1 AND seq = 1", "seq runs up to the version without a gap"),
    ("DELETE FROM entries WHERE wallet_id = 1 AND seq = 2", "seq runs up to the version without a gap"),
    ("DELETE FROM entries WHERE wallet_id = 1 AND seq = 3", "seq runs up to the version without a gap"),
    ("UPDATE entries SET seq = 7 WHERE wallet_id = 1 AND seq = 3", "seq runs up to the version without a gap"),
    (
        "UPDATE entries SET balance_after = balance_after + 1 WHERE wallet_id = 1 AND seq = 1",
        "every entry goes on from the balance before it",
    ),
    (
        "UPDATE entries SET amount = amount - 1 WHERE wallet_id = 1 AND seq = 2",
        "every entry goes on from the balance before it",
    ),
    (
        "UPDATE entries SET created_at = created_at - interval '1 hour' WHERE wallet_id = 1 AND seq = 2",
        "a wallet's entries are in order of time",
    ),
    ("DELETE FROM wallets WHERE id = 2", "every entry is on a wallet that exists"),
    ("UPDATE transfers SET amount = amount + 1 WHERE kind = 'transfer' AND status = 'posted'",
     "a posted transfer has its entry on the source"),
    ("UPDATE transfers SET source_seq = 1 WHERE kind = 'transfer' AND status = 'posted'",
     "a posted transfer has its entry on the source"),
    ("UPDATE transfers SET destination = 3 WHERE kind = 'transfer' AND status = 'posted'",
     "a posted transfer has its entry on the source"),
    ("UPDATE transfers SET kind = 'transfer', destination = 2, destination_seq = 1 WHERE kind = 'withdrawal'",
     "a posted transfer has its entry on the source"),
    ("DELETE FROM entries WHERE type = 2", "a posted transfer has its entry on the source"),
    ("UPDATE entries SET transfer_id = 1 WHERE type = 2", "a posted transfer has its entry on the source"),
    ("UPDATE entries SET counterparty = 3 WHERE type = 3 AND amount < 0",
     "a posted transfer has its entry on the source"),
    ("UPDATE entries SET type = 3, counterparty = 2 WHERE type = 2", "a posted transfer has its entry on the source"),
    ("UPDATE transfers SET amount = amount + 1 WHERE kind = 'deposit'",
     "a posted transfer has its entry on the destination"),
    ("UPDATE transfers SET destination_seq = 9 WHERE kind = 'transfer' AND status = 'posted'",
     "a posted transfer has its entry on the destination"),
    ("DELETE FROM entries WHERE type = 1", "a posted transfer has its entry on the destination"),
    ("UPDATE entries SET counterparty = 3 WHERE type = 3 AND amount > 0",
     "a posted transfer has its entry on the destination"),
    ("UPDATE entries SET type = 3, counterparty = 7 WHERE type = 1",
     "a posted transfer has its entry on the destination"),
    ("DELETE FROM transfers WHERE kind = 'withdrawal'", "every entry is one that a posted transfer points to"),
    ("UPDATE transfers SET source_seq = 1 WHERE kind = 'withdrawal'",
     "every entry is one that a posted transfer points to"),
    (
        # A second pair of entries for one transfer: the sums still agree.
        """
        INSERT INTO entries (wallet_id, seq, transfer_id, counterparty, type, amount, balance_after)
        SELECT w.id, w.version + 1, t.id, 3 - w.id, 3, CASE w.id WHEN 1 THEN -1 ELSE 1 END,
            w.balance + CASE w.id WHEN 1 THEN -1 ELSE 1 END
        FROM wallets w, transfers t WHERE t.kind = 'transfer' AND t.status = 'posted' AND w.id IN (1, 2);
        UPDATE wallets SET balance = balance + CASE id WHEN 1 THEN -1 ELSE 1 END, version = version + 1
        """,
        "every entry is one that a posted transfer points to",
    ),
    (
        """
        UPDATE transfers SET status = 'pending', completed_at = NULL, source_seq = NULL, destination_seq = NULL
        WHERE kind = 'transfer'
        """,
        "a transfer that is not posted has no entries",
    ),
    (
        """
        ALTER TABLE transfers DROP CONSTRAINT transfers_source_entry_iff_posted;
        UPDATE transfers SET source_seq = 1 WHERE status = 'pending'
        """,
        "a transfer that is not posted has no entries",
    ),
    (
        """
        ALTER TABLE transfers DROP CONSTRAINT transfers_destination_entry_iff_posted;
        UPDATE transfers SET destination_seq = 1 WHERE status = 'pending'
        """,
        "a transfer that is not posted has no entries",
    ),
    ("UPDATE wallets SET balance = balance + 1 WHERE id = 1",
     "money only comes in by deposits and goes out by withdrawals"),
    ("UPDATE wallets SET balance = balance - 1 WHERE id = 1",
     "money only comes in by deposits and goes out by withdrawals"),
    ("UPDATE transfers SET amount = amount + 1 WHERE kind = 'deposit'",
     "money only comes in by deposits and goes out by withdrawals"),
    ("UPDATE transfers SET amount = amount + 1 WHERE kind = 'withdrawal'",
     "money only comes in by deposits and goes out by withdrawals"),
    (OVERDRAWN, "no balance is negative"),
    (
        """
        ALTER TABLE entries DROP CONSTRAINT entries_balance_not_negative;
        UPDATE entries SET balance_after = -1 WHERE wallet_id = 1 AND seq = 2
        """,
        "no balance is negative",
    ),
    (
        """
        ALTER TABLE transfers DROP CONSTRAINT transfers_amount_positive;
        UPDATE transfers SET amount = 0 WHERE status = 'pending'
        """,
        "no amount ordered is below 1",
    ),
    ("INSERT INTO event_batches (transfers, created_at) SELECT transfers, created_at FROM event_batches LIMIT 1",
     "no transfer is told to have ended for good twice"),
    ("INSERT INTO event_batches (transfers, created_at) SELECT ARRAY[id], now() FROM transfers WHERE attempts = 0",
     "what is told to have ended for good has"),
    ("UPDATE event_batches b SET position = 5 - (SELECT count(*) FROM event_batches older WHERE older.id < b.id)",
     "events of a wallet are in the order of its entries"),
    ("UPDATE event_batches SET position = 2 WHERE id = (SELECT min(id) FROM event_batches)",
     "events are numbered from 1 on without a gap"),
    ("UPDATE event_head SET last_event = last_event + 1", "events are numbered from 1 on without a gap"),
    ("INSERT INTO openings VALUES (9, 1, 1, now(), 1)",
     "an opening is a wallet's that exists, and an archive's that is known"),
    ("INSERT INTO archives VALUES (1, now(), now(), 1, 0, 0, 0, sha256(''))",
     "archives and openings count the same entries and cents"),
    (
        """
        UPDATE transfers SET idempotency_key = 'k', request_hash = '' WHERE kind = 'withdrawal';
        INSERT INTO receipts SELECT id, 70 FROM transfers WHERE kind = 'withdrawal'
        """,
        "a key whose first answer needs an entry has that, or a receipt",
    ),
    ("UPDATE transfers SET reversed_amount = 7 WHERE kind = 'transfer' AND status = 'posted'",
     "what was given back of a transfer is what its reversals have moved, and no more than it"),
    ("UPDATE transfers SET reverses = (SELECT min(id) FROM transfers) WHERE kind = 'transfer' AND status = 'posted'",
     "a reversal moves money back where it came from, and is given back by none"),
    ("INSERT INTO bulks (id, user_id, count, amount, atomic) VALUES (7, 1, 2, 9, false)",
     "a bulk counts its transfers, all of them, by how they have ended"),
    ("INSERT INTO bulks (id, user_id, count, amount, atomic, posted) VALUES (7, 1, 2, 9, true, 1)",
     "of an atomic bulk all is posted, or nothing"),
    ("DELETE FROM transfer_references", "what is found by a reference is what has it"),
    ("UPDATE transfer_references SET reference = 'another'", "what is found by a reference is what has it"),
    ("UPDATE transfer_references SET source = NULL", "what is found by a reference is what has it"),
    ("UPDATE transfers SET created_at = created_at - interval '1 s'", "what is found by a reference is what has it"),
    ("INSERT INTO transfer_references VALUES (9, now(), 1, 2, 'of none')",
     "what is found by a reference is what has it"),
    ("UPDATE wallets SET debits_frozen = true WHERE id = 1", "a wallet is frozen as the last change of that says"),
]  # fmt: skip


@pytest.fixture
def honest_books(orders: Orders) -> None:
    """Wallet 1 has three entries, wallet 2 two; a transfer waits."""
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 5))
    orders.execute(withdrawal(1, 30))
    orders.execute(transfer(1, 2, 20))  # 100 - 30 - 20 = 50, 5 + 20 = 25
    orders.accept(replace(later(1, 2, 10), details=Details(reference="invoice 7")))


@pytest.mark.usefixtures("honest_books")
def test_honest_books_pass(engine: Engine) -> None:
    check_books(engine)


def test_empty_books_pass(engine: Engine) -> None:
    check_books(engine)


@pytest.mark.usefixtures("honest_books")
@pytest.mark.parametrize(("crime", "promise"), CRIMES)
def test_every_crime_is_found(connection: Connection, crime: str, promise: str) -> None:
    assert not broken_promises(connection)
    connection.execute(text(crime))
    assert promise in broken_promises(connection)


def test_every_promise_has_been_broken() -> None:
    assert {promise for _, promise in CRIMES} == set(CHECKS)


@pytest.mark.usefixtures("honest_books")
def test_a_committed_crime_raises_and_is_named(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE wallets SET balance = 51 WHERE id = 1"))
    with pytest.raises(BooksDoNotBalanceError, match=r"a balance is the sum of its entries: .*'balance': 51"):
        check_books(engine)
