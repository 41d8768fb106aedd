"""A client's connection, and what it has sent of its next request."""

import socket
import struct
import time
from typing import Any

from gunicorn.http.errors import ParseException
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn

from ops.http.arrival import Arrival, Progress

# How long a thread waits for what it has to read itself: large bodies, and those of `Expect: 100-continue`.
THREAD_READS_S = 5.0
# And for a client to take answers: one fits into the kernel's buffers, a hundred that nobody reads do not.
THREAD_WRITES_S = 5
_RECEIVE_BYTES = 65_536
_PROBES = (b"GET /healthz ", b"GET /readyz ", b"GET /metrics ")


class TooSlowError(ParseException):
    """The rest of a request did not come in time."""

    def __str__(self) -> str:
        return "the request came too slowly"


class PatientUnreader(SocketUnreader):
    """Reads what the loop has not read already, and not for ever."""

    deadline = 0.0

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next piece.

        Raises:
            TooSlowError: there was none before the deadline.
        """
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TooSlowError
        self.sock.settimeout(left_s)
        try:
            piece: bytes = super().chunk(size_hint)  # type: ignore[call-arg] # the stubs are older
        except TimeoutError:
            raise TooSlowError from None
        finally:
            self.sock.settimeout(None)
        return piece


class Connection(TConn):
    """gunicorn's connection, for a loop that reads."""

    # When the loop has waited for its client long enough; monotonic.
    timeout: Any

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)
        # The kernel's own timeout costs nothing; Python's would be another call for every answer.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", THREAD_WRITES_S, 0))
        # A thread is never to wait for a first byte.
        self.data_ready = True
        # A thread has to read the rest of the request.
        self.is_open = False
        self.was_probe = False
        self.admitted_at = 0.0
        # A thread has turned its request away.
        self.is_late = False
        # What a thread has received of the next request.
        self.arrived = Progress.PARTIAL
        self._arrival = Arrival()
        self._unreader = PatientUnreader(sock)

    @property
    def is_silent(self) -> bool:
        """Whether nothing of a next request has come."""
        return not self._arrival.data

    def receive(self) -> Progress:
        """Take in what has come, without waiting."""
        try:
            piece = self.sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return Progress.PARTIAL
        except OSError:
            return Progress.GONE
        if not piece:
            # What a client says before it leaves is for the parser to judge; it will not wait for more.
            return Progress.GONE if self.is_silent else Progress.WHOLE
        return self._arrival.add(piece)

    def receive_rest(self) -> Progress:
        """Take in what was sent together with the request before."""
        return self._arrival.add(self._unreader.take_buffered())

    @property
    def is_probe(self) -> bool:
        """Whether it is only asked whether the service lives, or how it does."""
        return self._arrival.data.startswith(_PROBES)

    def hand_over(self, *, is_open: bool) -> None:
        """Let the parser have what has arrived."""
        self.init()
        self.is_open, self.was_probe = is_open, self.is_probe
        self._unreader.unread(self._arrival.take())
        self.admitted_at = time.monotonic()

    def init(self) -> None:
        """Make the parser. TLS ends at a proxy in front, so there is nothing else to it."""
        if not self.initialized:
            self.initialized = True
            parser = self.parser = RequestParser(self.cfg, self.sock, self.client)
            parser.unreader = self._unreader

    def begin(self) -> None:
        """Say in a thread that from now on it waits no longer than it may."""
        self._unreader.deadline = time.monotonic() + THREAD_READS_S

    def drain(self) -> bool:
        """Throw away what has come; return whether more may."""
        try:
            return bool(self.sock.recv(_RECEIVE_BYTES))
        except BlockingIOError:
            return True
        except OSError:
            return False
