"""An attempt is spent once, a dead letter is reopened once, and whoever comes late changes nothing."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Row, insert, select, text

from models.ledger import attempts
from models.ledger.attempts import BEGINNING, Due, Seen, Spent
from models.ledger.transfer import Status
from models.schema.tables import transfers
from ops.local.processes import wait_for
from tests.books import check_books
from tests.models.ledger.ordering import balances, count_waiting, post_now
from tests.patience import PATIENCE_S

FRESH = Seen(attempts=0, generation=1)


@pytest.fixture
def pending(engine: Engine) -> list[int]:
    """Three transfers of 10 cents each that wait, from a wallet of 100."""
    ids = [11, 12, 13]
    with engine.begin() as connection:
        rows = [{"id": user, "kind": "deposit", "destination": user, "amount": 100} for user in (1, 2)]
        connection.execute(insert(transfers), rows)
    post_now(engine, [1, 2])
    with engine.begin() as connection:
        rows = [{"id": each, "kind": "transfer", "source": 1, "destination": 2, "amount": 10} for each in ids]
        connection.execute(insert(transfers), [row | {"trace": f"trace-{row['id']}"} for row in rows])
    return ids


def row_of(engine: Engine, transfer_id: int) -> Row[Any]:
    with engine.connect() as connection:
        return connection.execute(select(transfers).where(transfers.c.id == transfer_id)).one()


def spend(engine: Engine, seen: Mapping[int, Seen], delay_s: float | None, error: str = "e") -> dict[int, Spent]:
    with engine.begin() as connection:
        return attempts.spend(connection, seen, dict.fromkeys(seen, delay_s), error=error)


def kill(engine: Engine, *ids: int) -> None:
    assert spend(engine, dict.fromkeys(ids, FRESH), None).keys() == set(ids)


def reopen(engine: Engine, generations: Mapping[int, int]) -> list[Due]:
    with engine.begin() as connection:
        return attempts.reopen(connection, generations)


# Spending


def test_an_attempt_that_failed_is_spent_and_the_next_is_due_after_the_delay(
    engine: Engine, pending: list[int]
) -> None:
    with engine.begin() as connection:
        spent = attempts.spend(connection, {11: FRESH, 12: FRESH}, {11: 60.0, 12: 0.25}, error="no luck")
        now = connection.execute(text("SELECT now()")).scalar_one()

    assert spent == {
        11: Spent(generation=1, attempts=1, next_attempt_at=now + timedelta(seconds=60), trace="trace-11"),
        12: Spent(generation=1, attempts=1, next_attempt_at=now + timedelta(milliseconds=250), trace="trace-12"),
    }
    row = row_of(engine, 11)
    assert (row.status, row.reason, row.attempts, row.last_error, row.completed_at) == (
        "pending",
        None,
        1,
        "no luck",
        None,
    )
    assert row.next_attempt_at == spent[11].next_attempt_at
    assert row_of(engine, pending[2]).attempts == 0


def test_without_another_attempt_it_is_a_dead_letter(engine: Engine, pending: list[int]) -> None:
    assert spend(engine, {11: FRESH}, None, "no luck") == {11: Spent(1, 1, None, "trace-11")}
    row = row_of(engine, 11)
    assert (row.status, row.reason, row.attempts, row.last_error, row.next_attempt_at) == (
        "failed",
        "attempts_exhausted",
        1,
        "no luck",
        None,
    )
    assert row.completed_at is not None
    assert {row_of(engine, each).status for each in pending[1:]} == {"pending"}


@pytest.mark.parametrize("delay_s", [1.0, None])
def test_an_attempt_is_spent_once_however_many_come_with_what_they_saw(
    engine: Engine, pending: list[int], delay_s: float | None
) -> None:
    seen = attempts.find_seen(engine, pending)
    assert seen == dict.fromkeys(pending, FRESH)
    assert spend(engine, seen, delay_s).keys() == set(pending)
    before = [row_of(engine, each) for each in pending]
    assert spend(engine, seen, delay_s) == {}
    assert spend(engine, seen, None) == {}
    assert [row_of(engine, each) for each in pending] == before


def test_who_comes_late_fails_nothing_that_was_settled_meanwhile(engine: Engine, pending: list[int]) -> None:
    seen = attempts.find_seen(engine, pending)
    post_now(engine, pending)
    before = [row_of(engine, each) for each in pending]
    assert spend(engine, seen, None) == {}
    assert [row_of(engine, each) for each in pending] == before
    assert balances(engine) == {1: 70, 2: 130}
    check_books(engine)


def test_who_comes_late_fails_nothing_that_was_requeued_meanwhile(engine: Engine, pending: list[int]) -> None:
    """Its counters begin anew, so the attempts alone would look the same."""
    kill(engine, *pending)
    reopen(engine, dict.fromkeys(pending, 1))
    assert spend(engine, dict.fromkeys(pending, FRESH), None) == {}
    assert attempts.find_seen(engine, pending) == dict.fromkeys(pending, Seen(attempts=0, generation=2))


def test_only_what_is_pending_is_seen(engine: Engine, pending: list[int]) -> None:
    post_now(engine, pending[:1])
    kill(engine, pending[1])
    assert attempts.find_seen(engine, [*pending, 999]) == {pending[2]: FRESH}
    assert attempts.find_seen(engine, []) == {}


def test_a_transfer_that_failed_before_can_still_be_posted(engine: Engine, pending: list[int]) -> None:
    spend(engine, {11: FRESH}, 60.0, "no luck")
    assert post_now(engine, [11]).outcomes[11].status is Status.POSTED
    row = row_of(engine, 11)
    assert (row.attempts, row.next_attempt_at) == (2, None)
    assert {row_of(engine, each).status for each in pending[1:]} == {"pending"}
    check_books(engine)


# Workers that died


def count_lost(engine: Engine, leases: dict[int, int]) -> dict[int, int]:
    with engine.begin() as connection:
        return attempts.count_lost(connection, leases)


def fail_lost(engine: Engine, *ids: int, leases: int, most: int) -> dict[int, Spent]:
    with engine.begin() as connection:
        attempts.count_lost(connection, dict.fromkeys(ids, leases))
        return attempts.fail_lost(connection, ids, most=most)


def test_lost_leases_only_grow(engine: Engine, pending: list[int]) -> None:
    for leases, expected in ((1, 1), (3, 3), (2, 3)):
        assert count_lost(engine, {11: leases, 999: 1}) == {11: expected}
        assert row_of(engine, 11).lost_leases == expected
    assert {row_of(engine, each).lost_leases for each in pending[1:]} == {0}


def test_lost_leases_of_what_is_final_are_not_counted(engine: Engine, pending: list[int]) -> None:
    post_now(engine, pending)
    assert count_lost(engine, {11: 5}) == {}
    assert row_of(engine, 11).lost_leases == 0


def test_what_kills_its_worker_is_a_dead_letter_unless_it_was_settled(engine: Engine, pending: list[int]) -> None:
    spend(engine, {12: FRESH}, 60.0)
    post_now(engine, pending[:1])
    assert fail_lost(engine, *pending, 999, leases=1, most=1) == {
        12: Spent(1, 1, None, "trace-12"),
        13: Spent(1, 0, None, "trace-13"),
    }
    assert row_of(engine, 11).status == "posted"
    row = row_of(engine, 12)
    assert (row.status, row.reason, row.next_attempt_at) == ("failed", "worker_lost", None)
    assert row.last_error == "the worker died each time it was tried"
    check_books(engine)


def test_deaths_of_a_former_generation_fail_nobody(engine: Engine, pending: list[int]) -> None:
    """However many there were, and whoever goes on counting them."""
    count_lost(engine, dict.fromkeys(pending, 4))
    kill(engine, 12)
    assert len(reopen(engine, {12: 1})) == 1
    assert fail_lost(engine, *pending, leases=5, most=5).keys() == {11, 13}
    assert (row_of(engine, 12).status, row_of(engine, 12).lost_leases) == ("pending", 1)
    for leases in (6, 7, 8):
        assert fail_lost(engine, 12, leases=leases, most=5) == {}
    assert fail_lost(engine, 12, leases=9, most=5).keys() == {12}
    check_books(engine)


STEPS: dict[str, Callable[[Connection, list[int]], object]] = {
    "count_lost": lambda connection, ids: attempts.count_lost(connection, dict.fromkeys(ids, 1)),
    "reopen": lambda connection, ids: attempts.reopen(connection, dict.fromkeys(ids, 1)),
    "spend": lambda connection, ids: attempts.spend(
        connection, dict.fromkeys(ids, FRESH), dict.fromkeys(ids, 60.0), error="e"
    ),
}


@pytest.mark.parametrize("step", sorted(STEPS))
def test_what_locks_several_transfers_locks_them_in_the_order_of_their_ids(
    engine: Engine, pending: list[int], step: str
) -> None:
    """Given in another order and stored in another one, and the middle one is somebody else's for a while."""
    with engine.begin() as connection:  # so the first is stored behind the others
        connection.execute(text("UPDATE transfers SET last_error = 'moved' WHERE id = 11"))
    if step == "reopen":
        kill(engine, *pending)
    with engine.connect() as holder, ThreadPoolExecutor(1) as pool:
        holder.execute(text("SELECT FROM transfers WHERE id = 12 FOR UPDATE"))

        def take() -> object:
            with engine.begin() as connection:
                return STEPS[step](connection, [13, 12, 11])

        taking = pool.submit(take)
        assert wait_for(lambda: count_waiting(engine) == 1, PATIENCE_S)
        free = text("SELECT id FROM transfers WHERE id IN (11, 13) FOR UPDATE SKIP LOCKED")
        with engine.connect() as other:
            assert other.execute(free).scalars().all() == [13]  # the first is locked already, the last is not
            other.rollback()
        holder.rollback()
        taking.result(PATIENCE_S)


# Dead letters


def test_a_dead_letter_is_reopened_with_all_its_attempts_in_a_new_generation(
    engine: Engine, pending: list[int]
) -> None:
    count_lost(engine, {11: 2})
    kill(engine, 11)
    assert reopen(engine, {11: 1, pending[1]: 1, 999: 1}) == [Due(11, 1, 2, 10, "trace-11")]

    row = row_of(engine, 11)
    assert (row.status, row.reason, row.attempts, row.generation, row.lost_leases) == ("pending", None, 0, 2, 0)
    assert row.completed_at is None
    assert row.next_attempt_at > row.created_at  # as of then, so that the relay finds it among what is new
    assert row_of(engine, pending[1]).generation == 1
    assert post_now(engine, [11]).outcomes[11].status is Status.POSTED
    check_books(engine)


def test_a_dead_letter_is_reopened_once_however_often_somebody_asks(engine: Engine, pending: list[int]) -> None:
    kill(engine, *pending)
    assert len(reopen(engine, dict.fromkeys(pending, 1))) == 3
    assert reopen(engine, dict.fromkeys(pending, 1)) == []
    # Dead again, and whoever saw the first death does not reopen the second.
    assert spend(engine, {11: Seen(0, 2)}, None) == {11: Spent(2, 1, None, "trace-11")}
    assert reopen(engine, {11: 1}) == []
    assert len(reopen(engine, {11: 2})) == 1
    assert row_of(engine, 11).generation == 3


def test_what_was_settled_is_never_reopened(engine: Engine, pending: list[int]) -> None:
    post_now(engine, pending)
    assert reopen(engine, dict.fromkeys(pending, 1)) == []
    assert {row_of(engine, each).status for each in pending} == {"posted"}


def test_dead_letters_are_listed_newest_first_a_page_at_a_time(engine: Engine, pending: list[int]) -> None:
    kill(engine, *pending)
    assert [row.id for row in attempts.find_dead(engine, before=999, limit=2)] == [13, 12]
    assert [row.id for row in attempts.find_dead(engine, before=12, limit=2)] == [11]
    assert attempts.find_dead(engine, before=11, limit=2) == []
    reopen(engine, {12: 1})
    assert [row.id for row in attempts.find_dead(engine, before=999, limit=9)] == [13, 11]


def test_the_generations_of_the_dead_are_told(engine: Engine, pending: list[int]) -> None:
    kill(engine, 11, 12)
    reopen(engine, {12: 1})
    spend(engine, {12: Seen(0, 2)}, None)
    assert attempts.find_dead_generations(engine, [*pending, 999]) == {11: 1, 12: 2}


# What is due


def test_pending_ids_are_listed_oldest_first_without_those_that_wait(engine: Engine, pending: list[int]) -> None:
    spend(engine, {12: FRESH}, 3_600.0)
    page = attempts.find_pending(engine, limit=9)
    assert (page.ids, page.is_last) == ([11, 13], True)
    first = attempts.find_pending(engine, limit=1)
    assert (first.ids, first.is_last, first.end) == ([11], False, first.first)
    assert attempts.find_pending(engine, after=first.end, limit=9).ids == [13]
    with engine.begin() as connection:
        connection.execute(text("UPDATE transfers SET next_attempt_at = now() WHERE id = 12"))  # its time has come
    # After what has been due for longer.
    assert attempts.find_pending(engine, limit=9).ids == [11, 13, 12]
    assert attempts.find_pending(engine, after=page.end, limit=9).ids == [12]
    post_now(engine, pending)
    assert attempts.find_pending(engine, limit=9).ids == []


def test_a_look_at_a_share_of_what_is_ahead_gets_to_the_end_all_the_same(engine: Engine, pending: list[int]) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE transfers SET created_at = now() - id * interval '1 day'"))
    after, found, looks = BEGINNING, list[int](), 0
    while not (page := attempts.find_pending(engine, after=after, limit=2, share=0.25)).is_last:
        assert page.end > after
        after, looks = page.end, looks + 1
        found += page.ids
    assert found == [13, 12, 11] == pending[::-1]
    assert looks > 20  # from 2000 to a second ago, by quarters


def test_what_the_queue_needs_of_a_transfer_is_told_while_it_is_pending(engine: Engine, pending: list[int]) -> None:
    count_lost(engine, {12: 2})
    post_now(engine, [11])
    assert attempts.find_due(engine, [13, 12, 11, 999]) == [
        Due(12, 1, 2, 10, "trace-12", lost_leases=2),
        Due(13, 1, 2, 10, "trace-13"),
    ]
    assert attempts.find_due(engine, []) == []
    assert pending == [11, 12, 13]
