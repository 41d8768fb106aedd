"""What holds on one machine holds over several, whichever of them is killed, cut off or has the wrong time."""

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial

import pytest

from models.snowflake.layout import decode
from ops.local.processes import wait_for
from tests.chaos.faces import NoAnswerError
from tests.chaos.faces.rest import Rest
from tests.faketime import Clock
from tests.hosts.callers import (
    OPENING_CENTS,
    enqueue,
    find_relays,
    find_who_waits_for_a_lock,
    give,
    is_posted,
    open_wallet,
    rest,
    users,
)
from tests.hosts.load import Load
from tests.hosts.service import RATE, Service, ServingHost, until

pytestmark = [
    pytest.mark.stack,
    pytest.mark.long,
    pytest.mark.xdist_group("hosts"),
]

# So many answers are taken for "it goes on".
ORDERS = 40
# Likewise, where some of them have to wait for a host that has nothing to ask.
FEW = 12
AHEAD_S = 7
# A cached read that nobody drops is believed for minutes (CACHE_TTL).
MOMENT_S = 5.0
# What may come of an order at a host that cannot do without what it has lost. 0 is no answer.
CLEAR = {200, 202, 422, 429, 503}

ORDERS_OF_ALL_KINDS = ("/api/deposit/v1", "/api/transfer/v1", "/api/transfer/v2")


@contextmanager
def dead(*hosts: ServingHost) -> Iterator[None]:
    """Have hosts be without power for a while."""
    try:
        with ExitStack() as cut:
            for each in hosts:
                cut.enter_context(each.host.cut_off())  # first, so that no kernel says goodbye
                each.kill()
            yield
    finally:
        for each in hosts:
            each.start()


def has_failed_once(service: Service, transfer_id: int) -> bool:
    return bool(service.query("SELECT FROM transfers WHERE id = %s AND attempts > 0", transfer_id))


def sees(face: Rest, user: int, balance: int) -> bool:
    with suppress(NoAnswerError):  # busy, which is nothing that is old
        return face.read_balance(user) == balance
    return False


def exhaust(service: Service) -> tuple[int, float]:
    """Ask at each host in turn until each has refused; return how often that was granted, and how often it may be.

    What was granted while Redis was silent for a moment, as on a busy machine, says nothing: each host counts alone
    then.
    """
    while True:
        for api in service.apis:
            until(partial(counts_in_redis, service, api), "limits are in Redis")
        before = silences(service)
        found = exhaust_once(service)
        if silences(service) == before:
            return found


def exhaust_once(service: Service) -> tuple[int, float]:
    user, faces = next(users), [rest(api) for api in service.apis]
    granted, refused, began = 0, set(), time.monotonic()
    for face in itertools.cycle(faces):
        status, _ = face.ask(user, "GET", "/api/wallet/balance/v1")
        if status == 429:
            refused.add(face.name)
        else:
            granted += 1
        if len(refused) == len(faces):
            break
    for face in faces:
        face.close()
    return granted, RATE.burst + 1 + RATE.amount / RATE.period_s * (time.monotonic() - began)


def counts_in_redis(service: Service, api: ServingHost) -> bool:
    user, face = next(users), rest(api)
    face.ask(user, "GET", "/api/wallet/balance/v1")
    face.close()
    with service.redis_client() as client:
        return bool(client.keys(f"*:{user}"))


def silences(service: Service) -> int:
    return sum(api.log.read_text().count("limits hold per process") for api in service.apis)


def test_ids_of_two_hosts_are_of_different_nodes(service: Service, under_load: Load) -> None:
    under_load.go_on_for(ORDERS)
    ids = [under_load.transfer_ids(api.address) for api in service.apis]
    nodes = [{decode(each).node for each in of_host} for of_host in ids]
    assert all(nodes)
    assert not set.intersection(*nodes)


def test_a_user_has_one_limit_whichever_host_is_asked(service: Service) -> None:
    granted, most = exhaust(service)
    assert granted <= most


@pytest.mark.parametrize("is_killed", [False, True], ids=["cut off", "killed"])
def test_one_host_relays_at_a_time_and_another_when_it_is_gone(
    service: Service, under_load: Load, is_killed: bool
) -> None:
    (relay,) = find_relays(service)
    (other,) = (worker for worker in service.workers if worker is not relay)
    with dead(relay) if is_killed else relay.host.cut_off():
        until(lambda: find_relays(service) == [other], "the other relays", service.complaints)
        under_load.go_on_for(ORDERS)
    until(service.is_up, "it is back", service.complaints)
    until(lambda: len(find_relays(service)) == 1, "it has heard that the other one relays", service.complaints)


def test_what_a_worker_host_has_in_hand_when_it_is_cut_off_is_settled_by_the_other(
    service: Service, under_load: Load
) -> None:
    payer, payee = open_wallet(service), open_wallet(service)
    with ExitStack() as cut:
        with service.lock_held(payee):
            transfer_id = enqueue(service, payer, payee)
            worker, pid = find_who_waits_for_a_lock(service)
            cut.enter_context(worker.host.cut_off())
        # Its session gets the lock, says so to nobody, and holds what it has locked until it is ended.
        until(
            lambda: all(session["pid"] != pid for session in service.sessions(worker.address)), "its session is ended"
        )
        until(partial(is_posted, service, transfer_id), "the other settles it", service.complaints)
        under_load.go_on_for(ORDERS)


@pytest.mark.parametrize("lost", ["database", "redis", "database and redis"])
def test_an_api_host_says_what_it_is_cut_off_from_and_comes_back_by_itself(
    service: Service, under_load: Load, lost: str
) -> None:
    api, user, payee = service.apis[0], open_wallet(service), open_wallet(service)
    needs_nothing_else = lost == "redis"
    servers = [host for host in (service.database_host, service.redis_host) if host.name in lost]
    with api.host.cut_off_from(*servers):
        said = (200, "degraded") if needs_nothing_else else (503, "unready")
        with ThreadPoolExecutor() as pool:
            answers = pool.map(partial(give, api, user, payee), ORDERS_OF_ALL_KINDS)
            until(lambda: api.readiness() == said, f"it says {said}", service.complaints)
            for status, answer in answers:
                if needs_nothing_else:
                    assert status in {200, 202}, answer
                else:
                    assert (status, answer["code"]) in {(503, "unavailable"), (503, "outcome_unknown")}
        if needs_nothing_else:
            face = rest(api)
            assert face.read_balance(user) <= OPENING_CENTS + 1
            face.close()
        under_load.go_on_for(FEW)
    until(lambda: api.readiness() == (200, "ready"), "it is ready again", service.complaints)
    assert under_load.words(api.address) <= CLEAR


def test_a_read_is_old_for_a_moment_at_most_where_the_writer_cannot_tell_the_cache(service: Service) -> None:
    user = open_wallet(service)
    with (
        closing(rest(service.apis[0])) as writer,
        closing(rest(service.apis[1])) as reader,
        service.apis[0].host.cut_off_from(service.redis_host),
    ):
        for _ in range(3):
            before = reader.read_balance(user)
            assert reader.read_balance(user) == before  # it is cached by now
            status, answer = writer.ask(user, "POST", "/api/deposit/v1", {"amount": 1})
            assert (status, answer["balance"]) == (200, before + 1)
            assert wait_for(partial(sees, reader, user, before + 1), MOMENT_S)


def test_a_host_that_dies_leaves_nothing_in_the_database_that_others_wait_for(
    service: Service, under_load: Load
) -> None:
    hosts = [service.apis[0], service.workers[0]]
    until(lambda: all(service.sessions(each.address) for each in hosts), "both are connected", service.complaints)
    with dead(*hosts):
        assert any(service.sessions(each.address) for each in hosts)
        under_load.go_on_for(ORDERS)
        until(lambda: not any(service.sessions(each.address) for each in hosts), "their sessions are ended")


def test_a_host_may_have_the_wrong_time(service: Service, under_load: Load, clock: Clock) -> None:
    payer, payee = open_wallet(service), open_wallet(service)
    for ahead_s in (AHEAD_S, -AHEAD_S):
        clock.set(ahead_s)
        under_load.go_on_for(ORDERS)
        granted, most = exhaust(service)
        assert granted <= most
        assert len(find_relays(service)) == 1
        with service.lock_held(payee):
            transfer_id = enqueue(service, payer, payee)
            until(partial(has_failed_once, service, transfer_id), "an attempt fails", service.complaints)
        until(partial(is_posted, service, transfer_id), "another is made", service.complaints)
    ids = [each for api in service.apis for each in under_load.transfer_ids(api.address)]
    assert len(set(ids)) == len(ids)
