"""A real gRPC process as a child, and what a caller is told: its code, and the metadata on both sides of the answer."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from tests.nursery import Forked
from tests.project import ROOT
from wallet.v1 import wallet_pb2
from wallet.v1.wallet_pb2 import (
    AmountRequest,
    Balance,
    BalanceRequest,
    Job,
    JobRequest,
    MoneyReply,
    TransactionPage,
    TransactionsRequest,
    TransferRequest,
)

# Generous: on a busy machine a process takes seconds to import all of it.
TIMEOUT_S = 60.0
SERVICE = wallet_pb2.DESCRIPTOR.services_by_name["WalletService"]
# What each method is asked with, and answers.
KINDS: dict[str, tuple[type[Message], type[Message]]] = {
    "Deposit": (AmountRequest, MoneyReply),
    "Withdraw": (AmountRequest, MoneyReply),
    "Transfer": (TransferRequest, MoneyReply),
    "EnqueueTransfer": (TransferRequest, Job),
    "GetJob": (JobRequest, Job),
    "WatchJob": (JobRequest, Job),
    "GetBalance": (BalanceRequest, Balance),
    "ListTransactions": (TransactionsRequest, TransactionPage),
}
STREAMS = {"WatchJob"}
# As in REST: every call that moves money, with a message that it accepts once users 1 and 2 have money.
MOVES: dict[str, AmountRequest | TransferRequest] = {
    "Deposit": AmountRequest(amount=67),
    "Withdraw": AmountRequest(amount=67),
    "Transfer": TransferRequest(destination_user_id=2, amount=67),
    "EnqueueTransfer": TransferRequest(destination_user_id=2, amount=67),
}

M = TypeVar("M", bound=Message)
Pairs = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Answer(Generic[M]):
    """What came back: messages (none, if it was refused; of a stream any number), its code, what is told besides."""

    messages: list[M]
    code: grpc.StatusCode
    details: str
    initial: dict[str, str]
    trailing: dict[str, str]

    @property
    def message(self) -> M:
        """The one message of an answer that is no refusal."""
        assert self.code is grpc.StatusCode.OK, (self.code, self.details, self.trailing)
        (message,) = self.messages
        return message

    @property
    def error_code(self) -> str | None:
        """The contract's code."""
        return self.trailing.get("error-code")

    @property
    def is_replay(self) -> bool:
        """Whether it is marked as one given before."""
        return self.initial.get("idempotency-replayed") == "true"


@dataclass(frozen=True, slots=True)
class GrpcServer:
    """A running process, and a connection to it."""

    port: int
    log: Path
    process: "subprocess.Popen[bytes]"
    channel: grpc.Channel

    def ask(
        self,
        method: str,
        message: Message | bytes | None = None,
        *,
        user: int | str | None = 1,
        key: str | None = None,
        metadata: Pairs = (),
        timeout_s: float = TIMEOUT_S,
        channel: grpc.Channel | None = None,
    ) -> Answer[Any]:
        """Call a method by its name, with a message or with bytes in its place, and wait for the end of its answer."""
        sent: list[tuple[str, str | bytes]] = [] if user is None else [("authorization", str(user))]
        sent += [] if key is None else [("idempotency-key", key)]
        return ask(channel or self.channel, method, message, metadata=(*sent, *metadata), timeout_s=timeout_s)

    def lines(self) -> list[dict[str, Any]]:
        """Return what was logged so far, as far as it is whole."""
        return [json.loads(line) for line in self.log.read_text().rpartition("\n")[0].splitlines()]

    def wait_for_lines(self, **facts: object) -> list[dict[str, Any]]:
        """Return the lines with these facts, as soon as there are any."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := [line for line in self.lines() if line | facts == line]):
            assert time.monotonic() < deadline, f"no line with {facts}: {self.lines()[-5:]}"
            time.sleep(0.005)
        return found


class Starter(Protocol):
    """Starts a process with other settings than all others have."""

    def __call__(self, **settings: str) -> GrpcServer:
        """Start it; it ends with the test."""


def ask(
    channel: grpc.Channel,
    method: str,
    message: Message | bytes | None = None,
    *,
    metadata: Pairs = (),
    timeout_s: float = TIMEOUT_S,
) -> Answer[Any]:
    """Call a method on a channel; one that the contract does not have is named by its whole path."""
    asked, replied = KINDS.get(method, (BalanceRequest, BalanceRequest))
    path = method if method.startswith("/") else f"/{SERVICE.full_name}/{method}"
    payload = message if isinstance(message, bytes) else (message or asked()).SerializeToString()
    # A stream of one message is what one message is: so there is one way to read both.
    stream: Any = channel.unary_stream(path, response_deserializer=replied.FromString)
    call = stream(payload, metadata=tuple(metadata), timeout=timeout_s)
    messages: list[Any] = []
    try:
        messages.extend(call)
    except grpc.RpcError:
        assert call.code() is not grpc.StatusCode.OK
    return Answer(
        messages, call.code(), call.details() or "", _named(call.initial_metadata()), _named(call.trailing_metadata())
    )


def _named(pairs: Any) -> dict[str, str]:
    found = dict(pairs or ())
    assert len(found) == len(pairs or ()), f"told twice: {pairs}"
    return found


def connect(port: int, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """Make a channel with a connection of its own."""
    target, options = f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)


@contextmanager
def reserved_port() -> Iterator[int]:
    """Have a port that is nobody else's, and that a server which shares its port can listen on meanwhile."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def grpc_server(
    log: Path, connected_by: Callable[[int], grpc.Channel] = connect, /, **environment: str
) -> Iterator[GrpcServer]:
    """Run one process, without the master that has several; in the end it has ended, by SIGTERM or by force.

    ``TEST_MODULE`` in the environment runs another one, which serves likewise.
    """
    module = environment.pop("TEST_MODULE", "ops.grpc.process")
    kept = {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG"}}
    with reserved_port() as port, log.open("wb") as output:
        process = Forked(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env=kept | {"GRPC_PORT": str(port)} | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_up(port, process, log)
            with closing(connected_by(port)) as channel:
                yield GrpcServer(port, log, process, channel)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            finally:
                process.kill()
                process.wait()


def _wait_until_up(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        else:
            return


def fund(server: GrpcServer, *users: int, amount: int = 10_000) -> None:
    """Open wallets by deposits."""
    for user in users:
        assert server.ask("Deposit", AmountRequest(amount=amount), user=user).message.balance >= amount


def environment_of(database_url: str, redis_url: str, admin_password: str) -> Mapping[str, str]:
    """Return what every process of a test run is set to."""
    return {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "ADMIN_PASSWORD": admin_password}
