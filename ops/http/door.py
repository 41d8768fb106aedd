"""How connections come in, and until when their clients are waited for."""

import math
import time
from functools import partial
from typing import Any

import structlog
from gevent import get_hub, sleep
from gevent.server import StreamServer

from ops.http.framing import TooSlowError, UnreadableError

# How long a process that has more connections than another one leaves a new one to that.
YIELD_S = 0.01
# New connections are taken at this rate, however many there are: those who are turned away come again at once, and to
# do nothing else would serve nobody.
MOST_ACCEPTS_A_S = 500

_log = structlog.get_logger("gunicorn")


class Connection:
    """A client's connection, and until when its client is waited for."""

    __slots__ = ("client", "deadline", "left", "since")

    def __init__(self, client: Any) -> None:
        self.client = client
        # How many bytes more are taken in.
        self.left = math.inf
        self.proceed()

    def recv(self, size: int) -> bytes:
        """Receive what gunicorn's parser asks for.

        Others come first: while there is always something to receive, this greenlet would never wait, and the deadline
        find nobody to end.

        Raises:
            TooSlowError: the time is over.
            UnreadableError: it was too much.
        """
        sleep(0)
        if time.monotonic() >= self.deadline:
            raise TooSlowError
        piece: bytes = self.client.recv(size)
        self.left -= len(piece)
        if self.left < 0:
            raise UnreadableError
        return piece

    def wait(self, seconds: float) -> None:
        """Say that its client has to do something, and how soon."""
        self.since = time.monotonic()
        self.deadline = self.since + seconds

    def proceed(self) -> None:
        """Say that it is not its client who is waited for."""
        self.deadline = math.inf

    def end(self, why: Exception) -> None:
        """Raise this where its client is waited for, if that is so still."""
        get_hub().cancel_wait(self.client._read_event, why)  # noqa: SLF001 - the way to interrupt recv
        get_hub().cancel_wait(self.client._write_event, TimeoutError("the client does not take its answer"))  # noqa: SLF001


class Door(StreamServer):  # type: ignore[misc] # gevent has no types
    """Where connections come in, unless another process of fewer connections is to have them."""

    def __init__(self, worker: Any, listener: Any) -> None:
        super().__init__(listener, partial(worker.handle, listener.getsockname()), spawn=worker.pool)
        self._worker = worker
        self._accepted_at = time.monotonic()

    def _do_read(self) -> None:
        now = time.monotonic()
        self.max_accept = 1 + int(min(now - self._accepted_at, 0.1) * MOST_ACCEPTS_A_S)
        self._accepted_at = now
        super()._do_read()

    def do_read(self) -> Any:
        """Accept a connection, and return it; None if there is none, or another process is left the time to take it."""
        if not self._worker.siblings.has_more(self._worker.age, len(self._worker.pool)):
            return self._accept()
        self.stop_accepting()
        self._timer = self.loop.timer(YIELD_S)
        self._timer.start(self._insist)
        return None

    def take_all(self) -> None:
        """Take in whoever stands before the door already: to them it looks as if they were inside."""
        while not self.full() and (accepted := self._accept()) is not None:
            self.do_handle(*accepted)

    def _insist(self) -> None:
        self.start_accepting()
        if not self.full() and (accepted := self._accept()) is not None:
            self.do_handle(*accepted)

    def _accept(self) -> Any:
        self._worker.make_room()
        try:
            accepted = super().do_read()
        except OSError as error:  # it has gone again
            _log.debug("not accepted", cause=str(error))
            return None
        if accepted is not None:
            self._worker.report(1)
        return accepted
