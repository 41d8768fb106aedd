"""What a reader of a page types."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

# The interpreter of whoever has made an environment for a client.
PYTHON = "client/bin/python"


def type_command(folder: Path, command: str) -> str:
    """Run a command of a page, by the interpreter that is here, and return what it prints."""
    name, *arguments = shlex.split(command)
    assert name == PYTHON
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
