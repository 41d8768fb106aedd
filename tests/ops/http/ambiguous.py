"""Requests that two readers of HTTP could take for different ones, by the place where they could."""

from tests.api.calls import DEPOSIT

HEAD = f"POST {DEPOSIT} HTTP/1.1\r\nHost: x\r\nAuthorization: 1\r\nContent-Type: application/json\r\n".encode()
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
BODY = b'{"amount": 67}'
CHUNKS = b"e\r\n" + BODY + b"\r\n0\r\n\r\n"

# fmt: off
_LINES = (
    b"GET / HTTP/1.9", b"GET / HTTP/2.0", b"GET / HTTP/1.10", b"GET / http/1.1", b"GET /", b"hello", b"PRI * HTTP/2.0",
    b" GET / HTTP/1.1", b"GET  / HTTP/1.1", b"GET\t/\tHTTP/1.1", b"get / HTTP/1.1", b"GET x:80 HTTP/1.1",
    b"GET * HTTP/1.1", b"GET /healthz#x HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /\xff HTTP/1.1",
    b"GET http://[x/ HTTP/1.1", b"GET /" + b"a" * 5_000 + b" HTTP/1.1", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2",
)
_HEADERS = (
    b"X-A: b\x00", b"X-\x00A: b", b"X-A: b\x0bc", b"X-A : b", b": b", b"X-A", b" X-A: b", b"X-A: b\r\n c",
    b"X-A: b\nX-B: c", b"X-A: b\rX-B: c", b"X-A: " + b"a" * 65_536, b"\r\n".join([b"X-A: b"] * 10_000),
    b"Expect: 200-ok", b"Host: y", b"Authorization: 1\r\nAuthorization: 1",
    b"Authorization: 1\r\nX-A: b\r\nauthorization: 2", b"Idempotency-Key: a\r\nIdempotency-Key: b",
    b"Idempotency-Key: a\r\nIDEMPOTENCY-KEY: a",
)
_HOSTS = (b"X-A: b", b"Host: a b", b"Host: x/y", b"Host: a@b", b"Host: \xfc")
_LENGTHS = (
    b"Content-Length: 14\r\nContent-Length: 14", b"Content-Length: 14\r\nContent-Length: 15", b"Content-Length: 14, 14",
    b"Content-Length: +14", b"Content-Length: -14", b"Content-Length: 1 4", b"Content-Length: 1_4", b"Content-Length:",
    b"Content-Length: 0xe", b"Content-Length: 14.0", b"Content-Length: \xb2", b"Content-Length: " + b"9" * 5_000,
)
_CODINGS = (
    b"Transfer-Encoding: identity", b"Transfer-Encoding: identity, chunked", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: gzip",
    b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked;q=1", b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding: ",
    b"Transfer-Encoding: chunked\r\nContent-Length: 14",
)
_CHUNKS = (
    b"-1\r\n" + BODY, b"+e\r\n" + BODY, b"0xe\r\n" + BODY, b"zz\r\n" + BODY, b"e \r\n" + BODY, b"\r\n" + BODY,
    b"1\r\nxx\r\n", b"e\n" + BODY + b"\n0\n\n", b"e;\x00\r\n" + BODY, b"e" + b";a=b" * 5_000 + b"\r\n" + BODY,
    CHUNKS[:-2] + b"Content-Length: 5\r\n\r\n", CHUNKS[:-2] + b"X-A: b\r\n" * 10_000 + b"\r\n",
    # Well-formed, and too much for what is in it.
    (b"1;" + b"a" * 2_000 + b"\r\n \r\n") * 3_000, b"1\r\n \r\n" * 60_000,
)
# fmt: on

REQUESTS = (
    *((line[:40], line + b"\r\nHost: x\r\n\r\n") for line in _LINES),
    *((lines[:40], HEALTH + lines + b"\r\n\r\n") for lines in _HEADERS),
    *((line, b"GET /healthz HTTP/1.1\r\n" + line + b"\r\n\r\n") for line in _HOSTS),
    *((lines[:40], HEAD + lines + b"\r\n\r\n" + BODY) for lines in _LENGTHS),
    *((lines, HEAD + lines + b"\r\n\r\n" + CHUNKS) for lines in _CODINGS),
    *((chunks[:40], CHUNKED + b"\r\n" + chunks) for chunks in _CHUNKS),
    (b"chunks of HTTP/1.0", CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n" + CHUNKS),
    (b"lines that end with LF", (HEAD + b"Content-Length: 14\r\n\r\n").replace(b"\r\n", b"\n") + BODY),
)
