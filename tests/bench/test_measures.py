"""Every measure that goes through the API or calls the ledger, once, as short as it gets, on servers of its own.

What is found means nothing here; that it was found does, and that the books were right: each measure looks at them.
"""

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest

from bench import asks, edge, fields, grpc_face
from bench.asks import Ask, Kind
from bench.bare_app import app as bare_app
from bench.bulk import Bulk
from bench.caller import call_all, environment_of
from bench.calls import Calls
from bench.cost import KAFKA, Cost, ways
from bench.crew import WORKERS, at_work
from bench.direct import Direct
from bench.edge import STANDS, Edge
from bench.fields import STEPS, Fields
from bench.figures import BenchError, Measure, Plan, Values
from bench.growing.hot import Hot
from bench.growing.lag import Lag
from bench.grpc_face import GrpcFace, caller
from bench.lone import Lone
from bench.site import Site
from bench.watchers import Watchers
from bench.webhooks import DEAD, Webhooks
from bench.windows import turns
from models.ledger.transfer import NO_DETAILS
from ops.local.processes import StackError
from wallet.v1 import wallet_pb2

# Servers are started once, by one of the processes that test.
pytestmark = pytest.mark.xdist_group("bench")

SHORTEST = Plan(rounds=1, jobs=100, stock_jobs=10, pgbench_s=1, steady_s=1, window_s=0.1, windows=1, calls=10)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    # A machine that is busy with other tests is no reason to turn anybody away.
    patient = {"API_QUEUE": "512", "LOCK_TIMEOUT_MS": "30000", "STATEMENT_TIMEOUT_MS": "60000"}
    with Site(patient) as made:
        yield made


def _take(measure: Measure, site: Site, plan: Plan = SHORTEST) -> Values:
    """Measure, and see that all that is to be reported was found."""
    found = measure.take(site, plan)
    assert {figure.key for figure in measure.figures} <= set(found)
    return found


def test_bulks_are_measured_beside_single_transfers(site: Site) -> None:
    found = _take(Bulk(), site)
    assert found["bulk_request"] * found["bulk_accepted"] > 0
    assert found["bulk_single"] > 0


@pytest.mark.parametrize("windows", [1, 2])
def test_fields_are_measured_beside_orders_without_them(site: Site, windows: int) -> None:
    found = _take(Fields(), site, replace(SHORTEST, windows=windows))
    for key in (f"fields_{step}{books}" for step in STEPS for books in ("", "_plain")):
        assert found[key] >= found[f"{key}_client"] > 0


def test_orders_are_the_same_but_for_what_they_say() -> None:
    for told, plain in islice(zip(fields.draw(is_told=True), fields.draw(is_told=False), strict=True), 50):
        assert replace(told, details=NO_DETAILS) == plain
        description, reference, metadata = told.details
        assert (len(description or ""), len(reference or ""), len(metadata or {})) == (42, 16, 3)


@pytest.mark.long
def test_webhooks_are_measured_with_dead_receivers_and_with_one_that_is_well(site: Site) -> None:
    found = _take(Webhooks(), site)
    assert found["webhooks_drain_tried"] == 0
    assert 0 <= found["webhooks_drain_dead_tried"] <= sum(DEAD.values())
    assert found["webhooks_sent"] > 0
    assert 0 < found["webhooks_p50"] <= found["webhooks_p99"]


@pytest.mark.long
def test_the_edge_is_measured_with_and_without_workers_and_nothing_is_left_pending(site: Site) -> None:
    found = _take(Edge(), site)
    assert all(found[stand.key] > 0 for stand in STANDS)
    assert found["v2_alone_16_pending"] == found["v2_alone_128_pending"] == 1.0  # nobody has settled any of them
    assert found["v2_16_pending"] < 1.0
    assert found["parts_v2_workers"] > 0
    assert found["memory"] == pytest.approx(sum(found[f"memory_{part}"] for part in edge.MEMORY))
    assert found["memory_workers"] > 20


@pytest.mark.long
def test_calls_over_grpc_are_measured_beside_rest_and_nothing_is_left_pending(site: Site) -> None:
    found = _take(GrpcFace(), site)
    assert all(found[stand.key] > 0 for stand in grpc_face.STANDS)
    assert found["grpc_v2_cpu_grpc"] > 0
    assert found["grpc_memory"] > found["grpc_memory_master"] > 5


@pytest.mark.long
def test_what_a_transfer_costs_is_told_for_each_way_and_each_part(site: Site) -> None:
    found = _take(Cost(), site)
    assert all(found[figure.key] >= 0 for figure in Cost().figures)
    # Tables grow by pages, of which these are few.
    assert min(found["cost_v1_disk"], found["cost_deposit_disk"]) > 100
    # An entry for each of two parties, beside one.
    assert found["cost_v1_wal"] > found["cost_deposit_wal"] > 100
    assert found["cost_v2_waiting"] > 100
    if KAFKA in ways():
        # It is told of once as accepted and once as posted.
        assert found[f"cost_{KAFKA}_topics"] > 200
        assert found[f"cost_{KAFKA}_commands"] < found["cost_v2_commands"]


@pytest.mark.long
def test_one_wallet_is_paid_as_often_as_it_can_be_and_a_standby_lags(site: Site) -> None:
    assert _take(Hot(), site)["v1_hot"] > 0
    found = _take(Lag(), site)
    assert 0 < found["lag_p50"] <= found["lag_p99"] <= found["lag_most"]


@pytest.mark.long
def test_unary_calls_are_timed_beside_watchers_and_so_is_a_full_stop_under_these(site: Site) -> None:
    found = _take(Watchers(), site)
    assert 0 < found["watchers_p50"] <= found["watchers_worst"]
    assert found["watchers_stop"] > 0


def test_calls_are_the_requests_of_rest_spelled_otherwise() -> None:
    requests, call = asks.draw(Kind.LATER), caller("EnqueueTransfer", Kind.LATER)
    for ask in requests:
        _, headers, data = call()
        assert b"/EnqueueTransfer\x01" in headers
        assert b"\x0f\x08%c%d" % (len(str(ask.user)), ask.user) in headers  # authorization
        order = wallet_pb2.TransferRequest.FromString(data[5:])
        assert {"destination_user_id": order.destination_user_id, "amount": order.amount} == json.loads(ask.body)


def test_grpc_that_does_not_start_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        monkeypatch.setattr("bench.site._find_port", lambda: stranger.getsockname()[1])
        with pytest.raises(StackError, match=r"gRPC did not start: .*GRPC_PORT"), site.grpc():
            pass


def test_every_pass_takes_every_kind_once_and_begins_with_another() -> None:
    passes = [turns(STANDS, number, 3) for number in range(3)]
    assert all(len(each) == len(STANDS) and set(each) == set(STANDS) for each in passes)
    assert len({each[0] for each in passes}) == 3


@pytest.mark.parametrize("is_patched", [False, True], ids=["threads", "gevent"])
def test_calls_are_counted_in_a_process_as_it_is_or_as_gevent_makes_it(site: Site, is_patched: bool) -> None:
    found = _take(Calls(), site, replace(SHORTEST, is_patched=is_patched))
    assert 0 < found["calls_bare"] < found["calls_v1"]
    assert 0 < found["calls_balance"] < found["calls_v1"]


def test_calls_that_were_not_made_are_told(site: Site) -> None:
    with pytest.raises(BenchError, match="the calls were not made: exit status 1"):
        Calls().take(site, replace(SHORTEST, calls=0))  # there is nothing to divide by


def test_an_answer_of_another_kind_is_no_measure() -> None:
    with pytest.raises(BenchError, match="answers had status 200 OK, not 202"):
        call_all(bare_app, [environment_of(Ask("GET", "/", user=1))], 202)


def test_orders_are_given_to_the_ledger_by_many_threads(site: Site) -> None:
    assert all(rate > 0 for rate in _take(Direct(), site).values())


@pytest.mark.long
def test_a_lone_transfer_takes_longer_than_a_lone_commit(site: Site) -> None:
    found = _take(Lone(40), site)
    assert 0 < found["steady_40_v1_commit"] < found["steady_40_v1_p50"]


def test_workers_are_there_all_the_while_and_gone_afterwards(site: Site) -> None:
    with at_work(site.redis, workers := [site.worker(1)]):
        assert site.redis.scard(WORKERS) == 1
    assert not workers[0].is_running


def test_a_worker_that_does_not_start_is_told_with_its_reason(site: Site) -> None:
    broken = site.command("worker-broken", "worker.py", BATCH_SIZE="none")
    with pytest.raises(BenchError, match="BATCH_SIZE"), at_work(site.redis, [broken]):
        pass
