"""One POST to a receiver that nobody trusts: to the address that was checked, in bounded time, reading so much.

The name is looked up here and nowhere else, every address is checked, and one of those that were checked is connected
to, by a connection of just now if there is one: what the name leads to a moment later does not matter. No proxy is
asked, no redirect followed.
"""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from jobs.webhooks.addresses import Address, AddressRefused, Network, choose
from jobs.webhooks.keeping import Connection, Kept
from jobs.webhooks.resolving import NotResolved, resolve
from jobs.webhooks.targets import BadTarget, Target, parse
from jobs.webhooks.verdicts import is_success

# For all of it: looking up, connecting, TLS, sending, reading.
ATTEMPT_S = 15.0
MOST_READ_BYTES = 65_536
# Of the answer's body, what is kept.
EXCERPT_BYTES = 500
_SENT_AT_ONCE = 16_384


class Undelivered(Exception):
    """No answer came. The message says why, as an administrator may read it: neither a URL nor a secret is in it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a receiver has answered: the status, the beginning of the body, and Retry-After as it came."""

    status: int
    excerpt: bytes
    retry_after: str | None


class Poster:
    """Posts for one process; any number of threads may share it."""

    def __init__(self, allowed: Sequence[Network], *, tls: ssl.SSLContext | None = None) -> None:
        """``allowed``: networks that need not be public. ``tls``: whom to believe; without it whom the system does."""
        self._allowed = allowed
        self._tls = tls or ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._kept = Kept()

    def post(self, url: str, headers: Mapping[str, str], body: bytes, *, within_s: float = ATTEMPT_S) -> Answered:
        """Send a body, and return what was answered.

        Raises:
            Undelivered: nothing was, in time and within bounds.
        """
        deadline = _Deadline(within_s)
        try:
            target = parse(url)
            found = resolve(target.host, target.port, within_s=deadline.left_s())
            addresses = choose(found, is_encrypted=target.is_encrypted, allowed=self._allowed)
            if (kept := self._kept.take(target, addresses)) is not None:
                # It may be closed there at any moment, and nobody can know whether before or after this has arrived.
                with suppress(ConnectionError, ssl.SSLError):
                    return self._exchange(kept, target, headers, body, deadline)
            return self._exchange(self._connect(target, addresses, deadline), target, headers, body, deadline)
        except (AddressRefused, BadTarget, NotResolved) as error:
            raise Undelivered(str(error)) from None
        except TimeoutError:
            raise Undelivered(f"it took longer than {within_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise Undelivered(f"its certificate is not valid: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise Undelivered(f"TLS: {error.reason}") from None
        except OSError as error:
            raise Undelivered(error.strerror or type(error).__name__) from None
        except http.client.HTTPException as error:
            raise Undelivered(f"it did not answer by HTTP: {type(error).__name__}") from None

    def rest(self) -> None:
        """Close what was kept and is not wanted."""
        self._kept.close_old()

    def close(self) -> None:
        """Close all that was kept."""
        self._kept.close()

    def _exchange(
        self, connection: Connection, target: Target, headers: Mapping[str, str], body: bytes, deadline: "_Deadline"
    ) -> Answered:
        is_over = False
        try:
            answered, is_over = _exchange(_Line(connection.socket, deadline), target, headers, body)
            return answered
        finally:
            if is_over:
                self._kept.give(connection)
            else:
                connection.socket.close()

    def _connect(self, target: Target, addresses: Sequence[Address], deadline: "_Deadline") -> Connection:
        """Connect to the first that lets itself be connected to."""
        made_at = time.monotonic()
        for index, address in enumerate(addresses):
            try:
                connected = socket.create_connection((str(address), target.port), timeout=deadline.left_s())
                break
            except OSError:
                if index + 1 == len(addresses):
                    raise
        try:
            # Headers and body are two packets, and the second one shall not wait for the first one's receipt.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.is_encrypted:
                connected.settimeout(deadline.left_s())
                connected = self._tls.wrap_socket(connected, server_hostname=target.host)
        except BaseException:
            connected.close()
            raise
        return Connection(socket=connected, address=address, target=target, made_at=made_at)


class _Final(http.client.HTTPResponse):
    """An answer that is one: what comes before it (1xx: RFC 9110, 15.2) is read past, and not only 100."""

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]
        is_interim = HTTPStatus.CONTINUE < status < HTTPStatus.OK and status != HTTPStatus.SWITCHING_PROTOCOLS
        return version, HTTPStatus.CONTINUE if is_interim else status, reason


class _Deadline:
    """When all of it has to be over."""

    def __init__(self, within_s: float) -> None:
        self._at = time.monotonic() + within_s

    def left_s(self) -> float:
        """Return how long it is until then.

        Raises:
            TimeoutError: it is over.
        """
        left_s = self._at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s


class _Reader(io.RawIOBase):
    """What comes, each wait for it ending with the deadline, and each byte counted."""

    def __init__(self, connected: socket.socket, deadline: _Deadline) -> None:
        self._socket = connected
        self._deadline = deadline
        self._left = MOST_READ_BYTES

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what there is, until there was enough."""
        if self._left <= 0:
            raise http.client.LineTooLong("answer")
        self._socket.settimeout(self._deadline.left_s())
        count = self._socket.recv_into(buffer, min(len(buffer), self._left))
        self._left -= count
        return count


class _Line:
    """A connection as http.client uses one. Whoever has connected it closes it."""

    def __init__(self, connected: socket.socket, deadline: _Deadline) -> None:
        self._socket = connected
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        """Send all of it, in time."""
        view = memoryview(data)
        while view:
            self._socket.settimeout(self._deadline.left_s())
            view = view[self._socket.send(view[:_SENT_AT_ONCE]) :]

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        """Return what the answer is read from."""
        return io.BufferedReader(_Reader(self._socket, self._deadline), 4_096)

    def close(self) -> None:
        """Leave it open: the answer is still being read."""


def _exchange(line: _Line, target: Target, headers: Mapping[str, str], body: bytes) -> tuple[Answered, bool]:
    """Send and be answered; the second part tells whether the line is free for another."""
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.default_port = 443 if target.is_encrypted else 80
    connection.sock = line  # what it uses of a socket
    connection.response_class = _Final
    connection.request("POST", target.path, body, dict(headers))
    answer = connection.getresponse()
    answered = Answered(answer.status, _read_excerpt(answer), answer.headers.get("Retry-After"))
    # Of all else it is not sure that nothing follows, which would be taken for the answer to what is sent next.
    is_whole = is_success(answered.status) and (answer.isclosed() or answer.length == 0)
    return answered, is_whole and not answer.will_close


def _read_excerpt(answer: http.client.HTTPResponse) -> bytes:
    """Read the beginning of the body. The status has come: whatever breaks off now changes nothing about it."""
    excerpt = b""
    with suppress(OSError, http.client.HTTPException):
        while len(excerpt) < EXCERPT_BYTES and (more := answer.read1(EXCERPT_BYTES - len(excerpt))):
            excerpt += more
    return excerpt[:EXCERPT_BYTES]  # of a chunk that says it has less than nothing all there is was read
