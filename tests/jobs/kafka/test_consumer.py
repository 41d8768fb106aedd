"""The consumer: what is settled is forgotten, what is not comes again, and nothing stands in the way of others."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from uuid import uuid4

import orjson
import pytest
from confluent_kafka import Message
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from config import Settings
from jobs.kafka import clients
from jobs.kafka.clients import make_admin, make_producer
from jobs.kafka.topics import REQUESTED, RETRY, WORK
from jobs.kafka.unread import UnreadLooker
from jobs.kafka.worker import KafkaWorker
from jobs.killers import MAX_LOST
from jobs.relay import Relay
from models.ledger import deliveries
from ops.local.processes import wait_for
from tests.books import check_books
from tests.jobs.backlog import (
    REFUSES,
    accept,
    are_final,
    assert_posted_once,
    balance_of,
    fault_on,
    fund,
    make_due,
    row_of,
    rows_of,
    statuses,
)
from tests.jobs.conftest import WorkerStarter
from tests.jobs.kafka.conftest import Make, Send, count_records, read_all
from tests.jobs.workers import kills
from tests.models.ledger.ordering import bounded_engine
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy

pytestmark = pytest.mark.xdist_group("kafka")

# So many that each partition has some of theirs.
PAYERS = range(11, 31)
# After so long without a call of it a worker is out of the group.
MAX_POLL_MS = 6_000

SettleAll = Callable[..., None]
HOLD = "models.ledger.deliveries:hold"
POST = "jobs.settler:post"
BOOK = "jobs.kafka.worker:KafkaWorker._book"
COMMIT = "jobs.kafka.worker:KafkaWorker._tell"


def count_unread(settings: Settings, engine: Engine) -> int:
    looker = UnreadLooker(settings, engine, make_admin(settings))
    return sum(each.records for each in looker.look([(topic, n) for topic in WORK for n in range(4)]).values())


def send_each(send: Send, *, first_id: int = 0, payers: Iterable[int] = PAYERS) -> list[int]:
    """Have some transfers of each payer sent, and return their ids."""
    return [each for payer in payers for each in send(5, first_id=10_000 * payer + first_id, source=payer)]


def share(*workers: KafkaWorker) -> None:
    """Have two of them share the partitions."""

    def is_shared() -> bool:
        for each in workers:
            each.run_once()
        return {len(each._consumer.assignment()) for each in workers} == {4}

    assert wait_for(is_shared, PATIENCE_S)


def test_what_is_sent_is_settled_and_forgotten(
    *, books: Engine, kafka_settings: Settings, send: Send, make: Make, settle_all: SettleAll
) -> None:
    ids = send(700)
    worker = make()
    settle_all(ids, worker)
    assert_posted_once(books, ids)
    worker.leave()
    assert count_unread(kafka_settings, books) == 0


def test_two_share_the_work_and_one_goes_on_alone(
    *, books: Engine, send: Send, make: Make, settle_all: SettleAll
) -> None:
    first, second = make(), make()
    share(first, second)
    for worker in (first, second):  # of each topic as much
        assert sorted(each.topic for each in worker._consumer.assignment()) == [REQUESTED] * 2 + [RETRY] * 2
    fund(books, *PAYERS)
    ids = send_each(send)
    settle_all(ids, first, second)
    second.leave()
    more = send_each(send, first_id=100)
    settle_all(more, first)
    assert wait_for(lambda: not first.run_once() and len(first._consumer.assignment()) == 8, PATIENCE_S)
    assert_posted_once(books, [*ids, *more])


def test_classic_groups_work_as_well(books: Engine, send: Send, make: Make, settle_all: SettleAll) -> None:
    ids = send(50)
    settle_all(ids, make(kafka_group_protocol="classic"))
    assert_posted_once(books, ids)


def test_one_payers_transfers_are_tried_in_the_order_in_which_they_were_sent(
    books: Engine, send: Send, make: Make, settle_all: SettleAll
) -> None:
    fund(books, 9, cents=10)
    ids = send(5, source=9, cents=4)
    settle_all(ids, make(batch_size=1))
    rows = rows_of(books, ids)
    assert [rows[each].status for each in ids] == ["posted", "posted", "rejected", "rejected", "rejected"]


def test_what_is_no_transfers_record_is_passed_over_and_named(
    *, books: Engine, kafka_settings: Settings, send: Send, make: Make, settle_all: SettleAll
) -> None:
    producer = make_producer(kafka_settings)
    values = (None, b"", b"x", b"[]", b"{}", b'{"transfer_id": "x"}', b'{"transfer_id": 0}', b'{"transfer_id": 99999}')
    for value in values:
        producer.produce(REQUESTED, value=value, key=b"1")
    assert producer.flush(10) == 0
    ids = send(3)
    with capture_logs() as logged:
        settle_all(ids, worker := make())
    assert len([line for line in logged if line["event"] == "record of no transfer"]) == len(values)
    worker.leave()
    assert count_unread(kafka_settings, books) == 0


def test_while_postgresql_is_away_nothing_is_forgotten_and_the_group_goes_on_believing_in_us(
    *, books: Engine, kafka_settings: Settings, send: Send, make: Make, settle_all: SettleAll, postgres_proxy: TcpProxy
) -> None:
    with bounded_engine(postgres_proxy.url) as engine:
        worker = make(engine=engine)
        first = send(10)
        settle_all(first, worker)
        postgres_proxy.refuse()
        ids = send(40, first_id=5_000)
        with capture_logs() as logged:
            assert wait_for(lambda: bool(worker.run_once() or worker._held), PATIENCE_S)
            for _ in range(4):
                assert worker.run_once() == 0
        # No partition was given up. Some may have been taken over, of a worker that an earlier test has killed.
        assert {line["event"] for line in logged} - {"partitions taken over"} == {"batch", "waiting"}
        assert statuses(books, ids) == {"pending"}
        assert count_unread(kafka_settings, books) >= 40
        more = send(10, first_id=6_000)  # comes while all is paused
        postgres_proxy.refuse(refusing=False)
        settle_all([*ids, *more], worker)
    assert_posted_once(books, [*first, *ids, *more])
    assert {row.attempts for row in rows_of(books, ids).values()} == {1}  # nobody spent one for it


def test_who_cannot_reach_postgresql_for_long_leaves_the_partitions_to_others_until_he_can(
    *, monkeypatch: pytest.MonkeyPatch, books: Engine, send: Send, make: Make, settle_all: SettleAll,
    postgres_proxy: TcpProxy,
) -> None:  # fmt: skip
    monkeypatch.setattr("jobs.kafka.worker.OUT_AFTER_S", 0.0)
    fund(books, *PAYERS)
    with bounded_engine(postgres_proxy.url) as engine:
        cut_off, other = make(engine=engine), make()
        share(cut_off, other)
        postgres_proxy.refuse()
        ids = send_each(send)
        settle_all(ids, cut_off, other)
        postgres_proxy.refuse(refusing=False)
        share(cut_off, other)
        ids += send_each(send, first_id=100)
        settle_all(ids, cut_off, other)
    assert_posted_once(books, ids)
    assert {row.attempts for row in rows_of(books, ids).values()} == {1}


@pytest.fixture
def held_up(
    books: Engine, make: Make, postgres_proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KafkaWorker]:
    """A worker behind the proxy, which does not leave the group while PostgreSQL is away."""
    monkeypatch.setattr("jobs.kafka.worker.OUT_AFTER_S", math.inf)
    fund(books, *PAYERS)
    with bounded_engine(postgres_proxy.url) as engine:
        yield make(engine=engine)


@pytest.fixture
def soon_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not call takes no part in the group for long."""
    common = clients._common
    monkeypatch.setattr(clients, "_common", lambda given: {**common(given), "max.poll.interval.ms": MAX_POLL_MS})


def hold(worker: KafkaWorker) -> None:
    """Have it hold what it cannot settle, and read nothing more meanwhile."""
    assert wait_for(lambda: not worker.run_once() and worker._is_paused, PATIENCE_S)
    assert worker._held


def test_partitions_that_are_given_up_while_all_is_paused_are_read_when_they_come_back(
    *, books: Engine, send: Send, make: Make, settle_all: SettleAll, held_up: KafkaWorker, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.refuse()
    ids = send_each(send)
    hold(held_up)
    share(held_up, other := make())
    postgres_proxy.refuse(refusing=False)
    settle_all(ids, held_up, other)
    assert not held_up._is_paused
    other.leave()
    settle_all(more := send_each(send, first_id=100), held_up)
    assert_posted_once(books, [*ids, *more])


@pytest.mark.usefixtures("soon_out")
def test_partitions_that_are_lost_while_all_is_paused_are_read_when_they_come_back(
    *, books: Engine, send: Send, settle_all: SettleAll, held_up: KafkaWorker, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.refuse()
    ids = send_each(send)
    hold(held_up)
    time.sleep(1.5 * MAX_POLL_MS / 1_000)  # without a sign of life, for which the group lets it go
    with capture_logs() as logged:

        def are_lost() -> bool:
            held_up.run_once()
            return "partitions lost" in {line["event"] for line in logged}

        assert wait_for(are_lost, PATIENCE_S)
    postgres_proxy.refuse(refusing=False)
    settle_all(ids, held_up)
    assert_posted_once(books, ids)


def test_what_a_worker_still_has_is_read_when_what_all_was_paused_for_is_anothers(
    *, books: Engine, send: Send, make: Make, settle_all: SettleAll, held_up: KafkaWorker, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.refuse()
    ids = send_each(send, payers=PAYERS[:1])
    hold(held_up)
    share(held_up, other := make())
    while held_up._held:  # whoever comes is given the one half, or the other, by chance
        other.leave()
        share(held_up, other := make())
    postgres_proxy.refuse(refusing=False)
    more = send_each(send, first_id=100)
    settle_all([*ids, *more], held_up, other)
    assert_posted_once(books, [*ids, *more])


def test_a_transfer_that_fails_is_retried_by_way_of_postgresql_and_ends_as_a_dead_letter(
    *, books: Engine, kafka_settings: Settings, send: Send, make: Make, settle_all: SettleAll, kafka_relay: Relay
) -> None:
    ids = send(5)
    worker = make()
    with fault_on(books, [ids[2]], REFUSES):
        settle_all([each for each in ids if each != ids[2]], worker)
        for attempt in (1, 2):
            assert wait_for(lambda: bool(worker.run_once() or row_of(books, ids[2]).attempts >= attempt), PATIENCE_S)  # noqa: B023
            kafka_relay.run_once()
            assert count_records(kafka_settings, RETRY) == attempt - 1  # it is not due
            make_due(books)
            kafka_relay.run_once()
            kafka_relay.run_once()
            assert count_records(kafka_settings, RETRY) == attempt
        settle_all(ids, worker)
    row = row_of(books, ids[2])
    assert (row.status, row.reason, row.attempts) == ("failed", "attempts_exhausted", 3)
    check_books(books)


def test_one_of_which_nothing_can_be_written_down_is_let_go_and_stops_nobody(
    *, books: Engine, kafka_settings: Settings, send: Send, make: Make, settle_all: SettleAll
) -> None:
    ids = send(5)
    with books.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION test_fault() RETURNS trigger LANGUAGE plpgsql"
                " AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;"
                f"CREATE TRIGGER test_fault BEFORE UPDATE ON transfers FOR EACH ROW WHEN (NEW.id = {ids[1]})"
                " EXECUTE FUNCTION test_fault()"
            )
        )
    try:
        worker = make()
        more = send(5, first_id=5_000)
        settle_all([each for each in [*ids, *more] if each != ids[1]], worker)
        assert not worker._held
    finally:
        with books.begin() as connection:
            connection.execute(text("DROP TRIGGER test_fault ON transfers; DROP FUNCTION test_fault()"))
    assert row_of(books, ids[1]).status == "pending"  # and the relay's, once it is missed
    assert count_unread(kafka_settings, books) == 0


def test_two_who_have_the_same_records_post_them_once(
    *, monkeypatch: pytest.MonkeyPatch, books: Engine, send: Send, make: Make, settle_all: SettleAll
) -> None:
    ids = send(100)
    first = make()
    monkeypatch.setattr(first, "_tell", lambda _: None)  # it never tells the group
    settle_all(ids, first)
    first.leave()
    again = make()
    assert wait_for(lambda: again.run_once() == 100, PATIENCE_S)
    assert_posted_once(books, ids)


# --- workers that die


@pytest.fixture
def start(start_worker: WorkerStarter, kafka_settings: Settings) -> Callable[..., object]:
    """A starter of worker processes on the broker."""

    def start(*strikes: dict[str, object]) -> object:
        return start_worker(*strikes, TRANSPORT="kafka", KAFKA_BROKERS=str(kafka_settings.kafka_brokers))

    return start


@pytest.mark.parametrize(
    ("point", "when"),
    [(HOLD, "before"), (HOLD, "after"), (POST, "before"), (POST, "after"), (BOOK, "before"), (COMMIT, "after")],
    ids=lambda value: str(value).rpartition(".")[2],
)
def test_a_worker_killed_at_any_step_is_followed_by_another_that_settles_all_once(
    *, books: Engine, send: Send, make: Make, settle_all: SettleAll, start: Callable[..., object], point: str, when: str
) -> None:
    ids = send(20)
    process = start(kills(point, when))
    process.wait_until_killed()  # type: ignore[attr-defined]
    settle_all(ids, make())
    assert_posted_once(books, ids)


@pytest.mark.long
def test_a_transfer_that_kills_its_workers_ends_failed_and_takes_nobody_with_it(
    *, books: Engine, kafka_settings: Settings, send: Send, make: Make, settle_all: SettleAll
) -> None:
    """Killed in this process: each leaves without a word, and the next one takes over where it stood."""
    ids = send(12)
    killer = ids[5]

    class Dies(Exception):
        pass

    deaths = 0
    while row_of(books, killer).status == "pending":
        assert deaths <= MAX_LOST
        worker = make()
        settle = worker._settler.settle

        def settle_or_die(tried: list[int], settle: Callable[[list[int]], object] = settle) -> object:
            if killer in tried and row_of(books, killer).status == "pending":
                raise Dies
            return settle(tried)

        worker._settler.settle = settle_or_die  # type: ignore[method-assign, assignment]
        try:
            assert wait_for(lambda: bool(worker.run_once() or are_final(books, [killer])), PATIENCE_S)  # noqa: B023
        except Dies:
            deaths += 1
        worker.leave()
    assert deaths == MAX_LOST
    row = row_of(books, killer)
    assert (row.status, row.reason) == ("failed", "worker_lost")
    more = send(5, first_id=7_000)
    settle_all([*ids, *more], make())
    assert_posted_once(books, [each for each in [*ids, *more] if each != killer])
    assert count_unread(kafka_settings, books) == 0


def test_a_worker_that_is_told_to_stop_ends_its_batch_and_leaves(
    *, books: Engine, send: Send, start: Callable[..., object], kafka_settings: Settings
) -> None:
    ids = send(50)
    process = start()
    assert wait_for(lambda: are_final(books, ids), PATIENCE_S), process.log.read_text()  # type: ignore[attr-defined]
    process.stop()  # type: ignore[attr-defined]
    assert_posted_once(books, ids)
    assert count_unread(kafka_settings, books) == 0
    assert balance_of(books, 2) > 0


def test_what_was_held_is_known_by_its_place(books: Engine) -> None:
    with bounded_engine(books.url.render_as_string(hide_password=False)) as engine:
        ids = accept(books, 3)
        holder = uuid4()
        deliveries.hold(engine, holder, {"a/0": (7, ids), "a/1": (9, [])})
        deliveries.hold(engine, holder, {"a/1": (10, ids[:1])})
        held = deliveries.find_held(books, ["a/0", "a/1", "b/0"])
    assert {place: (each.first, each.transfers) for place, each in held.items()} == {
        "a/0": (7, ids),
        "a/1": (10, ids[:1]),
    }
    assert {each.holder for each in held.values()} == {holder}


def test_a_record_says_what_the_contract_says(kafka_settings: Settings, send: Send) -> None:
    (transfer_id,) = send(1)
    (message,) = read_all(kafka_settings, REQUESTED, 1)
    assert message.key() == b"1"
    assert orjson.loads(message.value() or b"") == {
        "transfer_id": str(transfer_id), "source": "1", "destination": "2", "amount": 1, "attempts": 0,
        "traceparent": None,
    }  # fmt: skip


def test_a_batch_that_takes_long_shows_life_and_what_comes_meanwhile_is_the_next_one(
    *,
    monkeypatch: pytest.MonkeyPatch,
    books: Engine,
    kafka_settings: Settings,
    send: Send,
    make: Make,
) -> None:
    """Every transfer alone, which is what takes long; each time the group is told, and may tell something."""
    monkeypatch.setattr("jobs.kafka.worker.LIFE_S", 0.0)
    fund(books, *range(11, 21))
    ids = [each for payer in range(11, 21) for each in send(3, first_id=1_000 * payer, source=payer)]
    worker = make(batch_size=10)
    polls = 0
    poll = worker._poll

    def count(wait_s: float) -> Message | None:
        nonlocal polls
        polls += 1
        return poll(wait_s)

    # How many were tried, and how often the group was asked meanwhile: of each batch of several.
    batches: list[tuple[int, int]] = []

    def go_on() -> None:
        nonlocal polls
        polls = 0
        if (tried := worker.run_once()) > 1:
            batches.append((tried, polls - 1))  # one of them has taken it

    def are_all_tried() -> bool:
        go_on()
        return {row.attempts for row in rows_of(books, ids).values()} == {1}

    monkeypatch.setattr(worker, "_poll", count)
    with fault_on(books, ids, REFUSES):
        assert wait_for(are_all_tried, PATIENCE_S)
        go_on()
    assert {row.attempts for row in rows_of(books, ids).values()} == {1}
    assert batches
    assert all(shown >= tried for tried, shown in batches), batches
    worker.leave()
    assert count_unread(kafka_settings, books) == 0
