"""Unary calls beside many streams that watch jobs which do not end, and how long a full stop takes under those."""

import queue
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle, islice
from typing import NamedTuple

import grpc

from bench import asks
from bench.asks import AMOUNT_CENTS, READERS
from bench.backlog import Spread
from bench.figures import BenchError, Figure, Plan, Values
from bench.site import Site
from bench.steady import percentile
from ops.local.processes import Command
from ops.local.server import LOOPBACK
from wallet.v1 import wallet_pb2
from wallet.v1.wallet_pb2_grpc import WalletServiceStub

WATCHERS, CONNECTIONS = 60, 8
# Unary calls a second: GetBalance and Transfer in turns.
RATE = 40
WARM_UP_CALLS = 40
ANSWER_TIMEOUT_S = 10.0
# Longer than the measure. A watcher that hears nothing at all ends it with this, not never.
WATCH_TIMEOUT_S = 100.0
_WORST_MS, _STOP_MS = 1_000, 5_000
# A connection of its own for each channel, and none by way of a proxy that the environment names.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


class Watch(NamedTuple):
    """A stream of a job's states, and the same as a call."""

    states: Iterator[wallet_pb2.Job]
    call: grpc.Call


class Answer(NamedTuple):
    """How a unary call ended, and how many seconds after it was due."""

    seconds: float
    error: BaseException | None


class Watchers:
    """The worst unary call beside sixty watchers, and the time that all processes take to stop."""

    name = "watchers"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Milliseconds."""
        beside = f"unary call, {RATE}/s beside {WATCHERS} watchers"
        heading = f"milliseconds beside {WATCHERS} watchers (shorter is better)"
        return (
            Figure(
                key="watchers_worst",
                label=f"{beside}, the longest",
                unit="ms",
                at_most=_WORST_MS,
                heading=heading,
            ),
            Figure(key="watchers_p50", label=f"{beside}, p50", unit="ms"),
            Figure(
                key="watchers_stop",
                label=f"full stop under {WATCHERS} watchers",
                unit="ms",
                at_most=_STOP_MS,
                heading=heading,
            ),
        )

    def take(self, site: Site, plan: Plan) -> Values:
        """Watch jobs that no worker settles, call for ``plan.steady_s`` seconds, then stop everything."""
        asks.lay_out(site)
        count = RATE * plan.steady_s
        with ExitStack() as stack:
            served = stack.enter_context(site.grpc())
            stubs = [connect(stack, served.port) for _ in range(CONNECTIONS)]
            try:
                call_steadily(stubs, WARM_UP_CALLS)
                watches = list(islice(watch(stubs), WATCHERS))
                found = sorted(call_steadily(stubs, count))
                if ended := sum(not each.call.is_active() for each in watches):
                    raise BenchError(f"{ended} of {WATCHERS} watchers were sent away")
            except grpc.RpcError as error:
                raise BenchError(f"a call failed: {tell(error)}") from error
            stop_s = stop(served.process)
            for each in watches:
                see_off(each)
        asks.check(site, posted=(count + WARM_UP_CALLS) // 2)
        return {
            "watchers_worst": found[-1] * 1000,
            "watchers_p50": percentile(found, 0.5) * 1000,
            "watchers_stop": stop_s * 1000,
        }


def connect(stack: ExitStack, port: int) -> WalletServiceStub:
    """Make a connection of its own, which lasts as long as the stack."""
    return WalletServiceStub(stack.enter_context(grpc.insecure_channel(f"{LOOPBACK}:{port}", _OPTIONS)))


def watch(stubs: Sequence[WalletServiceStub]) -> Iterator[Watch]:
    """Enqueue a transfer on each connection in turns, and watch it from when its first state has come.

    Raises:
        grpc.RpcError: one of the calls failed.
        BenchError: a stream does not begin with a pending job.
    """
    draws = random.Random(1)
    for stub in cycle(stubs):
        payer, request = _draw(draws)
        as_payer = _metadata(payer)
        job = stub.EnqueueTransfer(request, timeout=ANSWER_TIMEOUT_S, metadata=as_payer)
        call = stub.WatchJob(wallet_pb2.JobRequest(job_id=job.job_id), timeout=WATCH_TIMEOUT_S, metadata=as_payer)
        states = iter(call)
        if not (first := next(states, None)) or first.status != "pending":
            raise BenchError(f"a job that no worker settles began as {first}")
        yield Watch(states, call)


def call_steadily(stubs: Sequence[WalletServiceStub], count: int) -> list[float]:
    """Make unary calls at :data:`RATE`, however long each takes, on each connection in turns.

    Returns:
        The seconds that each took from when it was due.

    Raises:
        grpc.RpcError: one of them failed.
        BenchError: one of them was never answered.
    """
    draws, answers = random.Random(2), queue.SimpleQueue[Answer]()
    began = time.monotonic()
    for number, stub in zip(range(count), cycle(stubs), strict=False):
        due = began + number / RATE
        time.sleep(max(0.0, due - time.monotonic()))
        _call(stub, number, draws, due, answers)
    found = []
    for _ in range(count):
        try:
            seconds, error = answers.get(timeout=2 * ANSWER_TIMEOUT_S)
        except queue.Empty:
            raise BenchError("a call was never answered") from None
        if error:
            raise error
        found.append(seconds)
    return found


def stop(process: Command) -> float:
    """Have gRPC stop, as a full stop does, and return how many seconds it took until all of it has ended.

    Raises:
        BenchError: it had to be killed.
    """
    began = time.monotonic()
    process.send(process.spec.stop_signal)
    if not process.wait(process.spec.stop_timeout_s):
        raise BenchError(f"{process.spec.name} did not stop within {process.spec.stop_timeout_s:.0f} s")
    return time.monotonic() - began


def see_off(watched: Watch) -> None:
    """Read the rest of a watcher's stream, and see that the service itself has ended it.

    Raises:
        BenchError: not so.
    """
    try:
        for state in watched.states:
            if state.status != "pending":
                raise BenchError(f"a job that no worker settles became {state.status}")
    except grpc.RpcError as error:
        if dict(watched.call.trailing_metadata()).get("error-code") != "unavailable":
            raise BenchError(f"a watcher was not told that the service stops: {tell(error)}") from error
    else:
        raise BenchError("the stream of a pending job ended as if it were final")


def tell(error: Exception) -> str:
    """Spell a call's failure in a line."""
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)


def _call(
    stub: WalletServiceStub, number: int, draws: random.Random, due: float, answers: "queue.SimpleQueue[Answer]"
) -> None:
    """Begin a call, and put down how it ended when it has."""
    if number % 2:
        payer, request = _draw(draws)
        moved = stub.Transfer.future(request, timeout=ANSWER_TIMEOUT_S, metadata=_metadata(payer))
        moved.add_done_callback(lambda done: answers.put(Answer(time.monotonic() - due, done.exception())))
    else:
        as_reader = _metadata(draws.randint(1, READERS))
        read = stub.GetBalance.future(wallet_pb2.BalanceRequest(), timeout=ANSWER_TIMEOUT_S, metadata=as_reader)
        read.add_done_callback(lambda done: answers.put(Answer(time.monotonic() - due, done.exception())))


def _draw(draws: random.Random) -> tuple[int, wallet_pb2.TransferRequest]:
    payer, payee = asks.draw_pair(draws, Spread.UNIFORM)
    return payer, wallet_pb2.TransferRequest(destination_user_id=payee, amount=AMOUNT_CENTS)


def _metadata(user: int) -> tuple[tuple[str, str], ...]:
    return (("authorization", str(user)),)
