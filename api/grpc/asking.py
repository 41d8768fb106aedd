"""How a gRPC face is, as somebody finds it who connects to it: for those who operate it."""

import socket
import ssl
import time
from enum import StrEnum

import grpc
from grpc_health.v1 import health_pb2

from config.addresses import address_of

_METHOD = "/grpc.health.v1.Health/Check"
# A connection of its own, and no way round by a proxy that the environment names.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


class Answer(StrEnum):
    """What came of asking."""

    SERVES = "answers"
    STOPS = "does not serve"  # it is on its way out, or not ready yet
    ENCRYPTED = "answers with TLS"  # whether it serves is for those to ask whom it knows
    SILENT = "does not answer"


def ask(host: str, port: int, *, timeout_s: float) -> Answer:
    """Ask for its health, in plain text, and where that is not understood see whether it speaks TLS.

    Args:
        host: a name or an address, without brackets.
        port: where it listens.
        timeout_s: the longest that all of it takes, in seconds.
    """
    deadline = time.monotonic() + timeout_s
    target = address_of(host, port)
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        check = channel.unary_unary(
            _METHOD,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            status = check(health_pb2.HealthCheckRequest(), timeout=timeout_s).status
        except grpc.RpcError:
            return _ask_for_tls(host, port, deadline - time.monotonic())
    return Answer.SERVES if status == health_pb2.HealthCheckResponse.SERVING else Answer.STOPS


def _ask_for_tls(host: str, port: int, timeout_s: float) -> Answer:
    # Nothing is told to whom it is, and nothing believed, so it does not matter who vouches for them.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), max(0.001, timeout_s)) as connection,
            context.wrap_socket(connection) as encrypted,
        ):
            return Answer.ENCRYPTED if encrypted.selected_alpn_protocol() == "h2" else Answer.SILENT
    except (OSError, ValueError):
        return Answer.SILENT
