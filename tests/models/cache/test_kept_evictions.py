"""Evictions that are kept are done once at least, whoever else keeps and does them at the same time."""

from collections.abc import Mapping

import pytest
import redis
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from models.cache.kept_evictions import MOST_AT_ONCE, KeptEvictions, keeping
from tests.models.cache.caching import kept
from tests.models.ledger.ordering import bounded_engine


class Told:
    """A cache that remembers what it was told."""

    def __init__(self) -> None:
        self.versions: dict[int, int] = {}
        self.times = 0
        self.is_away = False

    def tell(self, versions: Mapping[int, int]) -> None:
        if self.is_away:
            raise redis.ConnectionError
        self.times += 1
        self.versions |= versions


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def evictions(engine: Engine, told: Told) -> KeptEvictions:
    return KeptEvictions(engine, told.tell)


def test_what_is_kept_is_told_and_forgotten(evictions: KeptEvictions, told: Told, engine: Engine) -> None:
    assert evictions.settle()
    assert told.times == 0
    evictions.keep({1: 5, 2: 7})
    assert not evictions.settle()
    assert told.versions == {1: 5, 2: 7}
    assert kept(engine) == {}
    assert evictions.settle()
    assert told.times == 1


def test_of_one_wallet_the_newest_version_is_kept(evictions: KeptEvictions, engine: Engine) -> None:
    evictions.keep({1: 5, 2: 7})
    evictions.keep({2: 6, 1: 6})
    assert kept(engine) == {1: 6, 2: 7}


def test_while_redis_is_away_they_stay_kept(evictions: KeptEvictions, told: Told, engine: Engine) -> None:
    evictions.keep({1: 5})
    told.is_away = True
    with pytest.raises(redis.RedisError):
        evictions.settle()
    assert kept(engine) == {1: 5}


def test_many_are_done_some_at_a_time(evictions: KeptEvictions, told: Told, engine: Engine) -> None:
    versions = dict.fromkeys(range(1, MOST_AT_ONCE + 11), 1)
    evictions.keep(versions)
    assert not evictions.settle()
    assert len(kept(engine)) == 10
    assert not evictions.settle()
    assert evictions.settle()
    assert told.versions == versions


def test_one_that_was_kept_anew_while_it_was_done_stays(evictions: KeptEvictions, told: Told, engine: Engine) -> None:
    evictions.keep({1: 5, 2: 1})
    tell = evictions._tell

    def tell_late(versions: Mapping[int, int]) -> None:
        tell(versions)
        evictions.keep({1: 6})

    evictions._tell = tell_late
    assert not evictions.settle()
    assert kept(engine) == {1: 6}
    evictions._tell = tell
    assert not evictions.settle()
    assert told.versions == {1: 6, 2: 1}


def test_one_that_a_posting_holds_is_waited_for_by_nobody(engine: Engine, told: Told) -> None:
    with bounded_engine(engine.url.render_as_string(hide_password=False), lock_ms=100, statement_ms=5_000) as hasty:
        evictions = KeptEvictions(hasty, told.tell)
        evictions.keep({1: 5, 2: 1})
        with engine.connect() as posting:
            posting.exec_driver_sql(keeping({1: 6}))
            assert not evictions.settle()
            assert kept(engine) == {1: 5}
            posting.commit()
    assert kept(engine) == {1: 6}


def test_a_transaction_that_is_rolled_back_keeps_nothing(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql(keeping({1: 5}))
        connection.rollback()
    assert kept(engine) == {}


def test_a_database_that_does_not_keep_them_is_no_error_after_the_commit(
    evictions: KeptEvictions, engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE kept_evictions ADD CONSTRAINT test_none CHECK (version < 0)"))
    try:
        evictions.keep({1: 5})
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.exec_driver_sql(keeping({1: 5}))
    finally:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE kept_evictions DROP CONSTRAINT test_none"))


def test_writers_are_whoever_holds_wallets_in_this_database(evictions: KeptEvictions, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO wallets (id) VALUES (1), (2)"))
    assert evictions.find_writers() == set()
    with engine.connect() as reader, engine.connect() as locker, engine.connect() as writer:
        reader.execute(text("SELECT * FROM wallets"))
        assert evictions.find_writers() == set()
        locker.execute(text("SELECT id FROM wallets WHERE id = 1 FOR NO KEY UPDATE"))
        first = evictions.find_writers()
        writer.execute(text("UPDATE wallets SET balance = 0 WHERE id = 2"))
        both = evictions.find_writers()
        assert (len(first), len(both)) == (1, 2)
        locker.commit()
        assert evictions.find_writers() == both - first
