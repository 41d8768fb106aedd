"""All commands of the service."""

from collections.abc import Sequence

import click

from api.commands import (
    actions,
    audit,
    bulk,
    collection,
    dead_letters,
    doctor,
    imports,
    statement,
    transfers,
    wallets,
    webhooks,
)

COMMANDS: Sequence[click.Command] = (
    wallets.commands,
    transfers.commands,
    dead_letters.commands,
    webhooks.commands,
    statement.command,
    imports.command,
    bulk.command,
    collection.command,
    audit.command,
    actions.command,
    doctor.command,
)
