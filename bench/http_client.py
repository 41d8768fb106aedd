"""Requests at a steady rate, each sent when it is due, whether or not those before it have been answered.

That is how callers behave: they do not wait for each other. What a request waits for a free connection counts into
its time.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ops.local.server import LOOPBACK

TIMEOUT_S = 30.0
# What may be under way at once; beyond it the service has long been too slow for the rate.
CONNECTIONS = 64


class Connection:
    """A kept-alive HTTP connection, used by one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, method: str, path: str, *, user: int, body: dict[str, object] | None = None) -> dict[str, Any]:
        """Send a request and return the JSON object of a success.

        Raises:
            OSError: the answer was none, or another one.
        """
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nAuthorization: {user}\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + content)
        status, *headers = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in headers if line)
        answer = await self._reader.readexactly(int(fields["content-length"]))
        if not status.split()[1].startswith("2"):
            raise OSError(f"{method} {path}: {status}: {answer[:200].decode(errors='replace')}")
        return dict(json.loads(answer))

    def close(self) -> None:
        """Close it."""
        self._writer.close()


@dataclass(slots=True)
class Pool:
    """Connections to a port, at most :data:`CONNECTIONS`; the one used last is used next."""

    port: int
    free: list[Connection]
    seats: asyncio.Semaphore

    async def use(self, call: Callable[[Connection], Awaitable[float]]) -> float:
        """Call with a connection that is nobody else's meanwhile."""
        async with self.seats:
            if not self.free:
                self.free.append(Connection(*await asyncio.open_connection(LOOPBACK, self.port)))
            connection = self.free.pop()
            found = await asyncio.wait_for(call(connection), TIMEOUT_S)
            self.free.append(connection)
            return found


async def at_rate(
    port: int, rate: int, count: int, call: Callable[[Connection, int], Awaitable[float]]
) -> list[tuple[float, float]]:
    """Make ``count`` calls, ``rate`` a second.

    Returns:
        For each, the monotonic instant at which it was due, and what the call returned.
    """
    pool = Pool(port, [], asyncio.Semaphore(CONNECTIONS))
    begin = time.monotonic()

    async def one(number: int) -> tuple[float, float]:
        due = begin + number / rate
        await asyncio.sleep(due - time.monotonic())
        return due, await pool.use(lambda connection: call(connection, number))

    try:
        return await asyncio.gather(*(one(number) for number in range(count)))
    finally:
        for connection in pool.free:
            connection.close()
