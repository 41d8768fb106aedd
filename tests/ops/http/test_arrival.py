"""Where a request ends: however it is cut up, it is whole with its last byte and not before."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ops.http.arrival import MOST_HELD_BYTES, Arrival, Progress

HEAD = b"POST /api/deposit/v1 HTTP/1.1\r\nHost: x\r\nAuthorization: 1\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
REQUESTS = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /healthz HTTP/1.0\r\nHost: x\r\nX-Content-Length: 5\r\n\r\n",
    HEAD + b'Content-Length: 13\r\n\r\n{"amount": 1}',
    HEAD + b'content-length:13 \r\nUser-Agent: x\r\n\r\n{"amount": 1}',
    HEAD + b"Content-Length: 0\r\n\r\n",
    HEAD + b"Content-Length: 8\r\n\r\n\r\n\r\n\r\n\r\n",
    CHUNKED + b"0\r\n\r\n",
    CHUNKED + b'd\r\n{"amount": 1}\r\n0\r\n\r\n',
    CHUNKED + b'1\r\n{\r\n0c;a="b"\r\n"amount": 1}\r\n000\r\nX-Trailer: 1\r\nY: 2\r\n\r\n',
    CHUNKED + b"7\r\n\r\n0\r\n\r\n\r\n0;last\r\n\r\n",
    HEAD + b"Content-Length: " + str(60_000).encode() + b"\r\n\r\n" + b" " * 60_000,
]
NEXT = b"GET / HTTP/1.1\r\n"


def feed(arrival: Arrival, request: bytes, cuts: list[int]) -> list[Progress]:
    ends = [*sorted({cut for cut in cuts if 0 < cut < len(request)}), len(request)]
    return [arrival.add(request[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]


@given(request=st.sampled_from(REQUESTS), cuts=st.lists(st.integers(1, 400) | st.integers(1, 60_200), max_size=12))
def test_a_request_is_whole_with_its_last_byte(request: bytes, cuts: list[int]) -> None:
    arrival = Arrival()
    for _ in range(2):  # and so is the next on the same connection
        *before, last = feed(arrival, request, cuts)
        assert set(before) <= {Progress.PARTIAL}
        assert last is Progress.WHOLE
        assert arrival.take() == request


@pytest.mark.parametrize("request_", [each for each in REQUESTS if len(each) < 1_000])
def test_a_byte_at_a_time_will_do(request_: bytes) -> None:
    *before, last = feed(Arrival(), request_, list(range(len(request_))))
    assert (set(before), last) == ({Progress.PARTIAL}, Progress.WHOLE)


@pytest.mark.parametrize("request_", REQUESTS)
def test_what_is_sent_ahead_comes_along(request_: bytes) -> None:
    arrival = Arrival()
    assert arrival.add(request_ + NEXT) is Progress.WHOLE
    assert arrival.take() == request_ + NEXT


@pytest.mark.parametrize(
    "request_",
    [
        b"hello\r\n",
        b"get / HTTP/1.1\r\n",
        b"GET / HTTP/2.0\r\n",
        b"GET /" + b"a" * 5_000,
        b"\x16\x03\x01\r\n",
        HEAD + b"Content-Length: 1x\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\nhello\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"1\r\naxx",
        CHUNKED + b"1" * 300,
    ],
    ids=lambda value: repr(value[-24:]),
)
def test_what_is_none_is_not_waited_for(request_: bytes) -> None:
    assert Arrival().add(request_) is Progress.WHOLE


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"Expect: 100-continue\r\nContent-Length: 13\r\n\r\n",
        HEAD + f"Content-Length: {MOST_HELD_BYTES}\r\n\r\n".encode(),
        HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
        CHUNKED + b"fffff\r\n" + b" " * MOST_HELD_BYTES,
        HEAD + b"X: " + b"x" * MOST_HELD_BYTES,
        CHUNKED + b"0\r\nX: " + b"x" * MOST_HELD_BYTES,
    ],
    ids=lambda value: repr(value[:90][-24:]),
)
def test_what_cannot_be_held_is_read_by_a_thread(request_: bytes) -> None:
    assert Arrival().add(request_) is Progress.OPEN


@given(
    st.lists(st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n", b"\r\n\r\n", *REQUESTS[:8]]), max_size=8)
)
@example([CHUNKED, b"8\r\n", b"\r\n\r\n"])
def test_nothing_that_is_sent_breaks_it(pieces: list[bytes]) -> None:
    arrival = Arrival()
    for piece in pieces:
        arrival.add(piece)
    assert arrival.take() == b"".join(pieces)
    assert arrival.add(REQUESTS[0]) is Progress.WHOLE
