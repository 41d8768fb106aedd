"""JavaScript for tests: Node.js, with the packages of ``tests/node_packages``, which npm fetches once into a cache."""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.project import ROOT

PACKAGES = ROOT / "tests" / "node_packages"
# Beside `.venv`, and not below a test's folder: it is fetched once, and changed with the lock file.
CACHE = ROOT / ".node"
# npm waits for a registry that is away for longer than anybody wants to.
INSTALL_S = 120
RUN_S = 60
# Where these tests have to run (.ci/run).
REQUIRE = "REQUIRE_NODE"


@dataclass(frozen=True, slots=True)
class Node:
    """Node.js and a folder with packages."""

    folder: Path

    def run(self, script: str, given: str) -> str:
        """Run a script, with this as its input; return what it prints."""
        done = subprocess.run(
            ["node", "--eval", script],
            cwd=self.folder,
            input=given,
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def find_node() -> Node:
    """Return it, with its packages installed; skip the test where it cannot be had and need not be."""
    why = None
    if not shutil.which("node") or not shutil.which("npm"):
        why = "there is no Node.js with npm"
    else:
        lock = (PACKAGES / "package-lock.json").read_bytes()
        folder = CACHE / hashlib.sha256(lock).hexdigest()[:16]
        if not (folder / "node_modules").is_dir():
            why = _install(folder)
        if why is None:
            return Node(folder)
    if os.environ.get(REQUIRE):
        pytest.fail(why)
    pytest.skip(why)


def _install(folder: Path) -> str | None:
    """Install what the lock file has, letter for letter, in one step as others see it; return why it cannot be."""
    draft = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.copytree(PACKAGES, draft, dirs_exist_ok=True)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(command, cwd=draft, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        return "npm does not come to an end"
    if done.returncode:
        return f"npm cannot install: {done.stderr.strip().splitlines()[-1:]}"
    try:
        draft.rename(folder)
    except OSError:  # another test process was first
        shutil.rmtree(draft)
    return None
