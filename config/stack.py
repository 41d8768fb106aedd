"""The settings of ``make run``, and how a command finds the service that it runs."""

import json
import os
import sys
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from config.listening import Listening
from config.reading import ConfigurationError, complain, load
from config.service import Settings
from config.urls import DatabaseUrl, RedisUrl
from config.values import UserName

# Where a local stack says what is up, below its WALLET_HOME.
STACK_STATE = Path("run/stack.json")
# Settings with which nothing can be reached, for commands that only tell what they are.
NOWHERE = {"database_url": "postgresql://nowhere", "redis_url": "redis://nowhere"}


class StackSettings(Listening):
    """What ``make run`` reads: without the URLs it starts servers of its own below ``wallet_home``."""

    wallet_home: Path = Path(".local")
    workers: int = Field(default=2, ge=0, le=64)
    database_url: DatabaseUrl | None = None
    owner_database_url: DatabaseUrl | None = None
    redis_url: RedisUrl | None = None
    cache_redis_url: RedisUrl | None = None
    admin_user: UserName = "admin"
    admin_password: SecretStr | None = None

    @model_validator(mode="after")
    def _owner_comes_with_a_service(self) -> Self:
        if self.owner_database_url and not self.database_url:
            raise ValueError("OWNER_DATABASE_URL needs DATABASE_URL: the owner migrates what the service connects to")
        return self


def load_for_command_or_exit(*, only_help: bool = False) -> Settings:
    """:func:`load_or_exit` for ``flask …``: URLs that nobody gave are those of the service that runs here.

    Never for the API or a worker: what a service works on must not depend on what else runs where it is started.

    Args:
        only_help: nothing is going to be reached, so URLs need not be known.
    """
    try:
        return load(Settings, **(NOWHERE if only_help else _urls_of_local_stack()))
    except ConfigurationError as error:
        sys.exit(complain(str(error)))


def find_local_grpc(home: Path) -> tuple[bool, str | None]:
    """Return whether a stack runs in this WALLET_HOME, and if so where its gRPC is; None: it has none."""
    try:
        state = json.loads((home / STACK_STATE).read_text())
        return True, str(state["grpc"]["target"]) if "grpc" in state else None
    except (OSError, ValueError, KeyError, TypeError):
        return False, None


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
