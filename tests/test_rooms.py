"""The rooms' rules that import-linter cannot see: single files, and imports inside functions."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import ROOT

ROOMS = ("api", "config", "jobs", "models", "observe", "ops")
ENTRY_POINTS = {"wsgi", "worker"}
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")) + [
    ROOT / name for name in ("wsgi.py", "worker.py")
]


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _names(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in _imports(ast.parse(path.read_text()))}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_imports_an_entry_point(path: Path) -> None:
    assert not _names(path) & ENTRY_POINTS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_stands_inside_a_function(path: Path) -> None:
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert [name for function in functions for name in _imports(function)] == []


def test_only_config_reads_the_environment() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path.parts[len(ROOT.parts)] not in {"config", "ops"}
        and any(word in path.read_text() for word in ("os.environ", "getenv"))
    ]
    assert readers == []
