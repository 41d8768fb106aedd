"""Hosts and ports: how they are spelled, from where they are reached, and whose they are."""

from collections.abc import Callable

from ops.local.processes import StackError, wait_for

# Who listened there may be on the way out, after its supervisor was killed.
PORT_TIMEOUT_S = 3.0


def reachable(host: str) -> str:
    """An address at which this machine reaches what listens on the host."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def bracketed(host: str) -> str:
    """The host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


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
