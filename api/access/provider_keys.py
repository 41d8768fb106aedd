"""An identity provider's public keys (a JWK Set, RFC 7517), fetched when needed and kept when it is down.

Keys are read by every request and fetched by a thread of its own, so whoever has a known key never waits for the
provider. Only a request with an unknown key does, within bounds, since that key may just have been introduced.
"""

import http.client
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import jwt
import orjson
import structlog
from cryptography.exceptions import UnsupportedAlgorithm

from api.access.callers import KeysUnavailable
from observe import background

ALGORITHMS = ("RS256", "ES256", "EdDSA")
# For the whole fetch, however slowly the provider speaks.
FETCH_TIMEOUT_S = 2.0
# How old keys may become before they are looked at again: how long a withdrawn key still counts.
REFRESH_AFTER_S = 300.0
# The least time between two fetches: made-up key ids do not let anyone hammer the provider through us.
PAUSE_S = 5.0
MAX_BYTES = 262_144
MAX_KEYS = 64

KeysById: TypeAlias = Mapping[str | None, jwt.PyJWK]

_log = structlog.get_logger("identity")


class UnknownKey(Exception):
    """The provider has no such key."""


class ProviderKeys:
    """The newest set of keys that could be had."""

    algorithms = ALGORITHMS

    def __init__(self, url: str, *, seats: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Connect to nothing yet; ``seats`` is how many requests may wait for the provider at once."""
        self._url = url
        self._clock = clock
        self._seats = threading.BoundedSemaphore(seats)
        # Replaced as a whole, never changed, so that it is read without a lock.
        self._keys: KeysById = {}
        self._stale_at = clock()
        self._fails = True
        # Held only to change what follows, never while anything is fetched.
        self._lock = threading.Lock()
        self._fetched: threading.Event | None = None
        self._next_fetch_at = clock()

    def get_key(self, key_id: str | None) -> jwt.PyJWK:
        """Return the key with this id; without an id the only key, if there is only one.

        Raises:
            UnknownKey: the provider, asked not long ago, has no such key.
            KeysUnavailable: it has not answered when it was asked last, or does not answer now.
        """
        key = self._keys.get(key_id)
        if key is not None:
            if self._clock() >= self._stale_at:
                self._begin_fetch()
            return key
        fetched = self._begin_fetch()
        in_time = fetched is None or self._wait(fetched)
        key = self._keys.get(key_id)
        if key is not None:
            return key
        if self._fails or not in_time:
            raise KeysUnavailable
        raise UnknownKey

    def prefetch(self) -> None:
        """Fetch the keys now and wait for them, within the bound."""
        fetched = self._begin_fetch()
        if fetched is not None:
            fetched.wait(FETCH_TIMEOUT_S)

    def _wait(self, fetched: threading.Event) -> bool:
        """Wait on one of the seats; False if there is none or it took too long."""
        if not self._seats.acquire(blocking=False):
            return False
        try:
            return fetched.wait(FETCH_TIMEOUT_S)
        finally:
            self._seats.release()

    def _begin_fetch(self) -> threading.Event | None:
        """Return the end of the fetch that is under way or begins now; None if the last one was not long ago."""
        with self._lock:
            if self._fetched is None and self._clock() >= self._next_fetch_at:
                fetched = threading.Event()
                if background.start("provider_keys", lambda: self._fetch(fetched)) is not None:
                    self._fetched = fetched
            return self._fetched

    def _fetch(self, fetched: threading.Event) -> None:
        keys: KeysById = {}
        with background.guarded("provider_keys"):
            try:
                keys = fetch_keys(self._url)
            except (OSError, http.client.HTTPException, ValueError) as error:
                cause = f"{type(error).__name__}: {error}"[:200]
                _log.warning("the identity provider's keys cannot be had", cause=cause, kept=len(self._keys))
        with self._lock:
            self._fails = not keys
            if keys:
                self._keys, self._stale_at = keys, self._clock() + REFRESH_AFTER_S
            self._next_fetch_at = self._clock() + PAUSE_S
            self._fetched = None
        fetched.set()


def fetch_keys(url: str) -> KeysById:
    """Fetch the keys that can verify, by their ids; under None the only one, if there is only one.

    Follows no redirects and asks no proxy: the keys come from where the settings say, or not at all.

    Raises:
        OSError: the provider cannot be reached, or is too slow.
        http.client.HTTPException: it does not speak HTTP.
        ValueError: what it answers holds no usable key.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=FETCH_TIMEOUT_S)
    # The timeout bounds each read, and a provider that sends a byte a second would never run into it.
    sockets: list[socket.socket] = []
    watchdog = threading.Timer(FETCH_TIMEOUT_S, _hang_up, [connection, sockets])
    watchdog.daemon = True
    watchdog.start()
    with closing(connection):
        try:
            connection.connect()
            # The connection forgets its socket as soon as it knows that there will be only one answer.
            sockets.append(connection.sock)
            if not watchdog.is_alive():
                raise TimeoutError("too slow")
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"Accept": "application/jwk-set+json, application/json"})
            response = connection.getresponse()
            raw = response.read(MAX_BYTES + 1)
        finally:
            watchdog.cancel()
    if response.status != HTTPStatus.OK:
        raise ValueError(f"the answer has status {response.status}")
    if len(raw) > MAX_BYTES:
        raise ValueError("the answer is too large")
    return _read_keys(orjson.loads(raw))


def _hang_up(connection: http.client.HTTPConnection, sockets: list[socket.socket]) -> None:
    """End every read. In the middle of a TLS handshake the socket is still with the connection only."""
    for sock in sockets or [connection.sock]:
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _read_keys(answer: Any) -> KeysById:
    given = answer.get("keys") if isinstance(answer, dict) else None
    usable = [key for each in (given if isinstance(given, list) else [])[:MAX_KEYS] if (key := _find_key(each))]
    if not usable:
        raise ValueError("the answer holds no key that can be used")
    keys: dict[str | None, jwt.PyJWK] = {key.key_id: key for key in usable if key.key_id}
    if len(usable) == 1:
        keys[None] = usable[0]
    return keys


def _find_key(given: Any) -> jwt.PyJWK | None:
    """Return the key if it is one to verify with: public, of an accepted algorithm, long enough."""
    if not isinstance(given, dict) or "d" in given or given.get("alg") not in (None, *ALGORITHMS):
        return None
    if given.get("use", "sig") != "sig" or not isinstance(given.get("kid", ""), str):
        return None
    try:
        if "verify" not in given.get("key_ops", ["verify"]):
            return None
        key = jwt.PyJWK(given)
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        return None
    is_strong = key.algorithm_name in ALGORITHMS and key.Algorithm.check_key_length(key.key) is None
    return key if is_strong else None
