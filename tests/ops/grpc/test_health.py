"""Health is answered however many have themselves told of it, and nothing of what they ask for is kept."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from ops.grpc.server import TOLD
from ops.local.processes import wait_for
from tests.api.grpc.server import SERVICE, TIMEOUT_S, connect
from tests.ops.grpc.http2 import Line, status_in
from tests.ops.grpc.serving import Serve, Served


def check(served: Served, service: str = "") -> int:
    """Ask once."""
    stub: Any = HealthStub(served.server.channel)
    return int(stub.Check(HealthCheckRequest(service=service), timeout=TIMEOUT_S).status)


@contextmanager
def watch(served: Served, service: str = "") -> Iterator[Any]:
    """Have oneself told, on a connection of one's own."""
    with connect(served.server.port) as channel:
        stub: Any = HealthStub(channel)
        watched = stub.Watch(HealthCheckRequest(service=service))  # which ends when nobody knows it any more
        yield watched


def test_the_service_and_all_of_them_can_be_asked_for_and_no_others(serve: Serve) -> None:
    served = serve()
    for service in ("", SERVICE.full_name):
        assert check(served, service) == HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as refused:
        check(served, "wallet.v2.WalletService")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    # Whoever watches may wait for it to come.
    with watch(served, "wallet.v2.WalletService") as watched:
        assert next(watched).status == HealthCheckResponse.SERVICE_UNKNOWN
        watched.cancel()


def test_who_watches_takes_nothing_from_those_who_ask(serve: Serve) -> None:
    served = serve()
    with ExitStack() as stack:
        for _ in range(TOLD):
            assert next(stack.enter_context(watch(served))).status == HealthCheckResponse.SERVING
        # There is a place for so many, and others are told so at once.
        with watch(served) as late, pytest.raises(grpc.RpcError) as refused:
            next(late)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(late.trailing_metadata())["error-code"] == "unavailable"
        assert check(served) == HealthCheckResponse.SERVING
        # Nor can they fill the process with what is refused.
        with Line(served.server.port) as line:
            streams = [line.ask("/grpc.health.v1.Health/Watch") for _ in range(200)]
            ended = line.ends(*streams)
        assert {status_in(ended[stream]) for stream in streams} == {grpc.StatusCode.UNAVAILABLE.value[0]}
        assert served.server.ask("GetBalance", user=7).error_code == "wallet_not_found"
    # And who goes leaves his place.
    assert wait_for(lambda: is_told(served), TIMEOUT_S)


def is_told(served: Served) -> bool:
    try:
        with watch(served) as again:
            return bool(next(again).status == HealthCheckResponse.SERVING)
    except grpc.RpcError:
        return False


def test_nothing_is_kept_of_what_is_asked_for(serve: Serve) -> None:
    served = serve()
    with Line(served.server.port) as line:

        def ask(number: int) -> None:
            service = f"{number}".rjust(10_000, "x")
            stream = line.ask("/grpc.health.v1.Health/Watch", HealthCheckRequest(service=service).SerializeToString())
            line.wait_for_message(stream)
            line.reset(stream)

        for number in range(100):
            ask(number)
        before = served.rss_mb
        for number in range(3_000):
            ask(number)
        # All of them would be 30 MB.
        assert served.rss_mb - before < 15
