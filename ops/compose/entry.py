"""A container's first program: puts the secrets into the environment and becomes the service.

    python -m ops.compose.entry [--prepare] PROGRAM [ARGUMENT ...]

With ``--prepare`` the database is made ready first. What the environment says already wins over the files, and without
any files it is all there is: so the image also runs where something other than compose hands in DATABASE_URL and
its like. What the container's processes count is kept in a folder that is new with each start. It belongs to the
service: a command that comes later, by ``docker compose exec``, leaves it alone and counts for itself.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ops.compose import secret_files

PREPARE = "--prepare"
METRICS = Path("/tmp/metrics")  # noqa: S108 - in a container of our own
# Where gRPC processes tell each other who serves, and the health check finds it.
TURNS = Path("/tmp/grpc")  # noqa: S108


def main(arguments: list[str]) -> int:
    """Never returns, unless the database cannot be prepared: then its exit status."""
    environment = secret_files.settings(secret_files.FOLDER) | os.environ
    if "PROMETHEUS_MULTIPROC_DIR" not in environment and _is_first():
        shutil.rmtree(METRICS, ignore_errors=True)
        METRICS.mkdir(mode=0o700)
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(METRICS)
    if arguments[0] == PREPARE:
        _, *arguments = arguments
        status = subprocess.run([sys.executable, "-m", "ops.prepare"], env=environment, check=False).returncode
        if status != 0:
            return status
    environment.pop("OWNER_DATABASE_URL", None)  # who serves does not know the owner
    # In the same process, so that signals reach the service.
    return os.execvpe(arguments[0], arguments, environment)  # noqa: S606


def _is_first() -> bool:
    """Whether nothing that was started like this runs here yet. So it is then until the program ends: it has a lock."""
    lock = os.open(METRICS.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    os.set_inheritable(lock, True)  # for the program that this becomes
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
