"""The tours by curl show what a reader sees who types them, from the first line to the last, on a whole service."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.docs.pages import DOCS, blocks
from tests.ops.local.test_stack import Run
from tests.project import ROOT

# Their users are not the same, but the README's wallets have what they were opened with.
pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("tours")]
TOURS = [ROOT / "README.md", DOCS / "tour.md"]
END = "<end of an answer>"
# What is left out; and what is another one each time: ids, instants, days.
_OTHERS = re.compile(r"…|[0-9]{15,19}|[0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9:.]+Z)?")
# A command goes on below a line that ends with a backslash.
_ENTRY = re.compile(r"((?:.*\\\n)*.*)\n((?:.|\n)*)")


class Step(NamedTuple):
    """A command, as many lines as it has, and what is shown of its answer."""

    command: str
    answer: str


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """What `make run` starts, freshly begun."""
    run = Run(tmp_path_factory.mktemp("home"))
    try:
        run.wait_until_up()
        yield run
        assert run.finish() == 0
    finally:
        run.process.kill()
        run.process.communicate()


@pytest.mark.parametrize("tour", TOURS, ids=lambda path: path.name)
def test_a_tour_shows_what_a_reader_sees(tour: Path, stack: Run, tmp_path: Path) -> None:
    steps = list(steps_of(tour))
    assert len(steps) >= 7
    script = "\n".join(f"{here(step.command, stack)}\necho '{END}'" for step in steps)
    typed = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert typed.stderr == ""
    answers = typed.stdout.split(f"{END}\n")[:-1]
    known: dict[str, str] = {}
    for step, answer in zip(steps, answers, strict=True):
        compare(step, unfolded(answer), known)


def steps_of(page: Path) -> Iterator[Step]:
    """What is typed into the page's consoles, in its order, each with what is shown below it."""
    for console in blocks(page.read_text(), "console"):
        for entry in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
            command, answer = _ENTRY.fullmatch(entry).groups()  # type: ignore[union-attr]
            yield Step(command, unfolded(answer))


def here(command: str, stack: Run) -> str:
    """Have a command ask the service of this test, and leave its files in this test's folder."""
    for there, instead in (
        ("/tmp/", "./"),  # noqa: S108 - of the page
        ("localhost:8080", f"127.0.0.1:{stack.port}"),
        (".local/", f"{stack.home}/"),
    ):
        command = command.replace(there, instead)
    return command


def unfolded(text: str) -> str:
    return "".join(line.strip() for line in text.splitlines())


def compare(step: Step, answer: str, known: dict[str, str]) -> None:
    """Hold an answer against what is shown of it; what was seen for an id or an instant is seen for it again."""
    pattern, new, place = "", list[str](), 0
    for other in _OTHERS.finditer(step.answer):
        pattern += re.escape(step.answer[place : other.start()])
        place, shown = other.end(), other[0]
        if shown == "…":
            pattern += ".*"
        elif shown in known:
            pattern += re.escape(known[shown])
        elif shown in new:
            pattern += rf"(?:\{new.index(shown) + 1})"
        else:
            new.append(shown)
            pattern += f"({'[0-9]{15,19}' if shown.isdigit() else '[0-9T:.Z-]{10,27}'})"
    found = re.fullmatch(pattern + re.escape(step.answer[place:]), answer)
    assert found, f"{step.command}\nshown: {step.answer}\nseen:  {answer}"
    known.update(zip(new, found.groups(), strict=True))
