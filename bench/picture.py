"""``make picture``: the recording in the README, made anew: ``docs/picture.svg``.

It runs `make run` in a folder of its own and types the commands below. Commands, answers and the order of things are
what happened; pauses longer than :data:`LONGEST_PAUSE_S` are shortened, the port that was free is shown as 8080, and of
the lines that `make run` prints those with paths are left out.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from bench.site import ROOT
from bench.terminal import Line, draw

FILE = ROOT / "docs" / "picture.svg"
LONGEST_PAUSE_S = 2.0
READY_TIMEOUT_S, ANSWER_TIMEOUT_S, STOP_TIMEOUT_S = 120.0, 30.0, 60.0
# Of somebody who types fast, and reads before typing on.
KEY_S, LOOK_S = 0.02, 1.5

# A row ends where one would break it by hand.
PAY = r"""curl -s -H 'Authorization: 1' -H 'Idempotency-Key: rent' \
    --json '{"destination_user_id": 2, "amount": 1003}' localhost:8080/api/transfer/v2"""
BALANCE = "curl -s -H 'Authorization: 2' localhost:8080/api/wallet/balance/v1"
COMMANDS = (
    BALANCE,
    f"kill -9 $(cut -d' ' -f1 .local/run/worker-*.pid); \\\n    {PAY} | tee job",
    "curl -s -H 'Authorization: 1' \"localhost:8080$(cut -d'\"' -f14 job)?wait=20\"",
    BALANCE,
    PAY.replace("curl -s", "curl -si") + " | grep Replayed",
    BALANCE,
)


class Recording:
    """What a terminal showed, and the service behind it. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = str(probe.getsockname()[1])
        self._folder = folder
        self._lines: list[Line] = []
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        """Start the service.

        Raises:
            TimeoutError: it is not ready in time.
        """
        self._began_at = time.monotonic()
        self._type("make run &")
        # The port beside PORT may be anybody's.
        settings = {"WALLET_HOME": str(self._folder / ".local"), "PORT": self._port, "GRPC_PORT": "off"}
        self._service = subprocess.Popen(
            ["make", "run"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        if not self._ready.wait(READY_TIMEOUT_S):
            self.__exit__()
            raise TimeoutError("the service is not ready")
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the service."""
        self._service.terminate()
        self._service.wait(STOP_TIMEOUT_S)

    def run(self, command: str) -> None:
        """Type a command and show what it says."""
        time.sleep(LOOK_S)
        self._type(command)
        said = subprocess.run(
            ["sh", "-c", command.replace("8080", self._port)],
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=ANSWER_TIMEOUT_S,
            check=True,
        )
        for line in said.stdout.splitlines():
            self._show(line, "said")

    def lines(self) -> list[Line]:
        """Return what was shown until now, in the order of time, with long pauses shortened."""
        told: list[Line] = []
        ended_s = cut_s = 0.0
        for line in sorted(self._lines, key=lambda each: each.at_s):
            cut_s += max(0.0, line.at_s - ended_s - LONGEST_PAUSE_S)
            ended_s = max(ended_s, line.at_s + line.typing_s)
            told.append(replace(line, at_s=line.at_s - cut_s))
        return told

    def _listen(self) -> None:
        for line in self._service.stdout or ():
            if not line.startswith("  "):
                self._show(line.rstrip(), "behind")
            if line.startswith("ready"):
                self._ready.set()

    def _type(self, command: str) -> None:
        typing_s = len(command) * KEY_S
        self._show(f"$ {command}", "typed", typing_s)
        time.sleep(typing_s)

    def _show(self, text: str, kind: str, typing_s: float = 0.0) -> None:
        shown = text.replace(self._port, "8080")
        self._lines.append(Line(shown, kind, time.monotonic() - self._began_at, typing_s))


def record(commands: Sequence[str]) -> list[Line]:
    """Run commands beside a service of their own, and return what was to be seen."""
    with tempfile.TemporaryDirectory(prefix="wallet-picture-") as folder, Recording(Path(folder)) as recording:
        for command in commands:
            recording.run(command)
        time.sleep(LOOK_S)
        return recording.lines()


if __name__ == "__main__":
    today = datetime.now(UTC).date()
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(draw(record(COMMANDS), f"Recorded on {today} by `make picture`: what it shows has happened."))
    sys.stdout.write(f"{FILE.relative_to(ROOT)}: {FILE.stat().st_size:,} bytes\n")
