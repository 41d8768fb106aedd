"""The recipes of the page do what the page says, on a whole service, and again without doing it again."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.docs.pages import DOCS, blocks, section
from tests.ops.local.test_stack import Run
from tests.project import ROOT

PAGE = DOCS / "recipes.md"
FOLDER = DOCS / "recipes"
RECIPES = {"Marketplace payout": "marketplace_payout", "Prepaid credit": "prepaid_credit", "Refund": "refund"}
PYTHON, URL = "recipes/bin/python", "http://127.0.0.1:8080"

recipes = pytest.mark.parametrize("heading", RECIPES)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A whole service, which all recipes share: their users are not the same."""
    run = Run(tmp_path_factory.mktemp("home"))
    try:
        run.wait_until_up()
        yield f"http://127.0.0.1:{run.port}"
        assert run.finish() == 0
    finally:
        run.process.kill()
        run.process.communicate()


@pytest.fixture
def cook(url: str) -> Callable[[str], str]:
    """Type what the page shows, and return what it prints."""

    def cook(command: str) -> str:
        name, *arguments = shlex.split(command.replace(URL, url))
        assert name == PYTHON
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "client"), "PYTHONWARNINGS": "error"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return cook


@recipes
def test_the_page_shows_the_program_that_is_run(heading: str) -> None:
    (shown,) = blocks(section(PAGE, heading), "python")
    assert shown == (FOLDER / f"{RECIPES[heading]}.py").read_text()


def test_every_program_stands_on_the_page() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(RECIPES.values())


@pytest.mark.stack
@pytest.mark.xdist_group("recipes")
@recipes
def test_a_recipe_prints_what_the_page_says_and_moves_nothing_the_second_time(
    heading: str, cook: Callable[[str], str]
) -> None:
    (shown,) = blocks(section(PAGE, heading), "console")
    command, _, told = shown.removeprefix("$ ").partition("\n")
    assert cook(command) == told
    again = cook(command)
    if heading == "Marketplace payout":
        # Nothing stops it any more, and all of it was made before.
        told = told.partition("\n")[2].replace("2 of them before", "6 of them before")
    assert again == told
