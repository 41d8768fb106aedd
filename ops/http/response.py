"""gunicorn's answer, sent in one piece: head and body are one system call, and one packet, and not two."""

from gunicorn.http import wsgi


class Response(wsgi.Response):
    """Holds its head back until there is a body to send with it, or the end."""

    _held = b""

    def send_headers(self) -> None:
        """Spell the head."""
        if not self.headers_sent:
            lines = self.default_headers()
            lines += [f"{name}: {value}\r\n" for name, value in self.headers]
            self._held = ("".join(lines) + "\r\n").encode("latin-1")
            self.headers_sent = True

    def _emit_body(self, data: bytes) -> None:
        self._send(b"%X\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def close(self) -> None:
        """Send what is left of it."""
        self.send_headers()
        self._send(b"0\r\n\r\n" if self.chunked else b"")

    def _send(self, data: bytes) -> None:
        if data := self._held + data:
            self._held = b""
            self.sock.sendall(data)
