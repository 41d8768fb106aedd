"""How many connections there are to be had: the least of what server, database and role allow."""

from typing import NamedTuple

from sqlalchemy import Engine, text

from models.database.engine import fetch_all

# A session of this role in this database is the service's own.
_LIMITS = text("""
WITH me AS (
    SELECT rolsuper AS is_super, rolconnlimit AS most_of_role,
        EXISTS (SELECT FROM pg_roles AS reserve WHERE reserve.rolname = 'pg_use_reserved_connections'
                AND pg_has_role(session_user, reserve.oid, 'MEMBER')) AS may_use_reserve
    FROM pg_roles WHERE rolname = session_user
), others AS (
    SELECT count(*) AS of_server, count(*) FILTER (WHERE datname = current_database()) AS of_database,
        count(*) FILTER (WHERE usename = session_user) AS of_role
    FROM pg_stat_activity
    WHERE datname IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
        AND (datname <> current_database() OR usename <> session_user)
)
SELECT 'the server' AS who, others.of_server AS others, current_setting('max_connections')::int
    - CASE WHEN is_super THEN 0 ELSE current_setting('superuser_reserved_connections')::int END
    - CASE WHEN is_super OR may_use_reserve THEN 0
        ELSE coalesce(current_setting('reserved_connections', true)::int, 0) END AS most
FROM me, others
UNION ALL
SELECT 'the database', others.of_database, datconnlimit FROM me, others, pg_database
WHERE datname = current_database() AND datconnlimit >= 0 AND NOT is_super
UNION ALL
SELECT 'the role', others.of_role, most_of_role FROM me, others WHERE most_of_role >= 0 AND NOT is_super
""")


class Room(NamedTuple):
    """What the tightest limit leaves."""

    who: str  # whose limit it is
    most: int  # how many connections it allows
    others: int  # how many of these somebody else has just now

    def __str__(self) -> str:
        others = f", of which others have {self.others} now" if self.others else ""
        return f"{self.who} allows {self.most} connections{others}"

    @property
    def left(self) -> int:
        """How many the service can have."""
        return self.most - self.others


def find_room(engine: Engine) -> Room:
    """Ask for the limit that leaves least.

    Raises:
        Unavailable: the database cannot be reached.
    """
    rooms = [Room(row.who, row.most, row.others) for row in fetch_all(engine, _LIMITS)]
    return min(rooms, key=lambda room: room.left)
