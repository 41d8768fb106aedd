"""How much of a request has arrived: whether a thread could answer it without waiting for its client.

This only looks for where a request ends. What is in it, and whether it is one at all, is for gunicorn's parser to say,
so whatever looks strange counts as whole: the parser will refuse it without waiting for more.
"""

import re
from enum import Enum, auto

# Of a connection, in memory. What does not fit is read by a thread, and few threads do that.
MOST_HELD_BYTES = 65_536
# Longer than gunicorn lets a request's first line be (limit_request_line).
_MOST_FIRST_LINE_BYTES = 4_096
_FIRST_LINE = re.compile(rb"[A-Z]+ [^ \r\n]+ HTTP/1\.[01]\r\n")
_FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding|expect)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_MOST_CHUNK_LINE_BYTES = 256
_HEAD_END = b"\r\n\r\n"


class Progress(Enum):
    """How far a request has come."""

    PARTIAL = auto()  # more is to come
    WHOLE = auto()  # all of it is here
    GONE = auto()  # its client has hung up
    OPEN = auto()  # it has to be read from the connection: it is large, or its client waits to be told to go on


class Arrival:
    """A request that arrives, piece by piece."""

    __slots__ = ("_chunk_at", "_needed", "data")

    def __init__(self) -> None:
        self.data = b""
        # How long it will be; where its next chunk begins. None: not known, it has no chunks.
        self._needed: int | None = None
        self._chunk_at: int | None = None

    def add(self, piece: bytes) -> Progress:
        """Take in what has come, and say how far that is."""
        self.data = self.data + piece if self.data else piece
        if self._needed is None and self._chunk_at is None:
            head_end = self.data.find(_HEAD_END)
            if head_end < 0:
                return self._judge_part_of_head()
            if not self._read_framing(self.data[: head_end + 2], head_end + len(_HEAD_END)):
                return Progress.OPEN
        if self._chunk_at is not None:
            return self._walk_chunks()
        if self._needed is not None and self._needed > MOST_HELD_BYTES:
            return Progress.OPEN
        return Progress.WHOLE if len(self.data) >= (self._needed or 0) else Progress.PARTIAL

    def take(self) -> bytes:
        """Hand over what has come, to begin with the next one."""
        data, self.data, self._needed, self._chunk_at = self.data, b"", None, None
        return data

    def _judge_part_of_head(self) -> Progress:
        line_end = self.data.find(b"\r\n")
        is_hopeless = line_end > _MOST_FIRST_LINE_BYTES or (
            line_end >= 0 and _FIRST_LINE.match(self.data) is None and not self.data.startswith(b"\r\n")
        )
        if is_hopeless or (line_end < 0 and len(self.data) > _MOST_FIRST_LINE_BYTES):
            return Progress.WHOLE
        return Progress.OPEN if len(self.data) > MOST_HELD_BYTES else Progress.PARTIAL

    def _read_framing(self, head: bytes, body_at: int) -> bool:
        """Find out where it ends; return whether that can be waited for."""
        self._needed = body_at
        for name, value in _FRAMING.findall(head):
            match name.lower():
                case b"expect":
                    return False
                case b"transfer-encoding":
                    self._chunk_at = body_at
                case _ if value.strip().isdigit():
                    self._needed = body_at + int(value)
        return True

    def _walk_chunks(self) -> Progress:
        at = self._chunk_at or 0
        while (line := _CHUNK_SIZE.match(self.data, at)) is not None:
            size = int(line[1], 16)
            if size == 0:
                # Trailers, none as a rule, and an empty line.
                is_over = self.data.find(_HEAD_END, line.end() - 2) >= 0
                return Progress.WHOLE if is_over else self._wait()
            at = line.end() + size + 2
            if at > len(self.data):
                return self._wait()
            if self.data[at - 2 : at] != b"\r\n":
                return Progress.WHOLE
            self._chunk_at = at
        rest = len(self.data) - at
        is_strange = b"\r\n" in self.data[at:] or rest > _MOST_CHUNK_LINE_BYTES
        return Progress.WHOLE if is_strange else self._wait()

    def _wait(self) -> Progress:
        return Progress.OPEN if len(self.data) > MOST_HELD_BYTES else Progress.PARTIAL
