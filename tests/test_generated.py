"""What is generated and kept here is what its source makes: code of proto/, requests of the OpenAPI document."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT

GENERATED = ("wallet_pb2.py", "wallet_pb2.pyi", "wallet_pb2_grpc.py", "wallet_pb2_grpc.pyi")


def _make(target: str, folder: Path) -> Path:
    # VENV would install; a command of `make` takes the place of a variable of the Makefile.
    command = ["make", "--silent", target, f"INTO={folder}", "VENV=@:"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture
def anew(tmp_path: Path) -> Path:
    """What ``make proto`` writes into an empty folder, with the packages that are installed."""
    return _make("proto", tmp_path)


def test_the_generated_code_is_current(anew: Path) -> None:
    assert {path.name for path in (anew / "wallet" / "v1").iterdir()} == set(GENERATED)
    here = ROOT / "wallet" / "v1"
    assert {path.name for path in here.glob("*.py*")} == {"__init__.py", *GENERATED}
    stale = [name for name in GENERATED if (here / name).read_bytes() != (anew / "wallet" / "v1" / name).read_bytes()]
    assert stale == [], "make proto writes them anew"


def test_the_contract_compiles_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "--fatal_warnings", f"--proto_path={ROOT / 'proto'}"]
    command += [f"--descriptor_set_out={tmp_path / 'descriptors'}", "wallet/v1/wallet.proto"]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (compiled.returncode, compiled.stderr) == (0, "")


def test_the_collection_is_current(tmp_path: Path) -> None:
    here, anew = ROOT / "docs" / "bruno", _make("collection", tmp_path) / "docs" / "bruno"
    kept, made = ({str(path.relative_to(folder)) for path in folder.rglob("*.*")} for folder in (here, anew))
    assert kept == made, "make collection writes them anew"
    stale = [name for name in made if (here / name).read_bytes() != (anew / name).read_bytes()]
    assert stale == [], "make collection writes them anew"
