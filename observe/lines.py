"""Whole lines to a log, of which a full disk costs some and nobody notices more: no line is worth a request.

Several processes write to one log. So a line is one write; and one that the disk took only a part of is ended by the
next, which would otherwise become a part of it.
"""

from collections.abc import Callable
from typing import IO


class Lines:
    """Writes lines; counts those that it loses, and tells how many they were as soon as it can."""

    def __init__(self, out: Callable[[], IO[bytes]], notice: Callable[[int], bytes]) -> None:
        """Open nothing yet.

        Args:
            out: where lines go at the moment. May raise OSError.
            notice: the line that says that so many were lost.
        """
        self._out = out
        self._notice = notice
        self._lost = 0
        self._is_cut = False

    def write(self, text: bytes) -> None:
        """Write one line or several, each with its end, in one go. Raises nothing if that cannot be done."""
        lost = self._lost
        try:
            self._put((b"\n" if self._is_cut else b"") + self._notice(lost) + text if lost else text)
        except (OSError, ValueError):  # a full disk, a pipe that nobody reads any more, a stream that was closed
            self._lost += text.count(b"\n")
        else:
            self._lost -= lost
            self._is_cut = False

    def flush(self) -> None:
        """Nothing is kept back: for whoever takes this for a file."""

    def _put(self, text: bytes) -> None:
        """Write it all: an unbuffered stream takes a part when there is no room for more."""
        out = self._out()
        while text:
            written = out.write(text)
            if not written:
                raise BlockingIOError
            self._is_cut = written < len(text)
            text = text[written:]
        out.flush()
