"""Looking up names in bounded time: the system's resolver has none, and cannot be told to stop."""

import queue
import socket
import threading

from jobs.webhooks.addresses import Address, read

# Looked up at a time, in threads that may outlive whoever has asked; beyond that nobody is asked.
MOST_AT_ONCE = 64
# Addresses of one name that are looked at. One that has more has none for us.
MOST_ADDRESSES = 32

_free = threading.BoundedSemaphore(MOST_AT_ONCE)


class NotResolved(Exception):
    """A name leads nowhere, or that was not to be found out in time."""


def resolve(host: str, port: int, *, within_s: float) -> list[Address]:
    """Return all addresses of a host, in the order in which they are to be tried.

    Raises:
        NotResolved: there is none, one is no address to connect to, or it takes too long.
    """
    seats = _free
    if not seats.acquire(timeout=within_s):
        raise NotResolved("too many names are being looked up")
    answers: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([str(each[4][0]) for each in found])
        except (OSError, UnicodeError) as error:
            answers.put(error)
        finally:
            seats.release()

    try:
        threading.Thread(target=look_up, name="resolver", daemon=True).start()
    except RuntimeError:
        seats.release()
        raise NotResolved("the system has no thread to look it up") from None
    try:
        found = answers.get(timeout=within_s)
    except queue.Empty:
        raise NotResolved("its name was not looked up in time") from None
    if not isinstance(found, list):
        raise NotResolved("its name is not known")
    if len(found) > MOST_ADDRESSES:
        raise NotResolved("its name has too many addresses")
    try:
        return list(dict.fromkeys(map(read, found)))
    except ValueError:
        raise NotResolved("one of its addresses is none to connect to") from None
