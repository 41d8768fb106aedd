"""gunicorn's gevent worker, with bounds: on what is in hand, and on what a slow or silent client can hold.

Each connection is a greenlet, so whoever waits, for a client, for PostgreSQL or for a job, costs a few kilobytes and
nobody else's time. What is left to see to is how long and how many. A request counts as in hand when all of it has
come, and until its answer is known; so many of these, and the next is answered 503 at once.

gunicorn's own refusals are HTML, with statuses that the contract does not have: here they are the ``bad_input`` that
they are. Told to leave because it is replaced (SIGHUP), a process works on until its successors are ready.
"""

import math
import time
from types import FrameType, SimpleNamespace
from typing import Any

import structlog
from gevent import sleep, socket
from gevent.event import Event
from gevent.pool import Pool
from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.parser import RequestParser
from gunicorn.workers.ggevent import GeventWorker

from observe import background
from ops.http import framing, refusals
from ops.http.door import Connection, Door
from ops.http.framing import TooSlowError, UnreadableError
from ops.http.response import Response
from ops.http.siblings import Siblings

# Within this a request has to come, counted from its first byte: its head and a body that is not large. A large body
# has as long again, and each piece of an answer has to be taken as soon.
READ_S = 5.0
WRITE_S = 5.0
# A body of up to so many bytes is read before its request counts as in hand; of larger ones, so many at a time.
MOST_HELD_BYTES = 65_536
# With the sizes and extensions of its chunks it may be so long.
MOST_FRAMED_BYTES = 4 * MOST_HELD_BYTES
MOST_LARGE = 8
# Of probes and scrapes, so many are let in beyond the bound: a service that sheds load is not dead.
MOST_PROBES = 8
# A connection that is closed with something unread stays open for this long and for so many bytes, or what is still on
# its way to us would make the kernel reset it, and take our answer back.
FAREWELL_S = 2.0
MOST_DRAINED_BYTES = 8_388_608
# Who leaves keeps idle connections for this long, for a request on its way; waits for jobs end as soon.
LINGER_S = 1.0
_RECEIVE_BYTES = 8_192
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_TICK_S = 0.02

_log = structlog.get_logger("gunicorn")


class Worker(GeventWorker):
    """Serves the API's application."""

    # How many requests may be in hand. The configuration sets it.
    most_in_hand = 1
    # Made in the master, when it loads this class.
    siblings = Siblings()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connections: dict[Connection, None] = {}
        self._in_hand = self._large = self._untold = 0

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse to be given a certificate.

        Raises:
            RuntimeError: there is one.
        """
        del log
        if cfg.is_ssl:
            raise RuntimeError("TLS ends at a proxy in front of this server")

    def patch(self) -> None:
        """Let greenlets wait at the listening sockets; all else the configuration has patched, before any import."""
        listeners = [(each.FAMILY, each.sock.detach()) for each in self.sockets]
        self.sockets = [socket.socket(family, socket.SOCK_STREAM, fileno=number) for family, number in listeners]

    def run(self) -> None:
        """Accept and answer until told to leave."""
        # By name, and not by an import: what the master has loaded of the application, a reload could not renew.
        app: Any = self.wsgi
        self._services = app.extensions["wallet"]
        # gunicorn looks up its settings some thirty times a request, in a table that does not change any more.
        self._fixed: Any = SimpleNamespace(
            **{name: setting.get() for name, setting in self.cfg.settings.items()},
            is_ssl=False,
            forwarded_allow_networks=self.cfg.forwarded_allow_networks,
            proxy_allow_networks=self.cfg.proxy_allow_networks,
        )
        # More than there may be connections, since one that is ended is gone an instant later.
        self.pool = Pool(self.cfg.worker_connections + 100)
        doors = [Door(self, listener) for listener in self.sockets]
        for door in doors:
            door.start()
        self.report()
        self.notify()  # or gunicorn would take it for young for ever
        while not self._told.wait(1.0):
            with background.guarded("http_connections"):
                self.notify()
        while self.alive and self.siblings.is_retired(self.age) and not self.siblings.is_relieved(self.cfg.workers):
            self.notify()
            sleep(_TICK_S)
        self._leave(doors)

    def init_signals(self) -> None:
        """Listen to signals."""
        self._told = Event()
        super().init_signals()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Leave: at once, or at a reload when the successors are ready. Told a second time, do not wait for them.

        The master tells a second time by itself, when an old process has not left within the graceful timeout.
        """
        if self._told.is_set() or not self.siblings.is_retired(self.age):
            super().handle_exit(sig, frame)
        self._told.set()

    def notify(self) -> None:
        """Give a sign of life, and see to what is due."""
        super().notify()
        now = time.monotonic()
        for connection in [each for each in self.connections if each.deadline <= now]:
            connection.end(TooSlowError())
        if self._untold:
            _log.warning("requests turned away", count=self._untold)
            self._untold = 0

    def report(self, change: int = 0) -> None:
        """Tell the others how many connections there are, while one comes (1) or goes (-1)."""
        if self.alive:
            self.siblings.report(self.age, len(self.pool) + change)

    def make_room(self) -> None:
        """If there are too many connections, end the one that can best be done without."""
        if len(self.connections) >= self._fixed.worker_connections:
            waits = (each for each in self.connections if each.deadline < math.inf)
            if (oldest := min(waits, key=lambda each: each.since, default=None)) is not None:
                oldest.proceed()  # so that it is not ended twice
                oldest.end(TimeoutError("others need the room"))

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Talk with a client, in a greenlet of its own.

        Args:
            listener: the address that was listened on. (The socket itself may be closed before the greenlet begins.)
            client: the connection.
            addr: the client's address.
        """
        connection: Any = Connection(client)
        self.connections[connection] = None
        try:
            self._converse(connection, RequestParser(self._fixed, connection, addr), listener)
        except OSError as error:
            _log.debug("the client has gone", cause=str(error))
        except Exception:  # noqa: BLE001 - a defect of ours costs one connection
            _log.exception("a connection fails")
        finally:
            del self.connections[connection]
            self.report(-1)
            util.close(client)

    def _converse(self, connection: Connection, parser: RequestParser, server: Any) -> None:
        while self._wait_for_request(connection, parser):
            try:
                request = self._read(connection, parser)
            except (ParseException, NoMoreData, StopIteration) as error:
                refusal = refusals.unreadable(getattr(error, "detail", UnreadableError.detail))
                _log.warning("unreadable request", cause=type(error).__name__, trace_id=refusal.trace_id)
                self._refuse(connection, refusal.answer)
                return
            if not self._answer(connection, request, parser, server):
                return

    def _wait_for_request(self, connection: Connection, parser: RequestParser) -> bool:
        """Wait for the first byte of a request; False: none comes any more."""
        sleep(0)  # or one who sends many ahead would leave the others no time
        if not parser.unreader.buf.tell():  # nothing was sent ahead
            connection.wait(self._fixed.keepalive if self.alive else LINGER_S)
            try:
                piece = connection.client.recv(_RECEIVE_BYTES)
            except TooSlowError:
                return False
            parser.unreader.unread(piece)
            if not piece:
                return False
        connection.wait(READ_S)
        return True

    def _read(self, connection: Connection, parser: RequestParser) -> Any:
        """Read a request; of a large body only the beginning.

        Raises:
            ParseException: it is none, or comes too slowly.
        """
        parser.mesg = None  # done with; nothing of it is unread
        request: Any = next(parser)
        framing.check(request)
        body, reader = request.body, request.body.reader
        length = getattr(reader, "length", None)  # of chunks it is not known
        is_wanted = length is None or 0 < length <= self._services.most_body_bytes(request.path)
        # gunicorn asks for any that is offered, when the application begins: also for one that will be refused.
        is_asked_for = request._expected_100_continue = request._expected_100_continue and is_wanted  # noqa: SLF001
        if is_wanted and (length is None or length <= MOST_HELD_BYTES):
            if is_asked_for:
                request._expected_100_continue = False  # noqa: SLF001
                connection.client.sendall(_CONTINUE)
            connection.left = MOST_FRAMED_BYTES
            piece = body.read(length or MOST_HELD_BYTES)
            connection.left = math.inf
            if len(piece) < (length or 0):
                raise NoMoreData
            body.buf.write(piece)  # where the application finds it
        return request

    def _answer(self, connection: Connection, request: Any, parser: RequestParser, server: Any) -> bool:
        """Have a request answered; return whether another one may follow on the connection."""
        app: Any = self.wsgi
        reader = request.body.reader
        is_large = bool(getattr(reader, "length", 0) or getattr(reader, "parser", None))  # and so not read yet
        if not self._has_room(request, is_large=is_large):
            self._services.count_turned_away()
            self._untold += 1
            self._refuse(connection, refusals.too_busy().answer)
            return False
        self._in_hand += 1
        self._large += is_large
        connection.wait(READ_S) if is_large else connection.proceed()
        try:
            response, environ = wsgi.create(
                request, connection.client, parser.source_addr, server, self._fixed, response_class=Response
            )
            environ["wsgi.multithread"] = True
            if is_large or not self.alive:
                response.force_close()
            pieces = app(environ, response.start_response)
        finally:
            self._in_hand -= 1
            self._large -= is_large
        try:
            for piece in pieces:
                connection.wait(WRITE_S)
                response.write(piece)
                connection.proceed()
            connection.wait(WRITE_S)
            response.close()
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
        if is_large:
            self._see_off(connection)
        return not response.should_close()

    def _has_room(self, request: Any, *, is_large: bool) -> bool:
        if is_large and self._large >= MOST_LARGE:
            return False
        most = self.most_in_hand + (MOST_PROBES if request.path in _PROBES else 0)
        return self._in_hand < most or self._in_hand - self._services.waiting.waiters < most

    def _refuse(self, connection: Connection, answer: bytes) -> None:
        connection.wait(WRITE_S)
        connection.client.sendall(answer)
        self._see_off(connection)

    def _see_off(self, connection: Connection) -> None:
        """Close a connection when its client has done so, or soon."""
        connection.wait(2 * FAREWELL_S)
        util.close_graceful(connection.client, FAREWELL_S, MOST_DRAINED_BYTES)

    def _leave(self, doors: list[Door]) -> None:
        """Close the doors, and let those inside finish."""
        self.alive = False
        is_replaced = self.siblings.is_retired(self.age)
        self.siblings.forget(self.age)
        for door in doors:
            if not is_replaced:
                door.take_all()
            # At once and not when all has ended: whoever comes now is refused, and can go elsewhere, instead of waiting
            # for a reset.
            door.close()
        self._services.leave(within_s=LINGER_S, is_replaced=is_replaced)
        now = time.monotonic()
        for connection in (each for each in self.connections if each.deadline < math.inf):
            connection.deadline = min(connection.deadline, now + LINGER_S)
        ends_at = now + self.cfg.graceful_timeout
        while not self.pool.join(_TICK_S) and time.monotonic() < ends_at:
            self.notify()
