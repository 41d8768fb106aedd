"""As many gRPC calls as a server answers: a closed loop of HTTP/2 connections with some calls under way on each.

It is to gRPC what :mod:`bench.flood` is to HTTP, and as cheap: a gRPC library would cost more than the server. Calls
are ready-made frames, into which only the stream's id is put; of an answer it looks at no more than the heads of its
frames (RFC 9113). A call has succeeded when trailers end it after a message, and has failed when they come without one.
"""

import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack

from bench.flood import SILENCE_S, Flooded, FloodError
from ops.local.server import LOOPBACK

# What stands before, between and after the two places of a stream's id: one in the headers' frame, one in the data's.
Call = tuple[bytes, bytes, bytes]
Ask = Callable[[], Call]

# Ids of streams are odd, grow, and end with the 31 bits that they have.
LAST_STREAM = 2**31 - 1
# More than all answers of a window on one connection; as little as malloc has at hand, see bench/flood.py.
_CHUNK = 65_536
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_HEAD = 9
# Length and type in one, flags, stream.
_read_head = struct.Struct(">IBI").unpack_from
# Each stream, and all of them together, may be sent as much as HTTP/2 can say: no answer waits for us to allow it.
_MOST, _DEFAULT_WINDOW = 2**31 - 1, 65_535
_ENABLE_PUSH, _INITIAL_WINDOW_SIZE = 2, 4


def call(path: str, *, user: int, message: bytes) -> Call:
    """Spell a call of a user.

    Args:
        path: such as ``/wallet.v1.WalletService/GetBalance``.
        user: in ``authorization``.
        message: as protobuf has serialized it.
    """
    # RFC 7541: a field that is in the static table by its index, others as literals that no table keeps, so that the
    # same bytes say the same on every connection.
    fields = (
        b"\x83\x86",  # :method POST, :scheme http
        b"\x04" + _text(path.encode()),
        b"\x01" + _text(LOOPBACK.encode()),  # :authority
        b"\x00" + _text(b"te") + _text(b"trailers"),
        b"\x0f\x10" + _text(b"application/grpc"),  # content-type
        b"\x0f\x08" + _text(b"%d" % user),  # authorization
    )
    headers = b"".join(fields)
    data = b"\x00" + len(message).to_bytes(4) + message  # not compressed
    return (
        _head(_HEADERS, _END_HEADERS, len(headers)),
        headers + _head(_DATA, _END_STREAM, len(data)),
        data,
    )


def flood(port: int, ask: Ask, *, connections: int, streams: int, seconds: float) -> Flooded:
    """Call on new connections for some seconds, then wait until all that is under way is answered.

    The window begins when every connection has had its first answer; see :func:`bench.flood.flood`.

    Args:
        port: of the server.
        ask: gives the next call. All that are under way on a connection are to be less than the 64 KiB that HTTP/2
            lets anybody send before he is allowed more.
        connections: at a time.
        streams: calls under way at a time on each of them.
        seconds: of the window.

    Raises:
        FloodError: a call was not answered, or with an error.
    """
    with ExitStack() as stack:
        crowd = _Crowd(stack, port, ask, connections, streams)
        answers = 0
        while crowd.has_silent():
            answers += crowd.turn()
        counted, began = 0, time.perf_counter()
        end = began + seconds
        while (now := time.perf_counter()) < end:
            counted += crowd.turn()
        return Flooded(rate=counted / (now - began), answers=answers + counted + crowd.finish())


class _Line:
    """A connection, and the calls under way on it."""

    def __init__(self, connection: socket.socket) -> None:
        self.number = connection.fileno()
        self.open = 0
        self.is_silent = True
        self.close = connection.close
        self._send, self._recv = connection.send, connection.recv
        self._stream = 1
        self._received = b""
        # Streams that a message has come on, and no end.
        self._answered: set[int] = set()

    def greet(self) -> None:
        """Say what begins a connection."""
        settings = struct.pack(">HIHI", _ENABLE_PUSH, 0, _INITIAL_WINDOW_SIZE, _MOST)
        self._say(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, struct.pack(">I", _MOST - _DEFAULT_WINDOW))
        )

    def ask(self, asks: Ask, count: int) -> None:
        """Send so many calls, or as many as it still has ids for."""
        first = self._stream
        after = self._stream = min(first + 2 * count, LAST_STREAM + 2)
        calls = [stream.to_bytes(4).join(asks()) for stream in range(first, after, 2)]
        if calls:
            self.open += len(calls)
            self._say(b"".join(calls))

    def hear(self) -> int:
        """Read what has come, and return how many calls it ends.

        Raises:
            FloodError: one of them ends without an answer, or the connection does.
        """
        piece = self._recv(_CHUNK)
        if not piece:
            raise FloodError("the server hung up")
        received = self._received + piece if self._received else piece
        at, ended, answered, last = 0, 0, self._answered, len(received) - _HEAD
        while at <= last:
            word, flags, stream = _read_head(received, at)
            after = at + _HEAD + (word >> 8)
            if after - _HEAD > last:
                break
            kind = word & 0xFF
            if kind == _DATA:
                answered.add(stream)
            elif kind == _HEADERS:
                if flags & _END_STREAM:
                    if stream not in answered:
                        raise FloodError(f"a call failed: {received[at + _HEAD : after]!r}")
                    answered.remove(stream)
                    ended += 1
            elif kind != _WINDOW_UPDATE:
                self._heed(kind, flags, received[at + _HEAD : after])
            at = after
        self._received = received[at:]
        self.open -= ended
        if ended:
            self.is_silent = False
        return ended

    def _heed(self, kind: int, flags: int, payload: bytes) -> None:
        """Do what the server's frame asks for."""
        if kind == _SETTINGS and not flags & _ACK:
            self._say(_frame(_SETTINGS, _ACK, b""))
        elif kind == _PING and not flags & _ACK:
            self._say(_frame(_PING, _ACK, payload))
        elif kind == _RST_STREAM:
            raise FloodError(f"a call was reset with error {int.from_bytes(payload)}")
        elif kind == _GOAWAY:
            raise FloodError(f"the server took leave with error {int.from_bytes(payload[4:8])}: {payload[8:]!r}")

    def _say(self, said: bytes) -> None:
        # Calls are short, and answered before the next ones: there is always room to send.
        if self._send(said) != len(said):
            raise FloodError("the server does not read")


class _Crowd:
    """All connections, and one way to wait for them."""

    def __init__(self, stack: ExitStack, port: int, ask: Ask, connections: int, streams: int) -> None:
        self._stack, self._port, self._ask, self._streams = stack, port, ask, streams
        self._poll = stack.enter_context(select.epoll())
        self._lines: dict[int, _Line] = {}
        for _ in range(connections):
            self._connect()

    def has_silent(self) -> bool:
        """Whether a connection has had no answer yet."""
        return any(line.is_silent for line in self._lines.values())

    def turn(self) -> int:
        """Wait until something comes, put a new call in the place of each that is answered; return how many were.

        Raises:
            FloodError: nothing comes, or something else than an answer.
        """
        answers = 0
        for line in self._ready():
            if ended := line.hear():
                answers += ended
                line.ask(self._ask, ended)
                if not line.open:  # it has no ids left
                    self._lines.pop(line.number).close()
                    self._connect()
        return answers

    def finish(self) -> int:
        """Wait for all that is under way; return how many calls that was.

        Raises:
            FloodError: see :meth:`turn`.
        """
        answers = 0
        while any(line.open for line in self._lines.values()):
            answers += sum(line.hear() for line in self._ready())
        return answers

    def _ready(self) -> list[_Line]:
        ready = self._poll.poll(SILENCE_S)
        if not ready:
            raise FloodError("the server has stopped answering")
        return [self._lines[number] for number, _ in ready]

    def _connect(self) -> None:
        connection = self._stack.enter_context(socket.create_connection((LOOPBACK, self._port), timeout=SILENCE_S))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)  # as in bench/flood.py
        self._poll.register(connection, select.EPOLLIN)
        line = self._lines[connection.fileno()] = _Line(connection)
        line.greet()
        line.ask(self._ask, self._streams)


def _text(value: bytes) -> bytes:
    """Spell a string of HPACK as it is, not in Huffman's code."""
    if len(value) >= 127:
        raise ValueError(f"{value[:20]!r}… takes more than a byte for its length")
    return bytes([len(value)]) + value


def _head(kind: int, flags: int, length: int) -> bytes:
    """Spell the head of a frame up to the stream's id."""
    return length.to_bytes(3) + bytes([kind, flags])


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    """Spell a frame that is about the connection."""
    return _head(kind, flags, len(payload)) + bytes(4) + payload
