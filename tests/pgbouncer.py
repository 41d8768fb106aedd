"""A real pgbouncer in front of a database."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ops.local.processes import wait_for
from tests.patience import PATIENCE_S


def or_skip() -> str:
    """Return where it is installed; skip the test where it is not."""
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        assert os.environ.get("REQUIRE_SERVER_TOOLS") != "1"
        pytest.skip("pgbouncer is not installed")
    return found


@contextmanager
def pgbouncer(folder: Path, url: str, *, mode: str, ignored: str = "extra_float_digits") -> Iterator[str]:
    """Run it, and give the URL by which it leads to the same database.

    Args:
        folder: empty, for its files.
        url: PostgreSQL's, with user, password, host and port.
        mode: ``session`` or ``transaction``.
        ignored: parameters of a session that it drops, in place of refusing them.
    """
    program, parts = or_skip(), urlsplit(url)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder.mkdir(exist_ok=True)
    (folder / "users").write_text(f'"{parts.username}" "{parts.password}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port}\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = plain\n"
        f"auth_file = {folder}/users\npool_mode = {mode}\nignore_startup_parameters = {ignored}\n"
    )
    command = [program, str(folder / "pgbouncer.ini")]
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, "nobody")
        for parent in folder.parents[:3]:
            parent.chmod(parent.stat().st_mode | 0o011)
        command[1:1] = ["-u", "nobody"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            assert wait_for(lambda: _answers(port), PATIENCE_S), (folder / "log").read_text()
            yield f"postgresql://{parts.username}:{parts.password}@127.0.0.1:{port}{parts.path}"
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
