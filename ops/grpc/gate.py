"""What is done when a call arrives, before it has a thread: bounds on load, and names that nobody knows."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from api.calls.problems import RETRY_AFTER_S, ApiError
from api.grpc import answering
from api.grpc.answering import Face
from observe import logs, metrics
from ops.grpc.hands import Hands

# Where grpcio looks, on what answers a call, for other threads than its own.
POOL = "experimental_thread_pool"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_BUSY = ApiError("unavailable", "The service is too busy. Nothing moved.", {"Retry-After": str(RETRY_AFTER_S)})


class Gate(grpc.ServerInterceptor):
    """Lets in so many calls at a time; those beyond are refused at once, and are told so."""

    def __init__(self, hands: Hands, reading: Hands, spare: Hands, *, most: int, face: Face) -> None:
        """Stand before nothing yet.

        Args:
            hands: the threads that answer.
            reading: those for what says so.
            spare: those that only refuse.
            most: calls in the hands of both at a time.
            face: in whose name calls are refused.
        """
        self._hands = hands
        self._reading = reading
        self._spare = spare
        self._most = most
        self._face = face
        self._known: dict[str, Handler] = {}
        self._refusals: dict[str, Handler] = {}

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], "Handler | None"], handler_call_details: Any
    ) -> Any:
        """Return who answers a call; None: nobody."""
        answering.arrived_at.set(time.perf_counter())
        method = handler_call_details.method
        handler = self._known.get(method)
        if handler is None:
            found = continuation(handler_call_details)
            if found is None:
                self._tell_unknown()
                return None
            handler = self._known[method] = self._attended(found)
        if self._hands.in_hand + self._reading.in_hand >= self._most and self._is_bounded(handler):
            metrics.shed["calls"].inc()
            return self._refusal(method)
        return handler

    def _is_bounded(self, handler: Handler) -> bool:
        return getattr(handler.unary_unary, POOL, None) in {self._hands, self._reading}

    def _attended(self, handler: Handler) -> Handler:
        """Have a call answered by its threads, and told what is wrong with a message that cannot be read."""
        behavior = handler.unary_unary or handler.unary_stream
        read = handler.request_deserializer
        if behavior is None or read is None:
            return handler

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            return behavior(request, context)

        def read_or_not(raw: bytes) -> Any:
            try:
                return read(raw)
            except DecodeError:
                return answering.UNREADABLE

        setattr(answer, POOL, getattr(behavior, POOL, self._hands))
        make = grpc.unary_unary_rpc_method_handler if handler.unary_unary else grpc.unary_stream_rpc_method_handler
        return make(answer, read_or_not, handler.response_serializer)

    def _refusal(self, method: str) -> Handler:
        """Return what refuses a call, without waiting for its message: as if there could be any number of them."""
        if (known := self._refusals.get(method)) is not None:
            return known
        name, face = method.rpartition("/")[2], self._face

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
