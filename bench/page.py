"""Tables of figures on a page of the documentation, between two marks."""

from pathlib import Path

BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"


def fill(page: Path, told: str) -> None:
    """Put tables into a page, in the place of those that are there."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{told}\n{END}{after}")
