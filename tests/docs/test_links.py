"""Pages read well where they are: no link leads nowhere, no line is too long, every decision is listed."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import DOCS, PAGES
from tests.project import ROOT

MAX_LINE = 120
MAX_ARCHITECTURE_LINES = 150
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE_BLOCK = re.compile(r"^(?: {4}[^\n]*|```.*?^```)$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_EXTERNAL = ("http://", "https://")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    assert [link for link in _links(page) if not _leads_somewhere(page, link)] == []


@pages
def test_a_link_stays_within_the_project(page: Path) -> None:
    assert [link for link in _links(page) if not _is_within(page, link)] == []


@pages
def test_no_line_is_too_long(page: Path) -> None:
    # A row of a table cannot be wrapped.
    lines = [line for line in page.read_text().splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > MAX_LINE] == []


def test_the_architecture_is_read_in_one_go() -> None:
    lines = (ROOT / "ARCHITECTURE.md").read_text().splitlines()
    assert len(lines) <= MAX_ARCHITECTURE_LINES
    assert max(map(len, lines)) <= MAX_LINE


@pytest.mark.parametrize("heading", ["Context", "Decision", "What it costs", "What was tried"])
def test_every_decision_says_what_it_is_about_and_what_it_costs(heading: str) -> None:
    decisions = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    assert decisions
    assert [page.name for page in decisions if f"\n## {heading}\n" not in page.read_text()] == []


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(page.name[:4]) for page in sorted((DOCS / "decisions").glob("[0-9]*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def _links(page: Path) -> list[str]:
    return _LINK.findall(_CODE_BLOCK.sub("", page.read_text()))


def _leads_somewhere(page: Path, link: str) -> bool:
    if link.startswith(_EXTERNAL):
        return True
    path, _, anchor = unquote(link).partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in _anchors(target))


def _is_within(page: Path, link: str) -> bool:
    return link.startswith(_EXTERNAL) or (page.parent / link.partition("#")[0]).resolve().is_relative_to(ROOT)


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as web hosts make them."""
    anchors: set[str] = set()
    for heading in _HEADING.findall(_CODE_BLOCK.sub("", page.read_text())):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        number = 0
        while (anchor := words if not number else f"{words}-{number}") in anchors:
            number += 1
        anchors.add(anchor)
    return anchors
