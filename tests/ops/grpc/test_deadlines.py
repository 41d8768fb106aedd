"""A caller's deadline: what cannot be done in time is not begun, what has been begun goes on to its end."""

import time
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from sqlalchemy import Engine

from api.grpc.answering import LEAST_S
from ops.local.processes import wait_for
from tests.api.grpc.server import MOVES, SERVICE, TIMEOUT_S, connect, fund
from tests.books import check_books
from tests.models.ledger.ordering import balances, count_transfers, count_waiting, row_lock
from tests.ops.grpc.http2 import Line, status_in
from tests.ops.grpc.serving import Serve, Served
from wallet.v1.wallet_pb2 import AmountRequest, MoneyReply


def posting(served: Served, key: str, *, user: int = 1) -> Any:
    """Withdraw a cent, and wait for nothing."""
    method: Any = served.server.channel.unary_unary(
        f"/{SERVICE.full_name}/Withdraw",
        request_serializer=AmountRequest.SerializeToString,
        response_deserializer=MoneyReply.FromString,
    )
    metadata = (("authorization", str(user)), ("idempotency-key", key))
    return method.future(AmountRequest(amount=1), metadata=metadata, timeout=TIMEOUT_S)


@pytest.fixture
def served(serve: Serve) -> Served:
    """A process; users 1 and 2 have 10000 cents each."""
    served = serve()
    fund(served.server, 1, 2)
    return served


@pytest.mark.parametrize("method", MOVES)
def test_what_leaves_no_time_is_refused_and_nothing_is_recorded(served: Served, engine: Engine, method: str) -> None:
    before = balances(engine)
    with Line(served.server.port) as line:
        # A caller's library would end the call by itself, and never hear of it.
        sent = MOVES[method].SerializeToString()
        unavailable, too_late = (
            code.value[0] for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        )
        is_told = False
        deadline = time.monotonic() + TIMEOUT_S
        # On a machine that is busy the deadline may pass before anybody could say so.
        while not is_told and time.monotonic() < deadline:
            streams = [line.ask(method, sent, more=(("grpc-timeout", f"{LEAST_S * 900:.0f}m"),)) for _ in range(5)]
            ended = line.ends(*streams)
            assert {status_in(ended[stream]) for stream in streams} <= {unavailable, too_late}
            is_told = any(b"error-code" in trailers and b"unavailable" in trailers for trailers in ended.values())
        assert is_told
    assert (balances(engine), count_transfers(engine)) == (before, 2)


def test_without_a_deadline_there_is_all_the_time(served: Served) -> None:
    with Line(served.server.port) as line:
        streams = [line.ask(method, message.SerializeToString()) for method, message in MOVES.items()]
        streams.append(line.ask("GetBalance"))
        ended = line.ends(*streams)
    assert [status_in(ended[stream]) for stream in streams] == [0] * 5


@pytest.fixture
def narrow(serve: Serve) -> Served:
    """A process with one thread, which has one call at a time; users 1 and 2 have 10000 cents each."""
    served = serve(TEST_MODULE="tests.ops.grpc.narrow")
    fund(served.server, 1, 2)
    return served


def hold_thread(line: Line, engine: Engine) -> list[int]:
    """Give the thread calls that wait for user 1's wallet. What is sent on the same line after that waits for it.

    It has to be of the same method: grpcio takes calls of different ones in turns. And they are several, since some may
    give up waiting, on a machine that is busy.
    """
    streams = [line.ask("Withdraw", AmountRequest(amount=1).SerializeToString()) for _ in range(10)]
    assert wait_for(lambda: count_waiting(engine) > 0, TIMEOUT_S)
    return streams


def test_what_waited_for_a_thread_beyond_its_deadline_is_not_begun(narrow: Served, engine: Engine) -> None:
    asked = AmountRequest(amount=1).SerializeToString()
    with Line(narrow.server.port) as line:
        with row_lock(engine, 1):
            held = hold_thread(line, engine)
            late = [line.ask("Withdraw", asked, user=2, more=(("grpc-timeout", "300m"),)) for _ in range(20)]
            ended = line.ends(*late)
        assert {status_in(ended[stream]) for stream in late} == {grpc.StatusCode.DEADLINE_EXCEEDED.value[0]}
        line.ends(*held)
        # Their turn has come before this one's, and nothing was done.
        assert status_in(line.ends(last := line.ask("Withdraw", asked, user=2))[last]) == 0
    assert balances(engine)[2] == 9_999
    check_books(engine)


def test_nobody_waits_for_those_who_wait_for_a_wallet(serve: Serve, engine: Engine) -> None:
    served = serve(TEST_MODULE="tests.ops.grpc.narrow", TEST_MOST_THREADS="32", LOCK_TIMEOUT_MS="30000")
    fund(served.server, 1, 2)
    with Line(served.server.port) as line, row_lock(engine, 1):
        hold_thread(line, engine)
        answer = served.server.ask("Withdraw", AmountRequest(amount=1), user=2)
        assert answer.message.balance == 9_999
        assert count_waiting(engine) > 0  # they wait still


def test_what_was_taken_back_in_the_queue_is_not_begun(narrow: Served, engine: Engine) -> None:
    asked = AmountRequest(amount=1).SerializeToString()
    with Line(narrow.server.port) as line:
        with row_lock(engine, 1):
            held = hold_thread(line, engine)
            for _ in range(20):
                line.reset(line.ask("Withdraw", asked, user=2))
            # What is sent after that is heard after that.
            line.ends(line.ask("/grpc.health.v1.Health/Check"))
        line.ends(*held)
        assert status_in(line.ends(last := line.ask("Withdraw", asked, user=2))[last]) == 0
    assert balances(engine)[2] == 9_999
    check_books(engine)


@pytest.mark.parametrize("fate", ["posted", "refused"])
def test_what_was_begun_goes_on_to_its_end_or_fails_as_a_whole(served: Served, engine: Engine, fate: str) -> None:
    amount = 10_000 if fate == "posted" else 10_001
    with row_lock(engine, 1):
        late = served.server.ask("Withdraw", AmountRequest(amount=amount), key="k", timeout_s=0.3)
        assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
    # The same key again tells which; it waits for the first, if that is still under way.
    again = served.server.ask("Withdraw", AmountRequest(amount=amount), key="k")
    if fate == "posted":
        assert again.message.balance == 0
        assert wait_for(lambda: count_transfers(engine) == 3, TIMEOUT_S)
    else:
        assert again.error_code == "balance_insufficient"
        assert count_transfers(engine) == 2
    check_books(engine)


def test_a_call_taken_back_under_way_has_one_outcome(served: Served, engine: Engine) -> None:
    with row_lock(engine, 1):
        calls = [posting(served, f"k{number}") for number in range(8)]
        assert wait_for(lambda: count_waiting(engine) > 0, TIMEOUT_S)
        for each in calls:
            each.cancel()
    for number in range(8):
        assert served.server.ask("Withdraw", AmountRequest(amount=1), key=f"k{number}").code is grpc.StatusCode.OK
    assert balances(engine)[1] == 10_000 - 8
    check_books(engine)


def test_whoever_is_killed_leaves_nothing_in_hand(served: Served, engine: Engine) -> None:
    """His connection breaks in the midst of everything."""
    with row_lock(engine, 1), ExitStack() as stack:
        for _ in range(4):
            line = stack.enter_context(Line(served.server.port))
            for _ in range(15):
                line.ask("Withdraw", AmountRequest(amount=1).SerializeToString())
            line.begin("Withdraw")
        assert wait_for(lambda: count_waiting(engine) > 0, TIMEOUT_S)
    began = time.monotonic()
    with connect(served.server.port) as channel:
        assert wait_for(
            lambda: served.server.ask("Withdraw", AmountRequest(amount=1), channel=channel).code is grpc.StatusCode.OK,
            TIMEOUT_S,
        )
    assert time.monotonic() - began < TIMEOUT_S / 2
    check_books(engine)
