"""Whether a broker answers, asked on a socket of one's own: the client's questions hold up all greenlets of a process.

That it takes a connection says little: the system does that for a broker that hangs.
"""

import socket
import ssl
import struct
import time
from contextlib import closing, suppress

from config import Settings

# How long a broker may take, for each step.
TIMEOUT_S = 0.5
# Others are asked as long as this is not over.
PATIENCE_S = 1.0
# ApiVersions, version 0, which every broker answers to whoever asks, also before he has proved who he is. Of the answer
# only the number that was given to the question matters. Source: Kafka's protocol guide.
_NUMBER = 20260101
_QUESTION = struct.pack(">ihhih6s", 16, 18, 0, _NUMBER, 6, b"wallet")
_ANSWER = struct.Struct(">ii")


def answers(settings: Settings) -> bool:
    """Whether one of the brokers that are named answers."""
    until = time.monotonic() + PATIENCE_S
    for address in (settings.kafka_brokers or "").split(","):
        if _answers(address.strip(), settings):
            return True
        if time.monotonic() > until:
            break
    return False


def _answers(address: str, settings: Settings) -> bool:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    with suppress(OSError, ValueError), closing(_connect(host, int(port), settings)) as line:
        line.sendall(_QUESTION)
        heard = b""
        while len(heard) < _ANSWER.size:
            if not (more := line.recv(_ANSWER.size - len(heard))):
                return False
            heard += more
        return bool(_ANSWER.unpack(heard)[1] == _NUMBER)
    return False


def _connect(host: str, port: int, settings: Settings) -> socket.socket:
    plain = socket.create_connection((host, port), timeout=TIMEOUT_S)
    if not settings.kafka_security_protocol.endswith("SSL"):
        return plain
    try:
        return ssl.create_default_context(cafile=settings.kafka_ssl_ca).wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise
