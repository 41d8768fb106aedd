"""Alembic's entry: each migration in a transaction of its own, one upgrade at a time."""

from typing import Any

import structlog
from alembic import context
from sqlalchemy import Connection, create_engine

from models.schema.migrations.exclusive import alone
from models.schema.tables import metadata

_log = structlog.get_logger("migrations")


def _tell(*_: Any, **facts: Any) -> None:
    _log.info("migration applied", revision=facts["step"].up_revision_id)


def run(connection: Connection) -> None:
    """Migrate on the connection given, whose session holds the lock on the schema."""
    context.configure(
        connection=connection, target_metadata=metadata, transaction_per_migration=True, on_version_apply=_tell
    )
    with context.begin_transaction():
        context.run_migrations()


if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:  # the alembic command line: URL by `-x url=postgresql+psycopg2://…`
    with alone(create_engine(context.get_x_argument(as_dictionary=True)["url"])) as own:
        run(own)
        own.commit()
