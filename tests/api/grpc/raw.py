"""HTTP/2 by hand, for what no client library would send: heads with any bytes in them, messages that are none."""

import socket
import struct
from collections.abc import Sequence

from tests.api.grpc.server import SERVICE, TIMEOUT_S

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Fields = Sequence[tuple[bytes, bytes]]


def call(port: int, method: str, fields: Fields, payload: bytes) -> bool:
    """Call a method with these fields beside gRPC's own and this for its framed message; return whether it ended.

    What it answered is not read: see what the server has logged of it.
    """
    own = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", (method if method.startswith("/") else f"/{SERVICE.full_name}/{method}").encode()),
        (b":authority", b"wallet"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    head = b"".join(_literal(name, value) for name, value in (*own, *fields))
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, 1, head)
            + _frame(_DATA, _END_STREAM, 1, payload)
        )
        return _read_to_end(connection)


def framed(message: bytes) -> bytes:
    """Put a message into gRPC's frame, uncompressed."""
    return struct.pack(">BI", 0, len(message)) + message


def _read_to_end(connection: socket.socket) -> bool:
    """Read until the one stream has ended; False: the server has hung up instead."""
    received = b""
    while True:
        while len(received) >= 9 and len(received) >= (size := 9 + int.from_bytes(received[:3])):
            kind, flags = received[3], received[4]
            received = received[size:]
            if kind == _SETTINGS and not flags & _ACK:
                connection.sendall(_frame(_SETTINGS, _ACK, 0, b""))
            if kind == _RST_STREAM or (kind in {_DATA, _HEADERS} and flags & _END_STREAM):
                return True
            if kind == _GOAWAY:
                return False
        try:
            piece = connection.recv(65_536)
        except ConnectionResetError:
            return False
        if not piece:
            return False
        received += piece


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """Spell a field as a literal that no table is to keep (RFC 7541, 6.2.2), without Huffman's code."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    if (length := len(text)) < 127:
        return bytes([length]) + text
    spelled, rest = [127], length - 127
    while rest >= 128:
        spelled.append(rest % 128 + 128)
        rest //= 128
    return bytes([*spelled, rest]) + text
