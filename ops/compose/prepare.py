"""Makes PostgreSQL's container ready for the service: ``python -m ops.compose.prepare``, once at every ``up``.

Roles and database first, as the superuser that PostgreSQL takes for granted in whoever reaches its socket; of the
service's containers this one alone does. Then the migrations, by the same way as the owner, who has no password at
all: from the network nobody can be him. Both are safe to repeat, so a volume from before either of them was there is
brought up to date, and a password that was given anew is the role's from then on.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg2
from psycopg2 import extensions

from config.libpq import withhold_variables
from ops.compose import secret_files
from ops.local import roles

# The volume that PostgreSQL's socket is in, as docker-compose.yml mounts it.
SOCKET_FOLDER = Path("/run/wallet-postgres")
PORT = 5432
SUPERUSER = "postgres"


def main(environment: Mapping[str, str]) -> int:
    """Prepare; the exit status."""
    withhold_variables()
    password, monitor_password = (
        (secret_files.FOLDER / secret.file).read_text()
        for secret in (secret_files.POSTGRES_PASSWORD, secret_files.MONITOR_PASSWORD)
    )
    try:
        roles.set_up(_connect, owner_password=None, service_password=password)
        roles.set_up_monitor(_connect, password=monitor_password)
    except psycopg2.Error as error:
        print(f"cannot make the database's roles: {error}".strip(), file=sys.stderr)
        return 1
    owner = {"OWNER_DATABASE_URL": f"postgresql://{roles.OWNER}@/{roles.DATABASE}?host={SOCKET_FOLDER}&port={PORT}"}
    settings = {**secret_files.settings(secret_files.FOLDER), **environment, **owner}
    return subprocess.run([sys.executable, "-m", "ops.prepare"], env=settings, check=False).returncode


def _connect(database: str) -> extensions.connection:
    return psycopg2.connect(host=str(SOCKET_FOLDER), port=PORT, user=SUPERUSER, dbname=database, connect_timeout=5)


if __name__ == "__main__":
    sys.exit(main(os.environ))
