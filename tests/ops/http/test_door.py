"""A client is waited for so long and takes in so much, and as long as it talks others are heard as well."""

from collections.abc import Iterator

import gevent
import pytest
from gevent import socket

from ops.http.door import Connection
from ops.http.framing import TooSlowError, UnreadableError


@pytest.fixture
def connection() -> Iterator[Connection]:
    """A connection whose client has always said more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b" " * 10_000)
        yield Connection(ours)


def test_others_come_first(connection: Connection) -> None:
    turns: list[str] = []
    gevent.spawn(turns.append, "another")
    assert len(connection.recv(100)) == 100
    assert turns == ["another"]


def test_who_never_makes_us_wait_is_ended_in_time_all_the_same(connection: Connection) -> None:
    connection.wait(60.0)
    assert len(connection.recv(100)) == 100
    connection.wait(0.0)
    with pytest.raises(TooSlowError):
        connection.recv(100)


def test_no_more_is_taken_in_than_may_be(connection: Connection) -> None:
    connection.left = 150
    assert len(connection.recv(150)) == 150
    with pytest.raises(UnreadableError):
        connection.recv(1)
