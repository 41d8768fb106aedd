"""Alembic's entry: one transaction for the whole upgrade, one upgrade at a time."""

from alembic import context
from sqlalchemy import Connection, create_engine

from models.schema import migrations
from models.schema.tables import metadata


def run(connection: Connection) -> None:
    """Migrate on the connection given, holding the advisory lock until the transaction ends."""
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        # Whoever comes second then reads the version that the first has left, so that it finds nothing to do.
        migrations.lock(connection)
        context.run_migrations()


if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:  # the alembic command line: URL by `-x url=postgresql+psycopg2://…`
    with create_engine(context.get_x_argument(as_dictionary=True)["url"]).connect() as own:
        run(own)
