"""What holds over several hosts holds with Kafka between them, whoever of them is cut off from whom."""

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any

import psycopg2
import pytest

from jobs.kafka.backlog import GRACE
from jobs.kafka.topics import WORK
from tests.faketime import Clock, has_compiler
from tests.hosts.broker import PARTITIONS, BrokerHost
from tests.hosts.callers import (
    enqueue,
    find_relays,
    find_who_waits_for_a_lock,
    give,
    open_wallet,
)
from tests.hosts.load import Load
from tests.hosts.network import Network
from tests.hosts.service import Service, ServingHost, until

pytestmark = [
    pytest.mark.stack,
    pytest.mark.long,
    pytest.mark.xdist_group("hosts"),
]

# So many answers are taken for "it goes on".
ORDERS = 40
# Likewise, where what is accepted waits.
FEW = 12
# So many that some of them are on each partition.
PAYERS = 16
AHEAD_S = 7
# Both topics of work.
PLACES = PARTITIONS * len(WORK)
PASSWORD = "hosts-admin"
PAGE = 100


class Feed:
    """The feed of events, as an administrator has read it so far."""

    def __init__(self, api: ServingHost) -> None:
        self.events: list[dict[str, Any]] = []
        self._api = api
        self._next_after = "0"
        secret = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        self._headers = {"Authorization": f"Basic {secret}"}

    def read_on(self) -> None:
        """Read all that there is by now."""
        while True:
            path = f"/api/events/v1?page_size={PAGE}&after={self._next_after}"
            status, body = self._api.get(path, headers=self._headers)
            assert status == 200, body
            page = json.loads(body)
            assert not page["missed"]
            if not page["events"]:
                return
            self.events += page["events"]
            self._next_after = page["next_after"]

    def ends(self) -> list[tuple[int, str]]:
        """Return the transfers that are told to have ended for good, with what came of them."""
        return sorted(
            (int(each["data"]["job_id"]), each["data"]["status"])
            for each in self.events
            if each["data"]["status"] in {"posted", "rejected"}
        )


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network.or_skip() as network:
        yield network


@pytest.fixture(scope="module")
def broker(java: None, network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerHost]:
    del java
    with BrokerHost(network, tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="module")
def hosts(broker: BrokerHost, network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service on a broker, in the place of the one that all other tests share."""
    settings = {**broker.settings, "ADMIN_PASSWORD": PASSWORD}
    with Service(network, tmp_path_factory.mktemp("hosts"), **settings) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def feed(hosts: Service) -> Feed:
    return Feed(hosts.apis[0])


@pytest.fixture(autouse=True)
def told_once(service: Service, broker: BrokerHost, feed: Feed) -> Iterator[None]:
    """After each test each transfer's end is told once in the feed; and what is in the feed is on the topic."""
    yield

    def all_is_told() -> bool:
        feed.read_on()
        return len(feed.ends()) >= len(ended(service))

    until(all_is_told, "all ends are told", service.complaints)
    assert feed.ends() == ended(service)
    until(lambda: len(announced(broker)) >= len(feed.events), "all is announced", service.complaints)
    assert announced(broker) == {each["event_id"]: each for each in feed.events}


@pytest.fixture(autouse=True)
def shared(service: Service, broker: BrokerHost) -> None:
    """Before each test both hosts have a part of the work."""
    until(lambda: is_shared(service, broker), "both have a part", service.complaints)


def ended(service: Service) -> list[tuple[int, str]]:
    found = service.query(
        "SELECT id, status::text FROM transfers WHERE status IN ('posted', 'rejected') AND completed_at IS NOT NULL"
    )
    return sorted((row["id"], row["status"]) for row in found)


def announced(broker: BrokerHost) -> dict[str, dict[str, Any]]:
    return {each["event_id"]: each for each in broker.events()}


def is_shared(service: Service, broker: BrokerHost) -> bool:
    return broker.members() == {worker.address: PLACES // 2 for worker in service.workers}


def enqueue_some(service: Service, *, by: ServingHost | None = None) -> list[int]:
    """Order transfers of many payers to one payee; return their ids. All were answered 202."""
    payee, payers = open_wallet(service), [open_wallet(service) for _ in range(PAYERS)]
    if by is None:
        return [enqueue(service, payer, payee) for payer in payers]
    answers = [give(by, payer, payee, "/api/transfer/v2") for payer in payers]
    assert {status for status, _ in answers} == {202}, answers
    return [int(answer["job_id"]) for _, answer in answers]


def are_posted(service: Service, transfer_ids: list[int]) -> bool:
    found = service.query("SELECT status::text FROM transfers WHERE id = ANY (%s)", transfer_ids)
    return {row["status"] for row in found} == {"posted"}


def is_backlog(service: Service) -> bool:
    """Whether transfers are pending for longer than what is sent may be on its way, by PostgreSQL's clock."""
    found = service.query(
        "SELECT count(*) FROM transfers WHERE status = 'pending' AND created_at < clock_timestamp() - %s", GRACE
    )
    return bool(found[0]["count"])


def say(service: Service, readiness: tuple[int, str]) -> bool:
    return all(api.readiness() == readiness for api in service.apis)


@contextmanager
def nothing_settled(service: Service) -> Iterator[None]:
    """Keep workers from taking anything in hand for a while, through no fault of any transfer."""
    with closing(psycopg2.connect(service.url)) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE holdings IN ACCESS EXCLUSIVE MODE")
        yield


def dependency(api: ServingHost, name: str) -> str:
    _, body = api.get("/readyz")
    return str(json.loads(body)["dependencies"][name]) if body else ""


def test_load_is_settled_once_by_workers_on_both_hosts_and_one_relays(
    service: Service, broker: BrokerHost, under_load: Load
) -> None:
    before = [worker.batches() for worker in service.workers]
    under_load.go_on_for(2 * ORDERS)
    transfer_ids = enqueue_some(service)
    until(partial(are_posted, service, transfer_ids), "all are posted", service.complaints)
    assert all(now > then for now, then in zip((each.batches() for each in service.workers), before, strict=True))
    assert len(find_relays(service)) == 1
    assert is_shared(service, broker)


@pytest.mark.parametrize("lost", ["broker", "database", "everything"])
def test_another_takes_over_from_a_worker_host_that_is_cut_off_in_the_middle_of_a_batch(
    service: Service, broker: BrokerHost, under_load: Load, lost: str
) -> None:
    payer, payee = open_wallet(service), open_wallet(service)
    with ExitStack() as cut:
        with service.lock_held(payee):
            transfer_id = enqueue(service, payer, payee)
            worker, _ = find_who_waits_for_a_lock(service)
            servers = [host for host in (broker.host, service.database_host) if host.name == lost]
            cut.enter_context(worker.host.cut_off_from(*servers) if servers else worker.host.cut_off())
        (other,) = (each for each in service.workers if each is not worker)
        transfer_ids = [transfer_id, *enqueue_some(service)]
        until(lambda: broker.members() == {other.address: PLACES}, "the other has it all", service.complaints)
        until(partial(are_posted, service, transfer_ids), "the other settles it", service.complaints)
        under_load.go_on_for(ORDERS)
    until(lambda: is_shared(service, broker), "it is back by itself", service.complaints)


def test_an_api_host_that_is_cut_off_from_kafka_accepts_all_the_same_and_that_is_settled(
    service: Service, broker: BrokerHost, under_load: Load
) -> None:
    api = service.apis[0]
    with api.host.cut_off_from(broker.host):
        until(lambda: api.readiness() == (200, "degraded"), "it says so", service.complaints)
        assert dependency(api, "kafka") == "degraded"
        transfer_ids = enqueue_some(service, by=api)
        until(partial(are_posted, service, transfer_ids), "the relay finds them", service.complaints)
        assert set(transfer_ids) <= set(broker.sent_again())
        under_load.go_on_for(FEW)
        assert api.readiness() == (200, "degraded")
    until(lambda: api.readiness() == (200, "ready"), "it is ready again", service.complaints)
    transfer_ids = enqueue_some(service, by=api)
    until(partial(are_posted, service, transfer_ids), "all are posted", service.complaints)
    assert not set(transfer_ids) & set(broker.sent_again())


def test_the_brokers_host_may_be_cut_off_for_a_while(service: Service, broker: BrokerHost, under_load: Load) -> None:
    with broker.host.cut_off():
        until(partial(say, service, (200, "degraded")), "both say so", service.complaints)
        transfer_ids = [each for api in service.apis for each in enqueue_some(service, by=api)]
        under_load.go_on_for(FEW)
        assert not are_posted(service, transfer_ids)
    until(partial(are_posted, service, transfer_ids), "all are posted", service.complaints)
    until(lambda: is_shared(service, broker), "both have a part again", service.complaints)


@pytest.mark.skipif(not has_compiler(), reason="no C compiler: see tests/faketime.py")
def test_an_honest_backlog_is_sent_once_whatever_time_a_host_has(
    service: Service, broker: BrokerHost, under_load: Load, clock: Clock
) -> None:
    for ahead_s in (AHEAD_S, -AHEAD_S):
        clock.set(ahead_s)
        before = broker.sent_again()
        with nothing_settled(service):
            transfer_ids = [each for api in service.apis for each in enqueue_some(service, by=api)]
            until(partial(is_backlog, service), "there is a backlog", service.complaints)
            assert len(find_relays(service)) == 1, service.complaints()
            assert not are_posted(service, transfer_ids)
        until(partial(are_posted, service, transfer_ids), "all are posted", service.complaints)
        under_load.go_on_for(FEW)
        assert broker.sent_again() == before
