"""Events: one for whatever happens to a transfer, in the order of its wallets, gapless while others are written."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, text

from models.errors import BalanceInsufficient
from models.ledger import attempts, events
from models.ledger.attempts import Seen
from models.ledger.events import Event
from models.ledger.history import History
from models.ledger.import_file import Opening
from models.ledger.imports import Imports
from models.ledger.orders import Orders
from models.ledger.transfer import Kind, Status
from models.snowflake.ids import Snowflake
from ops.local.processes import wait_for
from tests.books import check_books
from tests.models.ledger import ordering
from tests.models.ledger.ordering import bounded_engine, deposit, later, post_now, transfer, uncommitted, withdrawal
from tests.models.ledger.test_posting import killed
from tests.nursery import Forked
from tests.patience import PATIENCE_S
from tests.project import ROOT

# EVENT_TRANSFERS=100000 is the whole of it, and takes a minute.
TRANSFERS = int(os.environ.get("EVENT_TRANSFERS", "12000"))
WRITERS = 8
WALLETS = 40
# Who pays while their transaction is held, and nobody else.
LATE = (WALLETS + 1, WALLETS + 2)
MOST_OF_A_BATCH = 100


@pytest.fixture
def orders(engine: Engine, snowflake: Snowflake) -> Orders:
    return Orders(engine, snowflake)


def number_all(engine: Engine) -> int:
    """Number all that there is."""
    count = 0
    while numbered := events.number(engine, most=2):
        count += numbered
    return count


def told(engine: Engine, *, after: int = 0) -> list[Event]:
    """Number what there is, and read it."""
    number_all(engine)
    found = []
    while page := events.find_events(engine, after=after, limit=7):
        found += page
        after = page[-1].id
    return found


def types(found: Sequence[Event]) -> list[str]:
    return [each.type.removeprefix("transfer.") for each in found]


@contextmanager
def child(engine: Engine, work: str, **arguments: object) -> Iterator["Forked"]:
    """A process at its work, until it is killed."""
    task = {"url": engine.url.render_as_string(hide_password=False), "work": work, "arguments": arguments}
    command = [sys.executable, "-m", "tests.models.ledger.ledger_child", json.dumps(task)]
    with Forked(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


# What is told


def test_every_kind_of_transfer_that_ends_is_told_once_with_all_that_is_known(engine: Engine, orders: Orders) -> None:
    deposited = orders.execute(deposit(1, 100)).transfer_id
    opened = orders.execute(deposit(2, 1)).transfer_id
    withdrawn = orders.execute(withdrawal(1, 10)).transfer_id
    moved = orders.execute(transfer(1, 2, 20)).transfer_id
    accepted, refused = (orders.accept(later(1, 2, cents)).transfer_id for cents in (60, 50))
    assert told(engine, after=4) == []  # nobody is told of what is merely accepted
    post_now(engine, [accepted, refused])
    found = told(engine)

    ids = [deposited, opened, withdrawn, moved, accepted, refused]
    assert [each.id for each in found] == [1, 2, 3, 4, 5, 6]
    assert [each.transfer.id for each in found] == ids
    assert types(found) == ["posted"] * 5 + ["rejected"]
    assert [each.transfer for each in found] == [History(engine).get_transfer(each, seen_by=None) for each in ids]
    assert [each.created_at for each in found] == [each.transfer.completed_at for each in found]
    assert [each.transfer.kind for each in found[:4]] == [Kind.DEPOSIT, Kind.DEPOSIT, Kind.WITHDRAWAL, Kind.TRANSFER]


def test_what_is_refused_leaves_no_event(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 1))
    for _ in range(2):
        with pytest.raises(BalanceInsufficient):
            orders.execute(withdrawal(1, 2))
    orders.execute(deposit(1, 1, key="k"))
    assert orders.execute(deposit(1, 1, key="k")).replayed
    assert types(told(engine)) == ["posted", "posted"]


def test_an_import_is_told_of_each_of_its_deposits(engine: Engine, snowflake: Snowflake) -> None:
    Imports(engine, snowflake).run([Opening(user, user) for user in (3, 1, 2)] + [Opening(4, 0)], key="k")
    assert [(each.type, each.transfer.destination) for each in told(engine)] == [
        ("transfer.posted", user) for user in (1, 2, 3)
    ]


def test_what_fails_and_is_brought_back_is_told_as_it_was_each_time(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 1))
    job = orders.accept(later(1, 2, 40)).transfer_id
    seen = []
    look = History(engine).get_transfer
    with engine.begin() as connection:
        attempts.spend(connection, {job: Seen(0, 1)}, {job: 0.0}, error="no luck")  # is merely tried again
    with engine.begin() as connection:
        attempts.spend(connection, {job: Seen(1, 1)}, {job: None}, error="no luck at all")
    seen.append(look(job, seen_by=None))
    with engine.begin() as connection:
        attempts.reopen(connection, {job: 1})
    seen.append(look(job, seen_by=None))
    with engine.begin() as connection:
        assert attempts.count_lost(connection, {job: 5}) == {job: 1}
        assert attempts.fail_lost(connection, [job], most=1).keys() == {job}
    seen.append(look(job, seen_by=None))
    with engine.begin() as connection:
        attempts.reopen(connection, {job: 2})
    seen.append(look(job, seen_by=None))
    post_now(engine, [job])
    seen.append(look(job, seen_by=None))
    found = told(engine, after=0)[2:]

    assert types(found) == ["failed", "requeued", "failed", "requeued", "posted"]
    assert [each.transfer for each in found] == seen
    assert [each.transfer.attempts for each in found] == [2, 0, 0, 0, 1]
    assert [each.transfer.last_error for each in found][:2] == ["no luck at all"] * 2


def test_a_key_that_is_its_owners_alone_is_not_kept_beside_an_event(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 1))
    job = orders.accept(later(1, 2, 40, key="secret")).transfer_id
    with engine.begin() as connection:
        attempts.spend(connection, {job: Seen(0, 1)}, {job: None}, error="e")
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT CAST(snapshots AS text) FROM event_batches")).scalars().all()
    assert "secret" not in str(kept)
    assert '"request_hash"' not in str(kept)


def test_what_nobody_may_fail_or_reopen_is_not_told(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 1))
    job = orders.accept(later(1, 2, 40)).transfer_id
    with engine.begin() as connection:
        assert not attempts.spend(connection, {job: Seen(1, 1)}, {job: None}, error="too late")
        assert not attempts.fail_lost(connection, [job], most=1)
        assert not attempts.reopen(connection, {job: 1})
    assert types(told(engine)) == ["posted"] * 2


# Numbers


def test_nothing_is_read_before_it_is_committed_and_who_commits_late_comes_later(
    engine: Engine, orders: Orders
) -> None:
    for user in (1, 2, 3):
        orders.execute(deposit(user, 100))
    held, free = orders.accept(later(1, 2, 1)).transfer_id, orders.accept(later(3, 2, 1)).transfer_id
    with uncommitted(engine, [held]):
        quick = orders.execute(withdrawal(3, 1)).transfer_id  # draws its number after the other one
        assert [each.transfer.id for each in told(engine, after=3)] == [quick]
    post_now(engine, [free])
    assert [(each.id, each.transfer.id) for each in told(engine, after=3)] == [(4, quick), (5, held), (6, free)]


def test_a_posting_that_is_undone_leaves_no_gap(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 50))
    orders.execute(deposit(2, 1))
    assert killed(engine, "die_before_the_commit_of_an_order") == {"entries_written": 4}
    orders.execute(deposit(1, 7))
    found = told(engine)
    assert [(each.id, each.transfer.amount_cents) for each in found] == [(1, 50), (2, 1), (3, 7)]


def test_a_numberer_killed_before_its_commit_has_given_no_numbers(engine: Engine, orders: Orders) -> None:
    ids = [orders.execute(deposit(1, 1)).transfer_id for _ in range(3)]
    assert killed(engine, "die_before_the_commit_of_numbers") == "numbered"
    with engine.begin() as connection:  # the server keeps his lock until it has noticed that he is gone
        connection.execute(text("SELECT FROM event_head FOR UPDATE"))
    assert events.find_events(engine, after=0, limit=10) == []
    assert [(each.id, each.transfer.id) for each in told(engine)] == list(enumerate(ids, 1))


def test_numbers_are_given_a_bounded_amount_at_a_time(engine: Engine, orders: Orders) -> None:
    for _ in range(5):
        orders.execute(deposit(1, 1))
    assert [events.number(engine, most=2) for _ in range(4)] == [2, 2, 1, 0]
    assert events.find_last(engine) == 5


def test_whoever_finds_somebody_numbering_leaves_it_to_him(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 1))
    with engine.connect() as somebody:
        somebody.execute(text("SELECT FROM event_head FOR UPDATE"))
        assert events.number(engine) == 0
    assert events.number(engine) == 1


def settled(engine: Engine) -> int:
    with engine.connect() as connection:
        found: int = connection.execute(text("SELECT settled FROM event_head")).scalar_one()
        return found


def ids_of_batches(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT id FROM event_batches ORDER BY id")).scalars())


def move_on(engine: Engine, orders: Orders, beyond: int) -> None:
    """Let more events be numbered until nobody looks for others up to a batch and beyond."""

    def has_moved() -> bool:
        orders.execute(deposit(1, 1))
        events.number(engine)
        return settled(engine) > beyond

    assert wait_for(has_moved, PATIENCE_S)


def test_what_is_numbered_is_not_looked_through_again_whether_vacuum_comes_or_not(
    engine: Engine, orders: Orders
) -> None:
    orders.execute(deposit(1, 1))
    number_all(engine)
    move_on(engine, orders, max(ids_of_batches(engine)))


def test_nobody_who_may_still_commit_is_taken_for_gone(engine: Engine, orders: Orders) -> None:
    for user in (1, 2, 3):
        orders.execute(deposit(user, 100))
    held = orders.accept(later(1, 2, 1)).transfer_id
    with uncommitted(engine, [held]):
        for _ in range(5):
            orders.execute(deposit(3, 1))
            events.number(engine)
        assert settled(engine) <= ids_of_batches(engine)[2]  # of what was there before
    assert [each.transfer.id for each in told(engine)][-1] == held
    move_on(engine, orders, max(ids_of_batches(engine)))


def test_books_that_were_restored_on_another_server_are_numbered_on(engine: Engine, orders: Orders) -> None:
    for _ in range(3):
        orders.execute(deposit(1, 1))
        events.number(engine)
    with engine.begin() as connection:  # as if the old one had come further than this one
        connection.execute(text("UPDATE event_head SET mark_xid = 4611686018427387904"))
    move_on(engine, orders, max(ids_of_batches(engine)))


# Reading


def test_pages_of_any_size_begin_and_end_within_batches(engine: Engine, orders: Orders) -> None:
    for user in (1, 2):
        orders.execute(deposit(user, 1_000))
    ids = [orders.accept(later(1, 2, 1)).transfer_id for _ in range(9)]
    post_now(engine, ids[:4])
    post_now(engine, ids[4:5])
    post_now(engine, ids[5:])
    number_all(engine)
    for after in range(13):
        for limit in range(1, 13):
            page = events.find_page(engine, after=after, limit=limit)
            expected = list(range(after + 1, min(after + limit, 11) + 1))
            assert [each.id for each in page.events] == expected
            assert [each.transfer.id for each in page.events] == [
                [0, 0, *ids][each - 1] for each in expected if each > 2
            ] or (after < 2)
            assert page.next_after == (expected[-1] if expected else 11)
            assert page.missed == 0


def test_without_events_there_is_a_place_to_go_on_from(engine: Engine, orders: Orders) -> None:
    assert events.find_page(engine, after=None, limit=5) == ([], 0, 0)
    orders.execute(deposit(1, 1))
    assert events.find_page(engine, after=0, limit=5) == ([], 0, 0)  # not numbered yet
    number_all(engine)
    # Ahead of all: whoever wants only what is new, or has read of books that were restored since.
    assert events.find_page(engine, after=2**63 - 1, limit=5) == ([], 1, 0)
    assert events.find_followed(engine, {0, 1, 2}) == {0}


def test_events_are_forgotten_when_they_are_old_and_who_comes_too_late_is_told(engine: Engine, orders: Orders) -> None:
    for user in (1, 2):
        orders.execute(deposit(user, 100))
    ids = [orders.accept(later(1, 2, 1)).transfer_id for _ in range(3)]
    post_now(engine, ids)
    for _ in range(3):
        orders.execute(withdrawal(1, 1))
    number_all(engine)
    orders.execute(withdrawal(1, 1))  # has no number yet
    batches = ids_of_batches(engine)
    with engine.begin() as connection:
        # The last but one is younger than the one that comes after it: its transaction was quicker.
        aged = text("UPDATE event_batches SET created_at = now() - interval '31 days' WHERE id <> :young")
        connection.execute(aged, {"young": batches[4]})

    assert events.forget(engine, older_than_days=32, limit=10) == 0
    assert [events.forget(engine, older_than_days=30, limit=3) for _ in range(3)] == [3, 1, 0]
    assert ids_of_batches(engine) == batches[4:]
    page = events.find_page(engine, after=3, limit=10)
    assert [each.id for each in page.events] == [7, 8]
    assert (page.missed, page.next_after) == (3, 8)
    assert events.find_page(engine, after=6, limit=10).missed == 0
    assert events.find_page(engine, after=None, limit=10).missed == 0
    assert events.find_page(engine, after=0, limit=1).next_after == 7
    assert [each.id for each in told(engine, after=8)] == [9]


def test_all_may_be_forgotten_and_numbers_go_on(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 1))
    number_all(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE event_batches SET created_at = now() - interval '2 days'"))
    assert events.forget(engine, older_than_days=1, limit=5) == 1
    assert events.find_page(engine, after=0, limit=5) == ([], 1, 1)
    orders.execute(deposit(1, 1))
    assert [each.id for each in told(engine)] == [2]


def test_whoever_follows_gets_past_what_an_owner_has_taken_away(engine: Engine, orders: Orders) -> None:
    for _ in range(4):
        orders.execute(deposit(1, 1))
    number_all(engine)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM transfers WHERE id IN (SELECT id FROM transfers ORDER BY id LIMIT 2)"))
    assert events.find_page(engine, after=0, limit=2) == ([], 2, 0)
    assert [each.id for each in events.find_page(engine, after=2, limit=2).events] == [3, 4]
    assert [each.id for each in events.find_events(engine, after=0, limit=2)] == [3, 4]


# All of it at once


class Follower:
    """Follows the feed from its beginning, some at a time, until it is told that all has been written."""

    def __init__(self, engine: Engine) -> None:
        self.events: list[Event] = []
        self.pages = 0
        self._engine = engine
        self._rng = random.Random(2)
        self.is_all_written = threading.Event()

    def follow(self) -> None:
        after: int | None = None
        while True:
            is_last = self.is_all_written.is_set()
            page = events.find_page(self._engine, after=after, limit=self._rng.randint(1, 100))
            self.events += page.events
            self.pages += bool(page.events)
            assert page.missed == 0
            after = page.next_after
            if is_last and not page.events:
                return


def record(engine: Engine, count: int, rng: random.Random) -> list[int]:
    """Fund the wallets, and record pending transfers between them, and one between others; return the ids."""
    pairs = [rng.sample(range(1, WALLETS + 1), 2) for _ in range(count)]
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        rows = text("""
            INSERT INTO transfers (id, kind, source, destination, amount)
            SELECT 1000000 + n, 'transfer', source, destination, 1 + n % 50
            FROM unnest(CAST(:sources AS bigint[]), CAST(:destinations AS bigint[]))
                WITH ORDINALITY AS pair (source, destination, n)
            UNION ALL SELECT 1000000, 'transfer', :payer, :payee, 1 RETURNING id
        """)
        given = {
            "sources": [each[0] for each in pairs],
            "destinations": [each[1] for each in pairs],
            "payer": LATE[0],
            "payee": LATE[1],
        }
        return sorted(connection.execute(rows, given).scalars())


def check_followed(engine: Engine, found: Sequence[Event]) -> None:
    """Each transfer once, as it ended, and of every wallet in the order of its entries."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT id, status FROM transfers")).all()
        entries = connection.execute(text("SELECT wallet_id, transfer_id FROM entries ORDER BY wallet_id, seq")).all()
    assert [each.id for each in found] == list(range(1, len(rows) + 1))
    assert sorted((each.transfer.id, each.transfer.status) for each in found) == sorted(map(tuple, rows))
    assert {each.transfer.status for each in found} == {Status.POSTED, Status.REJECTED}
    posted, booked = defaultdict(list), defaultdict(list)
    for each in found:
        if each.transfer.status is Status.POSTED:
            for wallet_id in {each.transfer.source, each.transfer.destination} - {None}:
                posted[wallet_id].append(each.transfer.id)
    for wallet_id, transfer_id in entries:
        booked[wallet_id].append(transfer_id)
    assert posted == booked
    check_books(engine)


def write(books: Engine, ids: list[int], seed: int) -> None:
    """Post all of these, in batches of any size."""
    sizes = random.Random(seed)
    while ids:
        size = sizes.randint(1, MOST_OF_A_BATCH)
        post_now(books, ids[:size])
        del ids[:size]


def count_unnumbered(engine: Engine) -> int:
    with engine.connect() as connection:
        query = text("SELECT count(*) FROM event_batches WHERE position IS NULL")
        found: int = connection.execute(query).scalar_one()
    return found


def number_until(books: Engine, is_over: threading.Event) -> None:
    while not is_over.is_set():
        events.number(books, most=3)


@pytest.mark.long
def test_who_follows_sees_each_event_once_in_order_whatever_is_killed(
    engine: Engine, orders: Orders, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "PATIENCE_S", PATIENCE_S * 20)  # of the one that is held
    for user in range(1, LATE[1] + 1):
        orders.execute(deposit(user, 300))  # so that many are rejected
    rng = random.Random(1)
    late, *ids = record(engine, TRANSFERS, rng)
    rng.shuffle(ids)
    theirs, ids = ids[: TRANSFERS // 10], ids[TRANSFERS // 10 :]
    with (
        bounded_engine(database_url, lock_ms=30_000, statement_ms=30_000, idle_ms=600_000, pool_size=16) as books,
        ThreadPoolExecutor(WRITERS + 4) as pool,
        child(books, "number_events", most=2) as numberer,
        child(books, "post_batches", ids=theirs, size=7) as writer,
    ):
        follower = Follower(books)
        following = pool.submit(follower.follow)
        with uncommitted(books, [late]):
            writing = [pool.submit(write, books, ids[number::WRITERS], number) for number in range(WRITERS)]
            numbering = [pool.submit(number_until, books, follower.is_all_written) for _ in range(2)]
            assert wait_for(lambda: len(follower.events) > TRANSFERS // 8, PATIENCE_S * 4)
            for killed_one in (writer, numberer):
                os.kill(killed_one.pid, signal.SIGKILL)
            for each in writing:
                each.result(PATIENCE_S * 20)
        write(books, theirs, 99)  # what the killed one has left, and what it has not
        assert wait_for(lambda: not count_unnumbered(books), PATIENCE_S * 4)
        follower.is_all_written.set()
        for each in [*numbering, following]:
            each.result(PATIENCE_S * 4)

    assert follower.pages > 10
    check_followed(engine, follower.events)
    # The one that was held came after those that were quicker.
    assert next(each.id for each in follower.events if each.transfer.id == late) > TRANSFERS // 2
