"""Prometheus and Alertmanager watch a real stack: what is asked for is there, and what hurts is told."""

import http.client
import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import grpc
import pytest

from tests.chaos.stack import Stack, wait_until
from tests.ops.monitoring.stored import asked_metrics, metrics_in, queries, rules
from tests.ops.monitoring.watching import OLDEST_PENDING, Watch
from wallet.v1.wallet_pb2 import AmountRequest, BalanceRequest, JobRequest, TransferRequest
from wallet.v1.wallet_pb2_grpc import WalletServiceStub

pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("monitoring")]

TIMEOUT_S = 40.0
# There from the day on that the first audit of the books has ended.
AUDIT = {"wallet_audit_ok", "wallet_audit_findings", "wallet_audit_finished_timestamp_seconds"}
# There with TRANSPORT=kafka only.
KAFKA = {"wallet_kafka_unread", "wallet_kafka_oldest_unread_seconds", "wallet_kafka_unannounced_events"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running service."""
    with Stack(tmp_path_factory.mktemp("stack"), grpc=True, WORKERS="2") as stack:
        yield stack


@pytest.fixture(scope="module")
def watch(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """Whoever watches it."""
    with Watch(tmp_path_factory.mktemp("watch"), api_port=stack.port) as watch:
        yield watch


def _call(stack: Stack, method: str, path: str, **body: int) -> tuple[int, dict[str, Any]]:
    with closing(http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)) as connection:
        headers = {"Authorization": "1", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def _do_a_bit_of_everything(stack: Stack) -> None:
    assert _call(stack, "POST", "/api/deposit/v1", amount=100)[0] == 200
    assert _call(stack, "POST", "/api/withdraw/v1", amount=1)[0] == 200
    assert _call(stack, "POST", "/api/withdraw/v1", amount=2**60)[0] == 422
    assert _call(stack, "POST", "/api/transfer/v1", destination_user_id=2, amount=1)[0] == 200
    accepted = _call(stack, "POST", "/api/transfer/v2", destination_user_id=2, amount=1)[1]
    assert _call(stack, "GET", f"{accepted['status_url']}?wait=20")[1]["status"] == "posted"
    assert _call(stack, "GET", "/api/wallet/balance/v1")[0] == 200
    assert _call(stack, "GET", "/api/transactions/v1")[0] == 200
    _do_a_bit_by_grpc(stack)


def _do_a_bit_by_grpc(stack: Stack) -> None:
    """A call that ends well, one that does not, and a job that is watched."""
    me = (("authorization", "1"),)
    with grpc.insecure_channel(stack.state()["grpc"]["target"]) as channel:
        wallet = WalletServiceStub(channel)
        assert wallet.GetBalance(BalanceRequest(), metadata=me, timeout=TIMEOUT_S).balance > 0
        with pytest.raises(grpc.RpcError) as refused:
            wallet.Withdraw(AmountRequest(amount=2**60), metadata=me, timeout=TIMEOUT_S)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        paid = TransferRequest(destination_user_id=2, amount=1)
        job = JobRequest(job_id=wallet.EnqueueTransfer(paid, metadata=me, timeout=TIMEOUT_S).job_id)
        *_, last = wallet.WatchJob(job, metadata=me, timeout=TIMEOUT_S)
        assert last.status == "posted"


def test_every_metric_of_ours_that_is_asked_for_is_in_a_scrape(stack: Stack, watch: Watch) -> None:
    asked = {name for name in asked_metrics() if name.startswith("wallet_")} - AUDIT - KAFKA
    assert asked
    _do_a_bit_of_everything(stack)
    # All of it, and not only something: while a scrape is being stored, a part of it is seen.
    with suppress(TimeoutError):
        wait_until(lambda: asked <= watch.series(), TIMEOUT_S, "it was scraped")
    assert asked - watch.series() == set()


def test_every_panel_about_the_service_shows_something(stack: Stack, watch: Watch) -> None:
    asked = [(query, metrics_in(query.text)) for query in queries() if query.source == "prometheus"]
    ours = [query for query, names in asked if all(name.startswith("wallet_") for name in names) and not names & AUDIT]
    assert {query.dashboard for query in ours} == {"queue", "kafka", "service", "ledger", "machines"}
    ours = [query for query in ours if query.dashboard != "kafka"]
    # Of what did not happen there is nothing to show.
    ours = [query for query in ours if '"5..",' not in query.text or " or " in query.text]

    def all_show() -> bool:
        _do_a_bit_of_everything(stack)
        return all(watch.query(query.text) for query in ours)

    wait_until(all_show, TIMEOUT_S, "every panel shows something")


def test_without_kafka_its_dashboard_is_empty_or_shows_zeros(stack: Stack, watch: Watch) -> None:
    _do_a_bit_of_everything(stack)
    shown = [query for query in queries() if query.dashboard == "kafka" and "wallet_relay" not in query.text]
    assert len(shown) >= 7
    values = {float(found["value"][1]) for query in shown for found in watch.query(query.text)}
    assert values <= {0}


@pytest.mark.long
def test_with_kafka_its_dashboard_shows_something_and_no_alert_fires(
    java: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    del java
    home, watched = tmp_path_factory.mktemp("kafka"), tmp_path_factory.mktemp("watched")
    shown = [query for query in queries() if query.dashboard == "kafka"]
    with Stack(home, WORKERS="2", TRANSPORT="kafka") as stack, Watch(watched, api_port=stack.port) as watch:

        def all_show() -> bool:
            accepted = _call(stack, "POST", "/api/transfer/v2", destination_user_id=2, amount=1)[1]
            assert _call(stack, "GET", f"{accepted['status_url']}?wait=20")[1]["status"] == "posted"
            return all(watch.query(query.text) for query in shown)

        wait_until(all_show, TIMEOUT_S, "every panel shows something")
        wait_until(lambda: bool(watch.query("count_over_time(up[5s]) > 3")), TIMEOUT_S, "it has been watched")
        wait_until(lambda: watch.fired() == set(), TIMEOUT_S, "no alert is active")


def test_nothing_is_told_of_a_service_that_is_well(stack: Stack, watch: Watch) -> None:
    _do_a_bit_of_everything(stack)
    # Long enough for every rule to have been looked at, and to have been told of.
    wait_until(lambda: bool(watch.query("count_over_time(up[5s]) > 3")), TIMEOUT_S, "it has been watched for a while")
    wait_until(lambda: watch.fired() == set(), TIMEOUT_S, "no alert is active")


def test_an_alert_fires_while_workers_stand_still_and_clears_when_they_go_on(stack: Stack, watch: Watch) -> None:
    assert rules()["WalletOldestPending"]["expr"] == OLDEST_PENDING[0]
    workers = [worker["pid"] for worker in stack.state()["workers"]]
    try:
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        accepted = _call(stack, "POST", "/api/transfer/v2", destination_user_id=2, amount=1)[1]
        wait_until(lambda: "WalletOldestPending" in watch.fired(), TIMEOUT_S, "the alert is active")
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: "WalletOldestPending" not in watch.fired(), TIMEOUT_S, "the alert has cleared")
    assert _call(stack, "GET", f"{accepted['status_url']}?wait=20")[1]["status"] == "posted"
