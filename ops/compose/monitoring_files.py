"""What the monitoring's containers must know, in a volume of their own: none of them comes near the service's.

    python -m ops.compose.monitoring_files

copies it there with every ``up``, and makes up a password for Grafana's administrator where none was given. Each
container is in the group of its own files and can read no others, as in :mod:`ops.compose.secret_files`.
"""

import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from ops.compose import secret_files
from ops.compose.secret_files import MONITOR_PASSWORD, REDIS_PASSWORD, SECRET_BYTES, BadSecret, write_file
from ops.local import roles

FOLDER = Path("/run/monitoring-secrets")
# Known to docker-compose.yml too, which puts the containers into them.
POSTGRES_EXPORTER_GROUP = 10021
REDIS_EXPORTER_GROUP = 10022
GRAFANA_GROUP = 10023
# How Grafana's password may be given.
GRAFANA_PASSWORD = "GRAFANA_PASSWORD"  # noqa: S105
GRAFANA_FILE = "grafana_password"
# The exporter looks its password up by this address.
REDIS_ADDRESS = "redis://redis:6379"


def write(folder: Path, *, service: Path, given: Mapping[str, str]) -> None:
    """Write what the exporters and Grafana need. Safe to repeat.

    Args:
        folder: to write to.
        service: the folder of the service's own secrets, all of which are there.
        given: what may hold a password for Grafana; empty counts as none.

    Raises:
        BadSecret: the password cannot be used. Nothing was written.
    """
    if not given.get(GRAFANA_PASSWORD, "").isprintable():
        raise BadSecret(f"{GRAFANA_PASSWORD}: must be one line of printable characters")
    write_file(folder / "postgres_user", roles.MONITOR, POSTGRES_EXPORTER_GROUP)
    write_file(folder / "postgres_password", (service / MONITOR_PASSWORD.file).read_text(), POSTGRES_EXPORTER_GROUP)
    passwords = {REDIS_ADDRESS: (service / REDIS_PASSWORD.file).read_text()}
    write_file(folder / "redis_passwords.json", json.dumps(passwords), REDIS_EXPORTER_GROUP)
    if password := given.get(GRAFANA_PASSWORD):
        write_file(folder / GRAFANA_FILE, password, GRAFANA_GROUP)
    elif not (folder / GRAFANA_FILE).exists():
        write_file(folder / GRAFANA_FILE, secrets.token_urlsafe(SECRET_BYTES), GRAFANA_GROUP)


def main() -> int:
    """Write them; the exit status."""
    try:
        write(FOLDER, service=secret_files.FOLDER, given=os.environ)
    except BadSecret as error:
        print(f"configuration error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
