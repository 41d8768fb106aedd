"""A TCP proxy that causes the faults a network has: lost replies, silence, broken and refused connections."""

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_CHUNK = 65_536


class TcpProxy:
    """Stands before a server and passes bytes on until told otherwise. Use it as a context manager."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = ""
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._refusing = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()
        self._cut_after: Callable[[bytes], bool] | None = None
        self._closed = False
        self.cuts = 0
        self.accepted = 0

    @classmethod
    def before(cls, url: str) -> Self:
        """Make a proxy for a server's URL; its own URL is then in ``url``."""
        parts = urlsplit(url)
        proxy = cls((parts.hostname or "127.0.0.1", parts.port or 0))
        userinfo, at, _ = parts.netloc.rpartition("@")
        proxy.url = urlunsplit(parts._replace(netloc=f"{userinfo}{at}127.0.0.1:{proxy.port}"))
        return proxy

    def lose_reply_to(self, request: Callable[[bytes], bool]) -> None:
        """Pass the next request that matches on to the server, and cut the connection when its reply comes."""
        with self._lock:
            self._cut_after = request

    def hold(self) -> None:
        """Keep connections open, and let nothing through any more."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let everything through again, what was held included."""
        self._flowing.set()

    def break_all(self) -> None:
        """Cut every connection that is open."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _close(*pair)

    def refuse(self, *, refusing: bool = True) -> None:
        """Cut every connection, and every new one as soon as it is made."""
        if refusing:
            self._refusing.set()
            self.break_all()
        else:
            self._refusing.clear()

    def refuse_new(self) -> None:
        """Cut every new connection; those that are open stay."""
        self._refusing.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._flowing.set()
        # Closing alone does not wake a thread that is in accept().
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.break_all()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
                self.accepted += 1
            except OSError:
                return
            if self._refusing.is_set():
                _close(client)
                continue
            try:
                server = socket.create_connection(self._upstream)
            except OSError:
                _close(client)
                continue
            with self._lock:
                self._pairs.append((client, server))
            if self._refusing.is_set():  # told so while this one was being accepted
                self.break_all()
                continue
            threading.Thread(target=self._pump, args=(client, server), daemon=True).start()

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        cutting = False
        try:
            while True:
                readable, _, _ = select.select([client, server], [], [])
                self._flowing.wait()
                for source in readable:
                    data = source.recv(_CHUNK)
                    if not data:
                        return
                    if source is client:
                        cutting = self._is_marked(data) or cutting
                        server.sendall(self._translate(data))
                    elif cutting:
                        self.cuts += 1
                        return
                    else:
                        client.sendall(data)
        except (OSError, ValueError):
            return
        finally:
            _close(client, server)

    def _translate(self, data: bytes) -> bytes:
        """Return what the server is sent for this."""
        return data

    def _is_marked(self, data: bytes) -> bool:
        with self._lock:
            if self._cut_after is None or not self._cut_after(data):
                return False
            self._cut_after = None
            return True


class CountingProxy(TcpProxy):
    """Remembers what was sent to the server, message by message."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        super().__init__(upstream)
        self.sent: list[bytes] = []

    def _is_marked(self, data: bytes) -> bool:
        self.sent.append(data)
        return super()._is_marked(data)

    def questions(self) -> list[int]:
        """How many scripts each message of requests has called; the pulse has messages of its own."""
        return [data.count(b"EVALSHA") for data in self.sent if b"EVALSHA" in data]


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
