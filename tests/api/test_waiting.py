"""The waiting room by itself: one look for all, and its bounds hold whatever happens inside."""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from api.waiting import FIRST_PAUSE_S, LONGEST_PAUSE_S, Room
from models.errors import TransferNotFound, Unavailable
from models.ledger.transfer import Kind, Status, Transfer
from observe import background
from tests.api.waiters import wait_for

# Of those who look together, here: longer than anything that is measured.
WAITERS = 20


def transfer(transfer_id: int, status: Status) -> Transfer:
    """Return a transfer that stands like this."""
    return Transfer(
        id=transfer_id,
        kind=Kind.TRANSFER,
        source=1,
        destination=2,
        amount_cents=1,
        status=status,
        reason=None,
        attempts=0,
        last_error=None,
        next_attempt_at=None,
        created_at=datetime.now(UTC),
        completed_at=None,
    )


class Books:
    """Transfers that end when they are told to, and what was asked about them."""

    def __init__(self) -> None:
        self.ended: dict[int, Status] = {}
        # For each look for all: when it was, and for whom.
        self.looks: list[tuple[float, set[int]]] = []
        self.single_looks = 0
        self.fails = False

    def find_ended(self, transfer_ids: Collection[int]) -> set[int]:
        self.looks.append((time.monotonic(), set(transfer_ids)))
        if self.fails:
            raise Unavailable
        return set(transfer_ids) & self.ended.keys()

    def look(self, transfer_id: int) -> Callable[[], Transfer]:
        def look() -> Transfer:
            self.single_looks += 1
            return transfer(transfer_id, self.ended.get(transfer_id, Status.PENDING))

        return look


@pytest.fixture
def books() -> Books:
    return Books()


def until_final(room: Room[int], look: Callable[[], Transfer], transfer_id: int, wait_s: float = 20) -> Transfer:
    return room.look_until(lambda seen: seen.status.is_final, look, transfer_id, wait_s)


@contextmanager
def waiting(room: Room[int], books: Books, ids: Collection[int], wait_s: float = 20) -> Iterator[list[Status]]:
    """Have one wait for each id; yield a list that fills with how these stood, as soon as all of them wait."""
    found: list[Status] = []
    with ThreadPoolExecutor(len(ids)) as pool:
        pending = [pool.submit(until_final, room, books.look(each), each, wait_s) for each in ids]
        wait_for(lambda: room.waiters == len(ids))
        yield found
        found += [each.result().status for each in pending]


@pytest.mark.parametrize("status", [Status.POSTED, Status.REJECTED, Status.FAILED])
def test_every_final_status_ends_the_wait(books: Books, status: Status) -> None:
    room = Room(books.find_ended)
    with waiting(room, books, [1]) as found:
        wait_for(lambda: len(books.looks) > 2)
        books.ended[1] = status
    assert found == [status]
    assert (room.waiters, books.single_looks) == (0, 2)


def test_what_is_final_already_is_looked_at_once(books: Books) -> None:
    books.ended[1] = Status.POSTED
    assert until_final(Room(books.find_ended), books.look(1), 1).status is Status.POSTED
    assert (books.single_looks, books.looks) == (1, [])


def test_without_a_wait_there_is_one_look(books: Books) -> None:
    assert until_final(Room(books.find_ended), books.look(1), 1, 0).status is Status.PENDING
    assert (books.single_looks, books.looks) == (1, [])


def test_pauses_grow_from_milliseconds_to_a_tenth_of_a_second(books: Books) -> None:
    with waiting(Room(books.find_ended), books, [1]):
        wait_for(lambda: len(books.looks) == 12)
        books.ended[1] = Status.POSTED
    instants = [instant for instant, _ in books.looks]
    pauses = [later - earlier for earlier, later in pairwise(instants)]
    # 6, 9, 14, … ms; the first may come late on a busy machine, but not all of them.
    assert min(pauses) < 3 * FIRST_PAUSE_S
    assert max(pauses[-3:]) > LONGEST_PAUSE_S / 2


def test_all_who_have_waited_for_a_while_are_looked_for_together(books: Books) -> None:
    room = Room(books.find_ended)
    ids = set(range(1, WAITERS + 1))
    with waiting(room, books, ids) as found:
        wait_for(lambda: [looked_for for _, looked_for in books.looks[-3:]] == [ids] * 3)
        looks = len(books.looks)
        books.ended |= dict.fromkeys(ids, Status.POSTED)
    assert found == [Status.POSTED] * WAITERS
    assert len(books.looks) <= looks + 2  # one may have been on its way
    assert books.single_looks == 2 * WAITERS


def test_when_the_looks_for_all_fail_each_is_told(books: Books) -> None:
    room = Room(books.find_ended)
    with ThreadPoolExecutor() as pool:
        pending = [pool.submit(until_final, room, books.look(each), each) for each in (1, 2)]
        wait_for(lambda: room.waiters == 2)
        books.fails = True
        for each in pending:
            with pytest.raises(Unavailable):
                each.result()
    books.fails = False
    with waiting(room, books, [3]) as found:
        books.ended[3] = Status.POSTED
    assert found == [Status.POSTED]


def test_what_a_look_raises_is_passed_on_and_leaves_nobody_behind(books: Books) -> None:
    room = Room(books.find_ended)
    looks = iter([transfer(1, Status.PENDING)])
    books.ended[1] = Status.POSTED

    def look() -> Transfer:
        try:
            return next(looks)
        except StopIteration:
            raise TransferNotFound(1) from None

    with pytest.raises(TransferNotFound):
        until_final(room, look, 1)
    assert room.waiters == 0


def test_nobody_waits_longer_than_asked(books: Books) -> None:
    began = time.monotonic()
    assert until_final(Room(books.find_ended), books.look(1), 1, 0.05).status is Status.PENDING
    assert time.monotonic() - began >= 0.05


def test_when_nobody_waits_nobody_looks(books: Books) -> None:
    room = Room(books.find_ended)
    until_final(room, books.look(1), 1, 0.05)
    wait_for(lambda: all(thread.name != "waiting room" for thread in threading.enumerate()))
    with waiting(room, books, [1]) as found:
        books.ended[1] = Status.POSTED
    assert found == [Status.POSTED]


def test_whoever_finds_no_room_is_answered_at_once(books: Books) -> None:
    room = Room(books.find_ended, most=1)
    with waiting(room, books, [1]) as found:
        assert until_final(room, books.look(2), 2).status is Status.PENDING
        books.ended[1] = Status.POSTED
    assert found == [Status.POSTED]


def test_a_room_that_closes_ends_the_waits_that_run_and_those_to_come(books: Books) -> None:
    room = Room(books.find_ended)
    with waiting(room, books, range(WAITERS)) as found:
        room.close(within_s=0)
    assert found == [Status.PENDING] * WAITERS
    assert until_final(room, books.look(1), 1).status is Status.PENDING
    assert books.single_looks == WAITERS + 1


def test_until_a_room_is_closed_what_ends_in_time_is_waited_for(books: Books) -> None:
    room = Room(books.find_ended)
    room.close(within_s=20)
    with waiting(room, books, [1]) as found:
        books.ended[1] = Status.POSTED
    assert found == [Status.POSTED]


def test_who_looks_for_all_goes_on_after_whatever_happens(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PAUSE_S", 0.0)
    look, failures = Room[int]._look, [ZeroDivisionError(), MemoryError()]

    def fail_first(room: Room[int], due: list[Any]) -> None:
        if failures:
            raise failures.pop()
        look(room, due)

    monkeypatch.setattr(Room, "_look", fail_first)
    with waiting(Room(books.find_ended), books, [1, 2]) as found:
        wait_for(lambda: not failures)
        books.ended |= {1: Status.POSTED, 2: Status.POSTED}
    assert found == [Status.POSTED, Status.POSTED]


def test_without_a_thread_to_look_they_wait_for_nothing_and_the_next_one_tries_again(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(books.find_ended)
    with monkeypatch.context() as scarce:
        scarce.setattr(background, "start", lambda *_: None)
        assert until_final(room, books.look(1), 1, 0.05).status is Status.PENDING
    with waiting(room, books, [2]) as found:
        books.ended[2] = Status.POSTED
    assert found == [Status.POSTED]
