"""An identity provider on loopback: signs tokens, shows its keys, and can rotate, hang, lie and go away."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "thirty-two bytes are the least: 32"
ISSUER = "https://id.example"
_ALGORITHM_OF: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
_MAKERS: dict[str, Callable[[], Any]] = {
    "RS256": lambda: rsa.generate_private_key(65_537, 2_048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}

Answer: TypeAlias = Callable[[BaseHTTPRequestHandler], None]


def claims(**changes: Any) -> dict[str, Any]:
    """Make the claims of a good token for user 1; None takes one away."""
    made = {"sub": "1", "exp": int(time.time()) + 600} | changes
    return {name: value for name, value in made.items() if value is not None}


def signed(**changes: Any) -> str:
    """Sign a token with the secret."""
    return sign(SECRET, "HS256", claims(**changes))


def sign(key: Any, algorithm: str, content: dict[str, Any], *, kid: str | None = None) -> str:
    """Sign a token with whatever is asked for."""
    return jwt.encode(content, key, algorithm, headers={"kid": kid} if kid else None)


def bearer(token: str) -> str:
    """Spell it for the Authorization header."""
    return f"Bearer {token}"


@dataclass
class SigningKey:
    """A key pair and its name."""

    kid: str | None
    algorithm: str = "ES256"
    private: Any = None

    def __post_init__(self) -> None:
        self.private = self.private or _MAKERS[self.algorithm]()

    @property
    def public(self) -> dict[str, object]:
        """The public half, as providers show it."""
        shown: dict[str, object] = _ALGORITHM_OF[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        return shown | {"use": "sig", "alg": self.algorithm} | ({"kid": self.kid} if self.kid else {})

    def sign(self, **changes: Any) -> str:
        """Sign a token for user 1."""
        return sign(self.private, self.algorithm, claims(**changes), kid=self.kid)


def send(handler: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, **headers: str) -> None:
    """Answer."""
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(body))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@dataclass
class Provider:
    """A running provider. ``answer`` is what it does when asked; by default it shows ``keys``."""

    keys: list[SigningKey] = field(default_factory=list)
    asked: int = 0
    answer: Answer | None = None
    port: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """Where its keys are."""
        return f"http://127.0.0.1:{self.port}/keys"

    @property
    def body(self) -> bytes:
        """What it shows."""
        return json.dumps({"keys": [key.public for key in self.keys]}).encode()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        self.asked += 1
        if self.answer is None:
            send(handler, self.body)
        else:
            self.answer(handler)

    def hang(self, _handler: BaseHTTPRequestHandler) -> None:
        """Say nothing until released."""
        self.reached.set()
        self.released.wait(60)

    def refuse(self, handler: BaseHTTPRequestHandler) -> None:
        """Hang up at once."""
        handler.close_connection = True


@contextmanager
def provider(*keys: SigningKey) -> Iterator[Provider]:
    """Run a provider with these keys."""
    running = Provider(list(keys))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running.handle(self)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_arguments: object) -> None:
            """A client that hangs up is no news."""

    with Server(("127.0.0.1", 0), Handler) as server:
        running.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            running.released.set()
            server.shutdown()
            thread.join()
