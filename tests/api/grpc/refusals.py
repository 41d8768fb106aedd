"""What a refusal is to a caller, and every method with a message that is right for it."""

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from tests.api.grpc.server import MOVES, Answer, GrpcServer
from wallet.v1.wallet_pb2 import BalanceRequest, JobRequest, TransactionsRequest, TransferRequest

# gRPC's code for each of the contract's that a call by gRPC can be refused with.
STATUS_OF = {
    "bad_input": grpc.StatusCode.INVALID_ARGUMENT,
    "invalid_amount": grpc.StatusCode.INVALID_ARGUMENT,
    "payload_too_large": grpc.StatusCode.INVALID_ARGUMENT,
    "unauthorized": grpc.StatusCode.UNAUTHENTICATED,
    "forbidden": grpc.StatusCode.PERMISSION_DENIED,
    "wallet_not_found": grpc.StatusCode.NOT_FOUND,
    "job_not_found": grpc.StatusCode.NOT_FOUND,
    "balance_insufficient": grpc.StatusCode.FAILED_PRECONDITION,
    "self_transfer_invalid": grpc.StatusCode.FAILED_PRECONDITION,
    "balance_overflow": grpc.StatusCode.FAILED_PRECONDITION,
    "idempotency_key_reused": grpc.StatusCode.FAILED_PRECONDITION,
    "rate_limited": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "outcome_unknown": grpc.StatusCode.UNAVAILABLE,
}
READS: dict[str, Message] = {
    "GetJob": JobRequest(job_id=1),
    "WatchJob": JobRequest(job_id=1),
    "GetBalance": BalanceRequest(),
    "ListTransactions": TransactionsRequest(),
}
EVERY_CALL: dict[str, Message] = {**MOVES, **READS}
TRANSFERS, AMOUNTS = ("Transfer", "EnqueueTransfer"), ("Deposit", "Withdraw")
# How far a move gets the balance of user 1, who begins with 10000.
BALANCE_AFTER = {"Deposit": 10_067, "EnqueueTransfer": 10_000}
# So slow that no token comes back within a test.
SLOW = "1/hour;burst=5"
Ask: TypeAlias = Callable[[GrpcServer], Answer[Any]]


def refused(answer: Answer[Any], code: str) -> Answer[Any]:
    """Check that an answer is this refusal, and nothing but it."""
    assert (answer.code, answer.error_code) == (STATUS_OF[code], code), answer
    assert answer.messages == []
    assert answer.details
    assert {"traceparent", "x-request-id"} <= answer.initial.keys()
    if code in {"unavailable", "outcome_unknown", "rate_limited"}:
        assert int(answer.trailing["retry-after"]) >= 1
        assert answer.initial["retry-after"] == answer.trailing["retry-after"]
    assert ("transfer-id" in answer.trailing) == (code in {"outcome_unknown", "idempotency_key_reused"})
    assert ("www-authenticate" in answer.trailing) == (code in {"unauthorized", "forbidden"})
    return answer


def asks(method: str, message: Message | bytes | None = None, **options: Any) -> Ask:
    """Make what asks a server, once there is one."""
    return lambda server: server.ask(method, message, **options)


def pays(**fields: Any) -> TransferRequest:
    """Make a transfer that is all right but for these."""
    return TransferRequest(**({"destination_user_id": 2, "amount": 67} | fields))


def assert_done_once(call: Callable[..., Answer[Any]], method: str, unknown: Answer[Any]) -> None:
    """Both of the ways out that the contract names lead to the transfer: GetJob, and the same key again."""
    transfer_id = int(unknown.trailing["transfer-id"])
    status = "pending" if method == "EnqueueTransfer" else "posted"
    assert call("GetJob", JobRequest(job_id=transfer_id)).message.status == status
    again = call(method, MOVES[method], key="k")
    assert again.is_replay
    assert transfer_id == (again.message.job_id if method == "EnqueueTransfer" else again.message.transfer_id)
    assert call("GetBalance").message.balance == BALANCE_AFTER.get(method, 9_933)
