"""The end of a process: who watches is sent away, what is in hand is answered, and nothing is left behind."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from sqlalchemy import Engine, text

from ops.local.processes import wait_for
from tests.api.grpc.server import TIMEOUT_S, connect, fund
from tests.books import check_books
from tests.jobs.backlog import accept
from tests.models.ledger.ordering import balances, count_waiting, row_lock
from tests.ops.grpc.http2 import Line
from tests.ops.grpc.serving import Serve, Served
from wallet.v1.wallet_pb2 import AmountRequest, JobRequest

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
# Whoever waits for all of it has waited for something that hangs.
GRACE_S, SOON_S = 60, 15


def leases(engine: Engine) -> int:
    """How many node ids are leased just now."""
    with engine.connect() as connection:
        held: int = connection.execute(
            text("SELECT count(*) FROM snowflake_nodes WHERE expires_at > now()")
        ).scalar_one()
        return held


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_all_who_hold_on_are_sent_away_and_what_is_in_hand_is_answered(serve: Serve, engine: Engine) -> None:
    served = serve(GRACEFUL_TIMEOUT_S=str(GRACE_S), LOCK_TIMEOUT_MS="20000", STATEMENT_TIMEOUT_MS="20000")
    fund(served.server, 1, 2)
    jobs = accept(engine, 60)
    before = leases(engine)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor())
        watches = [served.watch(job) for job in jobs]
        for each in watches:
            next(each)
        health: Any = HealthStub(stack.enter_context(connect(served.server.port)))
        told = health.Watch(HealthCheckRequest())
        assert next(told).status == HealthCheckResponse.SERVING
        line = stack.enter_context(Line(served.server.port))
        for method in ("Deposit", "WatchJob", REFLECTION):
            line.begin(method)
        line.ends(line.ask("GetBalance"))
        line.ask(REFLECTION, b"\x3a\x01*")  # from now on it reads nothing, and says no goodbye
        other = stack.enter_context(connect(served.server.port))
        with row_lock(engine, 1):
            moved = pool.submit(served.server.ask, "Withdraw", AmountRequest(amount=1), channel=other)
            assert wait_for(lambda: count_waiting(engine) > 0, TIMEOUT_S)
            began = time.monotonic()
            served.server.process.send_signal(signal.SIGTERM)
            assert [each.status for each in told] == [HealthCheckResponse.NOT_SERVING]
            for each in watches:
                with pytest.raises(grpc.RpcError) as ended:
                    next(each)
                assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
                assert dict(each.trailing_metadata())["error-code"] == "unavailable"
            assert wait_for(lambda: is_refused(served.server.port), TIMEOUT_S)
            assert not moved.done()
        assert moved.result().message.balance == 9_999
        assert served.server.process.wait(timeout=TIMEOUT_S) == 0
        assert time.monotonic() - began < SOON_S
    assert balances(engine)[1] == 9_999
    assert leases(engine) < before  # those of others may end meanwhile
    check_books(engine)


def test_when_nobody_is_there_it_ends_at_once(serve: Serve) -> None:
    served = serve(GRACEFUL_TIMEOUT_S=str(GRACE_S))
    began = time.monotonic()
    assert served.stop() == 0
    assert time.monotonic() - began < SOON_S


@pytest.mark.parametrize("window", [0, 2**31 - 1])
def test_what_hangs_is_waited_for_no_longer_than_the_grace(serve: Serve, engine: Engine, window: int) -> None:
    """A wallet that somebody holds for good, and a watcher who takes nothing."""
    served = serve(GRACEFUL_TIMEOUT_S="1", LOCK_TIMEOUT_MS="5000")
    fund(served.server, 1, 2)
    (job,) = accept(engine, 1)
    with Line(served.server.port, window=window) as line, row_lock(engine, 1):
        line.ask("WatchJob", JobRequest(job_id=job).SerializeToString())
        line.ask("Withdraw", AmountRequest(amount=1).SerializeToString())
        assert wait_for(lambda: count_waiting(engine) > 0, TIMEOUT_S)
        assert served.stop() == 0
    check_books(engine)


def test_calls_that_wait_for_a_thread_are_answered_too(serve: Serve, engine: Engine) -> None:
    served = serve(GRACEFUL_TIMEOUT_S="30", API_QUEUE="80")
    fund(served.server, 1, 2)
    with ThreadPoolExecutor(40) as pool, closing(connect(served.server.port)) as channel:
        with row_lock(engine, 1):
            first = pool.submit(served.server.ask, "Withdraw", AmountRequest(amount=1), channel=channel)
            assert wait_for(lambda: count_waiting(engine) > 0, TIMEOUT_S)
            others = [
                pool.submit(served.server.ask, "Deposit", AmountRequest(amount=1), user=2, channel=channel)
                for _ in range(39)
            ]
            assert wait_for(lambda: sum(each.done() for each in others) > 0, TIMEOUT_S)
            served.server.process.send_signal(signal.SIGTERM)
        codes = [each.result().code for each in (first, *others)]
        assert served.server.process.wait(timeout=TIMEOUT_S) == 0
    # What came too late was refused, and nothing was cut off.
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert sum(balances(engine).values()) == 20_000 - (codes[0] is grpc.StatusCode.OK) + codes[1:].count(
        grpc.StatusCode.OK
    )
    check_books(engine)


def test_a_signal_that_comes_while_it_starts_ends_it_too(serve: Serve) -> None:
    def again(served: Served) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            served.server.process.send_signal(number)
        assert served.server.process.wait(timeout=TIMEOUT_S) == 0

    for _ in range(3):
        again(serve())
