"""A node has one holder at a time, whatever clocks, processes and the database do."""

import socket

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, func, select, text, update

from models.errors import Unavailable
from models.schema.tables import snowflake_nodes as nodes
from models.snowflake.ids import ClockMovedBackwards
from models.snowflake.layout import NODES, Parts, decode
from models.snowflake.leases import (
    LEASE_S,
    RETRY_PAUSE_S,
    LeaseUnavailable,
    NodeLease,
    NoFreeNode,
)
from tests.models.snowflake.leasing import (
    LEASE_MS,
    Cable,
    FakeClock,
    FakeUptime,
    expire,
    leasing,
    occupy_all_but,
    row_of,
)
from tests.models.snowflake.snowflake_child import START_MS


def test_the_migration_leaves_a_row_for_every_node(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.execute(select(nodes.c.node).order_by(nodes.c.node)).scalars().all() == [*range(NODES)]


def test_nothing_connects_before_the_first_id(cable: Cable) -> None:
    ids = leasing(cable.engine, FakeClock())
    ids.release()
    assert (ids.lease.node, ids.lease.seconds_left) == (None, 0)
    assert cable.tries == 0

    ids.next_id()

    assert cable.tries == 1
    assert (ids.lease.node, ids.lease.seconds_left) == (0, LEASE_S)


def test_a_lease_has_a_length(database: Engine) -> None:
    with pytest.raises(ValueError, match="lease_s"):
        NodeLease(database, lease_s=0)


def test_two_generators_never_share_a_node_however_their_clocks_differ(database: Engine) -> None:
    clocks = [FakeClock(), FakeClock(START_MS + 86_400_000), FakeClock(START_MS - 86_400_000)]

    assert [decode(leasing(database, clock).next_id()).node for clock in clocks] == [0, 1, 2]


def test_a_taker_passes_over_a_node_that_somebody_else_is_just_taking(database: Engine) -> None:
    occupy_all_but(database, 3, 4)
    with database.connect() as rival:
        rival.execute(select(nodes).where(nodes.c.node == 3).with_for_update())
        rival_free = leasing(database, FakeClock())
        assert decode(rival_free.next_id()).node == 4
        with pytest.raises(NoFreeNode):
            leasing(database, FakeClock()).next_id()


def test_the_node_that_is_reserved_least_far_is_taken(database: Engine) -> None:
    with database.begin() as connection:
        connection.execute(update(nodes).values(reserved_until_ms=START_MS - nodes.c.node))

    assert decode(leasing(database, FakeClock()).next_id()).node == NODES - 1


def test_every_id_lies_within_what_its_node_has_on_record(database: Engine) -> None:
    clock = FakeClock()
    ids = leasing(database, clock)
    ids.next_id()
    assert row_of(database, 0)[1:] == (True, START_MS + LEASE_MS)

    clock.now_ms = START_MS + LEASE_MS
    ids.next_id()
    assert row_of(database, 0)[2] == START_MS + LEASE_MS

    clock.now_ms += 1
    assert decode(ids.next_id()) == Parts(clock.now_ms, 0, 0)
    assert row_of(database, 0)[2] == clock.now_ms + LEASE_MS


def test_all_taken_is_an_error_until_one_is_free(database: Engine) -> None:
    occupy_all_but(database)
    ids = leasing(database, FakeClock())
    with pytest.raises(NoFreeNode):
        ids.next_id()

    expire(database, 1023)

    assert decode(ids.next_id()).node == 1023


def test_the_lease_is_renewed_when_a_third_of_it_is_left(cable: Cable) -> None:
    uptime = FakeUptime()
    ids = leasing(cable.engine, FakeClock(), uptime)
    ids.next_id()
    with cable.engine.begin() as connection:
        connection.execute(update(nodes).where(nodes.c.node == 0).values(expires_at=text("now() + interval '15 s'")))
    tries = cable.tries

    uptime.now_s += LEASE_S * 2 / 3 - 0.125
    ids.next_id()
    assert (cable.tries, ids.lease.seconds_left) == (tries, LEASE_S / 3 + 0.125)

    uptime.now_s += 0.125
    assert decode(ids.next_id()).node == 0
    assert (cable.tries, ids.lease.seconds_left) == (tries + 1, LEASE_S)
    with cable.engine.connect() as connection:
        left_s = connection.execute(
            select(func.extract("epoch", nodes.c.expires_at - func.now())).where(nodes.c.node == 0)
        ).scalar_one()
    assert 15 < left_s <= LEASE_S


def test_a_lease_counts_from_before_it_was_asked_for(cable: Cable) -> None:
    uptime = FakeUptime()
    cable.on_try = lambda: setattr(uptime, "now_s", uptime.now_s + 4)
    ids = leasing(cable.engine, FakeClock(), uptime)

    ids.next_id()
    assert ids.lease.seconds_left == LEASE_S - 4

    uptime.now_s += LEASE_S - 5
    ids.next_id()
    assert ids.lease.seconds_left == LEASE_S - 4


def test_an_answer_that_took_longer_than_the_lease_is_not_used(cable: Cable) -> None:
    uptime = FakeUptime()
    cable.on_try = lambda: setattr(uptime, "now_s", uptime.now_s + LEASE_S)

    with pytest.raises(LeaseUnavailable):
        leasing(cable.engine, FakeClock(), uptime).next_id()


def test_a_lost_lease_is_left_for_another_node_and_ids_still_grow(database: Engine) -> None:
    occupy_all_but(database, 9)
    uptime, clock = FakeUptime(), FakeClock()
    ids = leasing(database, clock, uptime)
    before = [ids.next_id(), ids.next_id()]
    occupy_all_but(database, 2)
    expire(database, 2)

    uptime.now_s += LEASE_S - 1
    after = ids.next_id()

    assert decode(after) == Parts(START_MS + 1, 2, 0)  # at START_MS node 2 would sort before node 9
    assert before[0] < before[1] < after


def test_a_lease_that_ran_out_is_not_renewed_but_taken_anew(database: Engine) -> None:
    occupy_all_but(database, 6)
    uptime, clock = FakeUptime(), FakeClock()
    ids = leasing(database, clock, uptime)
    ids.next_id()
    first_holder, *_ = row_of(database, 6)
    expire(database, 6)
    clock.now_ms += LEASE_MS - 5

    uptime.now_s += LEASE_S
    again = ids.next_id()

    assert decode(again) == Parts(START_MS + LEASE_MS + 1, 6, 0)  # as any other successor
    assert row_of(database, 6)[0] not in (None, first_holder)  # a late statement of the first taking finds nothing


def test_an_idle_process_has_no_node_once_its_lease_has_run_out(database: Engine) -> None:
    uptime = FakeUptime()
    ids = leasing(database, FakeClock(), uptime)
    ids.next_id()

    uptime.now_s += LEASE_S
    assert (ids.lease.node, ids.lease.seconds_left) == (None, 0)
    uptime.now_s += 1
    assert (ids.lease.node, ids.lease.seconds_left) == (None, 0)


# Successors on one node


def test_a_successor_starts_above_what_its_predecessor_reserved_however_slow_its_clock(database: Engine) -> None:
    occupy_all_but(database, 8)
    leasing(database, FakeClock(START_MS)).next_id()
    expire(database, 8)
    behind = FakeClock(START_MS + LEASE_MS - 10)

    first = leasing(database, behind).next_id()

    assert decode(first) == Parts(START_MS + LEASE_MS + 1, 8, 0)
    assert behind.waits_ms == [11]


def test_a_successor_with_a_slow_clock_does_not_lower_the_reservation(database: Engine) -> None:
    occupy_all_but(database, 8)
    leasing(database, FakeClock(START_MS)).next_id()
    expire(database, 8)
    uptime = FakeUptime()
    slow = leasing(database, FakeClock(START_MS - LEASE_MS), uptime)

    with pytest.raises(ClockMovedBackwards):
        slow.next_id()
    assert row_of(database, 8)[2] == START_MS + LEASE_MS
    uptime.now_s += LEASE_S - 1
    with pytest.raises(ClockMovedBackwards):  # renewed by now
        slow.next_id()
    assert row_of(database, 8)[2] == START_MS + LEASE_MS
    slow.release()
    assert row_of(database, 8) == (None, False, START_MS + LEASE_MS)


def test_a_released_node_can_be_used_again_right_after_its_last_id(database: Engine) -> None:
    occupy_all_but(database, 8)
    clock = FakeClock()
    first = leasing(database, clock)
    first.next_id()
    clock.now_ms += 10
    last = first.next_id()
    first.release()
    assert (first.lease.node, first.lease.seconds_left) == (None, 0)
    assert row_of(database, 8) == (None, False, clock.now_ms)

    after = leasing(database, clock).next_id()

    assert clock.waits_ms == [1]
    assert decode(after) == Parts(decode(last).instant_ms + 1, 8, 0)


def test_a_released_generator_takes_a_node_again(database: Engine) -> None:
    clock = FakeClock()
    ids = leasing(database, clock)
    before = ids.next_id()
    ids.release()
    ids.release()

    after = ids.next_id()

    assert after > before
    assert decode(after).node == 1  # 0 has been used up to now, 1 never


def test_who_lost_a_node_cannot_release_it(database: Engine) -> None:
    occupy_all_but(database, 8)
    loser = leasing(database, FakeClock())
    loser.next_id()
    expire(database, 8)
    leasing(database, FakeClock(START_MS + LEASE_MS)).next_id()
    winners = row_of(database, 8)

    loser.release()

    assert row_of(database, 8) == winners == (winners[0], True, START_MS + 2 * LEASE_MS)


def test_a_release_reserves_nothing_beyond_what_the_node_had(database: Engine) -> None:
    occupy_all_but(database, 7)
    lease = NodeLease(database)
    lease.reserve(START_MS)

    lease.release(START_MS + LEASE_MS + 1)

    assert row_of(database, 7) == (None, False, START_MS + LEASE_MS)


def test_a_lease_given_back_unused_leaves_the_node_reserved_as_far_as_it_was(database: Engine) -> None:
    occupy_all_but(database, 8)
    leasing(database, FakeClock()).next_id()
    expire(database, 8)
    unused = NodeLease(database)
    unused.reserve(START_MS + LEASE_MS)

    unused.release(START_MS)

    assert row_of(database, 8) == (None, False, START_MS + LEASE_MS)


def test_ids_go_on_without_the_database_while_the_lease_holds_and_not_a_moment_longer(cable: Cable) -> None:
    uptime = FakeUptime()
    ids = leasing(cable.engine, FakeClock(), uptime)
    first = ids.next_id()
    cable.cut()

    uptime.now_s += LEASE_S - 0.125
    assert ids.next_id() == first + 1
    assert cable.tries > 1  # a renewal was tried

    uptime.now_s += 0.125
    with pytest.raises(LeaseUnavailable) as caught:
        ids.next_id()
    assert isinstance(caught.value, Unavailable)

    cable.mend()
    uptime.now_s += RETRY_PAUSE_S
    assert decode(ids.next_id()).node == 0  # by PostgreSQL's clock, on which no time has passed, it is still ours


def test_ids_never_pass_the_reservation_while_the_database_is_away(cable: Cable) -> None:
    clock = FakeClock()
    ids = leasing(cable.engine, clock)
    ids.next_id()
    cable.cut()

    clock.now_ms = START_MS + LEASE_MS
    assert decode(ids.next_id()).instant_ms == START_MS + LEASE_MS
    clock.now_ms += 1
    with pytest.raises(LeaseUnavailable):
        ids.next_id()
    assert ids.lease.seconds_left == LEASE_S


def test_a_database_that_is_away_is_asked_at_most_every_half_second(cable: Cable) -> None:
    uptime = FakeUptime()
    cable.cut()
    ids = leasing(cable.engine, FakeClock(), uptime)
    with pytest.raises(LeaseUnavailable) as caught:
        ids.next_id()
    assert caught.value.__cause__ is not None
    tries = cable.tries

    cable.mend()
    uptime.now_s += RETRY_PAUSE_S - 0.125
    with pytest.raises(LeaseUnavailable):
        ids.next_id()
    assert cable.tries == tries

    uptime.now_s += 0.125
    ids.next_id()
    assert cable.tries == tries + 1


def test_a_server_that_cannot_be_reached_is_tried_once(database: Engine) -> None:
    tries: list[object] = []
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
        engine = create_engine(database.url.set(host="127.0.0.1", port=nobody.getsockname()[1]))
        event.listen(engine, "do_connect", lambda *_: tries.append("one"))
        with pytest.raises(LeaseUnavailable):
            leasing(engine, FakeClock()).next_id()

    assert tries == ["one"]


def test_the_pause_counts_from_the_end_of_a_try_that_took_long(cable: Cable) -> None:
    uptime = FakeUptime()
    cable.cut()
    cable.on_try = lambda: setattr(uptime, "now_s", uptime.now_s + 2)
    ids = leasing(cable.engine, FakeClock(), uptime)

    with pytest.raises(LeaseUnavailable):
        ids.next_id()
    tries = cable.tries
    with pytest.raises(LeaseUnavailable):
        ids.next_id()

    assert cable.tries == tries


def test_a_renewal_whose_reply_was_lost_is_made_again_at_once(cable: Cable) -> None:
    uptime = FakeUptime()
    ids = leasing(cable.engine, FakeClock(), uptime)
    ids.next_id()
    uptime.now_s += LEASE_S - 5
    cable.lose_reply_to_commit()

    assert decode(ids.next_id()).node == 0

    assert (cable.proxy.cuts, ids.lease.seconds_left) == (1, LEASE_S)


def test_a_renewal_that_nobody_heard_of_counts_for_nothing(cable: Cable) -> None:
    uptime, clock = FakeUptime(), FakeClock()
    ids = leasing(cable.engine, clock, uptime)
    ids.next_id()
    uptime.now_s += LEASE_S - 5
    clock.now_ms += LEASE_MS - 5000
    cable.lose_reply_to_commit()
    cable.cut_at_try(cable.tries + 2)

    assert decode(ids.next_id()).node == 0
    assert (cable.proxy.cuts, ids.lease.seconds_left) == (1, 5)
    assert row_of(cable.database, 0)[2] == clock.now_ms + LEASE_MS
    clock.now_ms += 5001
    with pytest.raises(LeaseUnavailable):
        ids.next_id()


def test_a_node_whose_taking_had_no_reply_is_left_to_run_out(cable: Cable) -> None:
    ids = leasing(cable.engine, FakeClock())
    cable.lose_reply_to_commit()

    assert decode(ids.next_id()).node == 1

    assert cable.proxy.cuts == 1
    assert row_of(cable.engine, 0)[1:] == (True, START_MS + LEASE_MS)


def test_a_connection_that_died_in_the_pool_is_no_fault(database: Engine) -> None:
    ids = leasing(database, FakeClock())
    killer = create_engine(database.url, poolclass=NullPool)
    with database.connect() as connection:
        backend = connection.execute(select(func.pg_backend_pid())).scalar_one()
    with killer.connect() as connection:
        connection.execute(select(func.pg_terminate_backend(backend, 5000)))

    assert decode(ids.next_id()).node == 0


def test_a_release_without_the_database_lets_the_lease_run_out(cable: Cable, database: Engine) -> None:
    ids = leasing(cable.engine, FakeClock())
    ids.next_id()
    cable.cut()

    ids.release()

    assert ids.lease.node is None
    assert row_of(database, 0)[1:] == (True, START_MS + LEASE_MS)
