"""The API of a stack, gunicorn's master: what it runs, where it is found, and whether it is ready."""

import http.client
import socket
from collections.abc import Callable, Sequence
from contextlib import closing
from http import HTTPStatus

from config import Settings
from config.addresses import address_of, reachable
from ops.local.port_guard import wait_for_port
from ops.local.processes import Child

COMMAND = ("-m", "gunicorn", "-c", "ops/http/gunicorn.conf.py", "wsgi:app")


class ApiProcess:
    """The one of a stack."""

    def __init__(self, settings: Settings) -> None:
        """Touch nothing yet."""
        self._settings = settings
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """Where a client on this machine finds it."""
        return f"http://{address_of(reachable(self._settings.host), self._settings.port)}"

    @property
    def pid(self) -> int | None:
        """The master's, None before its first launch."""
        return self._child.pid if self._child else None

    def make(self, make_child: Callable[[str, Sequence[str]], Child]) -> Child:
        """Make it, to be launched."""
        self._child = make_child("api", COMMAND)
        return self._child

    def check_port(self) -> None:
        """See that it will be able to listen.

        Raises:
            StackError: somebody else has its port.
        """
        wait_for_port("PORT", self._settings.host, self._settings.port, self._try_to_bind)

    def is_ready(self) -> bool:
        """Whether it says so."""
        # Not urllib: it would ask a proxy that the environment names.
        host = reachable(self._settings.host)
        with closing(http.client.HTTPConnection(host, self._settings.port, timeout=2)) as connection:
            try:
                connection.request("GET", "/readyz")
                return connection.getresponse().status == HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False

    def _try_to_bind(self) -> None:
        found = socket.getaddrinfo(self._settings.host, self._settings.port, type=socket.SOCK_STREAM)
        family, kind, _, _, address = found[0]
        with closing(socket.socket(family, kind)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
