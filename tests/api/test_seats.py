"""Seats: so many and no more, and whoever leaves one leaves it free, however he leaves."""

import threading
from collections.abc import Iterator

import pytest

from api.calls.problems import ApiError
from api.seats import Seats
from observe import metrics


@pytest.fixture
def seats() -> Seats:
    return Seats(2, "statements", "Too many are here.")


def test_beyond_them_one_is_turned_away_told_when_to_come_again_and_counted(seats: Seats) -> None:
    before = metrics.shed["statements"]._value.get()
    with seats.taken(), seats.taken():
        with pytest.raises(ApiError) as refused, seats.taken():
            pass
        assert (refused.value.code, refused.value.detail) == ("unavailable", "Too many are here. Ask again.")
        assert int(refused.value.headers["Retry-After"]) >= 1
    assert metrics.shed["statements"]._value.get() == before + 1
    with seats.taken(), seats.taken():
        pass


def test_who_fails_or_is_closed_in_the_middle_leaves_his_seat(seats: Seats) -> None:
    def pieces() -> Iterator[int]:
        with seats.taken():
            yield 1
            yield 2

    for _ in range(3):
        with pytest.raises(ZeroDivisionError), seats.taken():
            raise ZeroDivisionError
        sent = pieces()
        next(sent)
        sent.close()  # type: ignore[attr-defined]
    with seats.taken(), seats.taken():
        pass


def test_who_comes_beyond_them_gets_the_one_that_is_left_next() -> None:
    seats = Seats(1, "statements", "Too many are here.", wait_s=30.0)
    got = threading.Event()

    def take() -> None:
        with seats.taken():
            got.set()

    waiting = threading.Thread(target=take)
    with seats.taken():
        waiting.start()
        assert not got.is_set()
    assert got.wait(30.0)
    waiting.join(30.0)
