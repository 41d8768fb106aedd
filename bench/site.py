"""Where it is measured: throw-away servers, the service's database and the yardstick's, the service's processes."""

import http.client
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

import psycopg2
import redis
from sqlalchemy import Engine, text

from bench.parts import are_listening
from config import Settings, load
from jobs.connections import make_engine
from models.schema import migrations
from ops.local import processes
from ops.local.kafka.server import KafkaServer
from ops.local.processes import Command, Spec, StackError
from ops.local.server import LOOPBACK, PORTS, is_port_free, plain_environment
from ops.local.servers import PostgresServer, RedisServer

ROOT = Path(__file__).resolve().parents[1]
# The service's own database, and one of the same shape for pgbench: both are made by the service's migrations.
SERVICE, YARDSTICK = "wallet", "yardstick"
READY_TIMEOUT_S = 60.0
# The yardstick of the API: gunicorn's own thread worker, whatever the API itself runs on. It stays as it is, so that
# what is measured beside it can be compared over the years.
BARE_OPTIONS = {"workers": 2, "threads": 16, "worker-class": "gthread", "keep-alive": 15, "log-level": "warning"}
# The throttle is on, and asked for every request, but refuses nobody.
UNTHROTTLED = {"RATE_LIMIT": "1000000/second;burst=1000000"}


class Served(NamedTuple):
    """The API at work, or gRPC: the process that has started all others."""

    port: int
    process: Command


class Site:
    """PostgreSQL and Valkey in a temporary folder that goes away with them. Use it as a context manager."""

    def __init__(
        self, settings: Mapping[str, str], *, postgres_settings: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """``settings`` of the service, by their names in the environment; the caller's own environment is ignored."""
        self._given = UNTHROTTLED | dict(settings)
        self._postgres_settings = postgres_settings
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start the servers and migrate both databases.

        Raises:
            StackError: they do not start.
        """
        with ExitStack() as stack:
            self.home = Path(tempfile.mkdtemp(prefix="wallet-bench-"))
            stack.callback(shutil.rmtree, self.home, ignore_errors=True)
            self.postgres = stack.enter_context(PostgresServer(self.home, settings=self._postgres_settings))
            self.valkey = stack.enter_context(RedisServer(self.home))
            self.redis = stack.enter_context(redis.Redis.from_url(self.valkey.url))
            self._make_yardstick()
            self.engines = {name: self.make_engine(name, connections=2) for name in (SERVICE, YARDSTICK)}
            for engine in self.engines.values():
                stack.callback(engine.dispose)
                migrations.upgrade(engine)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop them and remove everything."""
        self._stack.close()

    def url(self, database: str) -> str:
        """Return where a database is, for its owner."""
        return self.postgres.url.rpartition("/")[0] + f"/{database}"

    def settings(self, database: str = SERVICE) -> Settings:
        """Return what a process of the service would read on this site."""
        names = {"DATABASE_URL": self.url(database), "REDIS_URL": self.valkey.url, **self._given}
        return load(Settings, **{name.lower(): value for name, value in names.items()})

    def make_engine(self, database: str, *, connections: int) -> Engine:
        """Make an engine as the service does; it is the caller's to dispose of."""
        return make_engine(self.settings(database), application_name="wallet-bench", pool_size=connections)

    def execute_as_admin(self, database: str, *statements: str) -> None:
        """Run statements that only the superuser may, outside of any transaction."""
        with closing(psycopg2.connect(self.postgres.admin_url, dbname=database)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)

    def durability(self) -> dict[str, str]:
        """Read back what a commit and a queued job survive, as the workers' own kind of connection sees it.

        Raises:
            StackError: it is less than the service runs with, or not the same for the yardstick.
        """
        names = ("fsync", "synchronous_commit", "full_page_writes", "wal_level", "wal_sync_method", "autovacuum")
        seen = [{name: _show(engine, name) for name in names} for engine in self.engines.values()]
        if seen[0] != seen[1] or {seen[0][name] for name in names[:3]} != {"on"}:
            raise StackError(f"commits are not durable: {seen}")
        answer = self.redis.config_get("append*")
        return seen[0] | {f"valkey {name}": str(answer[name]) for name in ("appendonly", "appendfsync")}

    @contextmanager
    def kafka(self) -> Iterator[KafkaServer]:
        """Have transfers carried by a new broker for a while, by whatever is started meanwhile.

        Raises:
            StackError: there is no Java, or it does not start.
        """
        home, given = self.home / "broker", self._given
        shutil.rmtree(home, ignore_errors=True)
        with KafkaServer(home) as server:
            kafka = {name.upper(): value for name, value in server.settings.items()}
            self._given = given | {"TRANSPORT": "kafka", **kafka}
            try:
                yield server
            finally:
                self._given = given

    def worker(self, number: int) -> Command:
        """Return one of the service's own workers, to be launched."""
        return self.command(f"worker-{number}", "worker.py")

    @contextmanager
    def api(self, **environment: str) -> Iterator[Served]:
        """Serve HTTP as production does, with further settings.

        Raises:
            StackError: the API does not get ready.
        """
        api = self.command("api", "-m", "gunicorn", "-c", "ops/http/gunicorn.conf.py", "wsgi:app", **environment)
        api.launch()
        try:
            if not processes.wait_for(lambda: not api.is_running or _is_ready(self._port), READY_TIMEOUT_S):
                raise StackError(f"the API was not ready within {READY_TIMEOUT_S:.0f} s")
            if not api.is_running:
                raise StackError(f"the API did not start: {api.complaint()}")
            yield Served(self._port, api)
        finally:
            api.stop()

    @contextmanager
    def grpc(self) -> Iterator[Served]:
        """Serve gRPC as production does.

        Raises:
            StackError: not all of its processes get ready.
        """
        port, count = _find_port(), self.settings().grpc_processes
        grpc = self.command("grpc", "-m", "ops.grpc", GRPC_PORT=str(port))
        grpc.launch()
        try:
            if not processes.wait_for(
                lambda: not grpc.is_running or are_listening(grpc.pid or 0, port, count), READY_TIMEOUT_S
            ):
                raise StackError(f"gRPC was not ready within {READY_TIMEOUT_S:.0f} s")
            if not grpc.is_running:
                raise StackError(f"gRPC did not start: {grpc.complaint()}")
            yield Served(port, grpc)
        finally:
            grpc.stop()

    @contextmanager
    def bare(self) -> Iterator[int]:
        """Serve a bare Flask route under a gunicorn with :data:`BARE_OPTIONS`, and give the port.

        Raises:
            StackError: it does not get ready.
        """
        port = _find_port()
        words = [f"--{name}={value}" for name, value in BARE_OPTIONS.items()]
        words += [f"--bind={LOOPBACK}:{port}", "--no-control-socket", "bench.bare_app:app"]
        bare = self.command("bare", "-m", "gunicorn", *words)
        bare.launch()
        try:
            if not processes.wait_for(lambda: not is_port_free(LOOPBACK, port), READY_TIMEOUT_S) or not bare.is_running:
                raise StackError(f"the bare application did not start: {bare.complaint()}")
            yield port
        finally:
            bare.stop()

    def command(self, name: str, *arguments: str, **environment: str) -> Command:
        """Return a Python program of this project, on this site's servers and nothing of the caller's settings."""
        ours = {"DATABASE_URL": self.url(SERVICE), "REDIS_URL": self.valkey.url, "PORT": str(self._port)}
        ours["PROMETHEUS_MULTIPROC_DIR"] = str(self._metrics)
        return Command(
            Spec(
                name=name,
                command=[sys.executable, *arguments],
                log=self.home / "logs" / f"{name}.log",
                pid_file=self.home / "run" / f"{name}.pid",
                cwd=ROOT,
                # As ops/local/stack.py starts them: a log line is one write.
                environment=plain_environment() | ours | {"PYTHONUNBUFFERED": "1"} | self._given | environment,
                wrap_stdout=False,
            )
        )

    @cached_property
    def _metrics(self) -> Path:
        folder = self.home / "metrics"
        folder.mkdir()
        return folder

    @cached_property
    def _port(self) -> int:
        return _find_port()

    def _make_yardstick(self) -> None:
        self.execute_as_admin("postgres", f"CREATE DATABASE {YARDSTICK} OWNER wallet")


def _find_port() -> int:
    return next(port for port in random.sample(PORTS, 200) if is_port_free(LOOPBACK, port))


def _show(engine: Engine, name: str) -> str:
    with engine.connect() as connection:
        return str(connection.scalar(text("SELECT current_setting(:name)"), {"name": name}))


def _is_ready(port: int) -> bool:
    # Not urllib: it would ask a proxy that the environment names.
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=2)) as connection:
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
