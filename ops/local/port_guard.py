"""A port that several of our processes share, and no stranger: held by who supervises them, for as long as it lives.

They share it by SO_REUSEPORT, and with that anybody else of the same user binds as quietly as they do and is given a
part of the connections: another stack, say. So the port is first bound without it, which fails if anybody else is
there; then the option is set on the socket that is bound. It never accepts anything, so that all connections are our
processes', who can bind beside it; and whoever comes without the option finds the port taken, also in a moment in which
none of our processes is there.
"""

import errno
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import NamedTuple

from ops.local.processes import StackError, wait_for

# What gRPC listens on for each of them: all addresses of both families.
_ALL = ("0.0.0.0", "::")  # noqa: S104
# A name may have addresses of a family that this machine does not have; gRPC goes without them, too.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPFNOSUPPORT)
# Who listened there may be on the way out, after its supervisor was killed.
PORT_TIMEOUT_S = 3.0


class _Address(NamedTuple):
    family: int
    address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


class PortGuard:
    """Every address of a host, at one port, while it is not closed."""

    def __init__(self, host: str, port: int) -> None:
        """Take the port.

        Args:
            host: a name or an address, as gRPC is given it.
            port: from 1 on.

        Raises:
            OSError: somebody has it, or the host has no address here.
        """
        missing: OSError | None = None
        with ExitStack() as stack:
            held = 0
            for each in _addresses(host, port):
                if held and host in _ALL:
                    break  # the other is for machines that do not have the first
                try:
                    _hold(stack.enter_context(socket.socket(each.family, socket.SOCK_STREAM)), each)
                    held += 1
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    missing = error
            if missing and not held:
                raise missing
            self._held = stack.pop_all()

    def close(self) -> None:
        """Let anybody have it."""
        self._held.close()


def _addresses(host: str, port: int) -> list[_Address]:
    if host in _ALL:
        return [_Address(socket.AF_INET6, ("::", port)), _Address(socket.AF_INET, ("0.0.0.0", port))]  # noqa: S104
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(_Address(family, address) for family, _, _, _, address in found))


def _hold(held: socket.socket, each: _Address) -> None:
    """Bind the socket alone, then let those of this user who ask for it bind beside it."""
    # Connections that ended a moment ago are no reason to wait.
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if each.family == socket.AF_INET6:
        held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(each.address[0] != "::"))
    held.bind(each.address)
    # With that option two who do not listen can both bind. Listening is refused to the second of them; and by the time
    # the first one does not any more, its address is not one to be used again.
    held.listen(1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    with suppress(OSError):  # BSD wants a connection for that
        held.shutdown(socket.SHUT_RDWR)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def wait_for_port(setting: str, host: str, port: int, take: Callable[[], None]) -> None:
    """Take a port, again and again for a moment.

    Args:
        setting: what names it.
        host: whose it is.
        port: its number.
        take: takes it; an OSError says that somebody else has it.

    Raises:
        StackError: it stayed taken.
    """
    problem: list[OSError] = []

    def is_taken() -> bool:
        problem.clear()
        try:
            take()
        except OSError as error:
            problem.append(error)
        return not problem

    if not wait_for(is_taken, PORT_TIMEOUT_S):
        raise StackError(f"cannot listen on {setting}={port} of HOST={host}: {problem[0].strerror}")
