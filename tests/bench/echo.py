"""A gRPC server that says what it is told, and knows what it was told, by whom and over which connections."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

SAY = "/test.Echo/Say"
THREADS = 12


class Echo:
    """Counts what it hears. ``expected``: nobody is answered before so many calls are in hand."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.peers: set[str] = set()
        self.most_in_hand = 0
        self.expected = 0
        # From which call on it refuses, and after how many it falls silent.
        self.refuses_after = self.silent_after = 10**9
        self.let_go = threading.Event()
        self._in_hand = 0
        self._changed = threading.Condition()

    def say(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Answer with the same bytes."""
        user = dict(context.invocation_metadata())["authorization"]
        with self._changed:
            self.heard.append((str(user), request))
            self.peers.add(context.peer())
            number = len(self.heard)
            self._in_hand += 1
            self.most_in_hand = max(self.most_in_hand, self._in_hand)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most_in_hand >= self.expected, timeout=10)
            self._in_hand -= 1
        if number > self.silent_after:
            self.let_go.wait(20)
        if number > self.refuses_after:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no more")
        return request


@contextmanager
def serving(echo: Echo, *options: tuple[str, int]) -> Iterator[int]:
    """Serve it, and give the port."""
    server = grpc.server(ThreadPoolExecutor(THREADS), options=(("grpc.so_reuseport", 0), *options))
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Say": grpc.unary_unary_rpc_method_handler(echo.say)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        echo.let_go.set()
        server.stop(None).wait()
