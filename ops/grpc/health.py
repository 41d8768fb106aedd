"""The standard health service: whether this process answers, told once or for as long as somebody wants to know.

Not grpcio's own: that one keeps the name of whatever anybody has ever asked for, and its watchers cannot be sent away.
"""

import threading
from collections.abc import Iterator
from functools import partial

import grpc
from grpc_health.v1.health_pb2 import DESCRIPTOR, HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

SERVICE = DESCRIPTOR.services_by_name["Health"].full_name


class Health(HealthServicer):
    """Says SERVING, until the process is told to stop."""

    def __init__(self, *services: str) -> None:
        """``services``: those that can be asked for; "" stands for all of them."""
        self._known = frozenset(("", *services))
        self._changed = threading.Condition()
        self._is_leaving = False

    def leave(self) -> None:
        """Say NOT_SERVING from now on; those who watch are told, and sent away."""
        with self._changed:
            self._is_leaving = True
            self._changed.notify_all()

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        """Say it once."""
        if request.service not in self._known:
            context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service.")
        return HealthCheckResponse(status=self._status(request.service))

    def Watch(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[HealthCheckResponse]:
        """Say it now, and again when it changes."""
        gone: list[None] = []
        if not context.add_callback(partial(self._note, gone)):
            return
        told = self._status(request.service)
        yield HealthCheckResponse(status=told)
        with self._changed:
            self._changed.wait_for(lambda: self._is_leaving or gone)
        if not gone and (now := self._status(request.service)) != told:
            yield HealthCheckResponse(status=now)

    def _note(self, gone: list[None]) -> None:
        """Wake the thread of a watcher who has gone."""
        with self._changed:
            gone.append(None)
            self._changed.notify_all()

    def _status(self, service: str) -> int:
        if service not in self._known:
            return HealthCheckResponse.SERVICE_UNKNOWN
        return HealthCheckResponse.NOT_SERVING if self._is_leaving else HealthCheckResponse.SERVING
