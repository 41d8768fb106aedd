"""The admitting worker, faster for those who keep their connection, and fair among its processes."""

import select
import socket
import time
from typing import Any

from ops.http.admission import AdmittingWorker
from ops.http.arrival import Progress
from ops.http.even_load import EvenLoad

# How long a thread stays with a connection it has just answered on. Who asks again at once does so within a fraction
# of this; what is done in between (back to the loop and its poller, and out to a thread again) costs a good part of
# what a request to a bare Flask route costs. A thread that stays is idle, and there are always others.
STAY_MS = 2.0
# How long a process that has more connections than another one leaves a new one to that.
YIELD_S = 0.0005


class AttentiveWorker(AdmittingWorker):
    """Stays for a moment with whom it has answered; takes no more connections than its part."""

    # Made in the master, when it loads this class.
    load = EvenLoad()
    _staying = 0

    def notify(self) -> None:
        """Give the sign of life that every round of the loop begins with."""
        super().notify()
        self.load.report(self.age, self.nr_conns)

    def accept(self, listener: socket.socket) -> bool:  # type: ignore[override] # as the admitting worker's
        """Take a connection, unless another process with fewer of them does first."""
        if self.load.has_more(self.age, self.nr_conns):
            time.sleep(YIELD_S)
        was_there = super().accept(listener)
        self.load.report(self.age, self.nr_conns)
        return was_there

    def handle(self, conn: Any) -> Any:
        """Answer a request, and those that follow on the same connection without a pause."""
        result = super().handle(conn)
        while result is True and self._comes_again(conn):
            conn.arrived = conn.receive()
            if conn.arrived is not Progress.WHOLE:
                break  # the loop waits for the rest of it, or sees to a client that has gone
            conn.hand_over(is_open=False)
            result = super().handle(conn)
        return result

    def _comes_again(self, conn: Any) -> bool:
        """Whether the next request is here, or comes while nobody else needs this thread.

        (The count of those who stay is not exact, several threads write it: it only has to be about half.)
        """
        if conn.is_open or conn.parser.unreader.buf.getvalue():
            return False  # the loop counts the one, and knows what to do with what was read ahead
        if not self.alive or self._staying >= self.cfg.threads // 2 or not self.tpool._work_queue.empty():  # noqa: SLF001
            return False
        self._staying += 1
        try:
            poller = select.poll()
            poller.register(conn.sock, select.POLLIN)
            return bool(poller.poll(STAY_MS)) and self.alive
        except (OSError, ValueError):
            return False
        finally:
            self._staying -= 1
