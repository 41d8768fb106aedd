"""The site that is built of the pages: strictly, and complete in itself."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS
from tests.project import ROOT

# What a browser fetches by itself, in markup and in style sheets.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*?\bsrc\s*=\s*["']([^"']+)"""
    r"""|<link\b(?=[^>]*\brel\s*=\s*["'](?:stylesheet|icon|shortcut|preload|preconnect))[^>]*?\bhref\s*=\s*["']([^"']+)"""
    r"""|@import\s+(?:url\()?["']?([^"')]+)|url\(["']?([^"')]+)"""
)
_ELSEWHERE = ("http:", "https:", "//")


def _build(sources: Path, site: Path) -> subprocess.CompletedProcess[str]:
    options = ["--quiet", "--fail-on-warning", "--fresh-env", "-c", str(sources / "docs")]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(sources), str(site)],
        capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A few pages of a project, for this test to spoil."""
    folder = tmp_path / "sources"
    (folder / "docs").mkdir(parents=True)
    shutil.copy(DOCS / "conf.py", folder / "docs")
    (folder / "README.md").write_text("# Readme\n")
    (folder / "docs" / "index.md").write_text("# Index\n\n* [Read me](../README.md): first.\n* [Page](page.md#part)\n")
    (folder / "docs" / "page.md").write_text("# Page\n\n## Part\n\n[Code](conf.py), [back](index.md).\n")
    return folder


@pytest.mark.long
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    built = _build(ROOT, site)
    assert built.returncode == 0, built.stderr
    files = [path for path in site.rglob("*") if path.suffix in {".html", ".css"}]
    fetched = [(path.name, link) for path in files for link in filter(None, _all(path.read_text()))]
    assert fetched
    assert [each for each in fetched if each[1].startswith(_ELSEWHERE)] == []


def _all(text: str) -> list[str]:
    return [link for links in _FETCHED.findall(text) for link in links]


def test_whoever_opens_the_site_comes_to_its_index(sources: Path, tmp_path: Path) -> None:
    assert _build(sources, tmp_path / "site").returncode == 0
    assert "url=docs/index.html" in (tmp_path / "site" / "index.html").read_text()


def test_dead_links_and_a_page_that_no_index_names_fail_the_build(sources: Path, tmp_path: Path) -> None:
    dead = ["[Gone](gone.md)", "[Gone](../api/gone.py)", "[Gone](index.md#nowhere)", "![Gone](gone.svg)"]
    with (sources / "docs" / "page.md").open("a") as page:
        page.write("\n".join(["", *dead, ""]))
    (sources / "docs" / "lonely.md").write_text("# Lonely\n")
    built = _build(sources, tmp_path / "site")
    assert built.returncode != 0
    complaints = ("gone.md", "gone.py", "nowhere", "gone.svg", "lonely.md")
    assert [each for each in complaints if each not in built.stderr] == []
