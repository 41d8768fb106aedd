"""Hosts on one machine: network namespaces, each with an address, and a cable of its own to one switch.

None of it has a name outside, or leads anywhere. A namespace lives as long as somebody has it open or runs in it, so
that nothing is left of a run however it ends, and two of them never meet.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

import pytest

CLONE_NEWNET = 0x40000000  # linux/sched.h
# RFC 2544: for tests of networks, and nobody's on any other.
SUBNET = "198.18.0"
# Where nobody is: what is sent there is lost without a word, as on a line that is cut.
NOWHERE = "02:00:00:00:00:ff"
_REQUIRED = "REQUIRE_NAMESPACES"


class Namespace:
    """One network namespace. Its loopback is up, and nothing else is in it."""

    def __init__(self) -> None:
        """Raise PermissionError where this process may not make one."""
        before = _open_own()
        try:
            _call("unshare", CLONE_NEWNET)
            self.file = _open_own()
            _call("setns", before, CLONE_NEWNET)
        finally:
            os.close(before)
        self.ip("link", "set", "lo", "up")

    @property
    def path(self) -> str:
        """What ``ip`` knows it by."""
        return f"/proc/{os.getpid()}/fd/{self.file}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread be in it for a while, with all threads and processes that it starts meanwhile."""
        before = _open_own()
        try:
            _call("setns", self.file, CLONE_NEWNET)
            yield
        finally:
            _call("setns", before, CLONE_NEWNET)
            os.close(before)

    def ip(self, *arguments: str) -> None:
        """Run ``ip`` in it."""
        with self.entered():
            subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.file)


class Host:
    """A namespace with an address, on a network's switch."""

    def __init__(self, name: str, number: int, switch: Namespace) -> None:
        self.name = name
        self.address = f"{SUBNET}.{number}"
        self.namespace = Namespace()
        self._switch = switch
        self.namespace.ip("link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", switch.path)
        self.namespace.ip("address", "add", f"{self.address}/24", "dev", "eth0")
        self.namespace.ip("link", "set", "eth0", "up")
        switch.ip("link", "set", name, "up")
        self.mend()

    def cut(self) -> None:
        """Lose whatever is sent to it or by it from now on. It sees nothing of that: its own link stays up."""
        self._switch.ip("link", "set", self.name, "nomaster")

    def mend(self) -> None:
        """Let through what is sent to it and by it."""
        self._switch.ip("link", "set", self.name, "master", "switch")

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Have it cut off from all others for a while."""
        self.cut()
        try:
            yield
        finally:
            self.mend()

    @contextmanager
    def cut_off_from(self, *others: "Host") -> Iterator[None]:
        """Have it and some others not hear from each other for a while, while each is heard by all the rest."""
        ways = [way for other in others for way in ((self, other.address), (other, self.address))]
        for host, address in ways:
            host.namespace.ip("neighbour", "replace", address, "lladdr", NOWHERE, "dev", "eth0", "nud", "permanent")
        try:
            yield
        finally:
            for host, address in ways:
                host.namespace.ip("neighbour", "del", address, "dev", "eth0")


class Network:
    """A switch, and the hosts on it. Use it as a context manager."""

    def __init__(self) -> None:
        """Raise PermissionError where this process may not make any."""
        self.hosts: list[Host] = []
        self._switch = Namespace()
        self._switch.ip("link", "add", "switch", "type", "bridge")
        self._switch.ip("link", "set", "switch", "up")

    @classmethod
    def or_skip(cls) -> "Network":
        """Make one, or skip the test where that cannot be."""
        # A bridge or a cable may be what cannot be had: then `ip` has failed.
        with suppress(PermissionError, subprocess.CalledProcessError):
            if shutil.which("ip"):
                return cls()
        assert os.environ.get(_REQUIRED) != "1"
        pytest.skip("no network namespaces: that takes root, and ip (iproute2)")

    def add(self, name: str) -> Host:
        """Put one more host on it. ``name``: at most 15 characters."""
        self.hosts.append(Host(name, len(self.hosts) + 1, self._switch))
        return self.hosts[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts:
            host.namespace.close()
        self._switch.close()


def _open_own() -> int:
    """Open the namespace that this thread is in."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _call(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise PermissionError(number, f"{name}: {os.strerror(number)}")
