"""gunicorn's threaded worker with bounds: on who waits for a thread, and on what a slow client can hold.

Left to itself it hands each connection to a thread, through a queue without end, and the thread waits for the request:
a few clients that send nothing, or a byte a second, hold all threads. Here the loop reads, and a thread is given to a
request that has arrived as a whole. So many of these may wait for one; the next is answered 503 at once, by the loop.
"""

import errno
import socket
import time
from collections import deque
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ
from typing import Any

import structlog
from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

from ops.http import refusals
from ops.http.arrival import Progress
from ops.http.connection import Connection, TooSlowError

# A request that has waited this long for a thread is turned away by it: its client may have given up, and what is
# served late makes those behind it late, too.
LONGEST_WAIT_S = 2.0
# Of probes and scrapes, so many are let in beyond the bound: a service that sheds load is not dead.
MOST_PROBES = 8
# Connections without a request in hand. When there are more, the one that has been silent for longest makes room.
MOST_IDLE = 500
MOST_KEPT_ALIVE = 400
# A connection that is done with stays open for this long, or what is still on its way to us would make the kernel reset
# it, and take our answer back. And so many at most.
FAREWELL_S = 2.0
MOST_FAREWELLS = 200
_TELL_EVERY_S = 1.0
_NOBODY_THERE = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED})
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = structlog.get_logger("gunicorn")


class AdmittingWorker(ThreadWorker):
    """Reads requests in its loop, and lets in as many as can be answered soon."""

    # How many may wait for a thread. The configuration sets it.
    most_waiting = 1
    # gunicorn makes them, and fills them only with what is put in here.
    pending_conns: deque[Any]
    keepalived_conns: deque[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.worker_connections = self.cfg.threads + self.most_waiting + MOST_PROBES + MOST_IDLE
        self.max_keepalived = MOST_KEPT_ALIVE
        # Requests that are with a thread or wait for one; of these, those that a thread has to read itself.
        self._in_hand = 0
        self._open = 0
        # Whoever waits for a client to read on holds a thread.
        self._most_open = max(1, self.cfg.threads // 2)
        self._farewells: deque[Connection] = deque()
        self._untold = 0
        self._told_at = 0.0

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse to be given a certificate.

        Raises:
            RuntimeError: there is one.
        """
        del log
        if cfg.is_ssl:
            raise RuntimeError("TLS ends at a proxy in front of this server")

    def notify(self) -> None:
        """Give the sign of life that every round of the loop begins with, and see to what is due."""
        super().notify()
        now = time.monotonic()
        while self._farewells and self._farewells[0].timeout <= now:
            self._end(self._farewells.popleft())
        if self._untold and now - self._told_at >= _TELL_EVERY_S:
            _log.warning("requests turned away", count=self._untold)
            self._untold, self._told_at = 0, now

    def accept(self, listener: socket.socket) -> bool:  # type: ignore[override] # gunicorn takes no notice
        """Accept a connection, and return whether there was one."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._make_room()
            elif error.errno not in _NOBODY_THERE:
                raise
            return False
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections:
            self._make_room()
        connection = Connection(self.cfg, client, address, listener.getsockname())
        # Often its request is there already.
        self._go_on(connection, connection.receive())
        return True

    def on_pending_socket_readable(self, conn: Any, client: socket.socket) -> None:
        """Take in more of a request. Its time does not begin anew with each piece."""
        progress = conn.receive()
        if progress is not Progress.PARTIAL:
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            self._go_on(conn, progress)

    def on_client_socket_readable(self, conn: Any, client: socket.socket) -> None:
        """Take in the next request on a connection, or its beginning."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._go_on(conn, conn.receive())

    def enqueue_req(self, conn: Any) -> None:
        """Take up what a client has sent before it had its last answer."""
        self._go_on(conn, conn.receive_rest())

    def murder_pending(self) -> None:
        """Refuse what has taken too long to arrive, and close what has never begun to."""
        now = time.monotonic()
        while self.pending_conns and self.pending_conns[0].timeout <= now:
            conn = self.pending_conns.popleft()
            self.poller.unregister(conn.sock)
            if conn.is_silent:
                self._end(conn)
            elif self.alive:
                self.handle_error(None, conn.sock, conn.client, TooSlowError())
                self._see_off(conn)
            else:
                self._turn_away(conn)

    def handle(self, conn: Any) -> Any:
        """Answer a request, in a thread."""
        if not conn.was_probe and time.monotonic() - conn.admitted_at > LONGEST_WAIT_S:
            conn.is_late = True
            return False
        conn.begin()
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request that could be read."""
        try:
            return super().handle_request(req, conn)
        except BlockingIOError:
            _log.debug("the client does not take its answers")
            return False

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Keep the connection for its next request, or say farewell to it."""
        self._in_hand -= 1
        self._open -= conn.is_open
        if conn.is_late:
            self._turn_away(conn)
        elif not fs.cancelled() and fs.exception() is None and fs.result():
            if conn.arrived is Progress.OPEN:  # nothing more may come that the poller would tell of
                conn.arrived = Progress.PARTIAL
                self._go_on(conn, Progress.OPEN)
            else:
                super().finish_request(conn, fs)
        else:
            self._see_off(conn)

    def _go_on(self, conn: Connection, progress: Progress) -> None:
        """Do what is to be done about a connection that nothing waits for at the moment."""
        if progress is Progress.PARTIAL:
            conn.set_timeout()
            self.pending_conns.append(conn)
            self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))
        elif progress is Progress.GONE:
            self._end(conn)
        elif self._has_room_for(conn, is_open=progress is Progress.OPEN):
            conn.hand_over(is_open=progress is Progress.OPEN)
            self._in_hand += 1
            self._open += conn.is_open
            super().enqueue_req(conn)
        else:
            self._turn_away(conn)

    def _has_room_for(self, conn: Connection, *, is_open: bool) -> bool:
        if is_open and self._open >= self._most_open:
            return False
        most: int = self.cfg.threads + self.most_waiting + (MOST_PROBES if conn.is_probe else 0)
        return self._in_hand < most

    def _turn_away(self, conn: Connection) -> None:
        """Answer that there is no time for a request; nothing of it has been done."""
        # By name, and not by an import: what the master has loaded of the application, a reload could not renew.
        app: Any = self.wsgi
        app.extensions["wallet"].count_turned_away()
        self._untold += 1
        conn.sock.setblocking(False)
        self._write(conn, refusals.too_busy().answer)
        self._see_off(conn)

    def _write(self, conn: Connection, answer: bytes) -> None:
        try:
            util.write(conn.sock, answer)
        except OSError:
            _log.debug("the client has gone")

    def _see_off(self, conn: Connection) -> None:
        """Close a connection when its client has done so, or soon."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, EVENT_READ, partial(self._on_farewell, conn))
        except OSError:  # it has done so already
            self._end(conn)
            return
        conn.timeout = time.monotonic() + FAREWELL_S
        self._farewells.append(conn)
        if len(self._farewells) > MOST_FAREWELLS:
            self._end(self._farewells.popleft())

    def _on_farewell(self, conn: Connection, _client: socket.socket) -> None:
        if not conn.drain():
            self._farewells.remove(conn)
            self._end(conn)

    def _make_room(self) -> None:
        """End the connection that can best be done without."""
        for idle in (self._farewells, self.pending_conns, self.keepalived_conns):
            if idle:
                self._end(idle.popleft())
                return

    def _end(self, conn: Connection) -> None:
        """Close a connection for good."""
        self.nr_conns -= 1
        with suppress(KeyError, ValueError):  # nobody was waiting for it
            self.poller.unregister(conn.sock)
        conn.close()
