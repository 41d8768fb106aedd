"""Asking Redis with as little ceremony as redis-py allows: some commands out, their replies in, one round trip.

redis-py's own clients and pipelines do what this does, and cost twice as much for it: with a look at Redis on every
request, that is the difference. Connections, protocol and errors stay redis-py's. Nothing is ever sent twice: whether
a command whose reply was lost may be repeated is for the caller to know.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import redis
from hiredis import pack_command
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.exceptions import NoScriptError, ResponseError

from models import company
from models.sockets import watch

_PIECE_BYTES = 65_536

# What a command may be made of; the first is its name.
Command = tuple[str | bytes | int | float, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, called by its digest."""

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha1(self.text.encode()).hexdigest())  # noqa: S324 - Redis's choice

    @classmethod
    def read(cls, path: Path) -> "Script":
        """Read a script from its file."""
        return cls(path.read_text())

    def call(self, keys: Sequence[str], *arguments: str | bytes | float) -> Command:
        """Return the command that runs it."""
        return ("EVALSHA", self.digest, len(keys), *keys, *arguments)


class _Wire:
    """One connection, and what is needed to see that the server has hung up."""

    __slots__ = ("connection", "has_hung_up")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.connection.connect()
        self.has_hung_up = watch(connection._sock.fileno())  # noqa: SLF001 - can_read() costs ten times as much


class RedisLine:
    """Connections to one Redis, for any number of threads; as many as ever asked at the same time."""

    def __init__(self, client: redis.Redis, scripts: Sequence[Script]) -> None:
        """Connect to nothing yet.

        Args:
            client: whose settings (address, timeouts, credentials) the connections have.
            scripts: those that will be called. The server learns them when it turns out not to know one.
        """
        self._pool = client.connection_pool
        self._scripts = {script.digest: script.text for script in scripts}
        self._idle: deque[_Wire] = deque()
        # How many connections were made so far. As long as there is none more, it is the same server that answers.
        self.connected = 0
        # Is told, before a new connection is used, what INFO says of the server that answers on it.
        self.meet: Callable[[bytes], None] | None = None

    def ask(self, *commands: Command) -> list[Any]:
        """Run commands in one round trip and return their replies, in bytes.

        Raises:
            redis.RedisError: there is no answer, or one of the commands failed.
        """
        replies: list[Any] = company.ask(self, commands) if company.is_in_company() else self._exchange(commands)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return replies

    def answers(self) -> bool:
        """Whether the server answers."""
        try:
            self.ask(("PING",))
        except redis.RedisError:
            return False
        return True

    def answer_together(self, questions: Sequence[Sequence[Command]]) -> list[list[Any]]:
        """Run the commands of several who ask, in one round trip; see :mod:`models.company`.

        Raises:
            redis.RedisError: there is no answer.
        """
        replies = iter(self._exchange([command for commands in questions for command in commands]))
        return [list(islice(replies, len(commands))) for commands in questions]

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Return replies as they came, errors among them."""
        wire = self._take()
        try:
            replies = _exchange(wire.connection, commands)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                replies = self._teach(wire.connection, commands, replies)
        except BaseException:
            wire.connection.disconnect()
            raise
        self._idle.append(wire)
        return replies

    def close(self) -> None:
        """Hang up all that is not in use."""
        while self._idle:
            with suppress(IndexError):  # somebody was faster
                self._idle.pop().connection.disconnect()

    def _take(self) -> _Wire:
        while self._idle:
            with suppress(IndexError):
                wire = self._idle.pop()
                if not wire.has_hung_up():
                    return wire
                wire.connection.disconnect()
        self.connected += 1
        wire = _Wire(self._pool.make_connection())
        if self.meet is not None:
            self._introduce(wire.connection, self.meet)
        return wire

    def _introduce(self, connection: Any, meet: Callable[[bytes], None]) -> None:
        try:
            (info,) = _exchange(connection, [("INFO", "server")])
        except BaseException:
            connection.disconnect()
            raise
        # Whoever does not say who he is, is nobody who is known.
        meet(info if isinstance(info, bytes) else b"")

    def _teach(self, connection: Any, commands: Sequence[Command], replies: list[Any]) -> list[Any]:
        """Load the scripts that the server did not know, and run what it therefore did not."""
        missed = [number for number, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        texts = {self._scripts[str(commands[number][1])] for number in missed}
        _exchange(connection, [("SCRIPT", "LOAD", text) for text in texts])
        again = _exchange(connection, [commands[number] for number in missed])
        for number, reply in zip(missed, again, strict=True):
            replies[number] = reply
        return replies


def _exchange(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """Send commands and read their replies, by the socket and the parser that redis-py has made for a connection."""
    # (The stub of hiredis means tuples of any length.)
    packed = b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type]
    wire, reader = connection._sock, connection._parser._reader  # noqa: SLF001 - its own ways around them cost twice
    replies: list[Any] = []
    try:
        # As a rule all of it fits into the kernel's buffer, and to ask for that buffer's size costs as much as to send.
        if (sent := wire.send(packed)) < len(packed):
            wire.sendall(packed[sent:])
        while len(replies) < len(commands):
            reply = reader.gets()
            if reply is not NOT_ENOUGH_DATA:
                replies.append(reply)
            elif piece := wire.recv(_PIECE_BYTES):
                reader.feed(piece)
            else:
                raise ConnectionError("the server has hung up")
    except TimeoutError as error:
        raise redis.TimeoutError("the server does not answer") from error
    except OSError as error:
        raise redis.ConnectionError(f"the connection broke: {error}") from error
    # A server that is loading its data says so in place of an answer, as if it were not there yet.
    for reply in replies:
        if isinstance(reply, redis.ConnectionError):
            raise reply
    return replies
