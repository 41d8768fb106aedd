"""gunicorn's threaded worker, with its own refusals in our words, and with a way to leave that loses nobody.

What gunicorn refuses before the application sees it (a request line that is none, headers without end) it answers in
HTML, with statuses that the contract does not have. Here it becomes the ``bad_input`` that it is.

Told to leave because it is replaced (SIGHUP), it works on until its successors are ready. From then on, and at once
when it is told to stop, it accepts no more: requests end, waits for jobs are cut short, and idle connections stay open
for a moment, for a request that may be on its way; its answer says that it is the last one.
"""

import socket
import time
from types import FrameType
from typing import Any

import structlog
from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

from ops.http import refusals
from ops.http.attentive_worker import AttentiveWorker
from ops.http.connection import TooSlowError
from ops.http.succession import Succession

# How long gunicorn leaves connections open that were kept alive. What else may keep a client here ends as soon.
LINGER_S = 2.0

_log = structlog.get_logger("gunicorn")


class ProblemThreadWorker(AttentiveWorker):
    """Answers what cannot be read as a problem (RFC 9457); leaves in an orderly way."""

    # Made in the master, when it loads this class.
    succession = Succession()
    _awaits_relief = False

    def run(self) -> None:
        """Accept and answer until told to leave."""
        self.succession.report_ready(self.age)
        super().run()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Leave: at once, or at a reload when the successors are ready. Told a second time, do not wait for them.

        The master tells a second time by itself, when an old process has not left within the graceful timeout.
        """
        if self.succession.is_retired(self.age) and not self._awaits_relief:
            self._awaits_relief = True
        else:
            super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Leave in a hurry: nobody waits for a job any longer, for Python ends no process before its threads.

        gunicorn's threaded worker would shut its pool down first, here in the handler, and wait for ever if the signal
        has come while this very thread was handing the pool a request and holds its lock.
        """
        if self.booted:
            self._tell_application(within_s=0.0, is_replaced=False)
        super(ThreadWorker, self).handle_quit(sig, frame)

    def notify(self) -> None:
        """Give the sign of life that every round of the loop begins with, and see whether this is the last round."""
        super().notify()
        if self._awaits_relief and self.succession.is_relieved(self.cfg.workers):
            self.alive = False

    def set_accept_enabled(self, enabled: bool | None) -> None:  # noqa: FBT001 - gunicorn calls it so
        """Accept connections or leave them waiting; when leaving, for ever."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            self._leave()

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Refuse a request that never reached the application; nothing of it was done."""
        del req, addr
        detail = (
            "The request came too slowly." if isinstance(exc, TooSlowError) else "The request cannot be read as HTTP."
        )
        refusal = refusals.unreadable(detail)
        _log.warning("unreadable request", cause=type(exc).__name__, trace_id=refusal.trace_id)
        try:
            util.write_nonblock(client, refusal.answer)
        except OSError:
            _log.debug("the client has gone")

    def _leave(self) -> None:
        """Close the door, and ask those inside to finish."""
        is_replaced = self.succession.is_retired(self.age)
        for listener in self.sockets:
            if not is_replaced:
                self._accept_waiting(listener)
            # At once and not, as gunicorn does, when all has ended: whoever comes now is refused, and can go elsewhere,
            # instead of waiting for a reset.
            listener.close()
        for connection in self.pending_conns:  # on which nothing was ever sent
            connection.timeout = min(connection.timeout or 0.0, time.monotonic() + LINGER_S)
        self._tell_application(within_s=LINGER_S, is_replaced=is_replaced)

    def _tell_application(self, *, within_s: float, is_replaced: bool) -> None:
        # By name, and not by an import: what the master has loaded of the application, a reload could not renew.
        app: Any = self.wsgi
        app.extensions["wallet"].leave(within_s=within_s, is_replaced=is_replaced)

    def _accept_waiting(self, listener: socket.socket) -> None:
        """Take in whoever stands before the door already: to them it looks as if they were inside."""
        while self.nr_conns < self.worker_connections and self.accept(listener):
            pass
