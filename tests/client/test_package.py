"""The client is a package of its own: built, installed and imported without anything else."""

import ast
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.project import ROOT

PACKAGE = ROOT / "client" / "wallet_client"
# Every public name is imported, and a call is made that needs no service.
PROBE = """
import sys, wallet_client.webhooks
from wallet_client import *
from wallet_client import __all__
with WalletClient("http://127.0.0.1:1", user_id=1, retries=NO_RETRIES) as wallet:
    try:
        wallet.balance()
    except Unavailable as error:
        print(error.code, len(__all__), wallet_client.__file__)
"""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """What is installed, built with what is here: no index is asked."""
    # What a build leaves beside its sources is nobody's.
    source = shutil.copytree(PACKAGE.parent, tmp_path / "client", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path / "wheels"), str(source)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "wheels").iterdir()
    return wheel


def test_the_wheel_has_all_modules_and_says_that_they_are_typed(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        held = set(archive.namelist())
        (metadata,) = [archive.read(name).decode() for name in held if name.endswith(".dist-info/METADATA")]
    expected = {f"wallet_client/{path.name}" for path in PACKAGE.iterdir() if path.suffix in {".py", ".typed"}}
    assert {name for name in held if name.startswith("wallet_client/")} == expected
    assert "wallet_client/py.typed" in held
    assert "Requires-Dist" not in metadata


def test_it_works_where_nothing_else_is_installed(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home)
    install = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True, timeout=120)
    probe = [str(home / "bin" / "python"), "-W", "error", "-c", PROBE]
    said = subprocess.run(probe, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.startswith("unreachable ")
    assert str(home) in said


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_a_module_imports_the_standard_library_and_its_own_package_only(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    assert imported - sys.stdlib_module_names <= {"wallet_client"}
