"""What is done when a call arrives, before it has a thread: bounds on load, and names that nobody knows."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from api.calls.problems import RETRY_AFTER_S, ApiError
from api.grpc import answering
from api.grpc.answering import Face
from observe import logs, metrics
from ops.grpc.hands import Hands
from wallet.v1 import wallet_pb2

# Where grpcio looks, on what answers a call, for other threads than its own.
POOL = "experimental_thread_pool"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

# Whose methods are counted by their names.
_SERVICE = "/" + wallet_pb2.DESCRIPTOR.services_by_name["WalletService"].full_name

_BUSY = ApiError("unavailable", "The service is too busy. Nothing moved.", {"Retry-After": str(RETRY_AFTER_S)})


class Bound(NamedTuple):
    """How many calls some threads may have in hand together, and as what those beyond are counted."""

    pools: Sequence[Hands]
    most: int
    where: str = "calls"

    @property
    def is_reached(self) -> bool:
        """Whether there is no room for another."""
        return sum(pool.in_hand for pool in self.pools) >= self.most


class Gate(grpc.ServerInterceptor):
    """Lets in so many calls at a time; those beyond are refused at once, and are told so."""

    def __init__(self, hands: Hands, spare: Hands, *, bounds: Sequence[Bound], face: Face) -> None:
        """Stand before nothing yet.

        Args:
            hands: the threads that answer what does not name its own.
            spare: those that only refuse.
            bounds: of all that answer. Each kind of calls has its own, so that none takes the room of another.
            face: in whose name calls are refused.
        """
        self._hands = hands
        self._spare = spare
        self._bounds = {pool: bound for bound in bounds for pool in bound.pools}
        self._face = face
        self._known: dict[str, tuple[Handler, Bound]] = {}
        self._refusals: dict[str, Handler] = {}

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], "Handler | None"], handler_call_details: Any
    ) -> Any:
        """Return who answers a call; None: nobody."""
        answering.arrived_at.set(time.perf_counter())
        method = handler_call_details.method
        known = self._known.get(method)
        if known is None:
            found = continuation(handler_call_details)
            if found is None:
                self._tell_unknown()
                return None
            known = self._known[method] = self._attended(found)
        handler, bound = known
        if bound.is_reached:
            metrics.shed[bound.where].inc()
            return self._refusal(method)
        return handler

    def _attended(self, handler: Handler) -> tuple[Handler, Bound]:
        """Have a call answered by its threads; those that are ours also when its message is none."""
        behavior = handler.unary_unary or handler.unary_stream
        pool = getattr(behavior or handler.stream_stream, POOL, self._hands)
        bound = self._bounds[pool]
        if behavior is None:
            return _with_questions(handler), bound

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            return behavior(request, context)

        setattr(answer, POOL, pool)
        make = grpc.unary_unary_rpc_method_handler if handler.unary_unary else grpc.unary_stream_rpc_method_handler
        read: Any = handler.request_deserializer
        if getattr(behavior, "__self__", None) is self._face:
            read = answering.read_leniently(read, self._face.services.max_body_bytes)
        return make(answer, read, handler.response_serializer), bound

    def _refusal(self, method: str) -> Handler:
        """Return what refuses a call, without waiting for its message: as if there could be any number of them."""
        if (known := self._refusals.get(method)) is not None:
            return known
        service, _, name = method.rpartition("/")
        name, face = name if service == _SERVICE else metrics.NO_ROUTE, self._face

        def refuse(_requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            answering.refuse(context, name, _BUSY, face)

        setattr(refuse, POOL, self._spare)
        made = self._refusals[method] = grpc.stream_unary_rpc_method_handler(refuse)
        return made

    @staticmethod
    def _tell_unknown() -> None:
        """Count and log a call for what there is not; by no name, for it is the caller's own word."""
        code = grpc.StatusCode.UNIMPLEMENTED.name
        metrics.observe_call(metrics.NO_ROUTE, code, 0.0)
        logs.write("info", "call", {"method": None, "code": code, "duration_ms": 0.0})


def _with_questions(handler: Handler) -> Handler:
    """Have a conversation, such as about the contract, go on when a message of it is none: as with an empty one.

    Where reading a message raises, grpcio ends the call, and then once more when its handler has ended. The second end
    is never done, and as long as it is not, no stop of the server is.
    """
    behavior: Any = handler.stream_stream
    read: Any = handler.request_deserializer

    def read_or_empty(payload: bytes) -> Any:
        try:
            return read(payload)
        except DecodeError:
            return read(b"")

    return grpc.stream_stream_rpc_method_handler(behavior, read_or_empty, handler.response_serializer)
