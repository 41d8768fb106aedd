"""The pages of docs/, as these tests read them."""

import re
from pathlib import Path

from tests.project import ROOT

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
# Whatever people read, the templates of the web host included.
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("*/*.md"), *(ROOT / ".github").rglob("*.md")])

_CELL = re.compile(r"(?<!\\)\|")
_CODE = re.compile(r"`([^`]+)`")


def section(page: Path, heading: str) -> str:
    """Return what stands under a heading of the second level, up to the next one."""
    _, _, rest = page.read_text().partition(f"\n## {heading}\n")
    assert rest, f"{page} has no section {heading}"
    return rest.partition("\n## ")[0]


def rows(text: str) -> list[dict[str, str]]:
    """Return the rows of all tables in a text, each by the names of its columns."""
    found = []
    for table in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        header, _, *lines = [_cells(line) for line in table.splitlines()]
        found += [dict(zip(header, line, strict=True)) for line in lines]
    return found


def blocks(text: str, language: str) -> list[str]:
    """Return what stands between fences of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Return what is to be typed, of all that a console shows: each a line for a shell."""
    shown = "".join(blocks(text, "console")).replace("\\\n", "")
    return [line.removeprefix("$ ") for line in shown.splitlines() if line.startswith("$ ")]


def codes(cell: str) -> list[str]:
    """Return what is written as code in a cell."""
    return _CODE.findall(cell)


def code(cell: str) -> str:
    """Return the first that is written as code in a cell."""
    return codes(cell)[0]


def by_name(found: list[dict[str, str]], column: str) -> dict[str, dict[str, str]]:
    """Return rows by the code in one of their columns, each of which must be there once."""
    named = {code(row[column]): row for row in found}
    assert len(named) == len(found)
    return named


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in _CELL.split(line.strip())[1:-1]]
