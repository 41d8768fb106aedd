"""The documentation as a site: Sphinx over the Markdown files of this repository, as they are. ``make docs`` builds it.

The root of the sources is the repository, so that a link from a page to any other file is the same on a web host and
here, and is checked. A page must be named by one of :data:`INDEXES`: their lists of links are the table of contents.
"""

import posixpath
import re
from pathlib import Path

from sphinx.application import Sphinx

project = "Wallet service"
project_copyright = "the wallet service's authors; MIT licence"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "docs/*/*.md"]
exclude_patterns = [".*", "docs/_build"]
# As web hosts make anchors of headings.
myst_heading_anchors = 3
highlight_language = "none"

html_theme = "furo"
html_title = project
html_copy_source = False
html_use_index = False
html_show_sphinx = False

# The pages whose lists name other pages.
INDEXES = (root_doc, "docs/reference", "docs/decisions/index")
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_FOLDER = re.compile(r"(?<=\]\()([^)#:]+/)(?=\))")
_ENTRY = re.compile(r"^\* \[[^\]]+\]\(([^)#]+\.md)(?:#[^)]*)?\)", re.MULTILINE)


def table_of_contents(docname: str, text: str) -> str:
    """Return the directives that put the pages that an index lists into the table of contents, by its headings."""
    parts = ["", *_HEADING.split(text)]
    directives = []
    for caption, part in zip(parts[::2], parts[1::2], strict=True):
        pages = [posixpath.normpath(posixpath.join(posixpath.dirname(docname), page)) for page in _ENTRY.findall(part)]
        if pages:
            entries = "\n".join(f"/{page.removesuffix('.md')}" for page in pages)
            options = f":caption: {caption}\n" if caption and docname == root_doc else ""
            directives.append(f"\n```{{toctree}}\n:hidden:\n{options}\n{entries}\n```\n")
    return "".join(directives)


def _complete_links_to_folders(app: Sphinx, docname: str, content: list[str]) -> None:
    """Let a link to a folder, which a web host shows by itself, lead to the folder's index."""
    folder = Path(app.srcdir, docname).parent
    content[0] = _FOLDER.sub(lambda link: link[1] + "index.md" * (folder / link[1] / "index.md").exists(), content[0])


def _add_table_of_contents(_app: Sphinx, docname: str, content: list[str]) -> None:
    if docname in INDEXES:
        content[0] += "\n" + table_of_contents(docname, content[0])


def _lead_to_the_first_page(app: Sphinx, failure: Exception | None) -> None:
    """Let the site begin at its top, although its sources do not."""
    if failure is None:
        page = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={root_doc}.html">'
        (Path(app.outdir) / "index.html").write_text(f'{page}<a href="{root_doc}.html">{project}</a>\n')


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.connect("source-read", _complete_links_to_folders)
    app.connect("source-read", _add_table_of_contents)
    app.connect("build-finished", _lead_to_the_first_page)
