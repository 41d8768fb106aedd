"""The secrets of a stack of containers: files in a volume, generated where nobody gave any.

    python -m ops.compose.secret_files

writes what is missing. Files, because what stands in compose's ``environment`` or ``command`` is shown by
``docker inspect`` and ``ps`` for as long as the container lives. Redis is in the group of its own file and can read no
other, PostgreSQL is told its by ops/compose/prepare.py. All of them belong to the API's user, who writes them here; the
user of workers and of the preparation is in the group of those that it needs.
"""

import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ops.local import roles

FOLDER = Path("/run/wallet-secrets")
# Known to docker-compose.yml too, which puts the server's container into it.
REDIS_GROUP = 10012
# Of the service's own users, as the Dockerfile has them.
SERVICE_GROUP = 10001
# requirepass, as redis-server reads it.
REDIS_CONFIGURATION = "redis.conf"
SECRET_BYTES = 32


@dataclass(frozen=True)
class Secret:
    """One secret: the setting it may be given by, and the file of that name in lower case."""

    setting: str
    # Whom to show the file to, besides the API.
    group: int | None = None
    # Whether it is made up when it is not given. What is not, is only there as long as it is given.
    generated: bool = True

    @property
    def file(self) -> str:
        """Its file's name."""
        return self.setting.lower()


# The service's own; the owner of the database has none (ops/compose/prepare.py).
POSTGRES_PASSWORD = Secret("POSTGRES_PASSWORD", group=SERVICE_GROUP)
# Of the role that exporters use.
MONITOR_PASSWORD = Secret("MONITOR_PASSWORD", group=SERVICE_GROUP)
REDIS_PASSWORD = Secret("REDIS_PASSWORD", group=SERVICE_GROUP)
ADMIN_PASSWORD = Secret("ADMIN_PASSWORD")
JWT_SECRET = Secret("JWT_SECRET", generated=False)
# Of a cluster elsewhere: the one that compose starts has none.
KAFKA_SASL_PASSWORD = Secret("KAFKA_SASL_PASSWORD", group=SERVICE_GROUP, generated=False)
SECRETS = (POSTGRES_PASSWORD, MONITOR_PASSWORD, REDIS_PASSWORD, ADMIN_PASSWORD, JWT_SECRET, KAFKA_SASL_PASSWORD)
# Those that are settings as they are.
_SETTINGS = (ADMIN_PASSWORD, JWT_SECRET, KAFKA_SASL_PASSWORD)


class BadSecret(Exception):
    """A secret that was given cannot be used."""


def write(folder: Path, given: Mapping[str, str]) -> None:
    """Write every secret that is given, and generate those that are neither given nor there. Safe to repeat.

    Raises:
        BadSecret: names the setting, never its value. Nothing was written.
    """
    for secret in SECRETS:
        # A line is what the formats can hold that it is written in.
        if not given.get(secret.setting, "").isprintable():
            raise BadSecret(f"{secret.setting}: must be one line of printable characters")
    for secret in SECRETS:
        path = folder / secret.file
        if value := given.get(secret.setting):
            write_file(path, value, secret.group)
        elif not secret.generated:
            path.unlink(missing_ok=True)
        else:
            # Also what is there, so that an older version's file can be read by those who may now.
            known = path.read_text() if path.exists() else secrets.token_urlsafe(SECRET_BYTES)
            write_file(path, known, secret.group)
    password = (folder / REDIS_PASSWORD.file).read_text()
    write_file(folder / REDIS_CONFIGURATION, f"requirepass {quote_for_redis(password)}\n", REDIS_GROUP)


def settings(folder: Path) -> dict[str, str]:
    """The service's settings that contain secrets; of those whose files are there, and for this user to read."""
    found = {}
    for secret in SECRETS:
        with suppress(FileNotFoundError, PermissionError):
            found[secret] = (folder / secret.file).read_text()
    result = {secret.setting: found[secret] for secret in _SETTINGS if secret in found}
    if POSTGRES_PASSWORD in found:
        password = quote(found[POSTGRES_PASSWORD], safe="")
        result["DATABASE_URL"] = f"postgresql://{roles.SERVICE}:{password}@postgres:5432/{roles.DATABASE}"
    if REDIS_PASSWORD in found:
        result["REDIS_URL"] = f"redis://:{quote(found[REDIS_PASSWORD], safe='')}@redis:6379/0"
    return result


def quote_for_redis(value: str) -> str:
    """The value as a word of Redis's configuration and of its inline commands, whatever it contains."""
    plain = "".join(chr(byte) if bytes([byte]).isalnum() else f"\\x{byte:02x}" for byte in value.encode())
    return f'"{plain}"'


def write_file(path: Path, text: str, group: int | None) -> None:
    """Replace the file at once: after a crash there is the old one or the new one, on the disk."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        if group is not None:
            os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, 0o400 if group is None else 0o440)
        os.fsync(descriptor)
    Path(draft).replace(path)


def main() -> int:
    """Write the secrets; the exit status."""
    try:
        write(FOLDER, os.environ)
    except BadSecret as error:
        print(f"configuration error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
