"""Receivers of webhooks, in a process of their own: one that is well, and others that are dead, each in its way.

``python -m bench.receiver`` prints the ports as JSON, then a line for each request that comes to the one that is well:
the instant of the monotonic clock, which all processes of a machine share, and its webhook-id. It ends with its input.
"""

import asyncio
import json
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from bench.figures import BenchError
from bench.site import ROOT
from ops.local.server import LOOPBACK, plain_environment

OK = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
# More than a process that sends has out at a time.
_CONNECTIONS = 512
_END, _LENGTH, _ID = b"\r\n\r\n", b"content-length: ", b"webhook-id: "


class Arrival(NamedTuple):
    """A request that came to the receiver that is well. ``at``: seconds of the monotonic clock."""

    at: float
    event_id: str


@dataclass(frozen=True, slots=True)
class Receivers:
    """Where they listen, and what comes to the one that is well.

    ``urls``: of the one that is ``healthy``, and of those that are ``broken`` (500), ``hanging`` and ``refusing``.
    """

    urls: Mapping[str, str]
    arrivals: "queue.SimpleQueue[Arrival]"

    def next(self, within_s: float) -> Arrival | None:
        """Return what came next, None if nothing does for so long."""
        try:
            return self.arrivals.get(timeout=within_s)
        except queue.Empty:
            return None


@contextmanager
def receiving() -> Iterator[Receivers]:
    """Have them run for a while; whoever still waits for an answer then gets none.

    Raises:
        BenchError: they do not start.
    """
    command = [sys.executable, "-m", "bench.receiver"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=plain_environment(), text=True
    ) as process:
        if process.stdin is None or process.stdout is None or not (line := process.stdout.readline()):
            raise BenchError("the receivers of webhooks did not start")
        urls = {name: f"http://{LOOPBACK}:{port}/" for name, port in json.loads(line).items()}
        arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()

        def read() -> None:
            for each in process.stdout or ():
                at, event_id = each.split()
                arrivals.put(Arrival(float(at), event_id))

        reader = threading.Thread(target=read, name="arrivals", daemon=True)
        reader.start()
        try:
            yield Receivers(urls, arrivals)
        finally:
            process.terminate()
            reader.join()


class _Receiver(asyncio.Protocol):
    """A connection. ``answer``: what every request on it gets; None: nothing, ever."""

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a request that is complete."""
        self._received += data
        head, end, body = self._received.partition(_END)
        if self._answer is None or not end or len(body) < int(_value(head, _LENGTH)):
            return
        if self._answer is OK:
            print(time.monotonic(), _value(head, _ID), flush=True)
        self._transport.write(self._answer)
        self._transport.close()


def _value(head: bytes, name: bytes) -> str:
    found = head.lower().partition(b"\r\n" + name)[2]
    return found.partition(b"\r\n")[0].decode() or "0"


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    ports = {}
    for name, answer in (("healthy", OK), ("broken", BROKEN), ("hanging", None)):
        server = await loop.create_server(partial(_Receiver, answer), LOOPBACK, 0, backlog=_CONNECTIONS)
        ports[name] = server.sockets[0].getsockname()[1]
    with socket.socket() as refusing:
        refusing.bind((LOOPBACK, 0))  # and nobody listens there
        print(json.dumps(ports | {"refusing": refusing.getsockname()[1]}), flush=True)
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
