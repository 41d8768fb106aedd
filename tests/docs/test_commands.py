"""Every command stands in the reference: those of make, and those of flask with their options."""

import re
from collections.abc import Iterator

import click
from flask import Flask

from tests.docs.pages import REFERENCE, by_name, codes, rows, section
from tests.project import ROOT

PAGE = REFERENCE / "commands.md"


def test_every_make_target_stands_in_the_reference() -> None:
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(by_name(rows(section(PAGE, "make")), "command")) == {f"make {target}" for target in targets}


def test_every_variable_of_a_make_target_that_the_reference_names_is_read() -> None:
    read = set(re.findall(r"\$\((?:if |or )?\$?\(?([A-Z_]+)\)?", (ROOT / "Makefile").read_text()))
    told = {name for row in rows(section(PAGE, "make")) for name in codes(row["variables"])}
    # The servers and the home are settings, and reach every command by the environment.
    assert told - {"BROKERS", "WALLET_HOME", "DATABASE_URL", "REDIS_URL"} <= read


def test_every_flask_command_stands_with_its_options(app: Flask) -> None:
    told = {name: codes(row["options"]) for name, row in by_name(_with_options(), "command").items()}
    assert told == dict(_commands(app.cli, "flask"))


def test_the_exit_statuses_are_those_of_flask_commands(app: Flask) -> None:
    names = {name.removeprefix("flask ").partition(" <")[0] for name, _ in _commands(app.cli, "flask")}
    existing = {re.sub(r" [A-Z_]+$", "", name) for name in names}
    told = {name for row in rows(section(PAGE, "flask")) if "0" in row for name in codes(row["command"])}
    # A group stands for all of its commands.
    uncovered = {name for name in existing if name not in told and name.partition(" ")[0] not in told}
    assert uncovered == set()
    assert all(any(name == each or name.startswith(f"{each} ") for name in existing) for each in told)


def _with_options() -> list[dict[str, str]]:
    return [row for row in rows(section(PAGE, "flask")) if "options" in row]


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, list[str]]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        else:
            arguments = [each.name.upper() for each in command.params if isinstance(each, click.Argument) and each.name]
            options = [each.opts[0] for each in command.params if isinstance(each, click.Option)]
            yield " ".join([path, name, *arguments]), options
