"""Turns: one process at a time, the next one when it is gone, and nobody who only believes that it has it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from models.database.turn import Turn
from models.errors import Unavailable
from tests.models.ledger.ordering import bounded_engine
from tests.proxy import TcpProxy


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def let_pass(engine: Engine, seconds: float) -> None:
    """Let it be later for PostgreSQL."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE turns SET expires_at = expires_at - :s * interval '1 s'"), {"s": seconds})


def test_one_has_it_until_it_gives_it_back(engine: Engine) -> None:
    first, second = Turn(engine, "relay", ttl_s=60), Turn(engine, "relay", ttl_s=60)
    assert first.is_mine()
    assert not second.is_mine()
    assert first.is_mine()
    second.give_back()  # what it does not have
    assert not second.is_mine()
    first.give_back()
    assert second.is_mine()
    assert not first.is_mine()


def test_turns_of_other_names_are_others(engine: Engine) -> None:
    assert Turn(engine, "a", ttl_s=60).is_mine()
    assert Turn(engine, "b", ttl_s=60).is_mine()


def test_of_many_who_race_one_has_it(engine: Engine) -> None:
    turns = [Turn(engine, "relay", ttl_s=60) for _ in range(8)]
    with ThreadPoolExecutor(len(turns)) as pool:
        assert sorted(pool.map(Turn.is_mine, turns)) == [False] * 7 + [True]


def test_who_has_died_is_followed_when_its_time_is_over(engine: Engine) -> None:
    died, next_one = Turn(engine, "relay", ttl_s=60), Turn(engine, "relay", ttl_s=60)
    assert died.is_mine()
    let_pass(engine, 59)
    assert not next_one.is_mine()
    let_pass(engine, 2)
    assert next_one.is_mine()


def test_it_is_prolonged_now_and_then_and_not_with_every_use(engine: Engine) -> None:
    clock = Clock()
    turn = Turn(engine, "relay", ttl_s=60, clock=clock)
    assert turn.is_mine()
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM turns"))
    clock.now += 19
    assert turn.is_mine()  # it need not ask
    clock.now += 2
    assert turn.is_mine()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM turns")).scalar_one() == 1


def test_who_was_overtaken_finds_out_when_it_asks(engine: Engine) -> None:
    clock = Clock()
    slow, quick = Turn(engine, "relay", ttl_s=60, clock=clock), Turn(engine, "relay", ttl_s=60)
    assert slow.is_mine()
    let_pass(engine, 61)
    assert quick.is_mine()
    clock.now += 61
    assert not slow.is_mine()
    slow.give_back()
    assert quick.is_mine()


def test_without_postgresql_it_is_nobodys(engine: Engine, postgres_proxy: TcpProxy) -> None:
    clock = Clock()
    with bounded_engine(postgres_proxy.url) as cut_off:
        turn = Turn(cut_off, "relay", ttl_s=60, clock=clock)
        assert turn.is_mine()
        postgres_proxy.refuse()
        assert turn.is_mine()  # for as long as nobody else can have it
        clock.now += 21
        with pytest.raises(Unavailable):
            turn.is_mine()
        with pytest.raises(Unavailable):
            turn.give_back()
        postgres_proxy.refuse(refusing=False)
        assert turn.is_mine()
    assert not Turn(engine, "relay", ttl_s=60).is_mine()
