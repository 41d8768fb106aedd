"""Settling: one transfer's fault is its own, the database's is nobody's, and a try that comes late changes nothing."""

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis
from psycopg2.errors import LockNotAvailable
from rq import SimpleWorker
from rq.job import requeue_job
from rq.serializers import JSONSerializer
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

import jobs.settler
from jobs.retries import RetryPolicy
from jobs.rq import job
from jobs.rq.keys import FAILED, STARTED
from jobs.settler import Settled, Settler, TransferFailedError, settle_alone
from models.database.session import Session
from models.errors import TransferNotFound, Unavailable
from models.ledger import attempts
from models.ledger.attempts import Seen
from models.ledger.posting import Outcome, Posting, post
from models.ledger.transfer import Status
from ops.local.processes import wait_for
from tests import nursery
from tests.books import check_books
from tests.jobs.backlog import (
    DAWDLES,
    OPENING_CENTS,
    REFUSES,
    accept,
    assert_posted_once,
    backlog,
    balance_of,
    fault_on,
    job_of,
    kill_off,
    locked,
    make_due,
    members,
    row_of,
    rows_of,
    status_of,
    stock_queue,
)
from tests.jobs.conftest import DELAYS_S
from tests.models.ledger.ordering import bounded_engine, count_waiting, post_now
from tests.patience import PATIENCE_S
from tests.project import ROOT
from tests.proxy import TcpProxy

POSTED = Outcome(Status.POSTED)


@pytest.fixture
def lock_timeouts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many transfers stood in each posting that gave up on a lock."""
    found: list[int] = []

    def counting(session: Session, ids: Sequence[int], **how: Any) -> Posting:
        try:
            return post(session, ids, **how)
        except LockNotAvailable:
            found.append(len(ids))
            raise

    monkeypatch.setattr(jobs.settler, "post", counting)
    return found


def untouched(engine: Engine, ids: Sequence[int]) -> bool:
    """Whether all of them stand as they were accepted."""
    return all(
        (row.status, row.attempts, row.last_error) == ("pending", 0, None) for row in rows_of(engine, ids).values()
    )


def test_a_healthy_batch_is_posted_as_one(books: Engine, settler: Settler, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counting(session: Session, ids: Sequence[int], **how: Any) -> Posting:
        calls.append(len(ids))
        return post(session, ids, **how)

    monkeypatch.setattr(jobs.settler, "post", counting)
    ids = accept(books, 300)
    settled = settler.settle(ids)
    assert settled.outcomes == dict.fromkeys(ids, POSTED)
    assert (settled.spent, settled.undone, settled.dead, settled.fault) == ({}, [], {}, None)
    assert calls == [300]
    assert {row.attempts for row in rows_of(books, ids).values()} == {1}
    assert_posted_once(books, ids)


def test_a_batch_settled_twice_moves_money_once(books: Engine, settler: Settler) -> None:
    ids = accept(books, 20)
    assert settler.settle(ids).outcomes == settler.settle([*ids, *ids]).outcomes
    assert {row.attempts for row in rows_of(books, ids).values()} == {1}
    assert_posted_once(books, ids)


def test_an_empty_batch_is_no_work(settler: Settler) -> None:
    assert settler.settle([]) == Settled()


def test_a_rejected_transfer_is_an_answer_and_no_failure(books: Engine, settler: Settler) -> None:
    posted = accept(books, 2)
    (rejected,) = accept(books, 1, first_id=2_000, cents=OPENING_CENTS + 1)
    settled = settler.settle([*posted, rejected])
    assert settled.outcomes[rejected] == Outcome(Status.REJECTED, "balance_insufficient")
    assert (settled.spent, settled.undone) == ({}, [])
    row = row_of(books, rejected)
    assert (row.status, row.reason, row.attempts, row.last_error) == ("rejected", "balance_insufficient", 1, None)
    assert_posted_once(books, posted)


def test_a_poison_among_300_spends_an_attempt_alone(books: Engine, settler: Settler) -> None:
    ids = accept(books, 300)
    poison = ids[137]
    with fault_on(books, [poison]):
        settled = settler.settle(ids)
    neighbours = [each for each in ids if each != poison]
    assert settled.outcomes == dict.fromkeys(neighbours, POSTED)
    assert (set(settled.spent), settled.undone, settled.fault) == ({poison}, [], None)
    row = row_of(books, poison)
    assert (row.status, row.attempts, row.reason, row.due) == ("pending", 1, None, False)
    assert row.next_attempt_at == settled.spent[poison].next_attempt_at
    assert {each.attempts for each in rows_of(books, neighbours).values()} == {1}
    assert_posted_once(books, neighbours)


def test_last_error_tells_users_no_sql_and_no_values(books: Engine, settler: Settler) -> None:
    (poison,) = accept(books, 1)
    with fault_on(books, [poison]):
        settler.settle([poison])
    assert row_of(books, poison).last_error == "the database refused it (SQLSTATE P0001)"


def test_the_delay_until_the_next_attempt_is_the_policys(books: Engine, settler: Settler) -> None:
    (poison,) = accept(books, 1)
    waits = "SELECT next_attempt_at - now() FROM transfers WHERE id = :id"
    for delay_s in DELAYS_S:
        with fault_on(books, [poison]):
            settler.settle([poison])
        with books.connect() as connection:
            left = connection.execute(text(waits), {"id": poison}).scalar_one()
        assert delay_s - 30 < left.total_seconds() <= delay_s


@pytest.mark.parametrize("size", [2, 3, 17, 100])
def test_several_poisons_take_no_neighbour_with_them(books: Engine, settler: Settler, size: int) -> None:
    ids = accept(books, size)
    poisons = {ids[0], ids[size // 2], ids[-1]}
    with fault_on(books, poisons):
        settled = settler.settle(ids)
    assert set(settled.spent) == poisons
    assert {row.attempts for row in rows_of(books, poisons).values()} == {1}
    neighbours = [each for each in ids if each not in poisons]
    assert set(settled.outcomes) == set(neighbours)
    assert balance_of(books, 2) == OPENING_CENTS + len(neighbours)
    check_books(books)


def test_a_batch_of_poisons_only_spends_an_attempt_each(books: Engine, settler: Settler) -> None:
    ids = accept(books, 12)
    with fault_on(books, ids):
        settled = settler.settle(ids)
    assert set(settled.spent) == set(ids)
    assert {row.attempts for row in rows_of(books, ids).values()} == {1}


def test_a_transfer_that_takes_too_long_is_narrowed_down(books: Engine, database_url: str, policy: RetryPolicy) -> None:
    ids = accept(books, 9)
    with bounded_engine(database_url, statement_ms=1_000) as engine, fault_on(books, [ids[4]], DAWDLES):
        settled = Settler(engine, policy).settle(ids)
    assert set(settled.spent) == {ids[4]}
    row = row_of(books, ids[4])
    assert (row.status, row.attempts, row.last_error) == ("pending", 1, "the database took too long")
    assert_posted_once(books, [each for each in ids if each != ids[4]])


def test_the_lease_is_renewed_between_the_steps_of_a_batch_that_takes_long(books: Engine, settler: Settler) -> None:
    renewals: list[None] = []
    settler.renew = lambda: renewals.append(None)
    ids = accept(books, 25)
    with fault_on(books, [ids[3]]):
        settler.settle(ids)
    assert len(renewals) >= 10  # five parts, and the five of the one that was at fault


@contextmanager
def wallet_locked(engine: Engine, user: int) -> Iterator[Connection]:
    with locked(engine, f"SELECT FROM wallets WHERE id = {user} FOR UPDATE") as connection:
        yield connection


def test_those_of_a_locked_wallet_wait_together_and_their_neighbours_do_not(
    books: Engine, settler: Settler, lock_timeouts: list[int]
) -> None:
    free = accept(books, 100)
    blocked = accept(books, 60, first_id=2_000, source=3, destination=2)
    with wallet_locked(books, 3):
        settled = settler.settle([*free, *blocked])
        assert_posted_once(books, free)
    assert settled.outcomes == dict.fromkeys(free, POSTED)
    assert set(settled.spent) == set(blocked)
    rows = rows_of(books, blocked).values()
    assert {(row.status, row.attempts) for row in rows} == {("pending", 1)}
    assert {row.last_error for row in rows} == {"a wallet stayed locked for too long"}
    # The whole batch once, and those that could not be posted at once together.
    assert lock_timeouts == [160, 60]


def test_a_lone_transfer_of_a_locked_wallet_spends_one_attempt(
    books: Engine, settler: Settler, lock_timeouts: list[int]
) -> None:
    (blocked,) = accept(books, 1)
    with wallet_locked(books, 2):
        settled = settler.settle([blocked])
    assert (set(settled.spent), row_of(books, blocked).attempts) == ({blocked}, 1)
    assert lock_timeouts == [1, 1]


def test_those_of_two_locked_wallets_cost_no_more_waiting_than_those_of_one(
    books: Engine, settler: Settler, lock_timeouts: list[int]
) -> None:
    first = accept(books, 20, source=3)
    second = accept(books, 20, first_id=2_000, source=4)
    free = accept(books, 20, first_id=3_000)
    with wallet_locked(books, 3), wallet_locked(books, 4):
        settled = settler.settle([*first, *second, *free])
    assert set(settled.spent) == {*first, *second}
    assert lock_timeouts == [60, 40]
    assert_posted_once(books, free)


def test_a_poison_beside_a_locked_wallet_does_not_make_each_of_its_transfers_wait_alone(
    books: Engine, settler: Settler, lock_timeouts: list[int]
) -> None:
    free = accept(books, 30)
    blocked = accept(books, 30, first_id=2_000, source=3)
    (poison,) = accept(books, 1, first_id=3_000)
    with wallet_locked(books, 3), fault_on(books, [poison]):
        settled = settler.settle([*free, *blocked, poison])
    assert settled.outcomes == dict.fromkeys(free, POSTED)
    assert set(settled.spent) == {*blocked, poison}
    assert {row.attempts for row in rows_of(books, [*blocked, poison]).values()} == {1}
    assert row_of(books, poison).last_error == "the database refused it (SQLSTATE P0001)"
    assert len(lock_timeouts) <= 3
    assert_posted_once(books, free)


def test_a_lock_that_is_released_meanwhile_costs_no_attempt(
    books: Engine, settler: Settler, lock_timeouts: list[int]
) -> None:
    ids = accept(books, 10, source=3)
    with wallet_locked(books, 3) as holder:
        settler.renew = holder.rollback  # after the first wait, before the second
        settled = settler.settle(ids)
    assert settled.outcomes == dict.fromkeys(ids, POSTED)
    assert settled.spent == {}
    assert lock_timeouts == [10]
    assert {row.attempts for row in rows_of(books, ids).values()} == {1}
    assert_posted_once(books, ids)


def test_a_lock_that_is_released_before_anybody_waits_again_costs_no_attempt(
    books: Engine, settler: Settler, lock_timeouts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = accept(books, 10, source=3)
    find_seen = attempts.find_seen
    with wallet_locked(books, 3) as holder:

        def release_and_find(engine: Engine, some: Sequence[int]) -> dict[int, Seen]:
            holder.rollback()
            return find_seen(engine, some)

        monkeypatch.setattr(attempts, "find_seen", release_and_find)
        settled = settler.settle(ids)
    assert settled.outcomes == dict.fromkeys(ids, POSTED)
    assert lock_timeouts == [10]
    assert_posted_once(books, ids)


def test_a_poison_among_those_that_waited_for_a_lock_spends_an_attempt_alone(
    books: Engine, settler: Settler, lock_timeouts: list[int]
) -> None:
    ids = accept(books, 10, source=3)
    with wallet_locked(books, 3) as holder, fault_on(books, [ids[6]]):
        settler.renew = holder.rollback
        settled = settler.settle(ids)
    neighbours = [each for each in ids if each != ids[6]]
    assert settled.outcomes == dict.fromkeys(neighbours, POSTED)
    assert set(settled.spent) == {ids[6]}
    assert lock_timeouts == [10]
    assert row_of(books, ids[6]).last_error == "the database refused it (SQLSTATE P0001)"
    assert_posted_once(books, neighbours)


@pytest.mark.parametrize("look", ["find_seen", "find_outcomes"])
def test_a_database_that_goes_away_between_a_try_and_a_look_is_a_fault_of_nobodys(
    books: Engine, settler: Settler, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    (poison,) = accept(books, 1)

    def be_away(*_: object) -> None:
        raise Unavailable

    with fault_on(books, [poison]), monkeypatch.context() as patches:
        patches.setattr(attempts, look, be_away)
        settled = settler.settle([poison, 999] if look == "find_seen" else [999])
    assert settled.fault is not None
    assert (settled.outcomes, settled.spent) == ({}, {})
    assert settled.undone == ([poison, 999] if look == "find_seen" else [999])
    assert untouched(books, [poison])


def test_a_transfer_whose_own_row_is_locked_holds_up_nobody(
    books: Engine, settler: Settler, lock_timeouts: list[int]
) -> None:
    """Another worker may be at it, late."""
    ids = accept(books, 30)
    with locked(books, f"SELECT FROM transfers WHERE id = {ids[7]} FOR UPDATE"):
        settled = settler.settle(ids)
        # It cannot be spent either while the row is locked: nothing is known of it, so it goes back.
        assert set(settled.outcomes) == set(ids) - {ids[7]}
        assert (settled.undone, set(settled.spent)) == ([ids[7]], set())
    assert untouched(books, [ids[7]])
    assert_posted_once(books, [each for each in ids if each != ids[7]])
    assert lock_timeouts == [30, 1]


def test_a_real_deadlock_is_undone_and_tried_again(books: Engine, database_url: str, policy: RetryPolicy) -> None:
    """Whoever has waited longest looks for a circle first: here that is the settler, which is told so."""
    ids = accept(books, 5, source=3, destination=4)
    with (
        bounded_engine(database_url, lock_ms=20_000, statement_ms=20_000) as engine,
        locked(books, "SELECT FROM wallets WHERE id = 4 FOR UPDATE") as rival,
        ThreadPoolExecutor(1) as pool,
    ):
        settling = pool.submit(Settler(engine, policy).settle, ids)
        assert wait_for(lambda: count_waiting(books) == 1, PATIENCE_S)  # it holds wallet 3, and wants 4
        with suppress(DBAPIError):  # should it be told instead
            rival.exec_driver_sql("SELECT FROM wallets WHERE id = 3 FOR UPDATE")
        rival.rollback()
        settled = settling.result(PATIENCE_S)
    assert (settled.outcomes, settled.spent) == (dict.fromkeys(ids, POSTED), {})
    check_books(books)


def test_a_database_that_is_away_undoes_the_batch_and_blames_nobody(
    books: Engine, postgres_proxy: TcpProxy, policy: RetryPolicy
) -> None:
    ids = accept(books, 20)
    with bounded_engine(postgres_proxy.url) as engine:
        settler = Settler(engine, policy)
        postgres_proxy.refuse()
        settled = settler.settle(ids)
        assert (settled.outcomes, settled.spent, settled.undone) == ({}, {}, ids)
        assert settled.fault is not None
        assert untouched(books, ids)
        with pytest.raises(Unavailable):
            settler.reopen({ids[0]: 1})
        postgres_proxy.refuse(refusing=False)
        assert settler.settle(ids).outcomes == dict.fromkeys(ids, POSTED)
    assert_posted_once(books, ids)


def test_a_database_that_hangs_undoes_the_batch_and_blames_nobody(
    books: Engine, postgres_proxy: TcpProxy, policy: RetryPolicy
) -> None:
    ids = accept(books, 3)
    with bounded_engine(postgres_proxy.url, statement_ms=100) as engine:
        settler = Settler(engine, policy)
        settler.settle([])
        postgres_proxy.hold()
        settled = settler.settle(ids)
        postgres_proxy.break_all()
        postgres_proxy.resume()
        assert (settled.outcomes, settled.spent, settled.undone) == ({}, {}, ids)
        assert untouched(books, ids)
        assert wait_for(lambda: settler.settle(ids).outcomes == dict.fromkeys(ids, POSTED), PATIENCE_S)
    assert_posted_once(books, ids)


def test_a_session_that_is_terminated_in_mid_batch_is_followed_by_another(books: Engine, settler: Settler) -> None:
    ids = accept(books, 20)
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bounded'"
    with wallet_locked(books, 2) as holder, ThreadPoolExecutor(1) as pool:
        settling = pool.submit(settler.settle, ids)
        assert wait_for(lambda: count_waiting(books) == 1, PATIENCE_S)
        holder.exec_driver_sql(terminate + " AND datname = current_database()")
        holder.rollback()
        settled = settling.result(PATIENCE_S)
    assert (settled.outcomes, settled.spent, settled.fault) == (dict.fromkeys(ids, POSTED), {}, None)
    assert_posted_once(books, ids)


def is_commit(data: bytes) -> bool:
    """The statement, alone or at the end of others, and not ``READ COMMITTED``."""
    return b"COMMIT\x00" in data


def test_a_lost_reply_to_the_commit_is_found_out_by_the_next_try(
    books: Engine, postgres_proxy: TcpProxy, policy: RetryPolicy
) -> None:
    ids = accept(books, 20)
    with bounded_engine(postgres_proxy.url) as engine:
        settler = Settler(engine, policy)
        postgres_proxy.lose_reply_to(is_commit)
        settled = settler.settle(ids)
        assert postgres_proxy.cuts == 1
        assert (settled.outcomes, settled.spent, settled.fault) == (dict.fromkeys(ids, POSTED), {}, None)
    assert {row.attempts for row in rows_of(books, ids).values()} == {1}
    assert_posted_once(books, ids)


def test_a_lost_reply_when_an_attempt_is_spent_counts_each_try_once(
    books: Engine, postgres_proxy: TcpProxy, policy: RetryPolicy
) -> None:
    (poison,) = accept(books, 1)
    with bounded_engine(postgres_proxy.url) as engine, fault_on(books, [poison]):
        settler = Settler(engine, policy)
        # A posting's travels with what it posts: this is the one by which an attempt is spent.
        postgres_proxy.lose_reply_to(lambda data: data.endswith(b"\x0bCOMMIT\x00"))
        settled = settler.settle([poison])
        assert (postgres_proxy.cuts, settled.spent, settled.undone) == (1, {}, [poison])
        assert row_of(books, poison).attempts == 1
        assert settler.settle([poison]).spent[poison].attempts == 2
    check_books(books)


def test_what_was_posted_before_the_database_went_away_stays_posted(
    books: Engine, postgres_proxy: TcpProxy, policy: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of narrowing down: only what has no outcome yet is handed back."""
    ids = accept(books, 9)
    postings: list[int] = []

    def post_twice_and_be_cut_off(session: Session, some: Sequence[int], **how: Any) -> Posting:
        postings.append(len(some))
        if len(postings) > 2:
            postgres_proxy.refuse()
        return post(session, some, **how)

    monkeypatch.setattr(jobs.settler, "post", post_twice_and_be_cut_off)
    with bounded_engine(postgres_proxy.url) as engine, fault_on(books, [ids[8]]):
        settled = Settler(engine, policy).settle(ids)
    assert postings == [9, 3, 3]
    assert set(settled.outcomes) == set(ids[:3])
    assert (settled.undone, settled.spent) == (ids[3:], {})
    assert untouched(books, ids[3:])
    assert_posted_once(books, ids[:3])


def test_an_attempt_is_spent_only_by_a_try_that_began_after_the_counters_were_read(
    books: Engine, settler: Settler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was held up in the try before that may count what somebody else has counted already."""
    (number,) = accept(books, 1)
    find_seen = attempts.find_seen

    def cure_and_find(engine: Engine, some: Sequence[int]) -> dict[int, Seen]:
        with books.begin() as connection:
            connection.execute(text("ALTER TABLE transfers DISABLE TRIGGER test_fault"))
        return find_seen(engine, some)

    with fault_on(books, [number]):
        monkeypatch.setattr(attempts, "find_seen", cure_and_find)
        settled = settler.settle([number])
    assert (settled.outcomes, settled.spent) == ({number: POSTED}, {})
    assert (row_of(books, number).attempts, row_of(books, number).last_error) == (1, None)
    assert_posted_once(books, [number])


def test_attempts_that_run_out_make_a_dead_letter(books: Engine, settler: Settler) -> None:
    (poison,) = accept(books, 1)
    with fault_on(books, [poison]):
        results = [settler.settle([poison]).spent[poison] for _ in range(len(DELAYS_S) + 1)]
    assert [spent.attempts for spent in results] == [1, 2, 3]
    assert [spent.next_attempt_at is None for spent in results] == [False, False, True]
    row = row_of(books, poison)
    assert (row.status, row.reason, row.attempts, row.next_attempt_at) == ("failed", "attempts_exhausted", 3, None)
    assert row.completed_at is not None
    check_books(books)


def test_a_dead_letter_is_left_dead_and_told_in_its_generation(books: Engine, settler: Settler) -> None:
    ids = accept(books, 3)
    kill_off(books, [ids[1]])
    settled = settler.settle(ids)
    assert settled.outcomes == {ids[0]: POSTED, ids[1]: Outcome(Status.FAILED, "attempts_exhausted"), ids[2]: POSTED}
    assert settled.dead == {ids[1]: 1}
    assert_posted_once(books, [ids[0], ids[2]])


def test_a_retried_transfer_is_posted_later_and_its_last_error_stays(books: Engine, settler: Settler) -> None:
    ids = accept(books, 5)
    with fault_on(books, [ids[2]]):
        settler.settle(ids)
    make_due(books)
    assert settler.settle([ids[2]]).outcomes == {ids[2]: POSTED}
    row = row_of(books, ids[2])
    assert (row.status, row.attempts, row.next_attempt_at) == ("posted", 2, None)
    assert row.last_error == "the database refused it (SQLSTATE P0001)"
    assert_posted_once(books, ids)


OVERTAKEN = {
    "attempts": "UPDATE transfers SET attempts = attempts + 1 WHERE id = :id",
    "generation": "UPDATE transfers SET generation = generation + 1 WHERE id = :id",
    "failed": "UPDATE transfers SET status = 'failed', reason = 'worker_lost', completed_at = now() WHERE id = :id",
    "posted": None,
}


@pytest.mark.parametrize("how", sorted(OVERTAKEN))
def test_a_late_worker_spends_nothing(
    books: Engine, settler: Settler, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Between what it saw and what it says, somebody else has moved the transfer on."""
    ids = accept(books, 2)
    spend = attempts.spend

    def overtaken(connection: Connection, seen: dict[int, Seen], *rest: Any, **named: Any) -> Any:
        if (statement := OVERTAKEN[how]) is None:
            post_now(books, ids)
        else:
            with books.begin() as other:
                other.execute(text(statement), {"id": ids[0]})
        return spend(connection, seen, *rest, **named)

    monkeypatch.setattr(attempts, "spend", overtaken)
    with fault_on(books, [ids[0]], f"IF current_setting('application_name') = 'bounded' THEN {REFUSES} END IF;"):
        settled = settler.settle(ids)
    row = row_of(books, ids[0])
    assert row.last_error is None
    assert settled.spent == {}
    # And it is told as what it is by now.
    final = {each: outcome for each, outcome in settled.outcomes.items() if each == ids[0]}
    match how:
        case "posted":
            assert (final, settled.undone) == ({ids[0]: POSTED}, [])
        case "failed":
            assert (final, settled.undone) == ({ids[0]: Outcome(Status.FAILED, "worker_lost")}, [])
            assert settled.dead == {ids[0]: 1}
        case _:
            assert (final, settled.undone) == ({}, [ids[0]])
    check_books(books)


def test_ids_of_no_transfer_are_in_none_of_the_lists(books: Engine, settler: Settler) -> None:
    ids = accept(books, 3)
    settled = settler.settle([1_999, *ids, 2**63 - 1])
    assert settled.outcomes == dict.fromkeys(ids, POSTED)
    assert (settled.spent, settled.undone, settled.fault) == ({}, [], None)
    with fault_on(books, [4_000]):
        accept(books, 1, first_id=4_000)
        settled = settler.settle([1_999, 4_000])
    assert (settled.outcomes, set(settled.spent), settled.undone) == ({}, {4_000}, [])


def test_traces_are_told_of_what_was_decided_now(books: Engine, settler: Settler) -> None:
    ids = accept(books, 2)
    with books.begin() as connection:
        connection.execute(text("UPDATE transfers SET trace = '00-trace' WHERE id = :id"), {"id": ids[0]})
    assert settler.settle(ids).traces == {ids[0]: "00-trace"}
    assert settler.settle(ids).traces == {}


def test_alone_a_transfer_is_settled_just_as_well(books: Engine, settler: Settler) -> None:
    first, second, poison = accept(books, 3)
    (poor,) = accept(books, 1, first_id=2_000, cents=OPENING_CENTS + 1)
    assert settle_alone(settler, first, generation=None) is Status.POSTED
    assert settle_alone(settler, first, generation=None) is Status.POSTED
    assert settle_alone(settler, poor, generation=None) is Status.REJECTED
    with fault_on(books, [poison]):
        for _ in DELAYS_S:
            assert settle_alone(settler, poison, generation=None) is Status.PENDING
        for _ in range(2):  # the attempt that makes it one, and whoever finds it as one
            with pytest.raises(TransferFailedError) as failed:
                settle_alone(settler, poison, generation=None)
            assert failed.value.generation == 1
    assert settle_alone(settler, poison, generation=1) is Status.POSTED
    kill_off(books, [second], attempts=3)
    with pytest.raises(TransferFailedError):  # it was dead in another generation
        settle_alone(settler, second, generation=2)
    assert_posted_once(books, [first, poison])


def test_alone_what_is_no_transfer_is_an_error(settler: Settler) -> None:
    with pytest.raises(TransferNotFound):
        settle_alone(settler, 999, generation=None)


def test_alone_a_database_that_is_away_is_an_error_that_costs_no_attempt(
    books: Engine, postgres_proxy: TcpProxy, policy: RetryPolicy
) -> None:
    ids = accept(books, 1)
    with bounded_engine(postgres_proxy.url) as engine:
        postgres_proxy.refuse()
        with pytest.raises(Unavailable):
            settle_alone(Settler(engine, policy), ids[0], generation=None)
    assert untouched(books, ids)


@pytest.fixture
def stock_environment(
    monkeypatch: pytest.MonkeyPatch, service_database_url: str, redis_url: str
) -> Iterator[dict[str, str]]:
    """What the job's function reads when RQ's own worker calls it: one retry, at once."""
    own = {
        "DATABASE_URL": service_database_url,
        "REDIS_URL": redis_url,
        "RETRY_DELAYS": "0",
        "STATEMENT_TIMEOUT_MS": "8000",
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    job._settler_of_this_process.cache_clear()
    yield {**os.environ, **own}
    if job._settler_of_this_process.cache_info().currsize:
        job._settler_of_this_process()._engine.dispose()
    job._settler_of_this_process.cache_clear()


def run_simple_worker(client: redis.Redis) -> None:
    worker = SimpleWorker([stock_queue(client)], connection=client, serializer=JSONSerializer)
    worker.work(burst=True, logging_level="CRITICAL")


def run_rq_command(environment: dict[str, str]) -> None:
    """``rq worker``, as anybody would start it, until the queue is empty."""
    command = [sys.executable, "-m", "rq.cli", "worker", "transfers", "--burst", "--quiet"]
    command += ["--serializer", "rq.serializers.JSONSerializer", "--url", environment["REDIS_URL"]]
    done = nursery.run(command, cwd=ROOT, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["SimpleWorker", "rq worker"])
def test_a_stock_worker_settles_our_jobs(
    books: Engine, redis_client: redis.Redis, stock_environment: dict[str, str], kind: str
) -> None:
    def work() -> None:
        if kind == "SimpleWorker":
            run_simple_worker(redis_client)
        else:
            run_rq_command(stock_environment)

    posted = backlog(books, redis_client, 2)
    (poor,) = backlog(books, redis_client, 1, first_id=2_000, cents=OPENING_CENTS + 1)
    (poison,) = backlog(books, redis_client, 1, first_id=3_000)
    with books.begin() as connection:  # this try is the last one
        connection.execute(text("UPDATE transfers SET attempts = 1 WHERE id = :id"), {"id": poison})
    with fault_on(books, [poison]):
        work()
    assert_posted_once(books, posted)
    assert {status_of(redis_client, each) for each in (*posted, poor)} == {"finished"}
    assert row_of(books, poor).status == "rejected"
    assert (row_of(books, poison).status, row_of(books, poison).reason) == ("failed", "attempts_exhausted")
    assert members(redis_client, FAILED).keys() == {str(poison)}
    assert members(redis_client, STARTED) == {}
    result = job_of(redis_client, poison).latest_result()
    assert result is not None
    assert "TransferFailedError" in str(result.exc_string)

    requeue_job(str(poison), connection=redis_client, serializer=JSONSerializer)
    work()
    row = row_of(books, poison)
    assert (row.status, row.generation, row.attempts) == ("posted", 2, 1)
    assert status_of(redis_client, poison) == "finished"
    assert members(redis_client, FAILED) == {}
    assert_posted_once(books, [*posted, poison])
