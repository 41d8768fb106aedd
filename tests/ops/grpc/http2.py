"""HTTP/2 as nobody's library speaks it (RFC 9113): for callers who send what they like, and do not what they should."""

import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

from tests.api.grpc.server import SERVICE, TIMEOUT_S

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
_MOST, _DEFAULT_WINDOW = 2**31 - 1, 65_535
_HEAD = 9

More = tuple[tuple[str, str], ...]


class Frame(NamedTuple):
    """One that has come."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Spell a frame."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def message(payload: bytes) -> bytes:
    """Spell a message of gRPC, not compressed."""
    return b"\x00" + len(payload).to_bytes(4) + payload


def head(method: str, *, user: int | None = 1, more: More = ()) -> bytes:
    """Spell the head of a call in HPACK (RFC 7541), without any table."""
    path = method if method.startswith("/") else f"/{SERVICE.full_name}/{method}"
    fields = [("te", "trailers"), ("content-type", "application/grpc"), *more]
    if user is not None:
        fields.append(("authorization", str(user)))
    spelled = b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)
    return b"\x83\x86\x04" + _text(path) + b"\x01" + _text("127.0.0.1") + spelled


def _text(value: str) -> bytes:
    length, most = len(value), 127
    if length < most:
        return bytes([length]) + value.encode()
    rest, spelled = length - most, bytes([most])
    while rest >= 128:
        spelled += bytes([rest % 128 | 128])
        rest //= 128
    return spelled + bytes([rest]) + value.encode()


class Line:
    """A connection that says what it is told to. Use it as a context manager."""

    def __init__(self, port: int, *, window: int = _MOST) -> None:
        """Greet the server.

        Args:
            port: of the server.
            window: how many bytes may come on each stream.
        """
        self._next = 1
        self._received = b""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, window)
        grown = struct.pack(">I", _MOST - _DEFAULT_WINDOW)
        self.say(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, grown))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def say(self, said: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(said)

    def begin(self, method: str, *, user: int | None = 1, more: More = ()) -> int:
        """Send the head of a call, and nothing after it; return its stream."""
        stream = self._stream()
        self.say(frame(HEADERS, END_HEADERS, stream, head(method, user=user, more=more)))
        return stream

    def ask(self, method: str, payload: bytes = b"", *, user: int | None = 1, more: More = ()) -> int:
        """Send a whole call; return its stream."""
        stream = self._stream()
        heads = frame(HEADERS, END_HEADERS, stream, head(method, user=user, more=more))
        self.say(heads + frame(DATA, END_STREAM, stream, message(payload)))
        return stream

    def reset(self, stream: int) -> None:
        """Take a call back."""
        self.say(frame(RST_STREAM, 0, stream, (8).to_bytes(4)))

    def _stream(self) -> int:
        stream, self._next = self._next, self._next + 2
        return stream

    def frames(self) -> list[Frame]:
        """Return what comes next, at least one frame; nothing: the server has hung up."""
        while True:
            found = self._take()
            if found:
                return found
            try:
                piece = self.socket.recv(65_536)
            except ConnectionError:
                return []
            if not piece:
                return []
            self._received += piece

    def _take(self) -> list[Frame]:
        found = []
        while len(self._received) >= _HEAD:
            end = _HEAD + int.from_bytes(self._received[:3])
            if len(self._received) < end:
                break
            kind, flags = self._received[3], self._received[4]
            stream, payload = int.from_bytes(self._received[5:9]), self._received[_HEAD:end]
            self._received = self._received[end:]
            if kind in (SETTINGS, PING) and not flags & ACK:
                with suppress(ConnectionError):
                    self.say(frame(kind, ACK, 0, payload if kind == PING else b""))
            found.append(Frame(kind, flags, stream, payload))
        return found

    def wait_for_message(self, stream: int) -> None:
        """Wait until something has come on a stream."""
        while found := self.frames():
            if any(each.kind == DATA and each.stream == stream for each in found):
                return
        raise AssertionError("the server has hung up")

    def ends(self, *streams: int) -> dict[int, bytes]:
        """Wait until these streams have ended; return their trailers, or what they were reset with.

        Empty where the server hung up before.
        """
        ended: dict[int, bytes] = {}
        while not ended.keys() >= set(streams):
            found = self.frames()
            if not found:
                return {stream: ended.get(stream, b"") for stream in streams}
            for kind, flags, stream, payload in found:
                if kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM):
                    ended.setdefault(stream, payload)
        return ended


def status_in(trailers: bytes) -> int | None:
    """Return gRPC's code in trailers that no table was used for, None if there is none."""
    _, name, rest = trailers.partition(b"grpc-status")
    return int(rest[1 : 1 + rest[0]]) if name else None
