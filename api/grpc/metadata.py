"""What comes beside a message, and what goes out beside one: metadata, and gRPC's codes for the contract's."""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from urllib.parse import unquote

import grpc

from api.calls import tracing
from api.calls.call import Call
from api.calls.problems import PROBLEMS, ApiError
from api.contract.checking import check_idempotency_key
from api.edge.proxies import Proxies

Pairs = Sequence[tuple[str, str | bytes]]

ERROR_CODE = "error-code"
# What a caller can mean only one of.
_ONCE = ("authorization", "idempotency-key")
_CODE_OF_STATUS = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNPROCESSABLE_ENTITY: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


def status_code(code: str) -> grpc.StatusCode:
    """Return gRPC's code for one of the contract's."""
    return _CODE_OF_STATUS[HTTPStatus(PROBLEMS[code].status)]


class Sent:
    """The metadata of a call."""

    __slots__ = ("_given", "_pairs")

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._given = dict(pairs)

    def get(self, name: str) -> str | None:
        """Return what was sent by a name, None if nothing was. Of several the last; without blanks, as HTTP has it."""
        value = self._given.get(name)
        return value.decode("latin-1") if isinstance(value, bytes) else value and value.strip(" \t")

    def check(self) -> None:
        """See that what can be meant only once was sent only once.

        Raises:
            ApiError: ``bad_input``.
        """
        if len(self._given) < len(self._pairs):
            names = [name for name, _ in self._pairs]
            for name in _ONCE:
                if names.count(name) > 1:
                    raise ApiError("bad_input", f"metadata: {name}: must be given once")

    def read_idempotency_key(self) -> str | None:
        """Return the key of an order, if it has one.

        Raises:
            ApiError: ``bad_input``: it can be none.
        """
        key = self.get("idempotency-key")
        if key is None:
            return None
        if not key.isascii():  # which grpcio reads now one way and now the other: two keys could come to be one
            raise ApiError("bad_input", "metadata: idempotency-key: must be ASCII, as all that comes by gRPC")
        return check_idempotency_key(key)

    def begin_call(self, peer: str, proxies: Proxies) -> Call:
        """Make the call that it belongs to, whose trace begins here."""
        trace = tracing.begin(self.get("traceparent"), self.get("x-request-id"))
        return Call(trace, self.get("authorization"), self._finder(peer, proxies))

    def _finder(self, peer: str, proxies: Proxies) -> Callable[[], str]:
        """What finds out where it comes from, told by a trusted proxy or by the connection."""

        def find() -> str:
            environ = {"REMOTE_ADDR": _address_of(peer)}
            for name, key in (("x-forwarded-for", "HTTP_X_FORWARDED_FOR"), ("forwarded", "HTTP_FORWARDED")):
                if values := [str(value) for given, value in self._pairs if given == name]:
                    environ[key] = ",".join(values)
            return proxies.client_address(environ)

        return find


def initial(call: Call) -> tuple[tuple[str, str], ...]:
    """Return what goes out before an answer: all that it tells besides, and its trace."""
    told = [(name.lower(), value) for name, value in call.told]
    return (*told, ("x-request-id", call.trace.request_id), ("traceparent", call.trace.traceparent))


def _address_of(peer: str) -> str:
    """Return the address of what gRPC calls ``ipv4:127.0.0.1:5000`` or ``ipv6:%5B::1%5D:5000``."""
    host = unquote(peer).partition(":")[2].rpartition(":")[0]
    return host.removeprefix("[").removesuffix("]")
