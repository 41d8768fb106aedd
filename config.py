"""Everything that can be set, read once from the environment and frozen.

Nothing else in the project reads the environment. A wrong value stops the start with one line that names
the setting (:func:`load_settings`), instead of surfacing hours later in the middle of a payment.
"""

import ipaddress
import sys
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MAX_RETRIES = 20
MAX_DELAY_S = 86_400.0

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
S = TypeVar("S", bound=BaseSettings)


class Settings(BaseSettings):
    """The settings of one service process (API, worker, command). Names are environment variables."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    database_url: SecretStr
    redis_url: SecretStr

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)
    auth_mode: Literal["user-id"] = "user-id"
    # User-id mode believes whatever the caller says, so it listens on loopback only unless told otherwise.
    allow_user_id_mode: bool = False
    admin_user: str = Field(default="admin", min_length=1)
    # Empty: nobody is an administrator, every admin route answers 401.
    admin_password: SecretStr = SecretStr("")

    log_level: LogLevel = "INFO"
    transport: Literal["rq"] = "rq"
    # Seconds between the attempts of a failing job: n delays make n + 1 attempts.
    retry_delays: Annotated[tuple[float, ...], NoDecode] = (1.0, 5.0, 25.0)

    # How many waiting jobs a worker takes at once.
    batch_size: int = Field(default=300, ge=1, le=2_000)

    # gunicorn. More than 8 busy threads a process did not help; the others are for callers who wait for a job.
    api_processes: int = Field(default=2, ge=1, le=64)
    api_threads: int = Field(default=16, ge=2, le=256)
    graceful_timeout_s: int = Field(default=10, ge=1, le=300)

    # Bounds on every wait for PostgreSQL, in milliseconds. The idle bound stays below a worker's lease.
    lock_timeout_ms: int = Field(default=2_000, ge=10, le=60_000)
    statement_timeout_ms: int = Field(default=5_000, ge=10, le=60_000)
    idle_in_transaction_timeout_ms: int = Field(default=10_000, ge=100, le=30_000)
    # Open wallets for users 1 and 2 in a new database, to try the service with.
    demo_wallets: bool = False
    max_body_bytes: int = Field(default=16_384, ge=256, le=1_048_576)

    @field_validator("retry_delays", mode="before")
    @classmethod
    def _split_delays(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("retry_delays")
    @classmethod
    def _bound_delays(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not 1 <= len(value) <= MAX_RETRIES or any(not 0 <= delay <= MAX_DELAY_S for delay in value):
            bounds = f"1 to {MAX_RETRIES} comma-separated numbers of seconds, each from 0 to {MAX_DELAY_S:.0f}"
            raise ValueError(f"must be {bounds}")
        return value

    @field_validator("database_url", "owner_database_url", check_fields=False)
    @classmethod
    def _check_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must be a URL that begins with postgresql://")
        return value

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must be a URL that begins with redis://, rediss:// or unix://")
        return value

    @model_validator(mode="after")
    def _user_id_mode_stays_at_home(self) -> Self:
        if self.auth_mode == "user-id" and not self.allow_user_id_mode and not _is_loopback(self.host):
            raise ValueError(
                f"HOST={self.host} with AUTH_MODE=user-id would let anyone on the network be any user; "
                "listen on 127.0.0.1, or set ALLOW_USER_ID_MODE=1 if a trusted proxy stands in front"
            )
        return self

    @property
    def database_timeouts_ms(self) -> dict[str, int]:
        """The bounds on waits for PostgreSQL, by the names of its own settings."""
        return {
            "lock_timeout": self.lock_timeout_ms,
            "statement_timeout": self.statement_timeout_ms,
            "idle_in_transaction_session_timeout": self.idle_in_transaction_timeout_ms,
        }

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
