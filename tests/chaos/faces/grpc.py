"""gRPC, by channels that several clients share, and a deadline on every call; some of them are short."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import grpc

from tests.chaos.calls import Answer, Call, Job, Page
from tests.chaos.faces import ANSWER_TIMEOUT_S, PAGE_SIZE, REFUSALS, NoAnswerError, WrongAnswerError
from wallet.v1 import wallet_pb2
from wallet.v1.wallet_pb2_grpc import WalletServiceStub

# What came in place of an answer, by gRPC's code, or by the contract's where the service itself has said so.
RETRIED = frozenset(
    {
        *("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED"),
        *("unavailable", "outcome_unknown", "rate_limited"),
    }
)
NOT_FOUND = "job_not_found"
# Of the orders, so many have a deadline that may well pass, or are cancelled before they are answered.
HURRIED, CANCELLED = 0.08, 0.04
LONGEST_HURRY_S = 0.15
_OPTIONS = (
    # A connection each: they belong to one process, and channels would share one otherwise.
    ("grpc.use_local_subchannel_pool", 1),
    # A process that was killed is another one a moment later.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class _RefusedError(Exception):
    """The service says no; the argument is its word for it."""


@contextmanager
def open_channels(target: str | None, count: int) -> Iterator[list[grpc.Channel]]:
    """Have channels, each with a connection of its own; none without a target."""
    with ExitStack() as opened:
        wanted = count if target else 0
        yield [opened.enter_context(grpc.insecure_channel(str(target), _OPTIONS)) for _ in range(wanted)]


class Grpc:
    """One client's, on a channel that is not its own."""

    name = "gRPC"

    def __init__(self, channel: grpc.Channel, rng: random.Random) -> None:
        self.words: Counter[int | str] = Counter()
        self._stub = WalletServiceStub(channel)
        self._random = rng

    def move(self, call: Call) -> Answer:
        """Give an order, sometimes without the patience that it takes."""
        request: wallet_pb2.AmountRequest | wallet_pb2.TransferRequest
        if call.destination is None:
            request = wallet_pb2.AmountRequest(amount=call.amount)
        else:
            request = wallet_pb2.TransferRequest(amount=call.amount, destination_user_id=call.destination)
        metadata = (*_me(call.user), ("idempotency-key", call.key))
        try:
            reply = self._ask(call.method, request, metadata, *self._draw_patience())
        except _RefusedError as refused:
            if str(refused) in REFUSALS[call.method]:
                return Answer(self.name, refusal=str(refused))
            raise WrongAnswerError(f"{call} was answered {refused}") from refused
        if call.method == "EnqueueTransfer":
            return Answer(self.name, reply.job_id)
        return Answer(self.name, reply.transfer_id, reply.balance)

    def find_job(self, user: int, transfer_id: int) -> Job | None:
        """Ask how a transfer stands."""
        try:
            return _job(self._ask("GetJob", wallet_pb2.JobRequest(job_id=transfer_id), _me(user)))
        except _RefusedError as refused:
            _check_not_found(refused)
            return None

    def follow_job(self, user: int, transfer_id: int, seconds: int) -> Job | None:
        """Watch a transfer to its end. A watch that ends before is to be begun again, which is what NoAnswer says."""
        job = None
        request = wallet_pb2.JobRequest(job_id=transfer_id)
        try:
            for each in self._stub.WatchJob(request, metadata=_me(user), timeout=seconds):
                job = _job(each)
        except grpc.RpcError as error:
            try:
                self._explain(error)
            except _RefusedError as refused:
                _check_not_found(refused)
            return None
        self.words["OK"] += 1
        if job is None or not job.is_final:
            raise WrongAnswerError(f"the watch of {transfer_id} has ended well with {job}")
        return job

    def read_balance(self, user: int) -> int:
        """Ask for a balance."""
        return int(self._read("GetBalance", wallet_pb2.BalanceRequest(), user).balance)

    def read_history(self, user: int) -> Page:
        """Ask for the newest entries."""
        page = self._read("ListTransactions", wallet_pb2.TransactionsRequest(page_size=PAGE_SIZE), user)
        return Page(page.statement_balance, tuple((each.transfer_id, each.balance_after) for each in page.transactions))

    def close(self) -> None:
        """Let go of nothing: the channel is others', too."""

    def _draw_patience(self) -> tuple[float, float | None]:
        """Return an order's deadline, and when it is cancelled."""
        drawn, hurry_s = self._random.random(), self._random.uniform(0, LONGEST_HURRY_S)
        if drawn < HURRIED:
            return hurry_s, None
        return ANSWER_TIMEOUT_S, hurry_s if drawn < HURRIED + CANCELLED else None

    def _read(self, method: str, request: Any, user: int) -> Any:
        try:
            return self._ask(method, request, _me(user))
        except _RefusedError as refused:
            raise WrongAnswerError(f"{method} was answered {refused}") from refused

    def _ask(
        self,
        method: str,
        request: Any,
        metadata: tuple[tuple[str, str], ...],
        timeout_s: float = ANSWER_TIMEOUT_S,
        cancelled_after_s: float | None = None,
    ) -> Any:
        ask = getattr(self._stub, method)
        try:
            if cancelled_after_s is None:
                reply = ask(request, metadata=metadata, timeout=timeout_s)
            else:
                reply = self._ask_for(cancelled_after_s, ask.future(request, metadata=metadata, timeout=timeout_s))
        except grpc.RpcError as error:
            self._explain(error)
        self.words["OK"] += 1
        return reply

    def _ask_for(self, seconds: float, asked: Any) -> Any:
        try:
            return asked.result(seconds)
        except grpc.FutureTimeoutError as error:
            asked.cancel()
            self.words["CANCELLED"] += 1
            raise NoAnswerError from error

    def _explain(self, error: grpc.RpcError) -> NoReturn:
        """Count what has come, and raise what it means."""
        told = {each.key: each.value for each in error.trailing_metadata() or ()}
        word = str(told.get("error-code", error.code().name))
        self.words[word] += 1
        if word in RETRIED:
            raise NoAnswerError from error
        raise _RefusedError(word) from error


def _me(user: int) -> tuple[tuple[str, str], ...]:
    return (("authorization", str(user)),)


def _job(told: wallet_pb2.Job) -> Job:
    return Job(told.status, told.last_error, told.reason, told.amount, told.completed_at)


def _check_not_found(refused: _RefusedError) -> None:
    if str(refused) != NOT_FOUND:
        raise WrongAnswerError(f"a job was answered {refused}") from refused
