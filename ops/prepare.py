"""Make a database ready to serve: migrations, what the service may do, and on request two wallets to try it with.

Run before the API starts: ``python -m ops.prepare``. Safe to run at any time, by several at once. OWNER_DATABASE_URL
names who migrates; without it that is the role of DATABASE_URL, which is then the service's too.
"""

import sys
import time

import structlog
from alembic.util import CommandError
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

import config
from jobs.connections import CONNECTIONS_OF_A_WORKER, count_wanted, make_cache
from models.cache.wallet_cache import Evictor
from models.database import suitability
from models.database.engine import create_bounded_engine
from models.database.faults import first_line, is_connection_lost
from models.database.room import find_room
from models.errors import Unavailable
from models.ledger.orders import Orders
from models.ledger.transfer import Kind, Order
from models.schema import grants, migrations, revision
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from observe import logs

DEMO_USERS = (1, 2)
DEMO_CENTS = 10_000
# Who takes connections before workers do, and what says how many of them there are.
_FACES = ("API and gRPC", ", API_PROCESSES or GRPC_PROCESSES")
_API_ALONE = ("the API", " or API_PROCESSES")
# How long a server that is still starting is waited for.
PATIENCE_S = 30.0

_log = structlog.get_logger("prepare")


class SchemaError(Exception):
    """The database has a schema that this version can neither work with nor bring up to date."""


def main() -> None:
    """Migrate, let the service in, and open the demo wallets if DEMO_WALLETS is set."""
    settings = config.load_or_exit(config.PrepareSettings)
    logs.configure(settings.log_level, service="prepare")
    owner, service = (
        create_bounded_engine(
            url, timeouts_ms=settings.database_timeouts_ms, pool_size=2, application_name="wallet-prepare"
        )
        for url in (settings.owner_sqlalchemy_url, settings.sqlalchemy_url)
    )
    try:
        _check_server(owner, "OWNER_DATABASE_URL" if settings.owner_database_url else "DATABASE_URL")
        _check_server(service, "DATABASE_URL")
        _check_room(service, settings, workers=config.load_or_exit(config.StackSettings).workers)
        # What a newer version has let its role do is not for this one to take back.
        if _migrate_when_reachable(owner, timeout_s=settings.migration_timeout_s):
            let_in(service, owner)
        if settings.demo_wallets:
            cache = make_cache(settings, service)
            open_demo_wallets(service, cache)
            cache.close()
    except (SchemaError, TimeoutError) as error:
        sys.exit(f"cannot prepare the database: {error}")
    except config.ConfigurationError as error:
        sys.exit(config.complain(str(error)))
    except (DBAPIError, Unavailable) as error:
        sys.exit(f"cannot prepare the database: {first_line(error)}")
    finally:
        owner.dispose()
        service.dispose()


def let_in(service: Engine, owner: Engine) -> None:
    """Give the service's role what it needs, unless it is the owner, who may do everything anyway."""
    with service.connect() as connection, owner.connect() as owners:
        who = text("SELECT current_user")
        role = connection.execute(who).scalar_one()
        is_owner = role == owners.execute(who).scalar_one()
    if not is_owner:
        grants.give(owner, role)
    _log.info("privileges", role=role, is_owner=is_owner)


def open_demo_wallets(engine: Engine, cache: Evictor) -> None:
    """Deposit into the wallets of the README's tour, once in a database's life.

    They are deposits like any other; the idempotency key is what makes them happen once. The wallets may have been
    there before, and be read through a cache.
    """
    snowflake = Snowflake(NodeLease(engine))
    for user_id in DEMO_USERS:
        order = Order(
            call="demo",
            kind=Kind.DEPOSIT,
            source=None,
            destination=user_id,
            amount_cents=DEMO_CENTS,
            idempotency_key="demo-wallet",
        )
        receipt = Orders(engine, snowflake, cache).execute(order)
        _log.info("demo wallet", user_id=str(user_id), opened=not receipt.replayed)
    snowflake.release()


def _check_server(engine: Engine, name: str) -> None:
    """Wait until the server answers, and see whether the service can rest on it.

    Raises:
        ConfigurationError: it cannot; says why, and names the setting.
        DBAPIError: it does not answer.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            objection = suitability.find_objection(engine)
        except OperationalError as error:
            if refusal := suitability.find_refusal(error):
                raise config.ConfigurationError(f"{name}: {refusal}") from None
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            if objection:
                raise config.ConfigurationError(f"{name}: {objection}")
            return


def _check_room(engine: Engine, settings: config.Settings, *, workers: int) -> None:
    """See that workers find room whatever the faces take: what they do not settle, nobody does.

    Raises:
        ConfigurationError: they might find none.
        Unavailable: the database is away.
    """
    room = find_room(engine)
    of_faces, of_workers = count_wanted(settings, workers=workers)
    if workers and room.most - of_faces < (least := workers * CONNECTIONS_OF_A_WORKER):
        who, count = _FACES if settings.grpc_port else _API_ALONE
        raise config.ConfigurationError(
            f"DB_CONNECTIONS: {room.who} allows {room.most} connections, of which {who} may take {of_faces}, and "
            f"{workers} workers need {least}: raise what {room.who} allows, or lower DB_CONNECTIONS{count}"
        )
    if of_faces + of_workers > room.left:
        _log.warning("connections may run out", allowed=str(room), faces=of_faces, workers=of_workers)


def _migrate_when_reachable(engine: Engine, *, timeout_s: float) -> bool:
    """Migrate, and return False if that was not possible nor needed: the database is newer, and this code may use it.

    Raises:
        SchemaError: it may not.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            migrations.upgrade(engine, timeout_s=timeout_s)
        except OperationalError as error:
            if not is_connection_lost(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        except CommandError as error:
            if (readiness := revision.readiness(engine)) != "ok":
                raise SchemaError(f"it is {readiness} for this version ({error})") from None
            _log.info("database is newer than this code, and left as it is", known=revision.NEWEST)
            return False
        else:
            _log.info("database migrated", revision=revision.NEWEST)
            return True


if __name__ == "__main__":
    main()
