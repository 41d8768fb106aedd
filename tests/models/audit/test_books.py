"""The audit of the books: every invariant, broken by hand, is named; and nothing that is honest ever is."""

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from models.audit import books
from models.audit.audit import MAX_IDS, run_slice, run_whole
from models.audit.books import BooksCheck
from models.errors import Refused
from models.ledger.orders import Orders
from models.ledger.transfer import MAX_ID, Details
from models.snowflake.ids import Snowflake
from tests.books import check_books
from tests.jobs.backlog import locked
from tests.models.audit.auditing import audit, begun, broken
from tests.models.ledger.archiving import age, archive
from tests.models.ledger.ordering import bounded_engine, deposit, later, transfer, uncommitted, withdrawal
from tests.models.ledger.test_concurrency import WALLETS, Storm

INVARIANTS = {
    "amount_is_positive",
    "balance_equals_entries",
    "balance_not_negative",
    "bulk_counts_transfers",
    "entry_has_posted_transfer",
    "entry_has_wallet",
    "freeze_is_recorded",
    "money_is_conserved",
    "posted_has_entries",
    "reference_is_findable",
    "reversals_within_original",
    "running_balance",
    "seq_without_gaps",
    "unposted_has_no_entries",
    "version_counts_entries",
}
# Ids of transfers are Snowflakes: what stands for them in a crime's expectations.
POSTED, WITHDRAWN, WAITING, FIRST = "the transfer", "the withdrawal", "what waits", "the first deposit"

# What is done to the books below, and all that is then found broken, by which ids.
CRIMES: list[tuple[str, dict[str, list[str]]]] = [
    ("UPDATE wallets SET balance = balance + 1 WHERE id = 1", {"balance_equals_entries": ["1"]}),
    ("UPDATE wallets SET balance = balance - 1 WHERE id = 1", {"balance_equals_entries": ["1"]}),
    ("INSERT INTO wallets (id, balance) VALUES (9, 1)", {"balance_equals_entries": ["9"]}),
    ("UPDATE wallets SET version = version + 1 WHERE id = 1", {"version_counts_entries": ["1"]}),
    ("INSERT INTO wallets (id, version) VALUES (9, 1)", {"version_counts_entries": ["9"]}),
    (
        # Everything that points to it moves along.
        """
        UPDATE entries SET seq = 4 WHERE wallet_id = 1 AND seq = 3;
        UPDATE transfers SET source_seq = 4 WHERE kind = 'transfer' AND status = 'posted';
        UPDATE wallets SET version = 4 WHERE id = 1
        """,
        {"seq_without_gaps": ["1-4"]},
    ),
    (
        "UPDATE entries SET balance_after = balance_after + 1 WHERE wallet_id = 1 AND seq = 2",
        {"running_balance": ["1-2", "1-3"]},
    ),
    (
        "UPDATE entries SET balance_after = balance_after + 1 WHERE wallet_id = 1 AND seq = 1",
        {"running_balance": ["1-1", "1-2"]},
    ),
    (
        # All but the sign is in order: 100 - 130 - 20 = -50.
        """
        ALTER TABLE wallets DROP CONSTRAINT wallets_balance_not_negative;
        ALTER TABLE entries DROP CONSTRAINT entries_balance_not_negative;
        UPDATE transfers SET amount = 130 WHERE kind = 'withdrawal';
        UPDATE entries SET amount = -130 WHERE type = 2;
        UPDATE entries SET balance_after = balance_after - 100 WHERE wallet_id = 1 AND seq > 1;
        UPDATE wallets SET balance = -50 WHERE id = 1
        """,
        {"balance_not_negative": ["1", "1-2", "1-3"]},
    ),
    ("DELETE FROM wallets WHERE id = 1", {"entry_has_wallet": ["1-1", "1-2", "1-3"]}),
    (
        # A second pair of entries for one transfer: the sums still agree.
        """
        INSERT INTO entries (wallet_id, seq, transfer_id, counterparty, type, amount, balance_after)
        SELECT w.id, w.version + 1, t.id, 3 - w.id, 3, CASE w.id WHEN 1 THEN -1 ELSE 1 END,
            w.balance + CASE w.id WHEN 1 THEN -1 ELSE 1 END
        FROM wallets w, transfers t WHERE t.kind = 'transfer' AND t.status = 'posted' AND w.id IN (1, 2);
        UPDATE wallets SET balance = balance + CASE id WHEN 1 THEN -1 ELSE 1 END, version = version + 1
        """,
        {"entry_has_posted_transfer": ["1-4", "2-3"]},
    ),
    (
        "DELETE FROM transfers WHERE kind = 'transfer' AND status = 'posted'",
        {"entry_has_posted_transfer": ["1-3", "2-2"]},
    ),
    (
        "DELETE FROM transfers WHERE kind = 'withdrawal'",
        {"entry_has_posted_transfer": ["1-2"], "money_is_conserved": []},
    ),
    (
        "UPDATE transfers SET source_seq = 1 WHERE kind = 'withdrawal'",
        {"entry_has_posted_transfer": ["1-2"], "posted_has_entries": [WITHDRAWN]},
    ),
    ("UPDATE entries SET counterparty = 3 WHERE type = 3 AND amount < 0", {"posted_has_entries": [POSTED]}),
    ("UPDATE entries SET counterparty = 3 WHERE type = 3 AND amount > 0", {"posted_has_entries": [POSTED]}),
    ("UPDATE entries SET type = 3, counterparty = 7 WHERE type = 1 AND amount = 100", {"posted_has_entries": [FIRST]}),
    ("UPDATE transfers SET amount = 21 WHERE status = 'posted' AND amount = 20", {"posted_has_entries": [POSTED]}),
    (
        "UPDATE transfers SET amount = 31 WHERE kind = 'withdrawal'",
        {"posted_has_entries": [WITHDRAWN], "money_is_conserved": []},
    ),
    (
        "UPDATE transfers SET amount = 101 WHERE kind = 'deposit' AND amount = 100",
        {"posted_has_entries": [FIRST], "money_is_conserved": []},
    ),
    (
        # A wallet that is gone with all that it had: only its transfers remember.
        "DELETE FROM entries WHERE wallet_id = 1; DELETE FROM wallets WHERE id = 1",
        {"posted_has_entries": [FIRST, POSTED, WITHDRAWN], "money_is_conserved": []},
    ),
    (
        # Its newest entry is gone, and nobody told the wallet.
        "DELETE FROM entries WHERE wallet_id = 1 AND seq = 3",
        {
            "balance_equals_entries": ["1"],
            "version_counts_entries": ["1"],
            "posted_has_entries": [POSTED],
            "money_is_conserved": [],
        },
    ),
    (
        """
        UPDATE transfers SET status = 'pending', completed_at = NULL, source_seq = NULL, destination_seq = NULL
        WHERE kind = 'transfer'
        """,
        {"unposted_has_no_entries": [POSTED]},
    ),
    (
        """
        ALTER TABLE transfers DROP CONSTRAINT transfers_destination_entry_iff_posted;
        UPDATE transfers SET destination_seq = 1 WHERE status = 'pending'
        """,
        {"unposted_has_no_entries": [WAITING]},
    ),
    (
        """
        ALTER TABLE transfers DROP CONSTRAINT transfers_amount_positive;
        UPDATE transfers SET amount = 0 WHERE status = 'pending'
        """,
        {"amount_is_positive": [WAITING]},
    ),
    # Frozen, let go, and frozen otherwise, without a word.
    ("UPDATE wallets SET debits_frozen = true WHERE id = 1", {"freeze_is_recorded": ["1"]}),
    (
        "INSERT INTO freezes (wallet_id, debits, credits, reason, by) VALUES (2, false, true, 'why', 'me')",
        {"freeze_is_recorded": ["2"]},
    ),
    (
        """
        INSERT INTO freezes (wallet_id, debits, credits, reason, by) VALUES (1, false, true, 'why', 'me');
        INSERT INTO freezes (wallet_id, debits, credits, reason, by) VALUES (1, true, false, 'why', 'me');
        UPDATE wallets SET credits_frozen = true WHERE id = 1
        """,
        {"freeze_is_recorded": ["1"]},
    ),
    # More was given back than any reversal has moved; a reversal that counts nowhere, is of another, or of itself.
    ("UPDATE transfers SET reversed_amount = 7 WHERE amount = 20", {"reversals_within_original": [POSTED]}),
    (
        """
        ALTER TABLE transfers DROP CONSTRAINT transfers_reversed_within_amount;
        UPDATE transfers SET reversed_amount = 21 WHERE amount = 20
        """,
        {"reversals_within_original": [POSTED]},
    ),
    (
        "UPDATE transfers SET reverses = (SELECT id FROM transfers WHERE amount = 100) WHERE kind = 'withdrawal'",
        {"reversals_within_original": [WITHDRAWN]},
    ),
    (
        """
        UPDATE transfers SET reverses = (SELECT id FROM transfers WHERE amount = 100) WHERE kind = 'withdrawal';
        UPDATE transfers SET reversed_amount = 31 WHERE amount = 100
        """,
        {"reversals_within_original": [FIRST]},
    ),
    (
        """
        UPDATE transfers SET reverses = (SELECT id FROM transfers WHERE amount = 20) WHERE kind = 'withdrawal';
        UPDATE transfers SET reversed_amount = 20 WHERE amount = 20
        """,
        {"reversals_within_original": [POSTED, WITHDRAWN]},
    ),
    ("DELETE FROM transfer_references", {"reference_is_findable": [WAITING]}),
    ("UPDATE transfer_references SET destination = 3", {"reference_is_findable": [WAITING]}),
    ("UPDATE transfers SET reference = 'another' WHERE kind = 'withdrawal'", {"reference_is_findable": [WITHDRAWN]}),
    # A bulk that has more than it says, and one that has fewer.
    (
        """
        INSERT INTO bulks (id, user_id, count, amount, atomic) VALUES (7, 1, 2, 9, false);
        UPDATE transfers SET bulk_id = 7 WHERE kind = 'transfer'
        """,
        {"bulk_counts_transfers": ["7"]},
    ),
    (
        "INSERT INTO bulks (id, user_id, count, amount, atomic) VALUES (7, 1, 2, 9, false)",
        {"bulk_counts_transfers": ["7"]},
    ),
    ("UPDATE transfers SET reverses = 5 WHERE kind = 'withdrawal'", {"reversals_within_original": [WITHDRAWN]}),
]
LIMITS = (1, 2, 3, 2_000)


@pytest.fixture(autouse=True)
def no_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grand total takes in what was posted just now."""
    monkeypatch.setattr(books, "CUT_AGE_S", 0.0)


@pytest.fixture
def scene(own_database_url: str) -> Iterator[Engine]:
    """An engine on a database of this test's own, where crimes may be committed."""
    with bounded_engine(own_database_url) as engine:
        yield engine


def honest_books(engine: Engine, ids: Snowflake) -> dict[str, str]:
    """Give wallet 1 three entries, wallet 2 two, let a transfer wait; and return transfers by their names."""
    orders = Orders(engine, ids)
    first = orders.execute(deposit(1, 100)).transfer_id
    orders.execute(deposit(2, 5))
    withdrawn = orders.execute(withdrawal(1, 30)).transfer_id
    posted = orders.execute(transfer(1, 2, 20)).transfer_id  # 100 - 30 - 20 = 50, 5 + 20 = 25
    waiting = orders.accept(replace(later(1, 2, 10), details=Details(reference="r"))).transfer_id
    return {FIRST: str(first), WITHDRAWN: str(withdrawn), POSTED: str(posted), WAITING: str(waiting)}


@pytest.mark.parametrize(("crime", "expected"), CRIMES)
def test_a_crime_is_found_and_named_and_nothing_else_is(
    scene: Engine, snowflake: Snowflake, crime: str, expected: dict[str, list[str]]
) -> None:
    names = honest_books(scene, snowflake)
    checks = [BooksCheck(scene)]
    assert broken(checks) == {}
    with scene.begin() as connection:
        connection.execute(text(crime))
    named = {invariant: sorted(names.get(each, each) for each in ids) for invariant, ids in expected.items()}
    # However it is sliced.
    for limit in LIMITS:
        found = audit(checks, limit=limit).findings
        assert {name: sorted(each.ids) for name, each in found.items()} == named, limit
        assert {name: each.count for name, each in found.items()} == {
            name: max(len(ids), 1) for name, ids in named.items()
        }
        assert all(each.invariant == name and each.detail for name, each in found.items())


# The same where entries have left: wallet 1 opens with 50 after its third and has a fourth, wallet 2 has none.
KEYED = "the transfer with a key"
CRIMES_AFTERWARDS: list[tuple[str, dict[str, list[str]]]] = [
    (
        "UPDATE openings SET balance = balance + 1 WHERE wallet_id = 1",
        {"balance_equals_entries": ["1"], "running_balance": ["1-4"], "money_is_conserved": []},
    ),
    (
        "UPDATE openings SET balance = balance + 1 WHERE wallet_id = 2",
        {"balance_equals_entries": ["2"], "money_is_conserved": []},
    ),
    ("UPDATE openings SET seq = 2 WHERE wallet_id = 1", {"seq_without_gaps": ["1-4"], "posted_has_entries": [KEYED]}),
    ("UPDATE openings SET seq = 3 WHERE wallet_id = 2", {"version_counts_entries": ["2"]}),
    (
        "DELETE FROM openings WHERE wallet_id = 1",
        {
            "balance_equals_entries": ["1"],
            "running_balance": ["1-4"],
            "seq_without_gaps": ["1-4"],
            "posted_has_entries": [KEYED],
            "money_is_conserved": [],
        },
    ),
    (
        # More than has left: the fourth entry is gone as well, and nobody wrote it down.
        "UPDATE openings SET seq = 4 WHERE wallet_id = 1; DELETE FROM entries WHERE wallet_id = 1",
        {"balance_equals_entries": ["1"], "money_is_conserved": []},
    ),
    (
        # Openings, entries and wallets agree on a cent that nobody has made.
        """
        UPDATE openings SET balance = balance + 1 WHERE wallet_id = 1;
        UPDATE entries SET balance_after = balance_after + 1 WHERE wallet_id = 1;
        UPDATE wallets SET balance = balance + 1 WHERE id = 1
        """,
        {"money_is_conserved": []},
    ),
    ("UPDATE archives SET made = made + 1", {"money_is_conserved": []}),
    (
        "UPDATE transfers SET source_seq = 5 WHERE idempotency_key IS NOT NULL",
        {"posted_has_entries": [KEYED]},
    ),
]


@pytest.mark.parametrize(("crime", "expected"), CRIMES_AFTERWARDS)
def test_a_crime_is_found_where_entries_have_left(
    scene: Engine, snowflake: Snowflake, tmp_path: Path, crime: str, expected: dict[str, list[str]]
) -> None:
    orders = Orders(scene, snowflake)
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 5))
    orders.execute(withdrawal(1, 30))
    names = {str(orders.execute(transfer(1, 2, 20, key="k")).transfer_id): KEYED}
    age(scene)
    orders.execute(deposit(1, 1))
    archive(scene, tmp_path)
    checks = [BooksCheck(scene)]
    assert broken(checks) == {}
    with scene.begin() as connection:
        connection.execute(text(crime))
    for limit in LIMITS:
        found = broken(checks, limit=limit)
        assert {name: [names.get(each, each) for each in ids] for name, ids in found.items()} == expected, limit


def test_every_invariant_has_been_broken() -> None:
    assert {invariant for _, expected in CRIMES for invariant in expected} == INVARIANTS


def test_of_many_offenders_some_are_named_and_all_are_counted(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO wallets (id, balance) SELECT generate_series(1, 90), 1"))
    for limit in (7, 2_000):
        (found,) = audit([BooksCheck(engine)], limit=limit).findings.values()
        assert (found.invariant, found.count, len(found.ids)) == ("balance_equals_entries", 90, MAX_IDS)


@pytest.mark.parametrize("limit", LIMITS)
def test_empty_books_pass(engine: Engine, limit: int) -> None:
    assert broken([BooksCheck(engine)], limit=limit) == {}


@pytest.mark.parametrize("limit", [1, 2, 5, 13, 2_000])
def test_random_honest_books_pass_however_they_are_sliced_and_all_of_them_is_seen(
    engine: Engine, orders: Orders, limit: int
) -> None:
    rng = random.Random(limit)
    for user in (1, 2, 3, 5, 8, MAX_ID):
        orders.execute(deposit(user, 1_000))
    for _ in range(60):
        source, destination = rng.sample((1, 2, 3, 5, MAX_ID), 2)
        order = rng.choice((transfer, later))(source, destination, rng.randint(1, 900))
        with suppress(Refused):
            (orders.execute if rng.random() < 0.7 else orders.accept)(order)
        if rng.random() < 0.2:
            orders.execute(deposit(destination, 5))
    with engine.begin() as connection:  # a deposit that overflowed opens a wallet and leaves it empty
        connection.execute(text("INSERT INTO wallets (id) VALUES (4), (6), (7), (9)"))
        count = (
            "SELECT (SELECT count(*) FROM wallets), (SELECT count(*) FROM entries), (SELECT count(*) FROM transfers)"
        )
        wallets, entries, transfers = connection.execute(text(count)).one()
    done = audit([BooksCheck(engine)], limit=limit)
    check_books(engine)
    assert done.findings == {}
    assert done.checked == {"wallets": wallets, "entries": entries, "transfers": transfers}


def test_a_wallet_with_many_entries_makes_many_slices_and_not_a_large_one(engine: Engine) -> None:
    """10,000 deposits of one cent, audited 300 at a time; then the 7,777th is wrong."""
    many = 10_000
    with engine.begin() as connection:
        for statement in MANY_ENTRIES:
            connection.execute(text(statement), {"many": many})
    slices = list(run_whole([BooksCheck(engine)], limit=300))
    assert max(done.checked.get("entries", 0) for _, done in slices) == 300
    assert max(done.checked.get("transfers", 0) for _, done in slices) == 300
    assert sum(done.checked.get("entries", 0) for _, done in slices) == many + 1
    assert slices[-1][0].findings == {}
    with engine.begin() as connection:
        connection.execute(text("UPDATE entries SET balance_after = 1 WHERE wallet_id = 5 AND seq = 7777"))
    assert broken([BooksCheck(engine)], limit=300) == {"running_balance": ["5-7777", "5-7778"]}


# Wallet 5 has many entries; wallet 6 has one.
MANY_ENTRIES = (
    "INSERT INTO wallets (id, balance, version) VALUES (5, :many, :many), (6, 1, 1)",
    """
    INSERT INTO transfers (id, kind, destination, amount, status, destination_seq, completed_at)
    SELECT n, 'deposit', 5, 1, 'posted', n, now() FROM generate_series(1, :many) AS n
    UNION ALL SELECT :many + 1, 'deposit', 6, 1, 'posted', 1, now()
    """,
    """
    INSERT INTO entries (wallet_id, seq, transfer_id, type, amount, balance_after)
    SELECT 5, n, n, 1, 1, n FROM generate_series(1, :many) AS n
    UNION ALL SELECT 6, 1, :many + 1, 1, 1, 1
    """,
)


def test_what_is_posted_between_two_slices_is_no_finding(engine: Engine, orders: Orders) -> None:
    """Before every slice money moves: to and fro between what was seen and what was not."""
    for user in (1, 2, 3):
        orders.execute(deposit(user, 1_000))
    for limit in (1, 2, 3):
        checks = [BooksCheck(engine)]
        progress = begun()
        for number, _ in enumerate(run_whole(checks, limit=limit, progress=progress)):
            if number < 60:  # it must be able to end
                orders.execute(transfer(1 + number % 3, 1 + (number + 1) % 3, 7))
                orders.execute(deposit(1 + number % 3, 7))
                orders.execute(withdrawal(1 + number % 3, 3))
        assert progress.findings == {}
    check_books(engine)


def test_whoever_wrote_before_the_cut_is_waited_for(engine: Engine, orders: Orders) -> None:
    """A posting is held back between its write and its commit, and the books are walked through meanwhile."""
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 1))
    late = orders.accept(later(1, 2, 10)).transfer_id
    progress = begun()
    with uncommitted(engine, [late]):
        for _ in range(10):
            assert run_slice([BooksCheck(engine)], progress, limit=1).checked == {}
    audit([BooksCheck(engine)], limit=1, progress=progress)
    assert progress.findings == {}
    assert progress.checked["entries"] == 4  # two deposits, and the posting's two


def test_a_transaction_that_never_ends_costs_the_audit_only_its_grand_total(
    engine: Engine, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders.execute(deposit(1, 100))
    with engine.begin() as connection:
        connection.execute(text("UPDATE transfers SET amount = 101"))
    with monkeypatch.context() as patches, locked(engine, "CREATE TABLE somebody_elses ()"):
        patches.setattr(books, "SEAL_LOOKS", 3)
        done = audit([BooksCheck(engine)])
    assert done.findings.keys() == {"posted_has_entries"}
    assert done.checked["transfers"] == 1
    assert audit([BooksCheck(engine)]).findings.keys() == {"posted_has_entries", "money_is_conserved"}


def test_an_audit_waits_for_no_lock(engine: Engine, orders: Orders) -> None:
    """Neither does it take any: whatever is locked, and by whatever, what was committed can be read."""
    orders.execute(deposit(1, 100))
    # Where the wait for transactions to end is over: whoever holds a row lock is one of them.
    progress = begun(position={"walk": "wallets", "through": MAX_ID})
    with locked(engine, "SELECT FROM wallets FOR UPDATE"), locked(engine, "SELECT FROM transfers FOR UPDATE"):
        audit([BooksCheck(engine)], progress=progress)
    assert progress.findings == {}
    assert progress.checked == {"wallets": 1, "entries": 1, "transfers": 1}


def test_where_an_audit_stands_is_json(engine: Engine, orders: Orders) -> None:
    """After each slice it is taken down, and another check goes on from there."""
    orders.execute(deposit(1, 2**63 - 1))
    orders.execute(deposit(2, 2**63 - 1))
    orders.execute(withdrawal(2, 5))
    progress = begun()
    for _ in run_whole([BooksCheck(engine)], limit=1, progress=progress):
        progress.position = json.loads(json.dumps(progress.position))
    assert progress.findings == {}
    assert progress.checked == {"wallets": 2, "entries": 3, "transfers": 3}


def test_no_false_alarm_while_many_processes_move_money(engine: Engine, orders: Orders) -> None:
    for user in range(1, WALLETS + 1):
        orders.execute(deposit(user, 1_000))
    url = engine.url.render_as_string(hide_password=False)
    checks = [BooksCheck(engine)]
    with ExitStack() as stack:
        storms = [stack.enter_context(Storm(url, seed)) for seed in range(3)]
        for storm in storms:
            storm.wait_until_ready()
        for storm in storms:
            storm.begin()
        for limit in (11, 40, 2_000, 11, 40):
            assert audit(checks, limit=limit).findings == {}
        # They go on until they are asked for their results.
        assert not any(storm.has_ended() for storm in storms)
        faults = [fault for storm in storms for fault in storm.result()["faults"]]
    assert faults == []
    check_books(engine)


def test_a_slice_of_many_wallets_compares_nothing_with_everything(engine: Engine) -> None:
    """After an import there are as many wallets in a slice as entries, whatever PostgreSQL thinks that there are."""
    many = 2_000
    made = (
        "INSERT INTO wallets (id, balance, version) SELECT n, 1, 1 FROM generate_series(1, 2000) AS n",
        (
            "INSERT INTO transfers (id, kind, destination, amount, status, destination_seq, completed_at)"
            " SELECT n, 'deposit', n, 1, 'posted', 1, now() FROM generate_series(1, 2000) AS n"
        ),
        (
            "INSERT INTO entries (wallet_id, seq, transfer_id, type, amount, balance_after)"
            " SELECT n, 1, n, 1, 1, 1 FROM generate_series(1, 2000) AS n"
        ),
    )
    # So PostgreSQL takes its tables for empty.
    gone = (
        "DELETE FROM wallets",
        "DELETE FROM transfers",
        "DELETE FROM entries",
        "ANALYZE wallets, transfers, entries",
    )
    with engine.begin() as connection:
        for statement in (*made, *gone, *made):
            connection.execute(text(statement))
    plans: list[dict[str, Any]] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "standing AS MATERIALIZED" in statement and not statement.startswith("EXPLAIN"):
            explained = connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters
            ).scalar_one()
            plans.append(explained[0]["Plan"])

    event.listen(engine, "before_cursor_execute", explain)
    try:
        done = BooksCheck(engine).run({"walk": "wallets"}, many)
    finally:
        event.remove(engine, "before_cursor_execute", explain)
    assert done.checked["entries"] == many
    ahead, compared = plans, 0
    while ahead:
        node = ahead.pop()
        compared += (node["Actual Rows"] + node.get("Rows Removed by Join Filter", 0)) * node["Actual Loops"]
        ahead += node.get("Plans", [])
    assert compared < 100 * many
