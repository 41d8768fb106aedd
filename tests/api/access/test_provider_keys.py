"""Keys come from where the settings say; they are kept when the provider is down, and nobody waits who need not."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from api.access import provider_keys
from api.access.callers import BadCredentials, Caller, KeysUnavailable
from api.access.provider_keys import (
    MAX_BYTES,
    MAX_KEYS,
    PAUSE_S,
    REFRESH_AFTER_S,
    ProviderKeys,
    UnknownKey,
    fetch_keys,
)
from api.access.tokens import TokenVerifier
from tests.api.access.provider import Provider, SigningKey, provider, send
from tests.api.waiters import wait_for

OLD, NEW = SigningKey("old"), SigningKey("new")


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def running() -> Iterator[Provider]:
    """A provider with one key."""
    with provider(OLD) as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    """What the keys go by."""
    return Clock()


@pytest.fixture
def keys(running: Provider, clock: Clock) -> ProviderKeys:
    """The provider's keys, with seats for two who wait."""
    return ProviderKeys(running.url, seats=2, clock=clock)


def is_idle(keys: ProviderKeys) -> bool:
    return keys._fetched is None


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_each_algorithm_is_verified_by_the_providers_key(algorithm: str) -> None:
    key = SigningKey("k", algorithm)
    with provider(key, OLD) as running:
        verifier = TokenVerifier(ProviderKeys(running.url, seats=1))
        assert verifier.verify(key.sign()) == Caller(1)
        forged = SigningKey("k", algorithm)
        with pytest.raises(BadCredentials, match="signature"):
            verifier.verify(forged.sign())


def test_nothing_is_connected_before_the_first_token(keys: ProviderKeys, running: Provider) -> None:
    assert running.asked == 0
    assert keys.get_key("old").key_id == "old"
    keys.get_key("old")
    assert running.asked == 1


def test_keys_can_be_had_beforehand(keys: ProviderKeys, running: Provider) -> None:
    keys.prefetch()
    running.answer = running.refuse
    assert keys.get_key("old").key_id == "old"


def test_without_a_key_id_the_only_key_is_meant(keys: ProviderKeys, running: Provider, clock: Clock) -> None:
    assert keys.get_key(None).key_id == "old"
    running.keys.append(NEW)
    clock.now_s += REFRESH_AFTER_S
    keys.get_key("old")
    wait_for(lambda: running.asked == 2 and is_idle(keys))
    with pytest.raises(UnknownKey):
        keys.get_key(None)


def test_a_key_without_an_id_verifies_tokens_without_one() -> None:
    key = SigningKey(None)
    with provider(key) as running:
        assert TokenVerifier(ProviderKeys(running.url, seats=1)).verify(key.sign()) == Caller(1)


def test_a_new_key_is_found_at_once(keys: ProviderKeys, running: Provider, clock: Clock) -> None:
    keys.get_key("old")
    running.keys = [OLD, NEW]
    clock.now_s += PAUSE_S
    assert keys.get_key("new").key_id == "new"
    assert running.asked == 2


def test_made_up_key_ids_do_not_hammer_the_provider(keys: ProviderKeys, running: Provider, clock: Clock) -> None:
    keys.get_key("old")
    for number in range(100):
        with pytest.raises(UnknownKey):
            keys.get_key(f"made-up-{number}")
    assert running.asked == 1
    clock.now_s += PAUSE_S
    for number in range(100):
        with pytest.raises(UnknownKey):
            keys.get_key(f"made-up-{number}")
    assert running.asked == 2


def test_neither_is_a_provider_hammered_that_is_down(keys: ProviderKeys, running: Provider, clock: Clock) -> None:
    running.answer = running.refuse
    for _ in range(20):
        with pytest.raises(KeysUnavailable):
            keys.get_key("old")
    assert running.asked == 1
    running.answer = None
    clock.now_s += PAUSE_S
    assert keys.get_key("old").key_id == "old"


def test_a_withdrawn_key_counts_no_longer_once_the_keys_are_looked_at_again(
    keys: ProviderKeys, running: Provider, clock: Clock
) -> None:
    verifier = TokenVerifier(keys)
    token = OLD.sign()
    verifier.verify(token)
    running.keys = [NEW]
    clock.now_s += REFRESH_AFTER_S - 1
    assert verifier.verify(token) == Caller(1)
    clock.now_s += 1
    verifier.verify(token)  # begins the fetch, and does not wait for it
    wait_for(lambda: running.asked == 2 and is_idle(keys))
    with pytest.raises(BadCredentials, match="key is not known"):
        verifier.verify(token)
    assert verifier.verify(NEW.sign()) == Caller(1)


def too_large(handler: BaseHTTPRequestHandler) -> None:
    send(handler, json.dumps({"keys": [OLD.public], "padding": "x" * MAX_BYTES}).encode())


def no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"hello\r\n\r\n")


def redirect(handler: BaseHTTPRequestHandler) -> None:
    if handler.path == "/elsewhere":
        send(handler, json.dumps({"keys": [NEW.public]}).encode())
    send(handler, b"", status=302, Location="/elsewhere")


def garbage(body: bytes, status: int = 200) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: send(handler, body, status=status)


def keys_of(*given: object) -> Callable[[BaseHTTPRequestHandler], None]:
    return garbage(json.dumps({"keys": given}).encode())


WEAK = SigningKey("weak", "RS256", rsa.generate_private_key(65_537, 1_024))  # noqa: S505 - that is the point
PUBLIC = NEW.public
BAD_ANSWERS: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {
    "hangs up": lambda handler: setattr(handler, "close_connection", True),
    "no HTTP": no_http,
    "an error": garbage(json.dumps({"keys": [PUBLIC]}).encode(), 500),
    "not found": garbage(b"{}", 404),
    "a redirect": redirect,
    "empty": garbage(b""),
    "no JSON": garbage(b"<html>"),
    "cut short": lambda handler: send(handler, b'{"keys": [', Content_Length="10000"),
    "deeply nested": garbage(b"[" * 100_000),
    "too large": too_large,
    "a list": garbage(b"[]"),
    "no keys": garbage(b"{}"),
    "keys that are no list": garbage(b'{"keys": {"kid": "new"}}'),
    "an empty list": keys_of(),
    "no objects": keys_of(1, None, "x", []),
    "a secret": keys_of({"kty": "oct", "k": "c2VjcmV0", "kid": "new"}, {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}),
    "a private key": keys_of(PUBLIC | {"d": "AAAA"}),
    "to encrypt with": keys_of(PUBLIC | {"use": "enc"}, PUBLIC | {"key_ops": ["encrypt"]}, PUBLIC | {"key_ops": 1}),
    "another algorithm": keys_of(PUBLIC | {"alg": "ES512"}, PUBLIC | {"alg": "none"}, PUBLIC | {"alg": ["ES256"]}),
    "another curve": keys_of(PUBLIC | {"crv": "P-384"}, PUBLIC | {"crv": "x"}, PUBLIC | {"x": "AAAA"}),
    "half a key": keys_of({"kty": "RSA", "kid": "new"}, {"kty": "EC"}, {"kty": 1}, {"kid": "new"}),
    "an id that is none": keys_of(PUBLIC | {"kid": 1}, PUBLIC | {"kid": ["new"]}),
    "a weak key": keys_of(WEAK.public),
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_the_last_good_keys_are_kept_whatever_the_provider_answers(
    keys: ProviderKeys, running: Provider, clock: Clock, answer: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    verifier = TokenVerifier(keys)
    verifier.verify(OLD.sign())
    running.answer = answer
    for _ in range(3):
        clock.now_s += REFRESH_AFTER_S * 100
        with pytest.raises(KeysUnavailable):
            verifier.verify(NEW.sign())
        assert verifier.verify(OLD.sign()) == Caller(1)
    assert running.asked >= 3


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_as_long_as_there_were_none_nobody_can_tell(
    keys: ProviderKeys, running: Provider, clock: Clock, answer: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    running.answer = answer
    with pytest.raises(KeysUnavailable):
        keys.get_key("old")
    running.answer = None
    clock.now_s += PAUSE_S
    assert keys.get_key("old").key_id == "old"


def test_a_key_that_cannot_be_used_does_not_hide_the_others(running: Provider) -> None:
    running.answer = keys_of({"kty": "oct", "k": "c2VjcmV0", "kid": "old"}, 1, WEAK.public, PUBLIC)
    assert fetch_keys(running.url).keys() == {"new", None}


def test_no_more_keys_are_read_than_anyone_needs(running: Provider) -> None:
    running.answer = keys_of(*(PUBLIC | {"kid": str(number)} for number in range(MAX_KEYS + 1)))
    assert len(fetch_keys(running.url)) == MAX_KEYS


def test_a_provider_that_is_gone_is_unavailable(running: Provider, clock: Clock) -> None:
    with provider(OLD) as other:
        keys = ProviderKeys(other.url, seats=1, clock=clock)
        keys.get_key("old")
    clock.now_s += REFRESH_AFTER_S
    assert keys.get_key("old").key_id == "old"
    with pytest.raises(KeysUnavailable):
        keys.get_key("new")
    del running


@pytest.mark.parametrize(
    "url", ["http://localhost:1/", "http://127.0.0.1:1", "http://[::1]:1/?a=b", "http://x.invalid"]
)
def test_what_cannot_be_reached_is_unavailable(url: str) -> None:
    with pytest.raises(KeysUnavailable):
        ProviderKeys(url, seats=1).get_key("old")


def test_while_the_provider_hangs_known_keys_work_and_few_wait(
    keys: ProviderKeys, running: Provider, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_keys, "FETCH_TIMEOUT_S", 30.0)
    keys.get_key("old")
    running.answer = running.hang
    running.keys = [OLD, NEW]
    clock.now_s += REFRESH_AFTER_S
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(keys.get_key, "new") for _ in range(2)]
        assert running.reached.wait(30)
        wait_for(lambda: keys._seats._value == 0)
        # Both seats are taken: whoever else has an unknown key is told at once that nobody can tell.
        refused = [pool.submit(keys.get_key, "new") for _ in range(4)]
        assert all(isinstance(each.exception(30), KeysUnavailable) for each in refused)
        assert all(pool.submit(keys.get_key, "old").result(30).key_id == "old" for _ in range(50))
        assert not any(each.done() for each in waiting)
        assert running.asked == 2
        running.answer = None
        running.released.set()
        # It never said anything: that fetch has failed.
        assert all(isinstance(each.exception(30), KeysUnavailable) for each in waiting)
    clock.now_s += PAUSE_S
    assert keys.get_key("new").key_id == "new"


def test_those_who_wait_share_one_fetch(running: Provider, clock: Clock) -> None:
    keys = ProviderKeys(running.url, seats=8, clock=clock)
    held = threading.Event()

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        held.wait(30)
        send(handler, running.body)

    running.answer = slowly
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(keys.get_key, "old") for _ in range(8)]
        wait_for(lambda: keys._seats._value == 0)
        held.set()
        assert {each.result(30).key_id for each in waiting} == {"old"}
    assert running.asked == 1


def test_a_provider_that_drips_is_hung_up_on(running: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_keys, "FETCH_TIMEOUT_S", 0.3)
    hung_up = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 100000\r\n\r\n")
            # Each byte comes well within the timeout of a read; all of them would take hours.
            while not running.released.wait(0.05):
                handler.wfile.write(b" ")
        except OSError:
            hung_up.set()

    running.answer = drip
    with pytest.raises((OSError, ValueError)):
        fetch_keys(running.url)
    assert hung_up.wait(30)


def test_a_provider_that_never_answers_is_given_up(running: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_keys, "FETCH_TIMEOUT_S", 0.2)
    running.answer = running.hang
    keys = ProviderKeys(running.url, seats=1)
    with pytest.raises(KeysUnavailable):
        keys.get_key("old")
    wait_for(lambda: is_idle(keys))


def test_a_key_is_the_one_of_the_set(keys: ProviderKeys) -> None:
    claims = jwt.decode(OLD.sign(exp=int(time.time()) + 60), keys.get_key("old"), algorithms=["ES256"])
    assert claims["sub"] == "1"
