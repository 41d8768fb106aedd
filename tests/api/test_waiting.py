"""The waiting room by itself: its bounds hold whatever happens inside."""

import time
from datetime import UTC, datetime
from itertools import chain, repeat

import pytest

from api.waiting import WaitingRoom
from models.errors import TransferNotFound
from models.ledger.transfer import Kind, Status, Transfer


def transfer(status: Status) -> Transfer:
    """Return a transfer that stands like this."""
    return Transfer(
        id=1,
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


class Pauses:
    """A sleep that takes no time and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.asked_s.append(seconds)


@pytest.mark.parametrize("status", [Status.POSTED, Status.REJECTED, Status.FAILED])
def test_every_final_status_ends_the_wait(status: Status) -> None:
    pauses, looks = Pauses(), chain(repeat(transfer(Status.PENDING), 5), repeat(transfer(status)))
    assert WaitingRoom(seats=1, sleep=pauses).wait_until_final(lambda: next(looks), 20).status is status
    assert len(pauses.asked_s) == 5


def test_what_is_final_already_is_looked_at_once() -> None:
    looks = iter([transfer(Status.POSTED)])
    assert WaitingRoom(seats=1).wait_until_final(lambda: next(looks), 20).status is Status.POSTED


def test_pauses_grow_from_milliseconds_to_a_tenth_of_a_second() -> None:
    pauses, looks = Pauses(), chain(repeat(transfer(Status.PENDING), 50), repeat(transfer(Status.POSTED)))
    WaitingRoom(seats=1, sleep=pauses).wait_until_final(lambda: next(looks), 20)
    assert pauses.asked_s == sorted(pauses.asked_s)
    assert pauses.asked_s[0] < 0.01
    assert pauses.asked_s[-1] == pytest.approx(0.1)


def test_nobody_waits_longer_than_asked() -> None:
    began = time.monotonic()
    assert WaitingRoom(seats=1).wait_until_final(lambda: transfer(Status.PENDING), 0.05).status is Status.PENDING
    assert time.monotonic() - began >= 0.05


def test_a_room_that_closes_ends_the_waits_that_run_and_those_to_come() -> None:
    room = WaitingRoom(seats=1)
    looks = 0

    def look() -> Transfer:
        nonlocal looks
        looks += 1
        if looks == 3:
            room.close(within_s=0)
        return transfer(Status.PENDING)

    assert room.wait_until_final(look, 20).status is Status.PENDING
    assert looks == 3
    assert room.wait_until_final(look, 20).status is Status.PENDING
    assert looks == 4


def test_until_a_room_is_closed_what_ends_in_time_is_waited_for() -> None:
    room = WaitingRoom(seats=1)
    room.close(within_s=20)
    looks = chain(repeat(transfer(Status.PENDING), 3), repeat(transfer(Status.POSTED)))
    assert room.wait_until_final(lambda: next(looks), 20).status is Status.POSTED


def test_a_failed_look_gives_the_seat_back() -> None:
    room = WaitingRoom(seats=1, sleep=Pauses())
    looks = iter([transfer(Status.PENDING)])

    def look() -> Transfer:
        try:
            return next(looks)
        except StopIteration:
            raise TransferNotFound(1) from None

    with pytest.raises(TransferNotFound):
        room.wait_until_final(look, 20)
    pauses = Pauses()
    room._sleep = pauses
    again = chain([transfer(Status.PENDING)], repeat(transfer(Status.POSTED)))
    assert room.wait_until_final(lambda: next(again), 20).status is Status.POSTED
    assert len(pauses.asked_s) == 1  # it found a seat
