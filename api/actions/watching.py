"""Watching a transfer of any kind by its job id, from change to change."""

import threading
import time
from collections.abc import Iterator

from api.calls.problems import RETRY_AFTER_S, ApiError, DeadlinePassed
from api.seats import Seats
from api.waiting import Room
from models.ledger.history import History, Progress
from models.ledger.transfer import Transfer
from observe import metrics

# Of a process, at once: each has a thread of its own.
SEATS = 128
# Who has watched for so long watches anew, perhaps another process.
MAX_WATCH_S = 600.0


class Watcher:
    """Somebody who watches."""

    def __init__(self) -> None:
        self.has_gone = False
        # Set at a change, and when the watcher goes.
        self.news = threading.Event()

    def go(self) -> None:
        """Watch no more. To be called from any thread."""
        self.has_gone = True
        self.news.set()


class Watching:
    """Where transfers are watched: a bounded number of seats, and one look for all who have one."""

    def __init__(self, history: History, *, seats: int = SEATS) -> None:
        """Watch nothing yet."""
        self._history = history
        self._room: Room[Progress] = Room(history.find_progressed, most=seats)
        self._seats = Seats(seats, "watching", "Too many jobs are being watched here.")
        metrics.watch_seats.set(seats)

    def close(self, *, within_s: float) -> None:
        """End every watch within these seconds: this process is to end."""
        self._room.close(within_s=within_s)

    def follow(self, transfer_id: int, *, seen_by: int | None, seconds: float, watcher: Watcher) -> Iterator[Transfer]:
        """Give a transfer as it stands, and again at every change, until its status is final or the watcher has gone.

        Args:
            transfer_id: of which transfer.
            seen_by: the user who watches; None: an administrator.
            seconds: until the watcher's deadline.
            watcher: tells when nobody watches any more.

        Raises:
            TransferNotFound: there is none, or it is not theirs.
            ApiError: ``unavailable``: it cannot be watched here, or no longer; asking again goes on from there.
            DeadlinePassed: it may still change; to end as if it could not would be taken for its end.
            Unavailable: the database cannot be reached.
        """
        ends_at = time.monotonic() + seconds
        transfer = self._history.get_transfer(transfer_id, seen_by=seen_by)
        yield transfer
        if transfer.status.is_final:
            return
        with self._seats.taken(), metrics.watchers.track_inprogress():
            yield from self._changes(transfer, ends_at, watcher)

    def _changes(self, transfer: Transfer, ends_at: float, watcher: Watcher) -> Iterator[Transfer]:
        moves_on_at = time.monotonic() + MAX_WATCH_S
        while not transfer.status.is_final:
            watcher.news.clear()
            now = time.monotonic()
            if watcher.has_gone:
                return
            if now >= ends_at:
                raise DeadlinePassed
            if not self._room.is_open:
                raise _ended("This process is about to end.")
            if now >= moves_on_at:
                raise _ended("This job has been watched here for long.")
            seen = _progress(transfer)
            self._room.wait(seen, min(ends_at, moves_on_at) - now, is_called=watcher.news)
            if self._room.is_open and not watcher.has_gone:  # or all who watch would look at once
                transfer = self._history.get_transfer(transfer.id, seen_by=None)
                if _progress(transfer) != seen:
                    yield transfer


def _progress(transfer: Transfer) -> Progress:
    return Progress(transfer.id, transfer.status.value, transfer.attempts)


def _ended(why: str) -> ApiError:
    return ApiError("unavailable", f"{why} Ask again.", {"Retry-After": str(RETRY_AFTER_S)})
