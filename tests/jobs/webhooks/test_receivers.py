"""A POST to a receiver that nobody trusts."""

import itertools
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.server import HTTPServer
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from jobs.webhooks import keeping, resolving
from jobs.webhooks.keeping import KEPT_S, Connection, Kept
from jobs.webhooks.posting import EXCERPT_BYTES, MOST_READ_BYTES, Poster, Undelivered
from jobs.webhooks.resolving import NotResolved, resolve
from jobs.webhooks.targets import MAX_URL, BadTarget, check_url, parse
from tests.certificates import make_certificate
from tests.jobs.webhooks.receivers import Receiver, Reply

LOOPBACK = (ip_network("127.0.0.0/8"),)
FIRST_ALONE = (ip_network("127.0.0.1/32"),)
# Generous for what answers, and short for what never does.
SOON_S = 0.5


@pytest.fixture
def poster() -> Iterator[Poster]:
    with closing(Poster(LOOPBACK)) as poster:
        yield poster


@pytest.fixture
def picky() -> Iterator[Poster]:
    """One that reaches a single address of this machine."""
    with closing(Poster(FIRST_ALONE)) as poster:
        yield poster


@contextmanager
def talking(*parts: bytes, for_ever: bytes = b"", at: str = "127.0.0.1") -> Iterator[tuple[str, list[int]]]:
    """Let a server say this to whoever comes, and the last of it for ever; gives its URL, and what it could send."""
    sent: list[int] = []
    with socket.create_server((at, 0)) as server:

        def talk() -> None:
            try:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65_536)
                    for part in parts:
                        connection.sendall(part)
                    while for_ever:
                        sent.append(connection.send(for_ever))
                        if len(for_ever) == 1 and over.wait(0.01):
                            return
                    over.wait(60)
            except OSError:
                pass

        over = threading.Event()
        thread = threading.Thread(target=talk)
        thread.start()
        try:
            yield f"http://{at}:{server.getsockname()[1]}/", sent
        finally:
            over.set()
            server.close()
            thread.join()


# What a receiver may do


def test_an_answer_comes_with_the_beginning_of_its_body(poster: Poster, receiver: Receiver) -> None:
    receiver.answering(Reply(503, {"Retry-After": "7"}, b"x" * 2_000))
    answered = poster.post(receiver.url, {"X-One": "1"}, b"body")
    assert (answered.status, answered.excerpt, answered.retry_after) == (503, b"x" * EXCERPT_BYTES, "7")
    assert receiver.received[0].body == b"body"
    assert receiver.received[0].headers["x-one"] == "1"
    assert receiver.received[0].headers["host"] == f"127.0.0.1:{receiver.port}"


@pytest.mark.parametrize("parts", [(), (b"HTTP/1.1 200 OK\r\n",), (b"HTTP/1.1 200",)], ids=["silent", "half", "less"])
def test_who_does_not_answer_in_time_has_not(poster: Poster, parts: tuple[bytes, ...]) -> None:
    with talking(*parts) as (url, _), pytest.raises(Undelivered, match=r"took longer than 0\.5 s"):
        poster.post(url, {}, b"", within_s=SOON_S)


def test_who_sends_a_byte_at_a_time_does_not_get_more_of_it(poster: Poster) -> None:
    with talking(b"HTTP/1.1 200 OK\r\nX-Slow: ", for_ever=b"x") as (url, _), pytest.raises(Undelivered, match="longer"):
        poster.post(url, {}, b"", within_s=SOON_S)


def test_who_takes_nothing_does_not_either(poster: Poster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(Undelivered, match="longer"):
        poster.post(f"http://127.0.0.1:{deaf.getsockname()[1]}/", {}, b"x" * (16 << 20), within_s=SOON_S)


def test_of_headers_without_end_a_bounded_amount_is_read(poster: Poster) -> None:
    with (
        talking(b"HTTP/1.1 200 OK\r\n", for_ever=b"X-A: " + b"a" * 4_000 + b"\r\n") as (url, sent),
        pytest.raises(Undelivered, match="LineTooLong"),
    ):
        poster.post(url, {}, b"")
    assert sum(sent) < MOST_READ_BYTES + (16 << 20)  # and what the system's buffers take


def test_of_a_body_without_end_the_beginning_is_read(poster: Poster) -> None:
    with talking(b"HTTP/1.1 200 OK\r\n\r\n", for_ever=b"y" * 4_000) as (url, _):
        assert poster.post(url, {}, b"").excerpt == b"y" * EXCERPT_BYTES


def test_of_a_chunk_of_less_than_nothing_no_more_is_kept(poster: Poster) -> None:
    head = b"HTTP/1.1 500 Error\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n"
    with talking(head + b"z" * 3_000) as (url, _):
        answered = poster.post(url, {}, b"", within_s=SOON_S)
    assert (answered.status, len(answered.excerpt)) == (500, EXCERPT_BYTES)


def test_what_comes_before_the_answer_is_none(poster: Poster) -> None:
    interim = [b"HTTP/1.1 %d Interim\r\nLink: </a>\r\n\r\n" % status for status in (100, 102, 103, 199)]
    with talking(b"".join(interim) + b"HTTP/1.1 204 No Content\r\n\r\n") as (url, _):
        assert poster.post(url, {}, b"").status == 204
    with talking(b"HTTP/1.1 101 Switching Protocols\r\n\r\n") as (url, _):
        assert poster.post(url, {}, b"", within_s=SOON_S).status == 101


def test_an_answer_never_comes_though_what_comes_before_it_goes_on(poster: Poster) -> None:
    with (
        talking(for_ever=b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n") as (url, _),
        pytest.raises(Undelivered, match="LineTooLong"),
    ):
        poster.post(url, {}, b"")


def test_a_status_counts_though_its_body_does_not_come(poster: Poster) -> None:
    with talking(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc") as (url, _):
        answered = poster.post(url, {}, b"", within_s=SOON_S)
    assert (answered.status, answered.excerpt) == (200, b"abc")


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\r\n" * 9])
def test_what_is_no_http_is_no_answer(poster: Poster, said: bytes) -> None:
    with talking(said) as (url, _), pytest.raises(Undelivered, match="did not answer by HTTP"):
        poster.post(url, {}, b"", within_s=SOON_S)


def test_nobody_there_is_no_answer(poster: Poster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Undelivered, match="refused"):
        poster.post(f"http://127.0.0.1:{port}/", {}, b"")


def test_no_proxy_is_asked(poster: Poster, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    monkeypatch.setenv("no_proxy", "")
    assert poster.post(receiver.url, {}, b"").status == 204


# Whom it reaches


class Names:
    """A resolver in place of the system's: each name leads where a test says, look after look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks: list[str] = []
        self._known: dict[str, Iterator[str]] = {}
        really = socket.getaddrinfo

        def look_up(host: Any, port: Any, *arguments: Any, **named: Any) -> Any:
            if host not in self._known:
                return really(host, port, *arguments, **named)
            self.looks.append(host)
            return [each for address in next(self._known[host]).split() for each in really(address, port, 0, 1)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    def lead(self, name: str, *addresses: str) -> None:
        """Let a name lead to these one after the other, and to the last one from then on."""
        self._known[name] = itertools.chain(addresses, itertools.repeat(addresses[-1]))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


def test_what_was_checked_is_connected_to_though_the_name_leads_elsewhere_a_moment_later(
    names: Names, receiver: Receiver, picky: Poster
) -> None:
    with socket.create_server(("127.0.0.2", receiver.port)) as inside:
        inside.settimeout(0)
        names.lead("rebinds.test", "127.0.0.1", "127.0.0.2")
        assert picky.post(f"http://rebinds.test:{receiver.port}/", {}, b"").status == 204
        assert names.looks == ["rebinds.test"]  # once: what was looked up was checked, and used
        with pytest.raises(BlockingIOError):
            inside.accept()
    assert receiver.received[0].headers["host"] == f"rebinds.test:{receiver.port}"


def test_a_name_that_led_to_a_good_address_when_it_was_registered_is_checked_again_when_it_is_used(
    names: Names, receiver: Receiver
) -> None:
    with socket.create_server(("127.0.0.2", receiver.port)) as inside:
        inside.settimeout(0)
        url = f"http://rebinds.test:{receiver.port}/"
        names.lead("rebinds.test", "127.0.0.1", "127.0.0.2")
        check_url(url, allowed=FIRST_ALONE)
        with pytest.raises(Undelivered, match="WEBHOOK_ALLOW_NETWORKS"):
            Poster(FIRST_ALONE).post(url, {}, b"")
        with pytest.raises(BlockingIOError):
            inside.accept()
    assert receiver.received == []


def test_one_bad_address_among_good_ones_is_one_too_many(names: Names) -> None:
    names.lead("both.test", "8.8.8.8 169.254.169.254")
    with pytest.raises(Undelivered, match="not public"):
        Poster(()).post("https://both.test/", {}, b"")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "localhost", "[::1]", "[::ffff:7f00:1]"]
)
def test_no_spelling_of_an_address_gets_round_the_check(host: str) -> None:
    with pytest.raises(Undelivered):
        Poster(()).post(f"https://{host}/", {}, b"")
    with pytest.raises(BadTarget):
        check_url(f"https://{host}/", allowed=())


def test_the_next_address_is_tried_if_one_does_not_answer(names: Names, receiver: Receiver, poster: Poster) -> None:
    names.lead("two.test", "127.0.0.3 127.0.0.1")
    assert poster.post(f"http://two.test:{receiver.port}/", {}, b"").status == 204


def test_a_name_is_waited_for_in_bounded_time_by_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def look_up(*_: object, **__: object) -> None:
        over.wait(60)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(resolving, "_free", threading.BoundedSemaphore(1))
    try:
        with pytest.raises(NotResolved, match="in time"):
            resolve("slow.test", 443, within_s=0.05)
        with pytest.raises(NotResolved, match="too many"):
            resolve("slow.test", 443, within_s=0.05)
    finally:
        over.set()


# Connections that are kept


def test_what_follows_goes_by_the_same_connection(poster: Poster, receiver: Receiver) -> None:
    receiver.answering(Reply(), Reply(200, body=b"x" * EXCERPT_BYTES), Reply(200, {"Content-Length": "0"}))
    for _ in range(4):
        assert 200 <= poster.post(receiver.url, {}, b"x").status <= 204
    assert (receiver.connections, len(receiver.received)) == (1, 4)


@pytest.mark.parametrize(
    "reply",
    [Reply(500), Reply(302), Reply(200, body=b"x" * (EXCERPT_BYTES + 1)), Reply(200, {"Connection": "close"})],
    ids=["failed", "redirected", "not read to its end", "to be closed"],
)
def test_after_what_is_not_plainly_a_whole_success_another_is_made(
    poster: Poster, receiver: Receiver, reply: Reply
) -> None:
    receiver.answering(reply)
    for _ in range(2):
        poster.post(receiver.url, {}, b"")
    assert receiver.connections == 2


def test_one_that_was_closed_meanwhile_is_no_failure(poster: Poster, receiver: Receiver) -> None:
    receiver.answering(Reply(hangs_up=True))
    assert {poster.post(receiver.url, {}, b"").status for _ in range(5)} == {204}
    assert (receiver.connections, len(receiver.received)) == (5, 5)


def test_one_that_is_closed_in_place_of_an_answer_is_no_failure_once(poster: Poster, receiver: Receiver) -> None:
    def answer_all_but_the_second(_: object) -> Reply:
        if len(receiver.received) == 2:
            raise ConnectionAbortedError
        return Reply()

    receiver.answer = answer_all_but_the_second
    assert poster.post(receiver.url, {}, b"").status == 204
    assert poster.post(receiver.url, {}, b"").status == 204
    assert (receiver.connections, len(receiver.received)) == (2, 3)


def test_whom_one_leads_to_is_looked_up_and_checked_each_time(names: Names, receiver: Receiver, picky: Poster) -> None:
    """As it was when it was made it would do; the name leads elsewhere, and what is there may not be reached."""
    names.lead("rebinds.test", "127.0.0.1", "127.0.0.2")
    url = f"http://rebinds.test:{receiver.port}/"
    assert picky.post(url, {}, b"").status == 204
    with pytest.raises(Undelivered, match="WEBHOOK_ALLOW_NETWORKS"):
        picky.post(url, {}, b"")
    assert len(receiver.received) == 1


def test_one_to_where_a_name_led_before_is_not_used(names: Names, poster: Poster, receiver: Receiver) -> None:
    names.lead("moves.test", "127.0.0.1", "127.0.0.2")
    url = f"http://moves.test:{receiver.port}/"
    assert poster.post(url, {}, b"").status == 204
    with pytest.raises(Undelivered, match="refused"):
        poster.post(url, {}, b"")
    assert len(receiver.received) == 1


def test_of_two_names_for_one_address_each_has_its_own(names: Names, poster: Poster, receiver: Receiver) -> None:
    for name in ("one.test", "two.test"):
        names.lead(name, "127.0.0.1")
        assert poster.post(f"http://{name}:{receiver.port}/", {}, b"").status == 204
    assert receiver.connections == 2


def test_none_is_kept_for_long() -> None:
    clock = iter((0.0, KEPT_S - 0.1, KEPT_S))
    kept = Kept(clock=lambda: next(clock))
    address, target = ip_address("127.0.0.1"), parse("http://127.0.0.1:9/")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(socket=ours, address=address, target=target, made_at=0.0)
        kept.give(connection)
        assert kept.take(target, [address]) is connection
        kept.give(connection)
        assert theirs.recv(1) == b""
        assert kept.take(target, [address]) is None


def test_what_nobody_wants_is_closed(poster: Poster, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    poster.post(receiver.url, {}, b"")
    monkeypatch.setattr(keeping, "KEPT_S", 0.0)
    poster.rest()
    poster.post(receiver.url, {}, b"")
    assert receiver.connections == 2


def test_who_serves_one_connection_after_the_other_comes_to_all(
    poster: Poster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "KEPT_S", 0.1)
    over = threading.Event()

    def rest() -> None:
        while not over.wait(0.02):
            poster.rest()

    with Receiver(kind=HTTPServer) as receiver, ThreadPoolExecutor(5) as pool:
        resting = pool.submit(rest)
        try:
            posts = [pool.submit(poster.post, receiver.url, {}, b"x") for _ in range(40)]
            assert {each.result().status for each in posts} == {204}
        finally:
            over.set()
            resting.result()
            poster.close()
    assert len(receiver.received) == 40


def test_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MOST_KEPT", 1)
    kept = Kept()
    address, target = ip_address("127.0.0.1"), parse("http://127.0.0.1:9/")
    with ExitStack() as sockets:
        pairs = [[sockets.enter_context(each) for each in socket.socketpair()] for _ in range(2)]
        for ours, _ in pairs:
            kept.give(Connection(socket=ours, address=address, target=target, made_at=time.monotonic()))
        assert pairs[1][1].recv(1) == b""
        assert (found := kept.take(target, [address])) is not None
        assert found.socket is pairs[0][0]
        assert kept.take(target, [address]) is None


# TLS


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[tuple[Receiver, Path]]:
    certificate = make_certificate(tmp_path, for_name="localhost")
    with Receiver(certificate=certificate) as receiver:
        yield receiver, certificate


def test_a_certificate_has_to_be_of_somebody_who_is_believed_and_for_this_host(
    encrypted: tuple[Receiver, Path],
) -> None:
    receiver, certificate = encrypted
    with closing(Poster(LOOPBACK, tls=ssl.create_default_context(cafile=certificate))) as trusting:
        for _ in range(2):
            assert trusting.post(f"https://localhost:{receiver.port}/", {}, b"x").status == 204
        assert receiver.connections == 1
        with pytest.raises(Undelivered, match="certificate is not valid"):
            trusting.post(receiver.url, {}, b"")  # by its address
    with pytest.raises(Undelivered, match="certificate is not valid"):
        Poster(LOOPBACK).post(f"https://localhost:{receiver.port}/", {}, b"")
    assert len(receiver.received) == 2


def test_a_handshake_that_does_not_end_is_not_waited_for(poster: Poster) -> None:
    with talking() as (url, _), pytest.raises(Undelivered, match="longer"):
        poster.post(url.replace("http:", "https:"), {}, b"", within_s=SOON_S)


def test_who_speaks_no_tls_is_told_nothing(poster: Poster) -> None:
    with talking(b"HTTP/1.1 200 OK\r\n\r\n") as (url, _), pytest.raises(Undelivered, match="TLS"):
        poster.post(url.replace("http:", "https:"), {}, b"")


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "", "nothing", "//a.test/", "ftp://a.test/", "file:///etc/passwd", "https://", "https:///path", "https://:443/",
        "https://user@a.test/", "https://user:secret@a.test/", "https://a.test/#part", "https://a.test:0/",
        "https://a.test:65536/", "https://a.test:x/", "https://a.test/ path", "https://a.test/\n", "https://a.test\\@b/",
        "https://\u00e4.test/", "https://[::1/", "https://a.test/" + "x" * MAX_URL,
        "https://./", "https://.../", "https://a..b/", "https://.a/", "https://" + "a" * 64 + ".test/",
    ],
)  # fmt: skip
def test_a_url_that_nothing_is_sent_to(url: str) -> None:
    with pytest.raises(BadTarget) as refused:
        parse(url)
    assert "secret" not in str(refused.value)
    with pytest.raises(Undelivered):
        Poster(()).post(url, {}, b"")


def test_a_url_is_taken_apart() -> None:
    assert parse("https://a.test") == (True, "a.test", 443, "/")
    assert parse("https://A.test:8443/x/y?z=1&w") == (True, "a.test", 8443, "/x/y?z=1&w")
    assert parse("http://[::1]:80/") == (False, "::1", 80, "/")
    assert parse("HTTPS://a.test./") == (True, "a.test.", 443, "/")


@pytest.mark.parametrize("host", ["unknown.invalid", "10.0.0.1", "8.8.8.8"])
def test_plain_http_is_for_loopback(host: str) -> None:
    with pytest.raises(BadTarget):
        check_url(f"http://{host}/", allowed=(ip_network("10.0.0.0/8"), *LOOPBACK))


def test_a_name_that_is_not_known_yet_may_be_registered() -> None:
    check_url("https://unknown.invalid/", allowed=())
