"""How ``flask`` comes to these commands, and what it means for a process to be one."""

import importlib
from collections.abc import Sequence

import click
from flask import Flask
from flask.cli import AppGroup

# Of Flask's own commands, the one that serves.
SERVER = "run"


class _Commands(AppGroup):
    """Our commands, imported when somebody looks for one: a server never does, and would hold them for nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all."""
        self._import()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the one of this name."""
        self._import()
        return super().get_command(ctx, cmd_name)

    def _import(self) -> None:
        if not self.commands:
            for command in importlib.import_module("api.commands.every").COMMANDS:
                self.add_command(command)


def install(app: Flask) -> None:
    """Give an application its commands."""
    app.cli = _Commands(app.name)


def are_called() -> bool:
    """Whether this process runs a command: neither gunicorn's, which has no command line of click's, nor a server."""
    context = click.get_current_context(silent=True)
    return context is not None and context.info_name != SERVER


def only_help_is_wanted(arguments: Sequence[str]) -> bool:
    """Whether a command line, the program first, asks what there is and nothing else."""
    return len(arguments) == 1 or "--help" in arguments
