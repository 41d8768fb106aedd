"""Connections that are kept for a moment, for what is sent to the same receiver next.

Whom one leads to is known: it is used again only for an address that was looked up and checked just now. And it is used
for so short a time that a receiver which serves one connection after the other comes to those that wait.
"""

import socket
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from jobs.webhooks.addresses import Address
from jobs.webhooks.targets import Target
from models.sockets import watch

# Seconds from when it was made.
KEPT_S = 2.0
# Of one process.
MOST_KEPT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A connection to one of a host's addresses. Whoever has it closes it, or gives it to be kept."""

    socket: socket.socket
    address: Address
    target: Target
    made_at: float

    def leads_to(self, target: Target, addresses: Collection[Address]) -> bool:
        """Whether it is to this receiver, at one of these addresses."""
        return self.target[:3] == target[:3] and self.address in addresses


class Kept:
    """Those that nobody uses. Any number of threads may share it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._connections: list[Connection] = []

    def take(self, target: Target, addresses: Collection[Address]) -> Connection | None:
        """Return one that leads there, None if there is none."""
        while (connection := self._take_any(target, addresses)) is not None:
            if self._is_young(connection) and not watch(connection.socket.fileno())():
                return connection
            connection.socket.close()
        return None

    def give(self, connection: Connection) -> None:
        """Keep one that has nothing under way, or close it."""
        with self._lock:
            if self._is_young(connection) and len(self._connections) < MOST_KEPT:
                self._connections.append(connection)
                return
        connection.socket.close()

    def close_old(self) -> None:
        """Close those that nobody is going to use."""
        self._close_all_but(self._is_young)

    def close(self) -> None:
        """Close all of them."""
        self._close_all_but(lambda _: False)

    def _close_all_but(self, stays: Callable[[Connection], bool]) -> None:
        with self._lock:
            found, self._connections = self._connections, []
            for each in found:
                if stays(each):
                    self._connections.append(each)
                else:
                    each.socket.close()

    def _take_any(self, target: Target, addresses: Collection[Address]) -> Connection | None:
        with self._lock:
            for index, each in enumerate(self._connections):
                if each.leads_to(target, addresses):
                    return self._connections.pop(index)
        return None

    def _is_young(self, connection: Connection) -> bool:
        return self._clock() - connection.made_at < KEPT_S
