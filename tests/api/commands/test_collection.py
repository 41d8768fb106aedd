"""``flask collection``: requests of the contract, in files."""

from pathlib import Path

from flask import Flask

from api.contract.collection import make_collection
from api.contract.openapi import make_document
from tests.api.commands.conftest import Runner


def test_all_files_are_written_and_those_of_others_left_alone(app: Flask, run: Runner, tmp_path: Path) -> None:
    own, stale = tmp_path / "Money" / "my own.bru", tmp_path / "Money" / "deposit.bru"
    own.parent.mkdir()
    for each in (own, stale):
        each.write_text("something")
    result = run("collection", tmp_path)
    files = make_collection(make_document(app))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"{len(files)} files in {tmp_path}\n")
    written = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.*")}
    assert written == files | {"Money/my own.bru": "something"}


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path, run: Runner) -> None:
    (tmp_path / "file").touch()
    result = run("collection", tmp_path / "file" / "below")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
