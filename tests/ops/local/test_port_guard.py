"""A shared port is one's own processes', however many ask for it, and in whatever moment."""

import errno
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from ops.local.port_guard import PortGuard
from tests.nursery import Forked
from tests.ops.local.test_stack import free_port
from tests.patience import PATIENCE_S
from tests.project import ROOT

CONNECTIONS = 100
HAS_IPV6 = bool(Path("/proc/net/if_inet6").exists() and Path("/proc/net/if_inet6").read_text())
if_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="needs IPv6")
HOSTS = ["127.0.0.1", "localhost", "0.0.0.0", pytest.param("::1", marks=if_ipv6), pytest.param("::", marks=if_ipv6)]  # noqa: S104
# Shares the port as our processes do, says how many it has accepted when its input ends.
SHARE = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family) as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((sys.argv[1], int(sys.argv[2])))
    listener.listen(200)
    print("listening", flush=True)
    sys.stdin.read()
    listener.setblocking(False)
    accepted = []
    try:
        while True:
            accepted.append(listener.accept())
    except BlockingIOError:
        print(len(accepted), flush=True)
"""
# Takes the port when told to, and says whether it has got it.
TAKE = """
import sys, time
from ops.local.port_guard import PortGuard
print("ready", flush=True)
instant = float(sys.stdin.readline())
while time.time() < instant:
    pass
try:
    guard = PortGuard("127.0.0.1", int(sys.argv[1]))
except OSError as error:
    print(error.strerror, flush=True)
else:
    print("taken", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def port() -> int:
    """A port that is free."""
    return free_port()


def reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(host, host)  # noqa: S104


def bind(host: str, port: int, *options: int) -> str:
    """Try to listen as somebody would, and say what comes of it."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as somebody:
        for option in options:
            somebody.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            somebody.bind((host, port))
            somebody.listen()
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "bound"


def start(script: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", script, *arguments]
    return Forked(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes that end with the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("host", HOSTS)
def test_who_does_not_ask_to_share_finds_it_taken_also_while_nobody_listens(host: str, port: int) -> None:
    with closing(PortGuard(host, port)):
        assert bind(reachable(host), port) == "EADDRINUSE"
        assert bind(reachable(host), port, socket.SO_REUSEADDR) == "EADDRINUSE"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((reachable(host), port), PATIENCE_S)
        with pytest.raises(OSError, match="Address already in use"):
            PortGuard(host, port)
    PortGuard(host, port).close()


@pytest.mark.parametrize("host", HOSTS)
def test_ours_share_it_and_have_all_connections(host: str, port: int, started: list["subprocess.Popen[str]"]) -> None:
    address = reachable(host) if host == "localhost" else host
    with closing(PortGuard(host, port)), ExitStack() as connections:
        started += [start(SHARE, address, str(port)) for _ in range(2)]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
        for _ in range(CONNECTIONS):
            connections.enter_context(socket.create_connection((reachable(host), port), PATIENCE_S))
        accepted = [int(process.communicate("")[0]) for process in started]
        assert sum(accepted) == CONNECTIONS
        assert all(accepted)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("option", [0, socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_whoever_listens_there_is_found_however_they_do_it(host: str, port: int, option: int) -> None:
    somebody = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    with somebody:
        if option:
            somebody.setsockopt(socket.SOL_SOCKET, option, 1)
        somebody.bind((reachable(host), port))
        somebody.listen()
        with pytest.raises(OSError, match="Address already in use"):
            PortGuard(host, port)
    PortGuard(host, port).close()


def test_connections_that_ended_a_moment_ago_are_no_hindrance(port: int) -> None:
    with closing(PortGuard("127.0.0.1", port)), socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            listener.accept()[0].close()  # who hangs up first has the port in TIME_WAIT
            assert client.recv(1) == b""
    assert bind("127.0.0.1", port) == "EADDRINUSE"
    PortGuard("127.0.0.1", port).close()


def test_of_several_addresses_of_a_name_each_is_held_and_those_that_are_not_here_are_not(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In place of a resolver. 192.0.2.1 (RFC 5737) is nobody's.
    found = {"several": ["127.0.0.2", "192.0.2.1", "127.0.0.3", "127.0.0.2"], "elsewhere": ["192.0.2.1"]}

    def resolve(host: str, port: int, **_options: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    guard = PortGuard("several", port)
    assert [bind(f"127.0.0.{n}", port) for n in (1, 2, 3)] == ["bound", "EADDRINUSE", "EADDRINUSE"]
    guard.close()
    with pytest.raises(OSError, match="Cannot assign requested address"):
        PortGuard("elsewhere", port)
    # One that is somebody else's: none is held.
    with closing(PortGuard("several", port)), pytest.raises(OSError, match="Address already in use"):
        PortGuard("several", port)
    assert [bind(f"127.0.0.{n}", port) for n in (2, 3)] == ["bound", "bound"]


def test_of_many_that_take_it_in_the_same_instant_one_gets_it(
    port: int, started: list["subprocess.Popen[str]"]
) -> None:
    started += [start(TAKE, str(port)) for _ in range(4)]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    instant = time.time() + 0.2
    for process in started:
        assert process.stdin is not None
        process.stdin.write(f"{instant}\n")
        process.stdin.flush()
    said = [process.stdout.readline() for process in started if process.stdout is not None]
    assert sorted(said) == ["Address already in use\n"] * 3 + ["taken\n"]
    with pytest.raises(OSError, match="Address already in use"):
        PortGuard("127.0.0.1", port)
