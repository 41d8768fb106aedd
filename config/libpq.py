"""DATABASE_URL says everything about the way to PostgreSQL, and nothing else in the environment does.

libpq reads variables of its own (PGHOST, PGSSLMODE, PGOPTIONS, PGSERVICE and some twenty more) whenever a connection is
opened, by whomever. Those that a shell has for psql would bend what DATABASE_URL means, or lead to another server.
"""

import os

PREFIX = "PG"


def withhold_variables() -> tuple[str, ...]:
    """Remove them from this process and so from its children, before it connects; return the names of those found."""
    found = tuple(sorted(name for name in os.environ if name.startswith(PREFIX)))
    for name in found:
        del os.environ[name]
    return found
