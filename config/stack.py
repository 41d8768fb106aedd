"""The settings of ``make run``, and how a command finds the service that it runs."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from config.kafka import KafkaAccess
from config.listening import Listening
from config.reading import ConfigurationError, Environment, complain, load
from config.service import Settings, Transport
from config.urls import DatabaseUrl, RedisUrl
from config.values import UserName

# Where a local stack says what is up, below its WALLET_HOME.
STACK_STATE = Path("run/stack.json")
# Settings with which nothing can be reached, for commands that only tell what they are.
NOWHERE = {"database_url": "postgresql://nowhere", "redis_url": "redis://nowhere", "kafka_brokers": "nowhere:9092"}


def _read_brokers(value: object) -> object:
    if str(value) not in {"1", "3"}:
        raise ValueError("must be 1 or 3: of two, neither could go on without the other")
    return int(str(value))


class HomeSettings(Environment):
    """Where what runs on this machine has its data."""

    wallet_home: Path = Path(".local")


class BrokersSettings(HomeSettings):
    """What ``make kafka`` reads."""

    brokers: Annotated[Literal[1, 3], BeforeValidator(_read_brokers)] = 1


class StackSettings(Listening, HomeSettings, KafkaAccess):
    """What ``make run`` reads: without their addresses it starts servers of its own below ``wallet_home``."""

    workers: int = Field(default=2, ge=0, le=64)
    database_url: DatabaseUrl | None = None
    owner_database_url: DatabaseUrl | None = None
    redis_url: RedisUrl | None = None
    cache_redis_url: RedisUrl | None = None
    transport: Transport = "rq"
    admin_user: UserName = "admin"
    admin_password: SecretStr | None = None

    @model_validator(mode="after")
    def _owner_comes_with_a_service(self) -> Self:
        if self.owner_database_url and not self.database_url:
            raise ValueError("OWNER_DATABASE_URL needs DATABASE_URL: the owner migrates what the service connects to")
        return self

    @model_validator(mode="after")
    def _own_broker_is_open(self) -> Self:
        if self.transport == "kafka" and self.kafka_brokers is None and self.kafka_security_protocol != "PLAINTEXT":
            protocol = f"KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol}"
            raise ValueError(f"{protocol} needs KAFKA_BROKERS: the broker that is started here is open to this machine")
        return self


def load_for_command_or_exit(*, only_help: bool = False) -> Settings:
    """:func:`load_or_exit` for ``flask …``: servers that nobody named are those of the service that runs here.

    Never for the API or a worker: what a service works on must not depend on what else runs where it is started.

    Args:
        only_help: nothing is going to be reached, so servers need not be known.
    """
    try:
        return load(Settings, **(NOWHERE if only_help else _servers_of_local_stack()))
    except ConfigurationError as error:
        sys.exit(complain(str(error)))


def find_local_grpc(home: Path) -> tuple[bool, str | None]:
    """Return whether a stack runs in this WALLET_HOME, and if so where its gRPC is; None: it has none."""
    try:
        state = json.loads((home / STACK_STATE).read_text())
        return True, str(state["grpc"]["target"]) if "grpc" in state else None
    except (OSError, ValueError, KeyError, TypeError):
        return False, None


def _servers_of_local_stack() -> dict[str, str]:
    """Return where the servers are that the environment does not name, and what carries transfers there.

    One that is given and one that is found must be of the same service: a queue that belongs to other books would be
    told of transfers that those who work on it do not know.

    Raises:
        ConfigurationError: nothing runs here, or on other servers.
    """
    stack = load(StackSettings)
    given = {"database_url": _plain(stack.database_url), "redis_url": _plain(stack.redis_url)}
    if stack.transport == "kafka":
        given["kafka_brokers"] = stack.kafka_brokers
    missing = [name for name, url in given.items() if url is None]
    if not missing:
        return {}
    path = stack.wallet_home / STACK_STATE
    lacking = f"{missing[0].upper()}: not set, and"
    if not path.exists():
        raise ConfigurationError(f"{lacking} nothing runs in WALLET_HOME={stack.wallet_home} (start it by: make run)")
    found = _read_stack_state(path)
    said = given | {"kafka_brokers": stack.kafka_brokers}
    if "transport" in stack.model_fields_set:
        said["transport"] = stack.transport
    if any(value is not None and value != found.get(name, value) for name, value in said.items()):
        raise ConfigurationError(f"{lacking} what runs in WALLET_HOME={stack.wallet_home} uses other servers")
    return {name: value for name, value in found.items() if said.get(name) is None}


def _plain(url: SecretStr | None) -> str | None:
    return url.get_secret_value() if url else None


def _read_stack_state(path: Path) -> dict[str, str]:
    """Return the servers and the transport that a running stack has written down, if it alone can have written that.

    Raises:
        ConfigurationError: the file is not its owner's alone, or is not what a stack writes.
    """
    try:
        status = path.stat()
        if status.st_mode & 0o077 or os.getuid() not in {0, status.st_uid}:
            raise ConfigurationError(f"DATABASE_URL: not set, and {path} is not private (mend it by: chmod 600 {path})")
        state = json.loads(path.read_text())
        found = {"database_url": str(state["postgres"]["url"]), "redis_url": str(state["redis"]["url"])}
        if "kafka" not in state:
            return found | {"transport": "rq"}
        return found | {"transport": "kafka", "kafka_brokers": str(state["kafka"]["brokers"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(f"DATABASE_URL: not set, and {path} cannot be read") from None
