"""A table is locked while many ask, which has every connection of every process wait."""

import http.client
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import psycopg2

from tests.chaos.stack import Stack, wait_until
from tests.patience import PATIENCE_S

CALLERS = 90
HELD_S = 1.6
# The defaults of the settings.
API_PROCESSES, DB_CONNECTIONS = 2, 6
# Nobody of that name has a wallet: all of it is looked up, and nothing moves.
STRANGER = 1_000_000

_LOCK = "LOCK TABLE wallets IN ACCESS EXCLUSIVE MODE"
_COUNT = """
SELECT application_name, count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' GROUP BY 1
"""


def cause_storm(stack: Stack, _rng: random.Random) -> bool:
    """Hold the lock under transfers and then under reads, and see that connections are within bounds afterwards.

    Raises:
        TimeoutError: they are not.
    """
    url = stack.state()["postgres"]["url"]
    try:
        for ask in (transfer, read):
            hold_lock(url, stack.port, ask)
    except psycopg2.Error:  # PostgreSQL was away
        return False
    most = {
        "wallet-api": API_PROCESSES * DB_CONNECTIONS,
        "wallet-grpc": len(stack.grpc_pids()) * DB_CONNECTIONS,
        "wallet-worker": len(stack.state()["workers"]) * DB_CONNECTIONS,
    }

    def are_within_bounds() -> bool:
        try:
            found = count_connections(url)
        except psycopg2.OperationalError:
            return False
        return all(found[name] <= count for name, count in most.items())

    # Those of a process that was killed just before leave when PostgreSQL has noticed.
    wait_until(are_within_bounds, PATIENCE_S, f"connections are within {most}")
    return True


def hold_lock(url: str, port: int, ask: Callable[[int, int], int | None]) -> Counter[int | None]:
    """Lock the table of wallets while many ask at once, and return how these were answered."""
    with ThreadPoolExecutor(CALLERS) as pool:
        with closing(psycopg2.connect(url, connect_timeout=5)) as holder, holder.cursor() as cursor:
            cursor.execute(_LOCK)
            asked = [pool.submit(ask, port, STRANGER + n) for n in range(CALLERS)]
            time.sleep(HELD_S)  # how long it is held is what makes the storm
        return Counter(each.result() for each in asked)


def count_connections(url: str) -> Counter[str]:
    """Count the connections to a database by what their processes call themselves."""
    with closing(psycopg2.connect(url, connect_timeout=5)) as connection, connection.cursor() as cursor:
        cursor.execute(_COUNT)
        return Counter(dict(cursor.fetchall()))


def transfer(port: int, user: int) -> int | None:
    """Ask for a transfer that comes to nothing; the status, or None."""
    return _ask(port, user, "POST", "/api/transfer/v1", {"amount": 1, "destination_user_id": user + CALLERS})


def read(port: int, user: int) -> int | None:
    """Ask for a balance that nobody has; the status, or None."""
    return _ask(port, user, "GET", "/api/wallet/balance/v1", None)


def _ask(port: int, user: int, method: str, path: str, body: object) -> int | None:
    headers = {"Authorization": str(user), "Content-Type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
        with suppress(OSError, http.client.HTTPException):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            return connection.getresponse().status
        return None
