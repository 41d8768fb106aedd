"""The two roles of a database: the owner, who migrates it, and the service, which may only use what is there.

What a superuser has to do, for the embedded server (``make run``) and for the one of ``docker-compose.yml``; what the
service may do with each table is the owner's to give (:mod:`models.schema.grants`). Containers have a third, for
exporters.
"""

from collections.abc import Callable
from contextlib import closing

from psycopg2 import extensions, sql

OWNER = "wallet"
SERVICE = "wallet_service"
# Sees statistics and no wallet. Only where there is somebody to watch with it: in containers.
MONITOR = "wallet_monitor"
DATABASE = "wallet"
# Where a superuser is at home, and where he makes the others from.
MAINTENANCE_DATABASE = "postgres"

# A superuser's connection to the database named.
Connect = Callable[[str], extensions.connection]


def set_up(connect: Connect, *, owner_password: str | None, service_password: str) -> None:
    """Make the roles and the database where they are missing, and put right what differs. Safe to repeat.

    Args:
        connect: opens a superuser's connection to a database of this name.
        owner_password: None: nobody can log in as the owner with a password, so not from the network.
        service_password: the password that the service has from now on.
    """
    with closing(connect(MAINTENANCE_DATABASE)) as connection, connection.cursor() as cursor:
        connection.autocommit = True  # CREATE DATABASE wants no transaction around it
        _set_up_role(cursor, OWNER, owner_password)
        _set_up_role(cursor, SERVICE, service_password)
        # The owner may do what the service may: above all see its sessions, and end them.
        _run(cursor, "GRANT {service} TO {owner}")
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
        if not cursor.fetchone():
            _run(cursor, "CREATE DATABASE {database} OWNER {owner}")
        _run(cursor, "REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        _run(cursor, "GRANT CONNECT ON DATABASE {database} TO {service}")
    with closing(connect(DATABASE)) as connection, connection.cursor() as cursor:
        # Nobody can put a function in a place where another's search finds it first.
        _run(cursor, "REVOKE ALL ON SCHEMA public FROM PUBLIC")
        _run(cursor, "GRANT USAGE ON SCHEMA public TO {service}")
        connection.commit()


def set_up_monitor(connect: Connect, *, password: str) -> None:
    """Make the role that exporters use. Safe to repeat, after :func:`set_up`."""
    with closing(connect(MAINTENANCE_DATABASE)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        _set_up_role(cursor, MONITOR, password)
        _run(cursor, "GRANT CONNECT ON DATABASE {database} TO {monitor}")


def _set_up_role(cursor: extensions.cursor, role: str, password: str | None) -> None:
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
    if not cursor.fetchone():
        cursor.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    # Hashed here, so that not even a statement log shows the password.
    hashed = password and extensions.encrypt_password(password, role, cursor.connection, "scram-sha-256")
    for statement in (
        "ALTER ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD {}",
        # Temporary objects last, where they can stand in for nothing.
        "ALTER ROLE {} SET search_path = public, pg_temp",
        # All see all sessions and statistics: for the metrics, and for whoever looks for the cause of something.
        "GRANT pg_monitor TO {}",
    ):
        cursor.execute(sql.SQL(statement).format(sql.Identifier(role), sql.Literal(hashed)))


def _run(cursor: extensions.cursor, statement: str) -> None:
    names = {"owner": OWNER, "service": SERVICE, "monitor": MONITOR, "database": DATABASE}
    cursor.execute(sql.SQL(statement).format(**{key: sql.Identifier(name) for key, name in names.items()}))
