"""More calls than a process can answer: those beyond are told so at once, and all is well afterwards."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from sqlalchemy import Engine

from ops.local.processes import wait_for
from tests.api.grpc.server import TIMEOUT_S, connect, fund
from tests.books import check_books
from tests.models.ledger.ordering import balances, row_lock
from tests.ops.grpc.http2 import Line, status_in
from tests.ops.grpc.serving import Serve
from wallet.v1.wallet_pb2 import AmountRequest

QUEUE = 20
OK, UNAVAILABLE = (code.value[0] for code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE))


def test_calls_beyond_those_in_hand_are_refused_at_once(serve: Serve, engine: Engine) -> None:
    served = serve(API_QUEUE=str(QUEUE))
    fund(served.server, 1, 2)
    asked = AmountRequest(amount=1).SerializeToString()
    with Line(served.server.port) as line:
        sent: list[int] = []

        def is_refused(method: str) -> bool:
            """Whether it is, after as many as are let in; for these wait, but not for ever."""
            sent.extend(line.ask("Withdraw", asked) for _ in range(2 * QUEUE))
            answer = served.server.ask(method, user=2)
            if answer.code is not grpc.StatusCode.UNAVAILABLE:
                return False
            assert answer.error_code == "unavailable"
            assert answer.initial["retry-after"] == answer.trailing["retry-after"] == "1"
            return True

        with row_lock(engine, 1):
            # While all threads are busy, and of every kind.
            for method in ("EnqueueTransfer", "GetBalance", "ListTransactions"):
                assert wait_for(partial(is_refused, method), TIMEOUT_S)
            # The last of them may still be on their way.
            assert wait_for(lambda: served.samples().value("wallet_shed_total", where="calls") >= 3 * QUEUE, TIMEOUT_S)
            # How the service is has threads of its own.
            stub: Any = HealthStub(served.server.channel)
            assert stub.Check(HealthCheckRequest(), timeout=TIMEOUT_S).status == HealthCheckResponse.SERVING
        codes = [status_in(trailers) for trailers in line.ends(*sent).values()]
    # What waited too long for the wallet is told so, too.
    assert set(codes) <= {OK, UNAVAILABLE}
    assert wait_for(lambda: served.server.ask("GetBalance").code is grpc.StatusCode.OK, TIMEOUT_S)
    assert balances(engine)[1] == 10_000 - codes.count(OK)
    assert served.calls("Withdraw") == len(sent)
    check_books(engine)


def test_a_flood_leaves_every_call_a_code_of_the_contract_and_the_books_right(serve: Serve, engine: Engine) -> None:
    """Ten times as many as are let in, again and again: nobody is cut off, or taken for silent."""
    served = serve(API_QUEUE=str(QUEUE))
    fund(served.server, 1, 2)
    asked = AmountRequest(amount=1).SerializeToString()

    def flood(line: Line) -> list[int | None]:
        codes: list[int | None] = []
        for _ in range(10):
            streams = [line.ask("Deposit", asked, user=1 + number % 2) for number in range(50)]
            ended = line.ends(*streams)
            codes += [status_in(ended[stream]) for stream in streams]
        return codes

    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        lines = [stack.enter_context(Line(served.server.port)) for _ in range(4)]
        codes = [code for found in pool.map(flood, lines) for code in found]
    assert len(codes) == 2_000
    # grpcio's own refusal, RESOURCE_EXHAUSTED, comes where not even a refusal finds room.
    assert set(codes) <= {OK, UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]}
    assert codes.count(OK) >= QUEUE
    assert sum(balances(engine).values()) == 20_000 + codes.count(OK)
    check_books(engine)


def test_unary_calls_are_answered_beside_many_connections_that_ask(serve: Serve) -> None:
    served = serve()
    fund(served.server, 1)
    with ExitStack() as stack:
        channels = [stack.enter_context(connect(served.server.port)) for _ in range(40)]
        began = time.monotonic()
        for channel in channels:
            assert served.server.ask("GetBalance", channel=channel).message.balance == 10_000
        assert time.monotonic() - began < TIMEOUT_S / 2
