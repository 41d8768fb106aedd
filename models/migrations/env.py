"""Alembic's entry: one transaction for the whole upgrade, one upgrade at a time."""

from alembic import context
from sqlalchemy import Connection, create_engine, text

from models.tables import metadata

# Any constant would do: it only has to be the same in every process that migrates this database.
MIGRATION_LOCK = 7_246_011


def run(connection: Connection) -> None:
    """Migrate on the connection given, holding the advisory lock until the transaction ends."""
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        # Whoever comes second waits here for the first (the service's own bounds are meant for payments), and
        # then reads the version that the first has left, so that it finds nothing to do.
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        connection.execute(text("SET LOCAL statement_timeout = '60s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        context.run_migrations()


if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:  # the alembic command line: URL by `-x url=postgresql+psycopg2://…`
    with create_engine(context.get_x_argument(as_dictionary=True)["url"]).connect() as own:
        run(own)
