"""What each method answers when all is well."""

from tests.api.grpc.server import MOVES, GrpcServer
from wallet.v1.wallet_pb2 import AmountRequest, JobRequest


def test_every_call_works_over_a_real_connection(server: GrpcServer) -> None:
    for method, message in MOVES.items():
        moved = server.ask(method, message).message
        job_id = moved.job_id if method == "EnqueueTransfer" else moved.transfer_id
        assert server.ask("GetJob", JobRequest(job_id=job_id)).message.job_id == job_id
    assert server.ask("GetBalance").message.balance == 9_933  # 10000 + 67 - 67 - 67
    assert len(server.ask("ListTransactions").message.transactions) == 4
    refused = server.ask("Deposit", AmountRequest(amount=0))
    assert (refused.code.name, refused.error_code) == ("INVALID_ARGUMENT", "invalid_amount")
