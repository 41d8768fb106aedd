"""What a look at pending transfers costs hangs on what is pending, and not on how much was settled before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import redis
from sqlalchemy import Connection, Engine, event, text

from jobs.relay import Relay
from jobs.rq.backlog import RqBacklog
from models import vitals
from models.database.engine import less_patient
from models.errors import Unavailable
from models.ledger import attempts
from models.ledger.attempts import Page, Seen
from models.ledger.frontier import LEAST_SHARE, MARGIN_S, WHOLE_S, Frontier
from tests.models.ledger.ordering import post_now

MANY = 20_000
# Of an index of some levels and one leaf, its meta page, and a page of the table for each that is pending.
FEW_BLOCKS = 16

_RECORD = """
INSERT INTO transfers (id, kind, source, destination, amount, created_at)
SELECT id, 'transfer', 1, 2, 1, clock_timestamp() - :age_s * interval '1 second'
FROM generate_series(:first, :last) AS id
"""
_SETTLE = """
UPDATE transfers SET status = 'rejected', reason = 'balance_insufficient', completed_at = now(), attempts = 1
WHERE status = 'pending'
"""


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(engine: Engine, first: int, last: int, *, age_s: float = 0.0) -> list[int]:
    """Accept transfers, that long ago."""
    with engine.begin() as connection:
        connection.execute(text(_RECORD), {"first": first, "last": last, "age_s": age_s})
    return [*range(first, last + 1)]


@contextmanager
def snapshot(engine: Engine) -> Iterator[None]:
    """Hold a snapshot, as a backup does: whatever is settled meanwhile, vacuum cannot remove."""
    with engine.execution_options(isolation_level="REPEATABLE READ").connect() as holder:
        holder.execute(text("SELECT 1"))
        yield
        holder.rollback()


@pytest.fixture
def settled(engine: Engine) -> Iterator[Engine]:
    """Many transfers that were accepted a while ago and settled since, all of it during a backup."""
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("VACUUM transfers"))
    with snapshot(engine):
        record(engine, 1, MANY, age_s=10 * MARGIN_S)
        with engine.begin() as connection:
            connection.execute(text(_SETTLE))
        yield engine


def blocks(engine: Engine, look: Callable[[], object]) -> int:
    """Return how many blocks the statements of a look have to touch, as PostgreSQL counts them."""
    statements: list[tuple[str, Any]] = []

    def note(_connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "transfers" in statement:
            statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        look()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    touched = 0
    for statement, parameters in statements:
        with engine.connect() as connection:
            explaining = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
            plan = connection.exec_driver_sql(explaining, parameters).scalar_one()[0]["Plan"]
            touched += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            assert "Seq Scan" not in str(plan)
    return touched


def test_a_look_after_the_first_costs_the_same_however_much_was_settled(settled: Engine) -> None:
    """The fault itself: an idle service, a backup, and an index with nothing in it but what is over."""
    ahead = Frontier(settled, clock=Clock())
    assert blocks(settled, lambda: ahead.next_page(1_000)) > MANY / 100  # the first has to see that there is nothing
    assert ahead.is_between
    assert blocks(settled, lambda: ahead.next_page(1_000)) <= FEW_BLOCKS


def test_a_pass_of_the_relay_costs_the_same(settled: Engine, redis_client: redis.Redis) -> None:
    relay = Relay(RqBacklog(redis_client, settled), settled, clock=Clock())
    relay.run_once()
    assert blocks(settled, relay.run_once) <= FEW_BLOCKS
    record(settled, MANY + 1, MANY + 10)
    assert relay.run_once() == 10
    assert blocks(settled, relay.run_once) <= FEW_BLOCKS


def test_a_scrape_costs_the_same(settled: Engine) -> None:
    ahead = Frontier(settled, clock=Clock())
    record(settled, MANY + 1, MANY + 10)

    def scrape() -> None:
        begin = ahead.find_begin(1.0)
        assert begin is not None
        assert vitals.find_backlog(settled, after=begin).pending == 10

    scrape()
    assert blocks(settled, scrape) <= 2 * FEW_BLOCKS


def test_what_waits_for_later_holds_nothing_up(settled: Engine) -> None:
    """A retry, or what is planned: due in a while, and recorded before all the others."""
    (waits,) = record(settled, MANY + 1, MANY + 1, age_s=20 * MARGIN_S)
    with settled.begin() as connection:
        attempts.spend(connection, {waits: Seen(0, 1)}, {waits: 3_600.0}, error="told to")
    ahead = Frontier(settled, clock=Clock())
    assert ahead.next_page(1_000) == []
    assert blocks(settled, lambda: ahead.next_page(1_000)) <= FEW_BLOCKS
    with settled.begin() as connection:
        connection.execute(text("UPDATE transfers SET next_attempt_at = now() WHERE id = :id"), {"id": waits})
    assert ahead.next_page(1_000) == [waits]  # as soon as its time has come


def test_all_that_becomes_pending_is_found_by_the_next_look(engine: Engine) -> None:
    ahead = Frontier(engine, clock=Clock())
    assert ahead.next_page(10) == []
    dead, retried, late = record(engine, 1, 3, age_s=MARGIN_S - 5)  # committed late, within the margin
    assert ahead.next_page(10) == [dead, retried, late]
    with engine.begin() as connection:
        attempts.spend(connection, {dead: Seen(0, 1)}, {dead: None}, error="told to")
        attempts.spend(connection, {retried: Seen(0, 1)}, {retried: 0.0}, error="told to")
    post_now(engine, [late])
    assert ahead.next_page(10) == [retried]
    with engine.begin() as connection:
        connection.execute(text("UPDATE transfers SET created_at = created_at - interval '1 day'"))
        attempts.reopen(connection, {dead: 1})
    assert sorted(ahead.next_page(10)) == [dead, retried]


def test_what_is_pending_for_long_is_found_in_every_round(engine: Engine) -> None:
    """An emptied Redis gets a backlog back however old that is."""
    old = record(engine, 1, 5, age_s=100 * MARGIN_S)
    ahead = Frontier(engine, clock=Clock())
    for _ in range(3):
        found = ahead.next_page(2) + ahead.next_page(2)
        assert not ahead.is_between
        assert found + ahead.next_page(2) == old
        assert ahead.is_between


def test_what_came_later_than_anything_may_is_found_when_all_is_looked_through(engine: Engine) -> None:
    clock = Clock()
    ahead = Frontier(engine, clock=clock)
    assert ahead.next_page(10) == []
    late = record(engine, 1, 1, age_s=2 * MARGIN_S)
    assert ahead.next_page(10) == []
    clock.now += 100 * WHOLE_S
    assert ahead.next_page(10) == late
    assert ahead.next_page(10) == late  # and from then on as any other


def test_a_server_whose_clock_is_set_back_hides_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it records then is due before what it recorded an hour ago; the look after next begins there."""
    ahead = Frontier(engine, clock=Clock())
    find_pending = attempts.find_pending

    def find_an_hour_ahead(*args: Any, **named: Any) -> Page:
        page = find_pending(*args, **named)
        return page._replace(looked_at=page.looked_at + timedelta(hours=1))

    with monkeypatch.context() as patches:
        patches.setattr(attempts, "find_pending", find_an_hour_ahead)
        assert ahead.next_page(10) == []
    new = record(engine, 1, 2)
    assert ahead.next_page(10) == []
    assert ahead.next_page(10) == new


def test_a_look_through_everything_that_is_too_slow_goes_on_in_narrower_ones(
    settled: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that does not get through what is settled in its time, as one does not that waits for a lock."""
    pending = record(settled, MANY + 1, MANY + 1)
    shares = list[float]()
    find_pending = attempts.find_pending

    def note(*args: Any, share: float, **named: Any) -> Page:
        shares.append(share)
        return find_pending(*args, share=share, **named)

    monkeypatch.setattr(attempts, "find_pending", note)
    ahead = Frontier(less_patient(settled, 50), clock=Clock())
    with settled.connect() as holder:
        holder.execute(text("LOCK TABLE transfers"))
        for _ in range(3):
            with pytest.raises(Unavailable):
                ahead.next_page(10)
        holder.rollback()
    assert shares == [1.0, 1 / 16, LEAST_SHARE]
    ahead._engine = settled
    found = ahead.next_page(10)
    while not ahead.is_between:
        found += ahead.next_page(10)
    assert found == pending
    assert set(shares[3:]) == {LEAST_SHARE}  # to the end of this round: what is too much lies there
