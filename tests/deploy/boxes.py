"""Containers as their manifests say, short of an engine: on Linux, by namespaces of mounts, and only for root.

A program is the user that its pod names, without capabilities and without a way to gain any; it sees the files that the
image has, and may write to ``/tmp`` alone, which is new and in memory.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import Pod
from tests.ops.compose.test_compose import INSTRUCTIONS
from tests.project import ROOT

# Where things are in there.
APP, PACKAGES, PYTHON = "/mnt/app", "/mnt/packages", "/mnt/python"
# What follows is done before the program is started, in the order in which one needs the other: the sources of these
# tests may be below /tmp themselves.
_BOX = f"""
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir {APP} {PACKAGES} {PYTHON} /mnt/bin
mount --bind "$APP" {APP}
mount --bind "$PACKAGES" {PACKAGES}
mount --bind "$PYTHON" {PYTHON}
ln -s "{PYTHON}/bin/$INTERPRETER" /mnt/bin/python
mount -t tmpfs -o size=64m,mode=1777 tmpfs /tmp
for place in {APP} {PACKAGES} {PYTHON} /; do mount -o remount,bind,ro "$place"; done
mount -o remount,ro /mnt
cd {APP}
exec setpriv --reuid="$USER_ID" --regid="$GROUP_ID" --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all \
    env --ignore-environment "$@"
"""


class Box:
    """A container that runs."""

    def __init__(self, process: subprocess.Popen[bytes], environment: Mapping[str, str], log: Path) -> None:
        self._process = process
        self._environment = environment
        self._log = log

    def said(self) -> str:
        """What it has said until now."""
        return self._log.read_text()

    def has_ended(self) -> bool:
        """Whether it has."""
        return self._process.poll() is not None

    def run(self, command: Sequence[str]) -> int:
        """Run another program in it, as an ``exec`` probe does; its exit status."""
        told = [f"{name}={value}" for name, value in self._environment.items()]
        owner = Path(f"/proc/{self._process.pid}").stat()
        enter = ["nsenter", f"--target={self._process.pid}", "--mount", f"--wd=/proc/{self._process.pid}/cwd"]
        become = ["setpriv", f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups", "--no-new-privs"]
        line = [*enter, *become, "env", "--ignore-environment", *told, *command]
        return subprocess.run(line, check=False, timeout=60).returncode

    def stop(self, within_s: float) -> int:
        """Tell it to stop, and return its exit status.

        Raises:
            TimeoutExpired: it takes longer.
        """
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(within_s)


def make_image(folder: Path) -> Path:
    """Copy into a folder what the image has of the project: what .dockerignore lets through, readable for all."""
    app = folder / "app"
    app.mkdir()
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        for path in ROOT.glob(line.removeprefix("!")) if line.startswith("!") else ():
            if path.is_dir():
                shutil.copytree(path, app / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, app)
    subprocess.run(["chmod", "-R", "u=rwX,go=rX", str(app)], check=True)
    return app


def skip_where_there_are_none() -> None:
    """Skip a test where no box can be made."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root, on Linux, makes a box")
    made = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False, capture_output=True
    )
    if made.returncode != 0:
        pytest.skip("no namespace can be made here")


@contextmanager
def running(pod: Pod, environment: Mapping[str, str], *, app: Path, log: Path) -> Iterator[Box]:
    """Start a pod's container; it is killed in the end, if it still runs."""
    first = json.loads(dict(INSTRUCTIONS)["ENTRYPOINT"])
    command: list[str] = pod.container.get("command") or [*first, *pod.container["args"]]
    told = {**environment, "PATH": "/mnt/bin:/usr/bin:/bin", "PYTHONPATH": PACKAGES, "LD_LIBRARY_PATH": f"{PYTHON}/lib"}
    context: dict[str, Any] = pod.spec["securityContext"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "sh",
                "-euc",
                _BOX,
                "sh",
                *(f"{key}={value}" for key, value in told.items()),
                *command,
            ],
            env={
                "PATH": os.environ["PATH"],
                "APP": str(app),
                "PACKAGES": str(Path(pytest.__file__).parents[1]),
                "PYTHON": sys.base_prefix,
                "INTERPRETER": f"python{sys.version_info.major}.{sys.version_info.minor}",
                "USER_ID": str(context["runAsUser"]),
                "GROUP_ID": str(context["runAsGroup"]),
            },
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Box(process, told, log)
    finally:
        process.kill()
        process.wait()
