import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from typing import Any

import grpc
import pytest

from bench import watchers
from bench.figures import BenchError
from bench.watchers import call_steadily, connect, see_off, tell, watch
from wallet.v1 import wallet_pb2
from wallet.v1.wallet_pb2_grpc import WalletServiceStub

REFUSAL = (("error-code", "unavailable"),)


class _Service:
    """Answers at once, and lets whoever watches wait until it is let go; then ends the stream as it was told to."""

    def __init__(self) -> None:
        self.begins, self.ends = ["pending"], ["pending"]
        self.code: grpc.StatusCode | None = grpc.StatusCode.UNAVAILABLE
        self.told = REFUSAL
        self.slow = self.refused = 0
        self.let_go = threading.Event()
        self.users: list[tuple[str, str]] = []
        self.peers: set[str] = set()

    def enqueue_transfer(self, request: wallet_pb2.TransferRequest, context: Any) -> wallet_pb2.Job:
        self._note("EnqueueTransfer", context)
        return wallet_pb2.Job(job_id=request.destination_user_id, status="pending")

    def watch_job(self, request: wallet_pb2.JobRequest, context: Any) -> Iterator[wallet_pb2.Job]:
        self._note("WatchJob", context)
        yield from (wallet_pb2.Job(job_id=request.job_id, status=each) for each in self.begins)
        self.let_go.wait(20)
        yield from (wallet_pb2.Job(job_id=request.job_id, status=each) for each in self.ends)
        if self.code:
            context.set_trailing_metadata(self.told)
            context.abort(self.code, "stopping")

    def get_balance(self, _request: wallet_pb2.BalanceRequest, context: Any) -> wallet_pb2.Balance:
        self._note("GetBalance", context)
        return wallet_pb2.Balance()

    def transfer(self, _request: wallet_pb2.TransferRequest, context: Any) -> wallet_pb2.MoneyReply:
        self._note("Transfer", context)
        calls = sum(method == "Transfer" for method, _ in self.users)
        if calls == self.slow:
            self.let_go.wait(0.5)
        if calls == self.refused:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too busy")
        return wallet_pb2.MoneyReply()

    def handlers(self) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        unary = grpc.unary_unary_rpc_method_handler
        order, ask = wallet_pb2.TransferRequest.FromString, wallet_pb2.JobRequest.FromString
        job = wallet_pb2.Job.SerializeToString
        return {
            "EnqueueTransfer": unary(self.enqueue_transfer, order, job),
            "WatchJob": grpc.unary_stream_rpc_method_handler(self.watch_job, ask, job),
            "GetBalance": unary(
                self.get_balance, wallet_pb2.BalanceRequest.FromString, wallet_pb2.Balance.SerializeToString
            ),
            "Transfer": unary(self.transfer, order, wallet_pb2.MoneyReply.SerializeToString),
        }

    def _note(self, method: str, context: Any) -> None:
        self.users.append((method, dict(context.invocation_metadata())["authorization"]))
        self.peers.add(context.peer())


@pytest.fixture
def service() -> _Service:
    return _Service()


@pytest.fixture
def stubs(service: _Service) -> Iterator[list[WalletServiceStub]]:
    server = grpc.server(ThreadPoolExecutor(12), options=(("grpc.so_reuseport", 0),))
    handlers = grpc.method_handlers_generic_handler("wallet.v1.WalletService", service.handlers())
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with ExitStack() as stack:
        yield [connect(stack, port) for _ in range(3)]
        service.let_go.set()
    server.stop(None).wait()


def test_watchers_are_spread_over_the_connections_and_watch_what_is_their_own(
    service: _Service, stubs: list[WalletServiceStub]
) -> None:
    watches = list(islice(watch(stubs), 6))
    assert all(each.call.is_active() for each in watches)
    assert len(service.peers) == 3
    calls = [user for method, user in service.users if method == "EnqueueTransfer"]
    assert calls == [user for method, user in service.users if method == "WatchJob"]
    assert len(set(calls)) > 1


def test_a_watcher_that_is_told_of_the_stop_is_seen_off(service: _Service, stubs: list[WalletServiceStub]) -> None:
    watches = list(islice(watch(stubs), 4))
    service.let_go.set()
    for each in watches:
        see_off(each)


@pytest.mark.parametrize(
    ("end", "match"),
    [
        ((["posted"], None, REFUSAL), "no worker settles became posted"),
        (([], None, REFUSAL), "ended as if it were final"),
        (([], grpc.StatusCode.UNAVAILABLE, ()), "not told that the service stops: UNAVAILABLE: stopping"),
    ],
)
def test_a_watcher_whose_stream_ends_otherwise_is_told(
    service: _Service, stubs: list[WalletServiceStub], end: Any, match: str
) -> None:
    service.ends, service.code, service.told = end
    watched = next(watch(stubs))
    service.let_go.set()
    with pytest.raises(BenchError, match=match):
        see_off(watched)


@pytest.mark.parametrize("begins", [["posted"], []])
def test_a_stream_that_does_not_begin_with_a_pending_job_is_told(
    service: _Service, stubs: list[WalletServiceStub], begins: list[str]
) -> None:
    service.begins = begins
    service.ends, service.code = [], None
    service.let_go.set()
    with pytest.raises(BenchError, match="began as"):
        next(watch(stubs))


def test_calls_take_turns_at_a_rate_and_each_is_timed(
    service: _Service, stubs: list[WalletServiceStub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "RATE", 200)
    service.slow = 2
    found = sorted(call_steadily(stubs, 20))
    assert len(found) == 20
    assert found[-1] >= 0.5 > found[0] > 0
    methods = [method for method, _ in service.users]
    assert methods.count("GetBalance") == methods.count("Transfer") == 10
    assert len(service.peers) == 3


def test_a_call_that_is_refused_is_an_error(
    service: _Service, stubs: list[WalletServiceStub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "RATE", 200)
    service.refused = 3
    with pytest.raises(grpc.RpcError) as caught:
        call_steadily(stubs, 20)
    assert tell(caught.value) == "RESOURCE_EXHAUSTED: too busy"
