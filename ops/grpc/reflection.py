"""The standard reflection service: the contract, shown to whoever asks, but not for ever."""

from collections.abc import Iterable, Iterator
from typing import Any

from grpc_reflection.v1alpha.reflection import SERVICE_NAME, ReflectionServicer

from api.grpc.patience import Patience

SERVICE = SERVICE_NAME


class Reflection(ReflectionServicer):
    """Answers question after question, on a stream that its caller is expected to end."""

    def __init__(self, services: Iterable[str], patience: Patience) -> None:
        super().__init__(services)
        self._patience = patience

    def ServerReflectionInfo(self, request_iterator: Iterable[Any], context: Any) -> Iterator[Any]:
        """Answer them."""
        with self._patience.expect(context):
            yield from super().ServerReflectionInfo(request_iterator, context)
