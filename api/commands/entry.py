"""How ``flask`` comes to these commands, and what it means for a process to be one."""

from collections.abc import Sequence

import click
from flask import Flask

from api.commands import audit, dead_letters, doctor, imports, statement, transfers, wallets

# Of Flask's own commands, the one that serves.
SERVER = "run"


def install(app: Flask) -> None:
    """Add the commands to an application."""
    groups = (wallets.commands, transfers.commands, dead_letters.commands)
    for command in (*groups, statement.command, imports.command, audit.command, doctor.command):
        app.cli.add_command(command)


def are_called() -> bool:
    """Whether this process runs a command: neither gunicorn's, which has no command line of click's, nor a server."""
    context = click.get_current_context(silent=True)
    return context is not None and context.info_name != SERVER


def only_help_is_wanted(arguments: Sequence[str]) -> bool:
    """Whether a command line, the program first, asks what there is and nothing else."""
    return len(arguments) == 1 or "--help" in arguments
