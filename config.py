"""Everything that can be set, read once from the environment and frozen.

Nothing else in the project reads the environment. A wrong value stops the start with one line that names
the setting (:func:`load_settings`), instead of surfacing hours later in the middle of a payment.
"""

import ipaddress
import json
import os
import re
import sys
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import DirectoryPath, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MAX_RETRIES = 20
MAX_DELAY_S = 86_400.0
# RFC 7518, 3.2: an HMAC's key has at least the size of its hash.
MIN_JWT_SECRET_BYTES = 32
MAX_TRUSTED_PROXIES = 64
MAX_CORS_ORIGINS = 64
# What a browser sends as Origin, letter for letter: lower case, no default port, no path.
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
# RFC 6749, 3.3: scope-token.
_SCOPE = r"^[\x21\x23-\x5b\x5d-\x7e]+$"
# What begins like this is a public or private key, which is no secret to sign with (or one that verifies nothing).
_ASYMMETRIC_KEYS = ("-----BEGIN ", "ssh-", "ecdsa-")

_RATE = re.compile(r"([0-9]{1,9})/(second|minute|hour)(?:;burst=([0-9]{1,9}))?")
_PERIOD_S = {"second": 1, "minute": 60, "hour": 3600}

# Where a local stack says what is up, below its WALLET_HOME.
STACK_STATE = Path("run/stack.json")
# Settings with which nothing can be reached, for commands that only tell what they are.
NOWHERE = {"database_url": "postgresql://nowhere", "redis_url": "redis://nowhere"}

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
S = TypeVar("S", bound=BaseSettings)


class Rate(NamedTuple):
    """So many requests in so many seconds, and so many at once."""

    amount: int
    period_s: int
    burst: int


class Settings(BaseSettings):
    """The settings of one service process (API, worker, command). Names are environment variables."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    database_url: SecretStr
    redis_url: SecretStr

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)
    auth_mode: Literal["user-id", "jwt"] = "user-id"
    # User-id mode believes whatever the caller says, so it listens on loopback only unless told otherwise.
    allow_user_id_mode: bool = False
    # One of the two in jwt mode: a secret (HS256), or where an identity provider shows its public keys.
    jwt_secret: SecretStr | None = None
    jwt_jwks_url: str | None = None
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    # Without it anyone with a token can make money.
    deposit_scope: str | None = Field(default=None, pattern=_SCOPE)
    # Whose word on where a request came from counts. By default nobody's.
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    # The web pages, by their origins, whose scripts may call the API. By default none but its own.
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    admin_user: str = Field(default="admin", min_length=1)
    # Empty: nobody is an administrator, every admin route answers 401.
    admin_password: SecretStr = SecretStr("")

    log_level: LogLevel = "INFO"
    transport: Literal["rq"] = "rq"
    # Seconds between the attempts of a failing job: n delays make n + 1 attempts.
    retry_delays: Annotated[tuple[float, ...], NoDecode] = (1.0, 5.0, 25.0)

    # Seconds from the beginning of one audit of the books to that of the next; 0: the workers audit nothing.
    audit_interval_s: float = Field(default=300.0, ge=0, le=MAX_DELAY_S)

    # How many waiting jobs a worker takes at once.
    batch_size: int = Field(default=300, ge=1, le=2_000)

    # Of every user, for everything: <n>/<second|minute|hour>;burst=<m>; "off": no throttling of any kind.
    rate_limit: Annotated[Rate | None, NoDecode] = Rate(100, 1, burst=200)
    # Seconds that reads stay cached; 0 turns the cache off. All processes of a service must say the same.
    cache_ttl: int = Field(default=300, ge=0, le=86_400)
    # A Redis for the cache alone; empty: the queue's.
    cache_redis_url: SecretStr | None = None

    # gunicorn. More than 8 busy threads a process did not help; the others are for callers who wait for a job.
    api_processes: int = Field(default=2, ge=1, le=64)
    api_threads: int = Field(default=16, ge=2, le=256)
    # Requests of a process that may wait for a thread; beyond them it sheds load. 128 are served in about 0.2 s, which
    # nobody minds; whoever would wait for much longer had better come again.
    api_queue: int = Field(default=128, ge=1, le=4_096)
    graceful_timeout_s: int = Field(default=10, ge=1, le=300)

    # Bounds on every wait for PostgreSQL, in milliseconds. The idle bound stays below a worker's lease.
    lock_timeout_ms: int = Field(default=2_000, ge=10, le=60_000)
    statement_timeout_ms: int = Field(default=5_000, ge=10, le=60_000)
    idle_in_transaction_timeout_ms: int = Field(default=10_000, ge=100, le=30_000)
    # Open wallets for users 1 and 2 in a new database, to try the service with.
    demo_wallets: bool = False
    max_body_bytes: int = Field(default=16_384, ge=256, le=1_048_576)
    # Where a worker's own metrics can be read, beside the API's /metrics. Needed where they share no folder.
    metrics_port: int | None = Field(default=None, ge=1, le=65535)

    @field_validator("retry_delays", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("jwt_secret")
    @classmethod
    def _check_jwt_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            secret = value.get_secret_value()
            if len(secret.encode()) < MIN_JWT_SECRET_BYTES:
                raise ValueError(f"must have at least {MIN_JWT_SECRET_BYTES} bytes")
            if secret.startswith(_ASYMMETRIC_KEYS):
                raise ValueError("must be a random secret; public keys come by JWT_JWKS_URL")
        return value

    @field_validator("jwt_jwks_url")
    @classmethod
    def _check_jwks_url(cls, value: str | None) -> str | None:
        if value is not None and not _is_safe_to_fetch_keys_from(value):
            raise ValueError("must be a URL with https://, or with http:// on loopback, without user or password")
        return value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _read_networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            networks = tuple(ipaddress.ip_network(part.strip()) for part in value.split(","))
        except ValueError:
            raise ValueError("must be addresses or networks (10.0.0.0/8) with commas between") from None
        if len(networks) > MAX_TRUSTED_PROXIES:
            raise ValueError(f"must be at most {MAX_TRUSTED_PROXIES} addresses or networks")
        return networks

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > MAX_CORS_ORIGINS or not all(_is_origin(each) for each in value):
            example = "https://app.example.org,http://localhost:3000"
            raise ValueError(f"must be at most {MAX_CORS_ORIGINS} origins, spelled as browsers do: {example}")
        return value

    @field_validator("retry_delays")
    @classmethod
    def _bound_delays(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not 1 <= len(value) <= MAX_RETRIES or any(not 0 <= delay <= MAX_DELAY_S for delay in value):
            bounds = f"1 to {MAX_RETRIES} comma-separated numbers of seconds, each from 0 to {MAX_DELAY_S:.0f}"
            raise ValueError(f"must be {bounds}")
        return value

    @field_validator("rate_limit", mode="before")
    @classmethod
    def _parse_rate(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value == "off":
            return None
        found = _RATE.fullmatch(value)
        amount, period, burst = found.groups() if found else ("0", "second", None)
        if int(amount) < 1 or int(burst or amount) < 1:
            raise ValueError("must be off, or like 100/second;burst=200, with at least 1 a second, minute or hour")
        return Rate(int(amount), _PERIOD_S[period], int(burst or amount))

    @field_validator("database_url", "owner_database_url", check_fields=False)
    @classmethod
    def _check_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must be a URL that begins with postgresql://")
        return _with_sound_port(value)

    @field_validator("redis_url", "cache_redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must be a URL that begins with redis://, rediss:// or unix://")
        return _with_sound_port(value)

    @model_validator(mode="after")
    def _jwt_mode_has_one_key(self) -> Self:
        if self.auth_mode == "jwt" and not self.jwt_secret and not self.jwt_jwks_url:
            raise ValueError("AUTH_MODE=jwt needs a key: set JWT_SECRET, or JWT_JWKS_URL")
        if self.jwt_secret and self.jwt_jwks_url:
            raise ValueError("JWT_SECRET and JWT_JWKS_URL exclude each other: set the one that tokens are signed for")
        if self.deposit_scope and self.auth_mode != "jwt":
            raise ValueError("DEPOSIT_SCOPE needs AUTH_MODE=jwt: a user id carries no scopes")
        return self

    @model_validator(mode="after")
    def _user_id_mode_stays_at_home(self) -> Self:
        self.check_listening(self.host, called=f"HOST={self.host}")
        return self

    def check_listening(self, host: str, *, called: str) -> None:
        """Make sure that listening on an address does not hand the wallets to the network.

        Args:
            host: the address, or ``localhost``.
            called: what to call it in the message.

        Raises:
            ValueError: user-id mode would be reachable from elsewhere.
        """
        if self.auth_mode == "user-id" and not self.allow_user_id_mode and not _is_loopback(host):
            raise ValueError(
                f"{called} with AUTH_MODE=user-id would let anyone on the network be any user; "
                "listen on 127.0.0.1, or set ALLOW_USER_ID_MODE=1 if a trusted proxy stands in front"
            )

    @property
    def database_timeouts_ms(self) -> dict[str, int]:
        """The bounds on waits for PostgreSQL, by the names of its own settings."""
        return {
            "lock_timeout": self.lock_timeout_ms,
            "statement_timeout": self.statement_timeout_ms,
            "idle_in_transaction_session_timeout": self.idle_in_transaction_timeout_ms,
        }

    @property
    def longest_transaction_s(self) -> float:
        """How long a posting can take from its last look at Redis to its commit: two statements, and a pause."""
        return (2 * self.statement_timeout_ms + self.idle_in_transaction_timeout_ms) / 1000

    @cached_property
    def sqlalchemy_url(self) -> str:
        """The database's URL in SQLAlchemy's spelling, with the driver named."""
        return _name_driver(self.database_url)


class PrepareSettings(Settings):
    """What makes a database ready (ops/prepare.py) reads besides."""

    # The owner of the tables, where the service itself is not: only this URL migrates, and only here is it known.
    owner_database_url: SecretStr | None = None

    @cached_property
    def owner_sqlalchemy_url(self) -> str:
        """Who migrates: the owner's URL, or the service's own where there is only one role."""
        return _name_driver(self.owner_database_url or self.database_url)


class MetricsSettings(BaseSettings):
    """What prometheus-client reads by itself, to which an empty name is one like any other."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    prometheus_multiproc_dir: DirectoryPath | None = None

    @field_validator("prometheus_multiproc_dir", mode="before")
    @classmethod
    def _check_folder(cls, value: object) -> object:
        if value == "":
            raise ValueError("must name a folder, or not be set")
        return value


class StackSettings(BaseSettings):
    """What ``make run`` reads: without the URLs it starts servers of its own below ``wallet_home``."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    wallet_home: Path = Path(".local")
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)
    workers: int = Field(default=2, ge=0, le=64)
    database_url: SecretStr | None = None
    owner_database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    admin_user: str = Field(default="admin", min_length=1)
    admin_password: SecretStr | None = None

    @model_validator(mode="after")
    def _owner_comes_with_a_service(self) -> Self:
        if self.owner_database_url and not self.database_url:
            raise ValueError("OWNER_DATABASE_URL needs DATABASE_URL: the owner migrates what the service connects to")
        return self


class ConfigurationError(Exception):
    """A setting is missing or wrong."""


def load(kind: type[S], **given: Any) -> S:
    """Read settings from the environment; those that are given here win.

    Raises:
        ConfigurationError: one line naming the first setting that is missing or wrong, never its value.
    """
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "_".join(str(part) for part in first["loc"][:1]).upper()
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{name}: {message}" if name else message) from None


def load_or_exit(kind: type[S]) -> S:
    """:func:`load` for entry points: a wrong setting is one line on stderr and exit status 2."""
    try:
        return load(kind)
    except ConfigurationError as error:
        sys.exit(_complain(str(error)))


def load_for_command_or_exit(*, only_help: bool = False) -> Settings:
    """:func:`load_or_exit` for ``flask …``: URLs that nobody gave are those of the service that runs here.

    Never for the API or a worker: what a service works on must not depend on what else runs where it is started.

    Args:
        only_help: nothing is going to be reached, so URLs need not be known.
    """
    try:
        return load(Settings, **(NOWHERE if only_help else _urls_of_local_stack()))
    except ConfigurationError as error:
        sys.exit(_complain(str(error)))


def _urls_of_local_stack() -> dict[str, str]:
    """Return the URLs that are missing in the environment.

    One that is given and one that is found must be of the same service: a queue that belongs to other books would be
    told of transfers that those who work on it do not know.

    Raises:
        ConfigurationError: nothing runs here, or on other servers.
    """
    stack = load(StackSettings)
    given = {name: getattr(stack, name) for name in NOWHERE}
    missing = [name for name, url in given.items() if url is None]
    if not missing:
        return {}
    path = stack.wallet_home / STACK_STATE
    lacking = f"{missing[0].upper()}: not set, and"
    if not path.exists():
        raise ConfigurationError(f"{lacking} nothing runs in WALLET_HOME={stack.wallet_home} (start it by: make run)")
    found = _read_stack_state(path)
    if any(url is not None and url.get_secret_value() != found[name] for name, url in given.items()):
        raise ConfigurationError(f"{lacking} what runs in WALLET_HOME={stack.wallet_home} uses other servers")
    return {name: found[name] for name in missing}


def _read_stack_state(path: Path) -> dict[str, str]:
    """Return the URLs that a running stack has written down, if nobody else can have read or written them.

    Raises:
        ConfigurationError: the file is not its owner's alone, or is not what a stack writes.
    """
    try:
        status = path.stat()
        if status.st_mode & 0o077 or os.getuid() not in {0, status.st_uid}:
            raise ConfigurationError(f"DATABASE_URL: not set, and {path} is not private (mend it by: chmod 600 {path})")
        state = json.loads(path.read_text())
        return {"database_url": str(state["postgres"]["url"]), "redis_url": str(state["redis"]["url"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(f"DATABASE_URL: not set, and {path} cannot be read") from None


def _with_sound_port(url: SecretStr | None) -> SecretStr | None:
    """Find out here, by name, what a driver would only find out when it is made."""
    try:
        _ = urlsplit(url.get_secret_value()).port if url else None
    except ValueError:  # what it says has a part of the URL in it
        raise ValueError("must be a URL whose port is a number from 0 to 65535") from None
    return url


def _complain(message: str) -> int:
    print(f"configuration error: {message}", file=sys.stderr)
    return 2


def _name_driver(url: SecretStr) -> str:
    _, _, rest = url.get_secret_value().partition("://")
    return f"postgresql+psycopg2://{rest}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_safe_to_fetch_keys_from(url: str) -> bool:
    """Whether nobody on the way can put keys of their own in place of those at the URL."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not host or "@" in parts.netloc or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _is_origin(text: str) -> bool:
    default_port = ":443" if text.startswith("https:") else ":80"
    return _ORIGIN.fullmatch(text) is not None and not text.endswith(default_port)
