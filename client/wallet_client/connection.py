"""HTTP to one service, by connections that are kept open between requests."""

import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead, RemoteDisconnected
from urllib.parse import urlsplit

from wallet_client.errors import lost, unreachable

# More is no answer of the service's: a statement of a hundred thousand entries has a third of it.
MOST_BYTES = 128 * 1024 * 1024
# How it shows that the other end had closed a connection before.
_BROKEN = (BrokenPipeError, ConnectionResetError, RemoteDisconnected)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. ``target``: path and query. A new connection is wanted by what must not be sent twice."""

    method: str
    target: str
    body: bytes | None = None
    wants_new_connection: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class StaleConnection(Exception):
    """A kept connection was closed by the other end: most likely before it was used again, so a new one will do."""


class Connections:
    """The way to a service. Threads may share it: there are as many connections as requests at once, and they are kept.

    Not one for each thread: those of threads that have ended would be nobody's to close.
    """

    def __init__(self, base_url: str, *, context: ssl.SSLContext | None = None) -> None:
        """Connect to nothing yet.

        Args:
            base_url: ``http`` or ``https``, a host, maybe a port and the path below which the service stands.
            context: of TLS, in place of Python's default.

        Raises:
            ValueError: the URL is not one.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
            raise ValueError("base_url should be http(s)://host[:port][/path]")
        self._is_tls = parts.scheme == "https"
        self._address = (parts.hostname, parts.port)
        self._prefix = parts.path.rstrip("/")
        self._context = context
        # Those that nobody uses. The last one that was used comes first: the others may have been closed meanwhile.
        self._idle: list[HTTPConnection] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def ask(self, request: Request, headers: Mapping[str, str], *, timeout_s: float) -> Answer:
        """Send a request and read its answer.

        Args:
            request: what is asked.
            headers: all that are sent.
            timeout_s: the longest silence of the other end.

        Raises:
            StaleConnection: a kept connection broke. The request was hardly heard, but may have been.
            Unavailable: no connection could be made.
            OutcomeUnknown: it was sent, and no whole answer came.
        """
        connection = None if request.wants_new_connection else self._find_idle()
        is_kept = connection is not None
        connection = connection or self._make()
        try:
            answer = self._ask_on(connection, request, headers, timeout_s)
        except BaseException as error:
            connection.close()
            if is_kept and isinstance(error.__cause__, _BROKEN):
                # Those below it have been idle for longer: each would cost a try.
                self._drop_idle()
                raise StaleConnection from error
            raise
        self._keep(connection)
        return answer

    def close(self) -> None:
        """Close all connections, those that are in use as soon as they are not."""
        self._is_closed = True
        self._drop_idle()

    def _find_idle(self) -> HTTPConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for each in idle:
            each.close()

    def _make(self) -> HTTPConnection:
        host, port = self._address
        return HTTPSConnection(host, port, context=self._context) if self._is_tls else HTTPConnection(host, port)

    def _keep(self, connection: HTTPConnection) -> None:
        with self._lock:
            # Without a socket it was closed, since the other end had said that it would be.
            if connection.sock is not None and not self._is_closed:
                self._idle.append(connection)
                return
        connection.close()

    def _ask_on(
        self, connection: HTTPConnection, request: Request, headers: Mapping[str, str], timeout_s: float
    ) -> Answer:
        connection.timeout = timeout_s
        try:
            if connection.sock is None:
                connection.connect()
            else:
                connection.sock.settimeout(timeout_s)
        except OSError as error:
            raise unreachable(f"no connection could be made: {error}") from error
        try:
            # As bytes: a key may be any UTF-8, and http.client's own are Latin-1.
            sent = {name: value.encode() for name, value in headers.items()}
            connection.request(request.method, self._prefix + request.target, request.body, sent)
            response = connection.getresponse()
        except (OSError, HTTPException) as error:
            raise lost(f"no answer came: {error!r}") from error
        return _read(response)


def _read(response: HTTPResponse) -> Answer:
    try:
        body = response.read(MOST_BYTES + 1)
        # Of a body that is cut short read(n) says nothing.
        if response.length:
            raise IncompleteRead(body, response.length)
    except (OSError, HTTPException) as error:
        raise lost(f"the answer broke off: {error!r}") from error
    if len(body) > MOST_BYTES:
        raise lost("the answer is too long")
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
