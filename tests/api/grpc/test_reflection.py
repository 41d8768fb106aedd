"""Those who ask a process for its contract, and send what is none."""

from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.api.grpc.raw import call, framed
from tests.api.grpc.server import SERVICE, GrpcServer, Starter

METHOD = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
STOP_S = 10.0


def ask(server: GrpcServer, question: bytes) -> reflection_pb2.ServerReflectionResponse:
    method: Any = server.channel.stream_stream(METHOD)
    (answer,) = method(iter([question]))
    return reflection_pb2.ServerReflectionResponse.FromString(answer)


def test_the_contract_can_be_asked_for(server: GrpcServer) -> None:
    answer = ask(server, reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString())
    assert SERVICE.full_name in {each.name for each in answer.list_services_response.service}


def test_what_is_no_question_is_told_so(server: GrpcServer) -> None:
    answer = ask(server, b"\xff")
    assert answer.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_whoever_asks_what_is_none_keeps_no_process_from_stopping(start: Starter) -> None:
    """grpcio ends such a call twice over, and waits for the second end for ever: it depends on who is quicker."""
    server = start(GRACEFUL_TIMEOUT_S="1")
    for _ in range(100):
        assert call(server.port, METHOD, [], framed(b"\xff"))
    server.process.terminate()
    assert server.process.wait(timeout=STOP_S) == 0
