"""The settings of the service's own processes: API, workers, commands."""

from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from config.kafka import KafkaAccess
from config.listening import Listening
from config.urls import DatabaseUrl, RedisUrl
from config.values import (
    Rate,
    UserName,
    Word,
    check_jwt_secret,
    check_origins,
    is_loopback,
    is_safe_to_fetch_keys_from,
    read_networks,
    read_rate,
)

MAX_RETRIES = 20
MAX_DELAY_S = 86_400.0
# RFC 6749, 3.3: scope-token.
_SCOPE = r"^[\x21\x23-\x5b\x5d-\x7e]+$"

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Transport = Literal["rq", "kafka"]


class Settings(Listening, KafkaAccess):
    """The settings of one service process (API, worker, command). Names are environment variables."""

    database_url: DatabaseUrl
    redis_url: RedisUrl

    auth_mode: Literal["user-id", "jwt"] = "user-id"
    # User-id mode believes whatever the caller says, so it listens on loopback only unless told otherwise.
    allow_user_id_mode: bool = False
    # One of the two in jwt mode: a secret (HS256), or where an identity provider shows its public keys.
    jwt_secret: SecretStr | None = None
    jwt_jwks_url: str | None = None
    jwt_issuer: Word | None = None
    jwt_audience: Word | None = None
    # Without it anyone with a token can credit his own wallet.
    deposit_scope: str | None = Field(default=None, pattern=_SCOPE)
    # Whose word on where a request came from counts. By default nobody's.
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    # The web pages, by their origins, whose scripts may call the API. By default none but its own.
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    admin_user: UserName = "admin"
    # Empty: nobody is an administrator, every admin route answers 401.
    admin_password: SecretStr = SecretStr("")

    log_level: LogLevel = "INFO"
    # What carries accepted transfers to the workers: RQ in Redis, or Kafka.
    transport: Transport = "rq"
    # Seconds between the attempts of a failing job: n delays make n + 1 attempts.
    retry_delays: Annotated[tuple[float, ...], NoDecode] = (1.0, 5.0, 25.0)

    # Seconds from the beginning of one audit of the books to that of the next; 0: the workers audit nothing.
    audit_interval_s: float = Field(default=300.0, ge=0, le=MAX_DELAY_S)

    # Days that events stay to be read. Who is away for longer has missed some.
    events_days: int = Field(default=30, ge=1, le=3_650)

    # Seconds between the attempts to deliver an event to a webhook: n delays make n + 1 attempts, over three days.
    webhook_delays: Annotated[tuple[float, ...], NoDecode] = (
        5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0,
    )  # fmt: skip
    # Networks that webhooks may reach though they are not public; by http those of loopback alone. By default none.
    webhook_allow_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    # Days that deliveries stay to be looked at when they are over.
    webhook_days: int = Field(default=30, ge=1, le=3_650)

    # How many waiting jobs a worker takes at once.
    batch_size: int = Field(default=300, ge=1, le=2_000)

    # Of every user, for everything: <n>/<second|minute|hour>;burst=<m>; "off": no throttling of any kind.
    rate_limit: Annotated[Rate | None, NoDecode] = Rate(100, 1, burst=200)
    # Seconds that reads stay cached; 0 turns the cache off. All processes of a service must say the same.
    cache_ttl: int = Field(default=300, ge=0, le=86_400)
    # A Redis for the cache alone; empty: the queue's.
    cache_redis_url: RedisUrl | None = None

    # gunicorn.
    api_processes: int = Field(default=2, ge=1, le=64)
    # Requests of a process that may be in hand; beyond them it sheds load. With 80 a flood of ten times as many leaves
    # what is served within two seconds (docs/decisions/0024); with 128 it does not, and fewer would help nobody.
    api_queue: int = Field(default=80, ge=1, le=4_096)
    graceful_timeout_s: int = Field(default=10, ge=1, le=300)

    # Of each process, at most, to PostgreSQL. What is asked for at the same time is done together, so few are enough:
    # one each for what is posted, for what is recorded and for reads; the others for orders that wait for locks.
    db_connections: int = Field(default=6, ge=2, le=64)
    # Bounds on every wait for PostgreSQL, in milliseconds. The idle bound stays below a worker's lease.
    lock_timeout_ms: int = Field(default=2_000, ge=10, le=60_000)
    statement_timeout_ms: int = Field(default=5_000, ge=10, le=60_000)
    idle_in_transaction_timeout_ms: int = Field(default=10_000, ge=100, le=30_000)
    # Open wallets for users 1 and 2 in a new database, to try the service with.
    demo_wallets: bool = False
    max_body_bytes: int = Field(default=16_384, ge=256, le=1_048_576)
    # Of a request that sends a bulk.
    max_bulk_bytes: int = Field(default=4_194_304, ge=256, le=33_554_432)
    # Where a worker's own metrics can be read, beside the API's /metrics. Needed where they share no folder.
    metrics_port: int | None = Field(default=None, ge=1, le=65535)

    @field_validator("retry_delays", "webhook_delays", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("jwt_secret")
    @classmethod
    def _check_jwt_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_jwt_secret(value.get_secret_value())
        return value

    @field_validator("jwt_jwks_url")
    @classmethod
    def _check_jwks_url(cls, value: str | None) -> str | None:
        if value is not None and not is_safe_to_fetch_keys_from(value):
            raise ValueError("must be a URL with https://, or with http:// on loopback, without user or password")
        return value

    @field_validator("trusted_proxies", "webhook_allow_networks", mode="before")
    @classmethod
    def _read_networks(cls, value: object) -> object:
        return read_networks(value) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_origins(value)
        return value

    @field_validator("retry_delays", "webhook_delays")
    @classmethod
    def _bound_delays(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not 1 <= len(value) <= MAX_RETRIES or any(not 0 <= delay <= MAX_DELAY_S for delay in value):
            bounds = f"1 to {MAX_RETRIES} comma-separated numbers of seconds, each from 0 to {MAX_DELAY_S:.0f}"
            raise ValueError(f"must be {bounds}")
        return value

    @field_validator("rate_limit", mode="before")
    @classmethod
    def _parse_rate(cls, value: object) -> object:
        return read_rate(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _kafka_is_somewhere(self) -> Self:
        if self.transport == "kafka" and self.kafka_brokers is None:
            raise ValueError("TRANSPORT=kafka needs KAFKA_BROKERS, like host:9092")
        return self

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
        if self.auth_mode == "user-id" and not self.allow_user_id_mode and not is_loopback(host):
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

    @property
    def cache_url(self) -> SecretStr:
        """Where reads are cached."""
        return self.cache_redis_url or self.redis_url

    @cached_property
    def sqlalchemy_url(self) -> str:
        """The database's URL in SQLAlchemy's spelling, with the driver named."""
        return _name_driver(self.database_url)


class PrepareSettings(Settings):
    """What makes a database ready (ops/prepare.py) reads besides."""

    # The owner of the tables, where the service itself is not: only this URL migrates, and only here is it known.
    owner_database_url: DatabaseUrl | None = None
    # Seconds that a statement of a migration may take, and that it waits for another who migrates.
    migration_timeout_s: int = Field(default=21_600, ge=1, le=604_800)

    @cached_property
    def owner_sqlalchemy_url(self) -> str:
        """Who migrates: the owner's URL, or the service's own where there is only one role."""
        return _name_driver(self.owner_database_url or self.database_url)


def _name_driver(url: SecretStr) -> str:
    _, _, rest = url.get_secret_value().partition("://")
    return f"postgresql+psycopg2://{rest}"
