"""Old entries leave for files while the service runs: none is lost, the books stay provable, keys keep their word."""

import itertools
import resource
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2.errors
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

from models.audit import books
from models.audit.audit import Finding, run_whole
from models.audit.books import BooksCheck
from models.errors import NotArchived, TransferNotFound
from models.ledger import archive_file, archives, attempts, events
from models.ledger.attempts import Seen
from models.ledger.history import History
from models.ledger.import_file import Opening
from models.ledger.imports import Imports
from models.ledger.listing import Filters, Listing
from models.ledger.orders import Orders
from models.ledger.settlement import EntryType
from models.ledger.transfer import Details, Order
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from ops.local.processes import wait_for
from tests import nursery
from tests.books import check_books
from tests.jobs.backlog import locked
from tests.models.audit.auditing import begun, broken
from tests.models.ledger.archiving import BEFORE, OLD, age, archive, identified, left_of, openings, proven, rows_of
from tests.models.ledger.ordering import balances, bounded_engine, deposit, later, post_now, transfer, withdrawal
from tests.patience import PATIENCE_S
from tests.project import ROOT

LIMITS = (1, 2, 3, 2_000)


@pytest.fixture(autouse=True)
def no_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit's grand total takes in what was posted just now."""
    monkeypatch.setattr(books, "CUT_AGE_S", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archives"


def assert_books_right(engine: Engine, folder: Path) -> None:
    """Whoever looks at the books, and however, finds nothing."""
    check_books(engine)
    for limit in LIMITS:
        assert broken([BooksCheck(engine)], limit=limit) == {}, limit
    proven(engine, folder)


def history_of_two(engine: Engine, orders: Orders) -> list[int]:
    """Give wallet 1 three old entries and wallet 2 two; then each a young one. Return the transfers, in order."""
    given = [deposit(1, 100), deposit(2, 5), withdrawal(1, 30), transfer(1, 2, 20)]  # 50 and 25
    ids = [orders.execute(order).transfer_id for order in given]
    age(engine)
    return [*ids, orders.execute(transfer(2, 1, 7)).transfer_id]


def test_what_is_old_leaves_and_an_opening_stands_for_it(engine: Engine, orders: Orders, folder: Path) -> None:
    *old, young = history_of_two(engine, orders)
    entries, transfers = rows_of(engine, "entries"), rows_of(engine, "transfers")

    (done,) = archive(engine, folder)

    assert (done.number, done.wallets, done.entries, done.transfers) == (1, 2, 5, 4)
    assert openings(engine) == {1: (3, 50), 2: (2, 25)}
    assert [row["transfer_id"] for row in rows_of(engine, "entries")] == [young, young]
    assert [row["id"] for row in rows_of(engine, "transfers")] == [young]
    assert identified(left_of(folder, "entry") + rows_of(engine, "entries")) == identified(entries)
    assert identified(left_of(folder, "transfer") + rows_of(engine, "transfers")) == identified(transfers)
    assert balances(engine) == {1: 57, 2: 18}
    assert_books_right(engine, folder)
    assert archive(engine, folder) == []
    for transfer_id in old:
        with pytest.raises(TransferNotFound):
            History(engine).get_transfer(transfer_id, seen_by=1)


def test_a_file_is_its_owners_and_tells_what_is_in_it(engine: Engine, orders: Orders, folder: Path) -> None:
    history_of_two(engine, orders)
    (done,) = archive(engine, folder)
    (path,) = folder.iterdir()
    assert (path.name, stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(folder.stat().st_mode)) == (
        done.name,
        0o600,
        0o700,
    )
    head, _ = archive_file.read(path)
    assert (head.wallets, head.entries, head.transfers, head.moved, head.made) == (2, 5, 4, "75", "75")
    assert (head.number, head.previous, head.before) == (1, "", BEFORE.isoformat())
    assert (head.first, head.last) == (
        (OLD + timedelta(seconds=1)).isoformat(),
        (OLD + timedelta(seconds=3)).isoformat(),
    )


def test_the_history_ends_where_entries_have_left(engine: Engine, orders: Orders, folder: Path) -> None:
    history_of_two(engine, orders)
    history = History(engine)
    before = history.get_page(1, None, size=2)
    assert [entry.seq for entry in before.entries] == [4, 3]
    archive(engine, folder)
    page = history.get_page(1, None, size=2)
    assert ([entry.seq for entry in page.entries], page.next_seq, page.version) == ([4], None, 4)
    assert history.get_page(1, EntryType.DEPOSIT, size=2).entries == []
    for deep in (
        history.get_page(1, None, size=2, page=2),
        history.get_page(1, None, size=2, before_seq=before.next_seq),
        history.get_page(1, EntryType.TRANSFER, size=1, before_seq=4),
    ):
        assert (deep.entries, deep.next_seq, deep.statement_balance_cents) == ([], None, 57)


def test_wallets_all_of_whose_entries_have_left_go_on(engine: Engine, orders: Orders, folder: Path) -> None:
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 1))
    age(engine)
    archive(engine, folder)
    assert rows_of(engine, "entries") == rows_of(engine, "transfers") == []
    assert_books_right(engine, folder)
    assert orders.execute(transfer(1, 2, 60)).balance_cents == 40
    assert balances(engine) == {1: 40, 2: 61}
    assert_books_right(engine, folder)


def test_only_a_prefix_leaves_whatever_the_clock_has_done(engine: Engine, orders: Orders, folder: Path) -> None:
    """Entry 2 of three was posted by a clock that was ahead: what comes after it stays, however old it says it is."""
    for _ in range(3):
        orders.execute(deposit(1, 10))
    age(engine, "seq <> 2")
    assert [done.entries for done in archive(engine, folder)] == [1]
    assert openings(engine) == {1: (1, 10)}
    proven(engine, folder)


def test_a_transfer_leaves_with_the_last_of_its_entries(engine: Engine, orders: Orders, folder: Path) -> None:
    history_of_two(engine, orders)
    age(engine, "wallet_id = 1")  # the payee's side of the last transfer is old, too; the payer's is not
    archive(engine, folder)
    assert openings(engine) == {1: (4, 57), 2: (2, 25)}
    assert len(rows_of(engine, "transfers")) == 1
    assert_books_right(engine, folder)
    age(engine)
    (done,) = archive(engine, folder)
    assert (done.entries, done.transfers) == (1, 1)
    assert rows_of(engine, "transfers") == []
    assert_books_right(engine, folder)


def test_what_leaves_is_no_longer_found_by_its_reference(engine: Engine, orders: Orders, folder: Path) -> None:
    named = Details(reference="rent")
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 1))
    orders.execute(replace(transfer(1, 2, 10), details=named))
    keyed = orders.execute(replace(transfer(1, 2, 11, key="k"), details=named)).transfer_id
    age(engine)
    young = orders.execute(replace(transfer(1, 2, 12), details=named)).transfer_id
    archive(engine, folder)
    assert [row["reference"] for row in left_of(folder, "transfer")].count("rent") == 1
    assert [row["transfer_id"] for row in rows_of(engine, "transfer_references")] == [keyed, young]
    page = Listing(engine).get_page(Filters(reference="rent"), size=3)
    assert [each.id for each in page.transfers] == [young, keyed]
    assert_books_right(engine, folder)


# Keys never expire


def test_a_key_gives_its_first_answer_after_its_entry_has_left(engine: Engine, orders: Orders, folder: Path) -> None:
    given = [deposit(1, 100, key="d"), transfer(1, 2, 30, key="t"), withdrawal(1, 5, key="w")]
    orders.execute(deposit(2, 1))
    first = {order: orders.execute(order) for order in given}
    orders.execute(transfer(1, 2, 40))
    waiting = orders.accept(later(1, 2, 1, key="v2"))
    age(engine)
    archive(engine, folder)
    assert rows_of(engine, "entries") == []
    assert len(rows_of(engine, "receipts")) == len(first)
    for order, receipt in first.items():
        again = orders.execute(order)
        assert (again.transfer_id, again.balance_cents, again.replayed) == (
            receipt.transfer_id,
            receipt.balance_cents,
            True,
        )
    assert orders.accept(later(1, 2, 1, key="v2")) == type(waiting)(transfer_id=waiting.transfer_id, replayed=True)
    assert balances(engine) == {1: 25, 2: 71}
    assert_books_right(engine, folder)


def test_an_import_is_known_again_after_its_entries_have_left(
    engine: Engine, snowflake: Snowflake, folder: Path
) -> None:
    wallets = [Opening(1, 100), Opening(2, 0), Opening(3, 5)]
    Imports(engine, snowflake).run(wallets, key="k")
    age(engine)
    archive(engine, folder)
    assert Imports(engine, snowflake).run(wallets, key="k").replayed
    assert balances(engine) == {1: 100, 2: 0, 3: 5}
    assert_books_right(engine, folder)


# What waits, and what has failed


def test_a_dead_letter_of_old_stays_and_is_posted_when_it_is_requeued(
    engine: Engine, orders: Orders, folder: Path
) -> None:
    """Its id is older than all that has left, its entries are the newest there are."""
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 1))
    dead = orders.accept(later(1, 2, 10)).transfer_id
    with engine.begin() as connection:
        attempts.spend(connection, {dead: Seen(attempts=0, generation=1)}, {dead: None}, error="e")
    newer = orders.execute(transfer(1, 2, 20)).transfer_id
    age(engine)
    archive(engine, folder)
    assert [row["id"] for row in rows_of(engine, "transfers")] == [dead]
    with engine.begin() as connection:
        assert [due.id for due in attempts.reopen(connection, {dead: 1})] == [dead]
    post_now(engine, [dead, newer])
    assert balances(engine) == {1: 70, 2: 31}
    assert_books_right(engine, folder)
    assert archive(engine, folder) == []
    age(engine)
    (done,) = archive(engine, folder)
    assert (done.entries, done.transfers) == (2, 1)
    assert_books_right(engine, folder)


# While the service runs

# Wallets 1 to 4, each with as many old deposits of a cent; three of four have no key.
YEAR = (
    """
    INSERT INTO transfers (id, kind, destination, amount, status, destination_seq, completed_at,
        idempotency_key, request_hash)
    SELECT w * 100000 + n, 'deposit', w, 1, 'posted', n, now(),
        CASE n % 4 WHEN 0 THEN n::text END, CASE n % 4 WHEN 0 THEN ''::bytea END
    FROM generate_series(1, 4) AS w, generate_series(1, :many) AS n
    """,
    """
    INSERT INTO entries (wallet_id, seq, transfer_id, type, amount, balance_after, created_at)
    SELECT w, n, w * 100000 + n, 1, 1, n, timestamptz '2025-06-01Z' + n * interval '1 minute'
    FROM generate_series(1, 4) AS w, generate_series(1, :many) AS n
    """,
    "INSERT INTO wallets (id, balance, version) SELECT w, :many, :many FROM generate_series(1, 4) AS w",
)


def write_year(engine: Engine, many: int) -> None:
    with engine.begin() as connection:
        for statement in YEAR:
            connection.execute(text(statement), {"many": many})


@contextmanager
def load(engine: Engine) -> Iterator[list[Order]]:
    """Money goes round between the four wallets, in three threads; yields what was posted so far."""
    over = threading.Event()
    posted: list[Order] = []
    failures: list[Exception] = []

    def move(payer: int) -> None:
        orders = Orders(engine, Snowflake(NodeLease(engine)))
        try:
            for number in itertools.count():
                if over.is_set():
                    return
                order = transfer(
                    payer, 1 + (payer + number % 3) % 4, 1, key=f"{payer}-{number}" if number % 2 else None
                )
                orders.execute(order)
                posted.append(order)
        except Exception as error:  # noqa: BLE001 - told below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=move, args=(payer,)) for payer in (1, 2, 3)]
    for thread in threads:
        thread.start()
    try:
        yield posted
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_thousands_leave_while_money_moves_and_audits_go_on(
    engine: Engine, service_database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = 3_000
    monkeypatch.setattr(archives, "SLICE", 700)
    monkeypatch.setattr(archives, "MOST_WALLETS", 1)
    write_year(engine, many)
    with bounded_engine(service_database_url, pool_size=16) as service, load(service) as posted:
        check = [BooksCheck(service)]
        audit = begun()
        findings: dict[str, Finding] = {}
        done: list[archives.Archive] = []
        for each in archives.Archives(engine, folder).run(BEFORE, rest=lambda _: None):
            done.append(each)
            assert wait_for(lambda: len(posted) > len(done) * 5, PATIENCE_S)
            # Between two slices that leave, an audit comes some slices further.
            for _ in zip(range(7), run_whole(check, limit=300, progress=audit), strict=False):
                findings |= audit.findings
            if audit.check is None:
                audit = begun()
    assert findings == {}
    assert sum(each.entries for each in done) == 4 * many
    assert sum(each.transfers for each in done) == 3 * many
    assert max(each.entries for each in done) <= 700
    assert {wallet: seq for wallet, (seq, _) in openings(engine).items()} == dict.fromkeys((1, 2, 3, 4), many)
    assert len(posted) > 0
    assert len(rows_of(engine, "entries")) == 2 * len(posted)
    check_books(engine)
    assert broken([BooksCheck(engine)]) == {}
    proof = proven(engine, folder)
    assert (proof.archives, proof.entries, proof.transfers) == (len(done), 4 * many, 3 * many)


@pytest.mark.parametrize("limit", [1, 3, 10])
def test_what_leaves_between_two_slices_of_an_audit_is_no_finding(
    engine: Engine, orders: Orders, folder: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Whatever an audit has got to: the wallet it is in loses entries behind it, around it, or all of them."""
    monkeypatch.setattr(archives, "SLICE", 2)
    write_year(engine, 12)
    for each in (1, 2, 3, 4):
        orders.execute(transfer(each, 1 + each % 4, 3))
    leaving = archives.Archives(engine, folder).run(BEFORE, rest=lambda _: None)
    progress = begun()
    meanwhile = []
    for number, _ in enumerate(run_whole([BooksCheck(engine)], limit=limit, progress=progress)):
        if number % 2:
            meanwhile += [each.entries for each in itertools.islice(leaving, 1)]
    assert progress.findings == {}
    assert len(meanwhile) > 2
    list(leaving)
    assert openings(engine) == dict.fromkeys((1, 2, 3, 4), (12, 12))
    assert_books_right(engine, folder)


def test_nothing_that_leaves_waits_for_a_posting_nor_a_posting_for_it(
    engine: Engine, orders: Orders, folder: Path
) -> None:
    history_of_two(engine, orders)
    with locked(engine, "SELECT FROM wallets FOR UPDATE"):
        assert len(archive(engine, folder)) == 1
    check_books(engine)


# Killed on the way


@pytest.mark.parametrize(
    "step",
    [
        ("find", "before"),
        ("delete", "after"),
        ("draft", "before"),
        ("rename", "before"),
        ("write", "after"),
        ("move", "after"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("nth", [1, 3])
def test_killed_at_any_step_every_row_is_somewhere_and_the_next_run_goes_on(
    engine: Engine, database_url: str, folder: Path, step: tuple[str, str], nth: int
) -> None:
    point, when = step
    write_year(engine, 40)
    entries, transfers = rows_of(engine, "entries"), rows_of(engine, "transfers")
    command = [sys.executable, "-m", "tests.models.ledger.archive_child", database_url, str(folder), "30"]
    # The last file's digest is looked at before each slice as well, and the folder is synced once when it is made.
    passes = {"draft": 2 * nth - 1, "rename": nth + 1}.get(point, nth)
    killed = nursery.run([*command, point, when, str(passes)], cwd=ROOT, text=True, timeout=PATIENCE_S)
    assert (killed.returncode, killed.stderr) == (-signal.SIGKILL, "")
    assert wait_for(lambda: not _is_at_work(engine), PATIENCE_S)
    check_books(engine)
    proof = proven(engine, folder)
    assert proof.archives == nth - (0 if (point, when) == ("move", "after") else 1)
    still_there = {_key(row) for row in rows_of(engine, "entries")}
    for name in proof.unknown:  # what the database does not know, it still has
        assert {_key(row) for kind, row in archive_file.read(folder / name)[1] if kind == "entry"} <= still_there
    done = nursery.run(command, cwd=ROOT, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert proven(engine, folder).unknown == []  # the same rows made the same file
    assert identified(left_of(folder, "entry")) == identified(entries)
    assert identified(left_of(folder, "transfer") + rows_of(engine, "transfers")) == identified(transfers)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    check_books(engine)


def _key(row: dict[str, int]) -> tuple[int, int]:
    return row["wallet_id"], row["seq"]


def _is_at_work(engine: Engine) -> bool:
    query = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :key")
    with engine.connect() as connection:
        return bool(connection.execute(query, {"key": archives._LOCK_KEY}).scalar_one())


# Refused


def test_a_full_disk_lets_nothing_leave(engine: Engine, orders: Orders, folder: Path) -> None:
    history_of_two(engine, orders)
    entries = rows_of(engine, "entries")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            archive(engine, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert rows_of(engine, "entries") == entries
    assert list(folder.iterdir()) == []
    assert len(archive(engine, folder)) == 1
    assert_books_right(engine, folder)


def test_what_is_too_young_does_not_leave_whatever_is_asked_for(engine: Engine, orders: Orders, folder: Path) -> None:
    history_of_two(engine, orders)
    with pytest.raises(NotArchived, match="younger than 1 day"):
        archive(engine, folder, datetime.now(UTC) - timedelta(hours=23))
    assert openings(engine) == {}


def test_what_has_an_event_that_is_kept_does_not_leave(engine: Engine, orders: Orders, folder: Path) -> None:
    history_of_two(engine, orders)
    age(engine)
    while events.number(engine):
        pass
    with engine.begin() as connection:
        happened = text("UPDATE event_batches SET created_at = CAST(:at AS timestamptz) + interval '59 min'")
        connection.execute(happened, {"at": BEFORE})
    with pytest.raises(NotArchived, match=r"have events that are kept: .* \(EVENTS_DAYS\)"):
        archive(engine, folder)
    assert openings(engine) == {}
    assert events.forget(engine, older_than_days=1, limit=1_000)
    assert archive(engine, folder)


def test_the_last_file_must_be_in_the_folder_as_it_was_written(
    engine: Engine, orders: Orders, folder: Path, tmp_path: Path
) -> None:
    history_of_two(engine, orders)
    archive(engine, folder)
    age(engine)
    with pytest.raises(NotArchived, match=r"archive-000001-.*, the last of this database's archives, is not in"):
        archive(engine, tmp_path / "another")
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(NotArchived, match="is not as it was written"):
        archive(engine, folder)
    assert len(rows_of(engine, "entries")) == 2


def test_one_run_writes_to_a_folder_at_a_time(engine: Engine, orders: Orders, folder: Path) -> None:
    history_of_two(engine, orders)
    with archive_file.only_writer(folder), pytest.raises(NotArchived, match="another run writes to"):
        archive(engine, folder)
    assert len(archive(engine, folder)) == 1


@pytest.mark.parametrize(
    "crime",
    [
        "UPDATE entries SET balance_after = balance_after + 1 WHERE wallet_id = 1 AND seq = 2",
        "DELETE FROM entries WHERE wallet_id = 1 AND seq = 2",
        "DELETE FROM entries WHERE wallet_id = 1 AND seq = 1",
        "DELETE FROM transfers WHERE kind = 'withdrawal'",
        "UPDATE transfers SET source_seq = 9 WHERE kind = 'withdrawal'",
        "UPDATE wallets SET version = version + 1 WHERE id = 1; DELETE FROM entries WHERE wallet_id = 1 AND seq = 4",
    ],
)
def test_books_that_are_wrong_are_not_written_down(engine: Engine, orders: Orders, folder: Path, crime: str) -> None:
    history_of_two(engine, orders)
    with engine.begin() as connection:
        connection.execute(text(crime))
    entries = rows_of(engine, "entries")
    with pytest.raises(NotArchived, match=r"the books are wrong at entry \d of wallet 1"):
        archive(engine, folder)
    assert rows_of(engine, "entries") == entries
    assert list(folder.iterdir()) == []


def test_the_services_role_lets_nothing_leave(
    engine: Engine, orders: Orders, service_database_url: str, folder: Path
) -> None:
    history_of_two(engine, orders)
    with bounded_engine(service_database_url) as service, pytest.raises(ProgrammingError) as refused:
        archive(service, folder)
    assert isinstance(refused.value.orig, psycopg2.errors.InsufficientPrivilege)
    assert list(folder.iterdir()) == []
    check_books(engine)
